"""Orbax's manager where a save fails: what its threads print then, and what they wait for."""

import logging
import sys
import time
from typing import Any

import orbax.checkpoint as ocp

from seqzoo.parallel import agreement


class _WithoutOrbax(logging.Filter):
    """Keeps Orbax's own log off the terminal: a failure also reaches us as an exception."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.ERROR or 'orbax' not in record.pathname


class _WithoutTensorStore(logging.Filter):
    """Keeps the other writes of a failed save off the terminal: the first one has been reported."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        leftover = 'exception was never retrieved' in record.getMessage()
        return not (leftover and isinstance(error, OSError | ValueError))


def ignore_closed_loops() -> None:
    """Other writes of a failed save end when nobody waits for them; TensorStore prints each one."""
    if getattr(sys.excepthook, '__name__', '') == 'without_closed_loops':
        return
    raised, unraisable = sys.excepthook, sys.unraisablehook

    def is_leftover(error: Any) -> bool:
        return isinstance(error, RuntimeError) and str(error) == 'Event loop is closed'

    def without_closed_loops(kind: Any, error: Any, trace: Any) -> None:
        if not is_leftover(error):
            raised(kind, error, trace)

    def without_closed_loops_in_callbacks(report: Any) -> None:
        if not is_leftover(report.exc_value):
            unraisable(report)

    sys.excepthook = without_closed_loops
    sys.unraisablehook = without_closed_loops_in_callbacks


LAST_WORDS_SECONDS = 1.0  # in which the threads of a failed save may still report
_POLL_SECONDS = 0.005

logging.getLogger('absl').addFilter(_WithoutOrbax())
logging.getLogger('asyncio').addFilter(_WithoutTensorStore())


class Manager(ocp.CheckpointManager):
    """Orbax's manager, which leaves it to the loop to know about preemption.

    At a preemption it would compute how much time the save has saved, and fail over the times that
    `lightweight_initialize` leaves out, after the commit and before old steps are deleted.

    Where one of several processes cannot write, its thread would wait for the others at a barrier
    to which they do not come; so it is asked for its failure while it waits.
    """

    _failure: Exception | None = None

    def reached_preemption(self, step: int) -> bool:
        return False

    def wait_until_finished(self) -> None:
        while agreement.several() and self.is_saving_in_progress():
            if self._failure is not None:
                raise self._failure
            time.sleep(_POLL_SECONDS)
        super().wait_until_finished()

    def _wait_for_checkpointers(self) -> None:
        try:
            super()._wait_for_checkpointers()
        except Exception as error:
            self._failure = error
            raise


def cause(error: Exception) -> str:
    """Why a save failed, in a few words."""
    text = ' '.join(str(error).split())
    for known in ('No space left on device', 'Disk quota exceeded', 'File too large'):
        if known in text:
            return known
    return text[:200]
