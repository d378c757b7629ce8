"""Ctrl-C and SIGTERM: finish the step, save, leave with a status that a launcher understands."""

import os
import signal
import threading
from types import FrameType
from typing import Any, Literal

import jax
from jax.experimental import multihost_utils

from seqzoo.parallel import agreement

Status = Literal['interrupted', 'preempted']
EXIT_STATUS: dict[Status, int] = {'interrupted': 130, 'preempted': 75}


class Stopped(BaseException):
    """A signal came before there was anything to save. Not an `Exception`: nobody may swallow it.

    Attributes:
        status: what was asked for.
    """

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status: Status = status


class StopRequest:
    """Listens for signals while it is entered; the loop asks after every step.

    The first Ctrl-C (SIGINT) or SIGTERM only makes a note; a second Ctrl-C raises KeyboardInterrupt
    at once. Outside the main thread Python delivers no signals, and nothing is installed.

    With several processes all must stop after the same step, or the next collective hangs. JAX's
    preemption service settles that step: it installs its own SIGTERM notifier when
    `jax.distributed` is initialised, so SIGTERM is left to it (a Python handler would take its
    place), and Ctrl-C is handed on to it as a SIGTERM.

    ```
    with StopRequest() as stop:
        for step in range(start, end):
            ...
            if stop.after(step + 1):
                save(); return stop.status
    ```
    """

    def __init__(self, *, at_once: bool = False) -> None:
        """Prepares.

        Args:
            at_once: until `note` is called a signal ends what is going on, by `Stopped` or
                KeyboardInterrupt; but for SIGTERM to one of several processes, which is JAX's.
        """
        self._at_once = at_once
        self._requested: Status | None = None
        self._agreed: Status | None = None
        self._expired = self._over = False
        self._former: dict[signal.Signals, Any] = {}
        self._several = False

    def __enter__(self) -> 'StopRequest':
        self._several = jax.process_count() > 1
        if threading.current_thread() is threading.main_thread():
            self._install(signal.SIGINT, self._on_interrupt)
            if not self._several:
                self._install(signal.SIGTERM, self._on_terminate)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def note(self) -> None:
        """From now on the first signal is noted and ends nothing by itself.

        A signal that came before ends what goes on now at the latest: an exception that a handler
        raises while Python runs a callback or a finaliser is printed, and lost.
        """
        self._at_once = False
        if self._requested and not self._several:
            raise KeyboardInterrupt if self._requested == 'interrupted' else Stopped('preempted')

    @property
    def status(self) -> Status | None:
        """Why the loop was told to stop; None as long as it was not."""
        return self._agreed if self._several else self._requested

    @property
    def exit_status(self) -> int:
        """130, 75, or 0 if nobody asked."""
        return EXIT_STATUS[self.status] if self.status else 0

    @property
    def requested(self) -> bool:
        """Whether to stop; with several processes, whether `after` said so."""
        return self.status is not None

    def after(self, step: int) -> bool:
        """Whether to stop after `step`; with several processes call it every step, on all."""
        if self._several and multihost_utils.reached_preemption_sync_point(step):
            # Whoever pressed Ctrl-C does not want a launcher to start the others again.
            asked = agreement.gather(self._requested or ('expired' if self._expired else ''))
            self._over = 'expired' in asked and 'interrupted' not in asked
            if not self._over:
                self._agreed = 'interrupted' if 'interrupted' in asked else 'preempted'
        return self.requested or self._over

    def expire(self) -> bool:
        """Asks for an end that is no interruption, because time is up; whether that is now.

        Clocks differ between processes: with several the first one's counts, and `after` says when.
        """
        if self._several and agreement.is_first() and not self._expired:
            self._expired = True
            os.kill(os.getpid(), signal.SIGTERM)
        return not self._several

    def request(self, status: Status) -> None:
        """Asks in place of a signal, from any thread."""
        self._requested = status
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def _install(self, number: signal.Signals, handler: Any) -> None:
        self._former[number] = signal.signal(number, handler)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        again, self._requested = self._requested == 'interrupted', 'interrupted'
        if again or self._at_once:
            raise KeyboardInterrupt
        self.request('interrupted')

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        # Ctrl-C followed by a launcher's SIGTERM stays an interruption.
        self._requested = self._requested or 'preempted'
        if self._at_once:
            raise Stopped(self._requested)
