"""How the processes of a run find each other before JAX starts, and how they notice who is gone.

JAX waits for missing processes without saying which, and answers the death of one by aborting the
others. So the processes first meet over plain TCP connections, at the coordinator's address: there
the first one learns who has come, with what versions. The connections stay open: the kernel closes
them when a process dies, however it dies, and its keepalive notices a host that is gone, so that no
thread of a busy process has to prove that it lives.
"""

import contextlib
import errno
import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from seqzoo.errors import UserError

Hello = dict[str, Any]

_KEEPALIVE_SECONDS = 5
_KEEPALIVE_MISSES = 5
_MARK = 'seqzoo'
_LONGEST_LINE = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where a process stands among all.

    Attributes:
        coordinator: `HOST:PORT` at which the first process is reached.
        processes: How many there are.
        process_id: This one's number, from 0.
    """

    coordinator: str
    processes: int
    process_id: int

    def __post_init__(self) -> None:
        host, _, port = self.coordinator.rpartition(':')
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(
                f'the coordinator is {self.coordinator!r}; give HOST:PORT, the address of the '
                'first process and a free port there'
            )
        if not 0 <= self.process_id < self.processes:
            raise UserError(
                f'the process id is {self.process_id} of {self.processes} processes; number them '
                f'from 0 to {self.processes - 1}'
            )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; an IPv6 address without its brackets."""
        host, _, port = self.coordinator.rpartition(':')
        return host.strip('[]'), int(port)


class MissingProcesses(UserError):
    """Some processes did not come in time."""

    def __init__(self, message: str, missing: tuple[int, ...], hellos: dict[int, Hello]) -> None:
        super().__init__(message)
        self.missing = missing
        self.hellos = hellos


@dataclass(frozen=True)
class Circle:
    """All processes, met.

    Attributes:
        place: This process's.
        hellos: What every process said of itself, by its number.
        connections: To every other process, by its number; the others have one, to the first.
    """

    place: Place
    hellos: tuple[Hello, ...]
    connections: dict[int, socket.socket]

    def close(self) -> None:
        """Closes the connections."""
        for connection in self.connections.values():
            connection.close()


def meet(
    place: Place,
    hello: Hello,
    *,
    timeout: float,
    before_go: Callable[[], None] = lambda: None,
) -> Circle:
    """Waits until all processes are there.

    Args:
        place: Where this process stands.
        hello: What the others shall know of it, as JSON.
        timeout: Seconds to wait.
        before_go: Called on the first process when all have come and its port is free again, before
            the others hear of it.

    Raises:
        MissingProcesses: somebody did not come; the first process knows who, and tells the others.
        UserError: the address cannot be, or two processes say they were the same one.
    """
    deadline = time.monotonic() + timeout
    hello = {**hello, 'host': socket.gethostname()}
    if place.process_id == 0:
        return _gather(place, hello, deadline, timeout, before_go)
    return _come(place, hello, deadline, timeout)


# The first process


def _gather(
    place: Place, hello: Hello, deadline: float, timeout: float, before_go: Callable[[], None]
) -> Circle:
    met: dict[int, tuple[socket.socket, Hello]] = {}
    with contextlib.ExitStack() as failing:
        with _listening(place, deadline) as listener:
            while len(met) < place.processes - 1:
                ready, _, _ = select.select([listener], [], [], max(0, deadline - time.monotonic()))
                if not ready:
                    _give_up(place, met, hello, timeout)
                connection = listener.accept()[0]
                if (came := _welcome(place, connection, met)) is not None:
                    failing.callback(connection.close)
                    met[came[0]] = (connection, came[1])
        before_go()
        hellos = (hello, *(met[number][1] for number in range(1, place.processes)))
        for connection, _ in met.values():
            send(connection, {'go': hellos})
        failing.pop_all()
    return Circle(place, hellos, {number: pair[0] for number, pair in met.items()})


@contextlib.contextmanager
def _listening(place: Place, deadline: float) -> Iterator[socket.socket]:
    host, port = place.address
    # As JAX's own coordinator does: on all interfaces, unless the address is this machine's alone.
    local = host == 'localhost' or host.startswith('127.') or host == '::1'
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    where = (host if local else '', port)
    said = time.monotonic()
    while True:
        try:
            listener = socket.create_server(where, family=family, backlog=place.processes)
            break
        except OSError as error:
            # What is left of the run before this one may have the port for some seconds more.
            patience = min(deadline, said + 60)
            if error.errno != errno.EADDRINUSE or time.monotonic() > patience:
                raise UserError(
                    f'process 0 cannot listen at {place.coordinator} '
                    f'({error.strerror or error}); give --coordinator the address of the machine '
                    'of process 0 and a free port there'
                ) from error
            time.sleep(0.5)
    with listener:
        yield listener


def _welcome(
    place: Place, connection: socket.socket, met: dict[int, Any]
) -> tuple[int, Hello] | None:
    """The number and hello of who has connected; None for strangers, and for who was sent away."""
    connection.settimeout(10)
    try:
        said = receive(connection)
        if said is None or said.get('mark') != _MARK:
            raise ValueError('a stranger')
        number, processes, hello = int(said['id']), int(said['processes']), dict(said['hello'])
    except (OSError, ValueError, KeyError, TypeError):
        connection.close()
        return None
    if number in met and _is_gone(met[number][0]):
        met.pop(number)[0].close()  # it was started a second time
    problem = ''
    if processes != place.processes:
        problem = f'process {number} was started with {processes} processes, process 0 with '
        problem += f'{place.processes}; give all the same number'
    elif number in met or number == 0:
        other = met[number][1]['host'] if number else socket.gethostname()
        problem = f'two processes have the id {number}, on {other} and on {hello["host"]}; '
        problem += 'give each its own'
    if problem:
        with contextlib.suppress(OSError):
            send(connection, {'refused': problem})
        connection.close()
        return None
    _keep_alive(connection)
    return number, hello


def _give_up(
    place: Place, met: dict[int, tuple[socket.socket, Hello]], hello: Hello, timeout: float
) -> None:
    missing = tuple(n for n in range(1, place.processes) if n not in met)
    several = len(missing) > 1
    text = (
        f'process{"es" if several else ""} {", ".join(map(str, missing))} of {place.processes} did '
        f'not come to {place.coordinator} within {timeout:g} s; start {"them" if several else "it"}'
        f' with the same --coordinator and --processes {place.processes}, or wait longer with '
        '--wait-for-processes'
    )
    for connection, _ in met.values():
        with contextlib.suppress(OSError):
            send(connection, {'refused': text, 'missing': missing})
    raise MissingProcesses(text, missing, {0: hello, **{n: pair[1] for n, pair in met.items()}})


# The others


def _come(place: Place, hello: Hello, deadline: float, timeout: float) -> Circle:
    said = {
        'mark': _MARK,
        'id': place.process_id,
        'processes': place.processes,
        'hello': hello,
    }
    problem = 'nobody answers'
    while time.monotonic() < deadline:
        try:
            connection = socket.create_connection(place.address, timeout=5)
        except OSError as error:  # not started yet, or a name that is not known yet
            problem = str(error.strerror or error).lower()
            time.sleep(0.2)
            continue
        try:
            send(connection, said)
            # A little longer than the first process waits: it knows who is missing.
            connection.settimeout(max(1.0, deadline - time.monotonic() + 5))
            answer = receive(connection)
        except (OSError, ValueError) as error:
            answer, problem = None, str(error)
        if answer and 'go' in answer:
            _keep_alive(connection)
            return Circle(place, tuple(answer['go']), {0: connection})
        connection.close()
        if answer and 'refused' in answer:
            missing = tuple(answer.get('missing', ()))
            if missing:
                raise MissingProcesses(answer['refused'], missing, {})
            raise UserError(answer['refused'])
        time.sleep(0.5)  # what is left of the run before, which is about to end
    raise MissingProcesses(
        f'process {place.process_id} could not reach process 0 at {place.coordinator} within '
        f'{timeout:g} s ({problem}); start process 0 there, correct --coordinator, or wait longer '
        'with --wait-for-processes',
        (0,),
        {place.process_id: hello},
    )


# Lines of JSON


def send(connection: socket.socket, value: Any) -> None:
    """One line."""
    connection.sendall(json.dumps(value).encode() + b'\n')


def receive(connection: socket.socket) -> Any:
    """One line, read no further than its end; None if the other side is gone.

    Raises:
        ValueError: it is not JSON.
        OSError: a time limit of the connection is over, or it broke.
    """
    line = bytearray()
    while not line.endswith(b'\n'):
        if len(line) > _LONGEST_LINE:
            raise ValueError('a line without end')
        byte = connection.recv(1)  # lines are few and short
        if not byte:
            return None
        line += byte
    return json.loads(line)


def _is_gone(connection: socket.socket) -> bool:
    ready, _, _ = select.select([connection], [], [], 0)
    try:
        return bool(ready) and not connection.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


def _keep_alive(connection: socket.socket) -> None:
    """Lets the kernel find out within half a minute that the other host is gone."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ('TCP_KEEPIDLE', _KEEPALIVE_SECONDS),
        ('TCP_KEEPINTVL', _KEEPALIVE_SECONDS),
        ('TCP_KEEPCNT', _KEEPALIVE_MISSES),
        ('TCP_USER_TIMEOUT', 1000 * _KEEPALIVE_SECONDS * (_KEEPALIVE_MISSES + 1)),
    ):
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
