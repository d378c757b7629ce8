"""What happened in a run: `metrics.jsonl`, one object per event, and TensorBoard.

The loop must not wait for the device in order to write: numbers that are still on the device go
through `DeferredMetrics`, and the event log takes only numbers that have arrived.
"""

import collections
import contextlib
import dataclasses
import errno
import itertools
import json
import math
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
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

    def resume(self, step: int) -> float:
        """Forgets what was written after `step`, to which the run has gone back: no doubles.

        Returns:
            Seconds of work that are lost with it, as far as the events tell: the time between two
            of them, where the second is forgotten and is not the start of a process.
        """
        if not self._enabled:
            return 0.0
        events = read_events(self._path.parent)
        lines = self._path.read_text(encoding='utf-8').split('\n')
        kept = [
            f'{line}\n' for line, event in zip(lines, events, strict=False) if event['step'] <= step
        ]
        lost = sum(
            max(0.0, event.get('time', 0.0) - before.get('time', 0.0))
            for before, event in itertools.pairwise(events)
            if event['step'] > step and event['kind'] != 'start'
        )
        replacement = self._path.with_suffix('.jsonl.new')
        with replacement.open('w', encoding='utf-8') as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        os.close(self._file)
        os.replace(replacement, self._path)
        self._open()
        self._close_tensorboard()
        self._purge_step = step + 1
        return lost

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
        with _refusals_named(self._path):
            _write_whole(self._file, line)

    def _to_tensorboard(self, kind: str, step: int, event: Mapping[str, Any]) -> None:
        numbers = {
            f'{kind}/{name}': value
            for name, value in event.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
            if name not in ('step', 'time')
        }
        with _refusals_named(self._tensorboard_folder):
            if self._writer is None:
                self._writer = _Scalars(self._tensorboard_folder, self._purge_step)
            self._writer.write(step, event['time'], numbers)

    def _close_tensorboard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@contextlib.contextmanager
def _refusals_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f'cannot write to {path}: {error.strerror or error}; '
            'make room there and start the run again'
        ) from error


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
            if not {'kind', 'step'} <= event.keys():
                raise ValueError('it has no kind or no step')
        except (ValueError, AttributeError) as error:
            raise UserError(
                f'line {number} of {path} is not JSON of an event ({error}); delete that line'
            ) from error
        if kind is None or event['kind'] == kind:
            events.append(event)
    return events


@dataclasses.dataclass(frozen=True)
class StepMetrics:
    """The numbers of one step, on the host."""

    step: int
    values: dict[str, Any]  # NumPy arrays, or trees of them
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)  # what the host knew of it


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
        self._waiting: collections.deque[tuple[int, Any, dict[str, Any]]] = collections.deque()

    def push(self, step: int, values: Mapping[str, Any], **facts: Any) -> list[StepMetrics]:
        """Takes the device arrays of one step; returns the steps that are due, oldest first.

        Args:
            step: its number.
            values: arrays, on the device.
            **facts: what comes back with them as it is.
        """
        for leaf in jax.tree.leaves(dict(values)):
            if isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
                leaf.copy_to_host_async()
        self._waiting.append((step, dict(values), facts))
        if len(self._waiting) < self._every + self._lag:
            return []
        return self._fetch(self._every)

    def drain(self) -> list[StepMetrics]:
        """Everything that is left; waits for the device. For before saving and leaving."""
        return self._fetch(len(self._waiting))

    def _fetch(self, count: int) -> list[StepMetrics]:
        due = [self._waiting.popleft() for _ in range(count)]
        values = jax.device_get([values for _, values, _ in due])
        return [
            StepMetrics(
                step,
                {name: jax.tree.map(np.asarray, value) for name, value in fetched.items()},
                facts,
            )
            for (step, _, facts), fetched in zip(due, values, strict=True)
        ]


class _Scalars:
    """An event file of TensorBoard, written at once and without waiting for the disk.

    tensorboardX's own `SummaryWriter` writes from a thread, behind a queue of ten: where the disk
    is full that thread dies, and whoever hands it the eleventh event waits for ever. So only its
    formats are used.
    """

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        # Where PyTorch is installed, tensorboardX imports it for a single isinstance: seconds, and
        # hundreds of megabytes. None in its place makes that import fail, which tensorboardX
        # expects.
        absent = 'torch' not in sys.modules
        if absent:
            sys.modules['torch'] = None  # type: ignore[assignment]
        try:
            from tensorboardX.proto import event_pb2, summary_pb2
            from tensorboardX.record_writer import masked_crc32c
        finally:
            if absent:
                del sys.modules['torch']
        events: Any = event_pb2  # its names are made when it is imported
        summaries: Any = summary_pb2
        self._event, self._summary = events.Event, summaries.Summary
        self._checksum = masked_crc32c
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        # The order of names is the order of time, and no two processes share one.
        name = f'events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}.{id(self)}'
        self._file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._append(wall_time=now, file_version='brain.Event:2')
        if purge_step is not None:  # TensorBoard hides what other files say from this step on
            start = events.SessionLog(status=events.SessionLog.START)
            self._append(wall_time=now, step=purge_step, session_log=start)

    def write(self, step: int, when: float, numbers: Mapping[str, float]) -> None:
        """Adds the numbers of one event."""
        values = [self._summary.Value(tag=tag, simple_value=x) for tag, x in numbers.items()]
        if values:
            self._append(wall_time=when, step=step, summary=self._summary(value=values))

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)

    def _append(self, **fields: Any) -> None:
        data = self._event(**fields).SerializeToString()
        length = struct.pack('<Q', len(data))
        sums = [struct.pack('<I', self._checksum(part)) for part in (length, data)]
        _write_whole(self._file, length + sums[0] + data + sums[1])


def _write_whole(file: int, record: bytes) -> None:
    """All of the record at the end of the file, or nothing of it."""
    size = os.fstat(file).st_size
    if os.write(file, record) != len(record):
        os.ftruncate(file, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
