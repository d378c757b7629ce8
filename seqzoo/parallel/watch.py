"""Notices that another process of the run has died or given up, and ends this one.

A process whose peer is gone waits in a collective for ever, where no exception can reach it. So a
thread listens to the connections of `rendezvous` and, when this process does not end by itself,
ends it with one sentence and a status that tells a launcher what to do.
"""

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from seqzoo.parallel.rendezvous import Circle, Hello, receive, send

LOST = 75  # start all of them again: the last good checkpoint is there
GRACE_SECONDS = 3.0


@dataclass(frozen=True)
class Verdict:
    """Why this process must end.

    Attributes:
        status: Of the exit.
        message: A sentence for standard error.
    """

    status: int
    message: str


class Watch:
    """Listens to the other processes from `start` to `leave`."""

    def __init__(
        self, circle: Circle, end: Callable[[int], None], *, grace: float = GRACE_SECONDS
    ) -> None:
        """Prepares.

        Args:
            circle: All processes.
            end: Ends this process with a status, whatever its other threads wait for.
            grace: Seconds that this process has to end by itself.
        """
        self._circle = circle
        self._end_process = end
        self._me = circle.place.process_id
        self._open = dict(circle.connections)
        self._left: set[int] = set()
        self._grace = grace
        self._leaving = threading.Event()
        self._judged = threading.Event()
        self._all_gone = threading.Event()
        self._verdict: Verdict | None = None
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._listen, name='watch', daemon=True)

    @property
    def hellos(self) -> tuple[Hello, ...]:
        """What every process said of itself."""
        return self._circle.hellos

    def start(self) -> None:
        """Begins to listen."""
        self._thread.start()

    def verdict(self, wait: float = 0.0) -> Verdict | None:
        """Why this process must end, if another one has died or given up.

        Args:
            wait: Seconds in which the news may still come: a broken collective is often faster.
        """
        self._judged.wait(wait)
        return self._verdict

    def leave(self, status: int, message: str = '') -> None:
        """Tells the others that this process ends, and how; from now on nothing ends it.

        After a failure the first process stays until the others have ended: it is the one through
        which they hear of it.
        """
        self._leaving.set()
        for connection in list(self._open.values()):
            with contextlib.suppress(OSError):
                send(connection, {'leaves': self._me, 'status': status, 'message': message})
        if self._me == 0 and message:
            self._all_gone.wait(2 * self._grace)
        self._wake.close()
        self._thread.join(1.0)
        self._circle.close()

    def _listen(self) -> None:
        with self._woken:
            while self._open:
                try:
                    ready, _, _ = select.select([*self._open.values(), self._woken], [], [])
                except (OSError, ValueError):
                    return
                if self._woken in ready:
                    return
                for number, connection in list(self._open.items()):
                    if connection in ready:
                        self._hear(number, connection)
        self._all_gone.set()

    def _hear(self, number: int, connection: socket.socket) -> None:
        try:
            said = receive(connection)
        except (OSError, ValueError):
            said = None
        if said is None:
            del self._open[number]
            if number not in self._left:
                host = self._circle.hellos[number]['host']
                what = f'process {number} on {host} has died or cannot be reached any more'
                advice = 'start all processes again: they go on from the last good checkpoint'
                self._judge(number, Verdict(LOST, f'{what}; {advice}'))
            return
        self._left.add(said['leaves'])
        if said['message']:
            self._judge(said['leaves'], Verdict(said['status'], said['message']))

    def _judge(self, number: int, verdict: Verdict) -> None:
        """Takes note of the first bad news, passes it on, and sees to it that this process ends."""
        if self._verdict is not None:
            return
        self._verdict = verdict
        self._judged.set()
        if self._me == 0:
            news = {'leaves': number, 'status': verdict.status, 'message': verdict.message}
            for connection in self._open.values():
                with contextlib.suppress(OSError):
                    send(connection, news)
        threading.Thread(target=self._end, name='end', daemon=True).start()

    def _end(self) -> None:
        # The main thread may be on its way out, with the same error or one that this one caused.
        if self._leaving.wait(self._grace):
            return
        assert self._verdict is not None
        # Not through Python's locks: the main thread may hold them, and waits for ever.
        os.write(2, f'\nseqzoo: {self._verdict.message}\n'.encode())
        if self._me == 0:
            self._all_gone.wait(2 * self._grace)
        self._end_process(self._verdict.status)
