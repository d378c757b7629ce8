"""How far a run is: a bar on a terminal, a line now and then in a log file.

Everything goes to standard error; standard output belongs to results.
"""

import sys
import time
from typing import Any, Literal, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

Mode = Literal['auto', 'bar', 'lines', 'none']

# What a line has room for, in this order, and under which name; other numbers are in the event log.
_SHOWN = {
    'loss': 'loss',
    'accuracy': 'accuracy',
    'learning_rate': 'lr',
    'tokens_per_second': 'tokens/s',
}


class Progress:
    """Shows steps done of steps to do, and the newest numbers.

    ```
    with Progress(total=1000, start=200) as progress:
        progress.update(201, loss=3.2, tokens_per_second=8100, learning_rate=1e-3)
        progress.announce('step 201: saved')
    ```
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        title: str = 'train',
        mode: Mode = 'auto',
        interval: float = 10.0,
        stream: TextIO | None = None,
    ) -> None:
        """Prepares; nothing is shown before the context is entered.

        Args:
            total: The last step.
            start: The step that the run begins or goes on from.
            title: What is going on.
            mode: `bar`, `lines`, `none`, or `auto`: a bar on a terminal, else lines.
            interval: Seconds between two lines; the last step always gets one.
            stream: In place of standard error.
        """
        self._total, self._start, self._title, self._interval = total, start, title, interval
        self._stream = stream or sys.stderr
        self._mode = mode if mode != 'auto' else 'bar' if self._stream.isatty() else 'lines'
        self._bar: RichProgress | None = None
        self._step = start
        self._began = self._said = time.monotonic()

    def __enter__(self) -> 'Progress':
        self._began = self._said = time.monotonic()
        if self._mode == 'bar':
            self._bar = RichProgress(
                TextColumn('{task.description}'),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn('{task.fields[numbers]}'),
                TimeElapsedColumn(),
                TextColumn('left'),
                TimeRemainingColumn(),
                console=Console(file=self._stream),
                refresh_per_second=4,
                # Results that are printed while the bar is there must still go to standard output,
                # unchanged.
                redirect_stdout=False,
            )
            self._bar.start()
            self._bar.add_task(self._title, total=self._total, completed=self._start, numbers='')
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, step: int, **values: float) -> None:
        """Shows `step` and the given numbers; cheap enough for every step."""
        self._step = step
        if self._bar is not None:
            task = self._bar.task_ids[0]
            if values:
                self._bar.update(task, completed=step, numbers=_numbers(values))
            else:
                self._bar.update(task, completed=step)
        elif self._mode == 'lines':
            now = time.monotonic()
            if now - self._said >= self._interval or step >= self._total:
                self._said = now
                self._print(
                    f'{self._title} {step}/{self._total}  {_numbers(values)}  {self._left(now)}'
                )

    def announce(self, text: str) -> None:
        """One line that stays: an evaluation, a save, a warning."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif self._mode != 'none':
            self._print(text)

    def _left(self, now: float) -> str:
        done, elapsed = self._step - self._start, now - self._began
        if done <= 0:
            return f'{_clock(elapsed)} elapsed'
        left = elapsed / done * max(0, self._total - self._step)
        return f'{_clock(elapsed)} elapsed, {_clock(left)} left'

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def _numbers(values: dict[str, Any]) -> str:
    shown = {name: values[name] for name in _SHOWN if name in values} or values
    return '  '.join(
        f'{_SHOWN.get(name, name)} {_number(name, value)}' for name, value in shown.items()
    )


def _number(name: str, value: Any) -> str:
    if name.endswith('per_second') or isinstance(value, int):
        return f'{value:,.0f}'
    return f'{float(value):.4g}'


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}'
