"""Examples with named columns: what a task holds that is not a pair of sentences.

A column has one value for each example (`Fixed`: a label, an image) or one for each position of it
(`Ragged`: words, tags, measurements). A table of such columns is batched by the same plans as
sentences; it is padded to the length of the bucket and gets

    segments  [rows, length] int32, 1 at positions, 0 at padding
    weight    [rows] float32, 1 for an example, 0 for a row that only fills up
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqzoo.data.batching import ArraySpec, Batch, BatchShape, PlannedBatch


@dataclass(frozen=True)
class Fixed:
    """One value for each example.

    Attributes:
        values: `[examples, ...]`.
    """

    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Ragged:
    """One value for each position of each example.

    Attributes:
        values: `[positions of all examples, ...]`.
        offsets: `[examples + 1]` int64, where each begins.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[Any], dtype: Any = np.int32) -> 'Ragged':
        """From one array `[length, ...]` for each example."""
        arrays = [np.asarray(sequence, dtype) for sequence in sequences]
        ends = np.cumsum([len(array) for array in arrays], dtype=np.int64)
        values = np.concatenate(arrays) if arrays else np.zeros(0, dtype)
        return cls(values, np.concatenate([np.zeros(1, np.int64), ends]))

    @classmethod
    def blank(cls, lengths: Sequence[int], dtype: Any = np.int32, *inner: int) -> 'Ragged':
        """Zeros `[length, *inner]` for each example: what says no more than its shape."""
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return cls(np.zeros((int(offsets[-1]), *inner), dtype), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, example: int) -> np.ndarray:
        return self.values[self.offsets[example] : self.offsets[example + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """`[examples]` int32 positions of each."""
        return np.diff(self.offsets).astype(np.int32)


Column = Fixed | Ragged


@dataclass(frozen=True)
class Columns:
    """A table: the columns of the same examples, by name. A `pipeline.RowContent`.

    Attributes:
        columns: `Ragged` ones have equal lengths.
        length: positions of each example where no column is ragged.
    """

    columns: Mapping[str, Column]
    length: int = 1

    def __post_init__(self) -> None:
        if len({len(column) for column in self.columns.values()}) != 1:
            sizes = {name: len(column) for name, column in self.columns.items()}
            raise ValueError(f'the columns differ in their number of examples: {sizes}')
        for name, column in self._ragged.items():
            if not np.array_equal(column.lengths, self.lengths):
                raise ValueError(f'the lengths of column {name} are not those of the others')

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def on_disk(self) -> bool:
        """A table is held in memory."""
        return False

    @property
    def _ragged(self) -> dict[str, Ragged]:
        return {name: c for name, c in self.columns.items() if isinstance(c, Ragged)}

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """`[examples]` int32 positions of each."""
        for column in self._ragged.values():
            return column.lengths
        return np.full(len(self), self.length, np.int32)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of names, values and lengths."""
        digest = hashlib.sha256()
        for name, column in sorted(self.columns.items()):
            values = np.ascontiguousarray(column.values)
            digest.update(f'{name} {values.dtype.str} {values.shape}'.encode())
            digest.update(values.tobytes())
        digest.update(self.lengths.astype('<i4').tobytes())
        return digest.hexdigest()

    def arrays(self, planned: PlannedBatch, first_row: int, rows: int) -> Batch:
        """The arrays of `rows` rows of a batch from `first_row` on; see `pipeline.RowContent`."""
        width = planned.shape.source_length
        here = (planned.row >= first_row) & (planned.row < first_row + rows)
        examples, row = planned.examples[here], planned.row[here] - first_row
        lengths = planned.source_lengths[here].astype(np.int64)
        ends = np.cumsum(lengths)
        position = np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
        to = np.repeat(row * width, lengths) + position
        segments = np.zeros(rows * width, np.int32)
        segments[to] = 1
        weight = np.zeros(rows, np.float32)
        weight[row] = 1
        found: Batch = {'segments': segments.reshape(rows, width), 'weight': weight}
        for name, column in self.columns.items():
            inner = column.values.shape[1:]
            if isinstance(column, Fixed):
                found[name] = np.zeros((rows, *inner), column.values.dtype)
                found[name][row] = column.values[examples]
            else:
                flat = np.zeros((rows * width, *inner), column.values.dtype)
                flat[to] = column.values[np.repeat(column.offsets[examples], lengths) + position]
                found[name] = flat.reshape(rows, width, *inner)
        return found

    def specs(self, shape: BatchShape, rows: int) -> dict[str, ArraySpec]:
        """Shapes and types of what `arrays` gives."""
        wide = (rows, shape.source_length)
        specs = {'segments': ArraySpec(wide), 'weight': ArraySpec((rows,), 'float32')}
        for name, column in self.columns.items():
            lead = (rows,) if isinstance(column, Fixed) else wide
            specs[name] = ArraySpec((*lead, *column.values.shape[1:]), str(column.values.dtype))
        return specs
