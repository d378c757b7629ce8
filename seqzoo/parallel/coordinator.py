"""JAX's coordination service in a process of its own, beside the first process of a run.

A JAX process aborts, with pages of stack, at the moment in which the service is gone. In a process
of its own the service outlives a first process that is killed, for as long as the others need to
hear of it (`watch`) and leave with a sentence.
"""

import contextlib
import socket
import subprocess
import sys
import threading

from seqzoo.errors import UserError

_LINGER_SECONDS = 20.0
_START_SECONDS = 60.0
# Far more than ours: the watch is faster, and the end of the service ends them all.
HEARTBEAT_SECONDS = 100
SHUTDOWN_SECONDS = 3600  # the first process may still write results while the others wait


class Coordinator:
    """The service, from `serve` to `close`; made early, because its imports take a while."""

    def __init__(self, address: str, processes: int) -> None:
        self._address = address
        self._process = subprocess.Popen(
            [sys.executable, '-c', _PROGRAM, address, str(processes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Nobody's terminal or pipe must wait for it; it would only say what the watch says.
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for those that train
            text=True,
        )

    def serve(self) -> None:
        """Starts to listen.

        Raises:
            UserError: it cannot.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        said: list[str] = []
        listener = threading.Thread(
            target=lambda: said.append(self._process.stdout.readline()),  # type: ignore[union-attr]
            daemon=True,
        )
        try:
            self._process.stdin.write('serve\n')
            self._process.stdin.flush()
        except OSError:
            said.append('')
        else:
            listener.start()
            listener.join(_START_SECONDS)
        if said != ['ready\n']:
            self.close()
            raise UserError(
                f"JAX's coordination service does not start at {self._address}; choose another port"
            )

    def dismiss(self) -> None:
        """Lets the service end just after this process, which would abort without it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write('leave\n')
            self._process.stdin.flush()

    def close(self) -> None:
        """Ends the service; a second call does nothing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


def bind_address(coordinator: str) -> str:
    """Where to listen: as JAX does, on all interfaces unless the name is this machine's alone."""
    host, _, port = coordinator.rpartition(':')
    local = host == 'localhost' or host.startswith('127.') or host == '[::1]'
    return coordinator if local else f'[::]:{port}'


def idle_address() -> str:
    """A free port for the service that JAX starts in the first process, and nobody uses."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return f'127.0.0.1:{free.getsockname()[1]}'


_PROGRAM = f"""
import sys, time
import jaxlib._jax as jaxlib
address, processes = sys.argv[1], int(sys.argv[2])
if sys.stdin.readline() == 'serve\\n':
    service = jaxlib.get_distributed_runtime_service(
        address, processes, heartbeat_timeout={HEARTBEAT_SECONDS},
        shutdown_timeout={SHUTDOWN_SECONDS}, recoverable=False)
    print('ready', flush=True)
    # Until the first process is gone; if it did not say so, it was killed.
    time.sleep(0.5 if sys.stdin.read() else {_LINGER_SECONDS})
import os
os._exit(0)
"""
