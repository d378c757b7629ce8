"""What happened in a run: `metrics.jsonl`, one object per event, and TensorBoard.

The loop must not wait for the device in order to write: numbers that are still on the device go
through `DeferredMetrics`, and the event log takes only numbers that have arrived.
"""

import collections
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seqzoo.errors import UserError

METRICS_FILE = 'metrics.jsonl'
TENSORBOARD_FOLDER = 'tensorboard'


class EventLog:
    """Appends events to a run folder; `enabled=False`, for other processes, writes nothing."""

    def __init__(self, run: Path, *, tensorboard: bool = True, enabled: bool = True) -> None:
        self._path = Path(run) / METRICS_FILE
        self._tensorboard_folder = Path(run) / TENSORBOARD_FOLDER
        self._tensorboard, self._enabled = tensorboard, enabled
        self._writer: Any = None
        self._purge_step: int | None = None
        self._file = -1
        if enabled:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open()

    def __enter__(self) -> 'EventLog':
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Appends one event; it is with the operating system, whole, when this returns.

        Args:
            kind: What happened: `train`, `evaluate`, `resume`, ...
            step: The number of updates done.
            **values: JSON values and NumPy scalars. JSON has no NaN: a number that is not finite is
                written as null and named in `non_finite`.

        Raises:
            TypeError: a value is still on the device.
            UserError: the disk is full.
        """
        if not self._enabled:
            return
        event: dict[str, Any] = {'kind': kind, 'step': int(step), 'time': round(time.time(), 3)}
        odd: dict[str, str] = {}
        for name, value in values.items():
            event[name] = _plain(name, value, odd)
        if odd:
            event['non_finite'] = odd
        line = (json.dumps(event, ensure_ascii=False, allow_nan=False) + '\n').encode()
        self._append(line)
        if self._tensorboard:
            self._to_tensorboard(kind, int(step), event)

    def resume(self, step: int) -> None:
        """Forgets what was written after `step`, to which the run has gone back: no doubles."""
        if not self._enabled:
            return
        os.close(self._file)
        kept = [
            line
            for line in self._path.read_text(encoding='utf-8').splitlines(keepends=True)
            if json.loads(line)['step'] <= step
        ]
        replacement = self._path.with_suffix('.jsonl.new')
        with replacement.open('w', encoding='utf-8') as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        os.replace(replacement, self._path)
        self._open()
        self._close_tensorboard()
        self._purge_step = step + 1

    def close(self) -> None:
        """Closes the files; a second call does nothing."""
        self._close_tensorboard()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        # A process that was killed may have left half a line; the next event must not be glued to
        # it.
        whole = self._path.read_bytes().rfind(b'\n') + 1
        if whole != os.fstat(self._file).st_size:
            os.ftruncate(self._file, whole)

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
            if written != len(line):
                os.ftruncate(self._file, size)
                raise OSError('No space left on device')
        except OSError as error:
            raise UserError(
                f'cannot write to {self._path}: {error.strerror or error}; '
                'make room there and start the run again'
            ) from error

    def _to_tensorboard(self, kind: str, step: int, event: Mapping[str, Any]) -> None:
        if self._writer is None:
            self._writer = _summary_writer(self._tensorboard_folder, self._purge_step)
        for name, value in event.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and name not in ('step', 'time'):
                self._writer.add_scalar(f'{kind}/{name}', value, step)

    def _close_tensorboard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def read_events(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The events of a run in the order of writing, without a line that is half written.

    Raises:
        UserError: a line is not JSON.
    """
    path = Path(run) / METRICS_FILE
    if not path.exists():
        return []
    events = []
    for number, line in enumerate(path.read_text(encoding='utf-8').split('\n')[:-1], start=1):
        try:
            event = json.loads(line)
        except ValueError as error:
            raise UserError(
                f'line {number} of {path} is not JSON ({error}); delete that line'
            ) from error
        if kind is None or event['kind'] == kind:
            events.append(event)
    return events


@dataclasses.dataclass(frozen=True)
class StepMetrics:
    """The numbers of one step, on the host."""

    step: int
    values: dict[str, Any]  # NumPy arrays, or trees of them


class DeferredMetrics:
    """Holds the metrics of past steps on the device until later steps have been dispatched.

    Fetching a number waits until it is computed, and a loop that waits leaves the device idle
    between steps. Here the numbers of a step are fetched only when `lag` later steps are already in
    the queue, and those of `every` steps in one transfer. That transfer is also what keeps the loop
    from running ahead of the device without bound.

    ```
    for step in range(start, stop):
        state, metrics = train_step(state, batch)
        for past in deferred.push(step + 1, metrics):
            log.write('train', past.step, loss=past.values['loss'] ...)
    for past in deferred.drain(): ...
    ```
    """

    def __init__(self, *, every: int = 1, lag: int = 1) -> None:
        if every < 1 or lag < 0:
            raise ValueError(f'every must be at least 1 and lag at least 0, not {every} and {lag}')
        self._every, self._lag = every, lag
        self._waiting: collections.deque[tuple[int, Any]] = collections.deque()

    def push(self, step: int, values: Mapping[str, Any]) -> list[StepMetrics]:
        """Takes the device arrays of one step; returns the steps that are due, oldest first."""
        for leaf in jax.tree.leaves(dict(values)):
            if isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
                leaf.copy_to_host_async()
        self._waiting.append((step, dict(values)))
        if len(self._waiting) < self._every + self._lag:
            return []
        return self._fetch(self._every)

    def drain(self) -> list[StepMetrics]:
        """Everything that is left; waits for the device. For before saving and leaving."""
        return self._fetch(len(self._waiting))

    def _fetch(self, count: int) -> list[StepMetrics]:
        due = [self._waiting.popleft() for _ in range(count)]
        values = jax.device_get([values for _, values in due])
        return [
            StepMetrics(
                step, {name: jax.tree.map(np.asarray, value) for name, value in fetched.items()}
            )
            for (step, _), fetched in zip(due, values, strict=True)
        ]


def _summary_writer(folder: Path, purge_step: int | None) -> Any:
    # Where PyTorch is installed, tensorboardX imports it for a single isinstance: seconds, and
    # hundreds of megabytes. None in its place makes that import fail, which tensorboardX expects.
    absent = 'torch' not in sys.modules
    if absent:
        sys.modules['torch'] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if absent:
            del sys.modules['torch']
    return SummaryWriter(str(folder), purge_step=purge_step, flush_secs=10)


def _plain(name: str, value: Any, odd: dict[str, str]) -> Any:
    """A JSON value; numbers that are not finite are named in `odd` and become None."""
    if isinstance(value, jax.Array):
        raise TypeError(f'{name} is still on the device; hand it to DeferredMetrics')
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        odd[name] = str(value)
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(f'{name}.{key}', item, odd) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(f'{name}.{index}', item, odd) for index, item in enumerate(value)]
    return value
