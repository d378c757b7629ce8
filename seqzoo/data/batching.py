"""What a batch holds, what a plan of batches promises, and the configuration of both.

A *plan* says which examples take part in which step. It is a pure function of (seed, epoch, stored
lengths), computed alike by every process, so the position in the data is the step number and
nothing else: any number of devices or processes goes on from a checkpoint exactly.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from seqzoo.errors import UserError

Batch = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How sentences become batches of a few fixed shapes. Lengths count the end marker.

    Attributes:
        tokens: budget of padded target tokens per step, over all devices: rows times length never
            exceeds it.
        max_length: longest sentence of training, either side; the longest bucket. Running text is
            cut into rows of this length, `tokens // max_length` of them.
        buckets: the lengths of the buckets, ascending, the last one `max_length`; None makes a
            geometric ladder.
        fitted_buckets: instead of `buckets`, this many lengths, chosen so that the stored lengths
            need the least padding.
        length_multiple: bucket lengths that we choose are multiples of this; 8 suits the
            accelerators.
        packing: several sentences in each row, kept apart by segments, all batches of one shape.
        pack_length: length of a packed row; None is `max_length`.
        long_sentences: what training does with a pair longer than `max_length`: 'drop' it and
            count, 'truncate' both sides, or 'refuse' the data.
        empty_lines: what training does with a pair of which one side has no tokens: 'drop' it and
            count, or 'keep'.
        evaluation_rows: most rows in a batch of evaluation; None lets the budget of tokens decide.
            Running text is cut into so many streams, None: as many as in training; 1 is exact.
        evaluation_max_length: evaluation never drops; it adds buckets up to this length and
            truncates only beyond, counted. None is four times `max_length`. Of running text the
            length of a row in evaluation, None: as in training.
    """

    tokens: int = 4096
    max_length: int = 128
    buckets: tuple[int, ...] | None = None
    fitted_buckets: int | None = None
    length_multiple: int = 8
    packing: bool = False
    pack_length: int | None = None
    long_sentences: Literal['drop', 'truncate', 'refuse'] = 'drop'
    empty_lines: Literal['drop', 'keep'] = 'drop'
    evaluation_rows: int | None = None
    evaluation_max_length: int | None = None

    def __post_init__(self) -> None:
        longest = (self.pack_length or self.max_length) if self.packing else self.max_length
        if self.max_length < 2:
            raise UserError(
                f'batch.max_length is {self.max_length}; a token and its end marker need at least 2'
            )
        if self.tokens < longest:
            raise UserError(
                f'batch.tokens is {self.tokens}, less than one row of {longest}; raise it or lower '
                'batch.max_length'
            )
        if self.packing and longest < self.max_length:
            raise UserError(
                f'batch.pack_length is {longest} but sentences may have batch.max_length '
                f'{self.max_length}; make rows at least as long as sentences'
            )
        if self.buckets is not None:
            self._check_buckets(self.buckets)
        if self.fitted_buckets is not None and self.fitted_buckets < 1:
            raise UserError(f'batch.fitted_buckets is {self.fitted_buckets}; choose at least 1')
        if self.buckets is not None and self.fitted_buckets is not None:
            raise UserError('batch.buckets and batch.fitted_buckets are both set; choose one')
        if self.length_multiple < 1:
            raise UserError(f'batch.length_multiple is {self.length_multiple}; choose at least 1')
        if self.long_sentences not in ('drop', 'truncate', 'refuse'):
            raise UserError(
                f"batch.long_sentences is {self.long_sentences!r}; choose 'drop', 'truncate' or "
                "'refuse'"
            )
        if self.empty_lines not in ('drop', 'keep'):
            raise UserError(f"batch.empty_lines is {self.empty_lines!r}; choose 'drop' or 'keep'")
        if self.evaluation_rows is not None and self.evaluation_rows < 1:
            raise UserError(f'batch.evaluation_rows is {self.evaluation_rows}; choose at least 1')
        if self.evaluation_max_length is not None and self.evaluation_max_length < self.max_length:
            raise UserError(
                f'batch.evaluation_max_length is {self.evaluation_max_length}, less than '
                f'batch.max_length {self.max_length}; raise it or leave it out'
            )

    @property
    def longest_evaluated(self) -> int:
        """Where evaluation and prediction cut a sentence."""
        return self.evaluation_max_length or 4 * self.max_length

    def _check_buckets(self, buckets: tuple[int, ...]) -> None:
        if not buckets or list(buckets) != sorted(set(buckets)) or buckets[0] < 1:
            raise UserError(f'batch.buckets is {buckets}; give positive lengths in ascending order')
        if buckets[-1] != self.max_length:
            raise UserError(
                f'batch.buckets ends at {buckets[-1]} but batch.max_length is {self.max_length}; '
                'make them equal'
            )


@dataclass(frozen=True, order=True)
class BatchShape:
    """Rows and lengths of a batch: one compilation each."""

    rows: int
    source_length: int
    target_length: int


@dataclass(frozen=True)
class ArraySpec:
    """Shape and type of an array that a batch will have."""

    shape: tuple[int, ...]
    dtype: str = 'int32'


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which examples a plan uses, and what became of the others.

    Attributes:
        ids: `[kept]` int32 numbers of the examples used, ascending; two billion are enough.
        source_lengths: `[kept]` int32 tokens, end marker included, after truncation.
        target_lengths: the same of the other side.
        dropped_empty: pairs left out because a side has no tokens.
        dropped_long: pairs left out because a side is too long.
        truncated: pairs cut to the longest bucket.
    """

    ids: np.ndarray
    source_lengths: np.ndarray
    target_lengths: np.ndarray
    dropped_empty: int
    dropped_long: int
    truncated: int

    @classmethod
    def whole(cls, lengths: np.ndarray) -> 'Selection':
        """All examples as they are, one side like the other."""
        return cls(
            ids=np.arange(len(lengths), dtype=np.int64),
            source_lengths=lengths,
            target_lengths=lengths,
            dropped_empty=0,
            dropped_long=0,
            truncated=0,
        )


@dataclass(frozen=True, kw_only=True)
class PlannedBatch:
    """The examples of one step and where each goes.

    Attributes:
        step: number of the step.
        bucket: index into the plan's `shapes`.
        shape: the batch's shape; rows without an example are fill rows.
        example_ids: `[rows]` int64 with -1 for fill rows, or `[rows, slots]` with -1 for unused
            slots if packed.
        examples: `[examples]` int64 numbers of the examples.
        row: `[examples]` the row of each.
        segment: `[examples]` 1, 2, ... within its row.
        source_offset: `[examples]` the column where it begins.
        target_offset: the same of the other side.
        source_lengths: `[examples]` its tokens, end marker included.
        target_lengths: the same of the other side.
    """

    step: int
    bucket: int
    shape: BatchShape
    example_ids: np.ndarray
    examples: np.ndarray
    row: np.ndarray
    segment: np.ndarray
    source_offset: np.ndarray
    target_offset: np.ndarray
    source_lengths: np.ndarray
    target_lengths: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Padding:
    """Share of the positions that hold no token, over an epoch, fill rows included (0 to 1)."""

    source: float
    target: float

    @property
    def both(self) -> float:
        """Both sides together; they have the same number of positions in every plan."""
        return (self.source + self.target) / 2


class Plan(Protocol):
    """A function from step to batch, with everything about its shapes known beforehand."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, the same in all."""
        ...

    @property
    def shapes(self) -> tuple[BatchShape, ...]:
        """Every shape that a batch can have: one compilation each."""
        ...

    @property
    def selection(self) -> Selection:
        """The examples used, and counts of those left out."""
        ...

    @property
    def padding(self) -> Padding:
        """Share of positions without a token."""
        ...

    def batch(self, step: int) -> PlannedBatch:
        """The batch of a step, counted from 0 over all epochs; any step, in any order."""
        ...


def select_examples(
    source_lengths: np.ndarray, target_lengths: np.ndarray, config: BatchConfig, end_marks: int = 1
) -> Selection:
    """Applies the policies for empty and long sentences.

    Args:
        source_lengths: `[examples]` tokens of each source sentence, without end marker.
        target_lengths: the same of the other side.
        config: the policies.
        end_marks: how many marks each sequence gets at its end.

    Raises:
        UserError: nothing is left, or a sentence is too long and the policy is to refuse.
    """
    source = np.asarray(source_lengths, np.int32) + end_marks
    target = np.asarray(target_lengths, np.int32) + end_marks
    if source.shape != target.shape:
        raise UserError(
            f'the source has {len(source)} sentences and the target {len(target)}; they must match'
        )
    empty = (source == end_marks) | (target == end_marks)
    if config.empty_lines == 'keep':
        empty = np.zeros_like(empty)
    long = (np.maximum(source, target) > config.max_length) & ~empty
    if long.any() and config.long_sentences == 'refuse':
        first = int(np.argmax(long))
        raise UserError(
            f'{np.count_nonzero(long)} training pairs are longer than batch.max_length '
            f'{config.max_length}, the first in line {first + 1} with '
            f'{max(source[first], target[first])} tokens; raise it, or set --batch.long-sentences '
            'to drop or truncate'
        )
    dropped_long = long if config.long_sentences == 'drop' else np.zeros_like(long)
    ids = np.flatnonzero(~(empty | dropped_long)).astype(np.int32)
    if len(ids) == 0:
        raise UserError(
            f'no training pair is left: {np.count_nonzero(empty)} are empty and '
            f'{np.count_nonzero(dropped_long)} longer than batch.max_length {config.max_length}; '
            'check the files or raise it'
        )
    return Selection(
        ids=ids,
        source_lengths=np.minimum(source[ids], config.max_length),
        target_lengths=np.minimum(target[ids], config.max_length),
        dropped_empty=int(np.count_nonzero(empty)),
        dropped_long=int(np.count_nonzero(dropped_long)),
        truncated=int(np.count_nonzero(long)) if config.long_sentences == 'truncate' else 0,
    )


def permutation(count: int, *key: int) -> np.ndarray:
    """`[count]` int64, a permutation of 0, 1, ... that depends on the integers `key` alone.

    `numpy.random.Generator.permutation` may give another order in another version of NumPy; the raw
    bits of a bit generator may not, and a run must go on in the same order after an upgrade.
    """
    bits = np.random.Philox(np.random.SeedSequence([k % 2**64 for k in key])).random_raw(count)
    return np.argsort(bits, kind='stable')


def rows_within(tokens: int, length: int) -> int:
    """The most rows of `length` within a budget; from 8 on a multiple of 8, for the devices."""
    rows = tokens // length
    return rows - rows % 8 if rows >= 8 else rows


def evenly(count: int, parts: int) -> np.ndarray:
    """`[parts + 1]` int64 bounds that cut `count` things into parts equal but for one."""
    return np.arange(parts + 1, dtype=np.int64) * count // parts
