"""Progress of evaluation, prediction and downloads, on standard error."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from seqzoo.commands.command import is_writer


@contextlib.contextmanager
def examples_done(title: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function `(done, total)` that shows a bar, or lines where there is no terminal."""
    from seqzoo.training.progress import Progress

    with contextlib.ExitStack() as stack:
        bars: list[Progress] = []

        def update(done: int, total: int) -> None:
            if not is_writer():
                return
            if not bars:  # how many there are is known only now
                bars.append(stack.enter_context(Progress(total, title=title)))
            bars[0].update(done)

        yield update


def say(text: str) -> None:
    """One line on standard error, from one of several processes."""
    if is_writer():
        print(text, file=sys.stderr, flush=True)


class Downloads:
    """Says how far a download is, each time that another tenth is done."""

    def __init__(self) -> None:
        self._said: tuple[Any, ...] = ()

    def __call__(self, progress: Any) -> None:
        """Takes a `seqzoo.data.download.Progress`."""
        share = 10 * progress.done // progress.total if progress.total else progress.done // 10**8
        state = (progress.action, progress.name, share)
        if state != self._said:
            self._said = state
            total = f' of {progress.total:,}' if progress.total else ''
            say(f'{progress.action} {progress.name}: {progress.done:,}{total} {progress.unit}')
