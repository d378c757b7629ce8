"""Plans that put sentences of like length together, in a few shapes under a budget of tokens."""

import threading

import numpy as np

from seqzoo.data.batching import (
    BatchConfig,
    BatchShape,
    Padding,
    PlannedBatch,
    Selection,
    evenly,
    permutation,
    rows_within,
    select_examples,
)
from seqzoo.errors import UserError

# From one bucket to the next: about 15 % padding for lengths spread evenly inside a bucket.
_GROWTH = 1.4


def geometric_ladder(max_length: int, multiple: int = 8) -> tuple[int, ...]:
    """Multiples of `multiple`, each about 1.4 times the one before, ending at `max_length`."""
    ladder = [min(multiple, max_length)]
    while ladder[-1] < max_length:
        following = max(ladder[-1] + multiple, round(ladder[-1] * _GROWTH / multiple) * multiple)
        ladder.append(min(following, max_length))
    return tuple(ladder)


def fitted_ladder(
    lengths: np.ndarray, count: int, max_length: int, multiple: int = 8
) -> tuple[int, ...]:
    """The at most `count` bucket lengths that pad the given lengths least.

    Exact, by dynamic programming over the multiples of `multiple` up to the longest length.

    Args:
        lengths: `[examples]` the longer side of each pair.
        count: buckets to use at most.
        max_length: no bucket is longer.
        multiple: bucket lengths are multiples of it (the last may be `max_length` itself).
    """
    edges = np.unique(
        np.minimum(np.arange(1, -(-int(lengths.max()) // multiple) + 1) * multiple, max_length)
    )
    # How many sentences fit into each edge.
    below = np.searchsorted(np.sort(lengths), edges, side='right')
    # best[j]: least positions used by all sentences that fit into edge j, with j the last bucket.
    best = below * edges
    previous = [np.full(len(edges), -1)]
    for _ in range(count - 1):
        candidates = best[:, None] + (below[None, :] - below[:, None]) * edges[None, :]
        candidates[np.tril_indices(len(edges))] = np.iinfo(np.int64).max
        choice = np.argmin(candidates, axis=0)
        cost = np.min(candidates, axis=0)
        better = cost < best
        previous.append(np.where(better, choice, -2))  # -2: as with one bucket fewer
        best = np.where(better, cost, best)
    ladder = []
    edge, level = len(edges) - 1, count - 1
    while edge >= 0:
        while previous[level][edge] == -2:
            level -= 1
        ladder.append(int(edges[edge]))
        edge, level = int(previous[level][edge]), level - 1
    return tuple(reversed(ladder))


class BucketPlan:
    """Every example once an epoch, in batches of like length, in new order and company each time.

    The number of batches of each bucket is the same in every epoch, and what is lacking in a
    bucket's last batch is spread over all its batches, so that no step has a gradient of only a few
    sentences where others have hundreds.

    Args:
        source_lengths: `[examples]` tokens of each source sentence, without end marker.
        target_lengths: the same of the other side.
        config: budget, buckets and policies.
        seed: of the order.
        end_marks: how many marks each sequence gets at its end.
    """

    def __init__(
        self,
        source_lengths: np.ndarray,
        target_lengths: np.ndarray,
        config: BatchConfig,
        *,
        seed: int = 0,
        end_marks: int = 1,
    ):
        self.selection = select_examples(source_lengths, target_lengths, config, end_marks)
        self.seed = seed
        longer = np.maximum(self.selection.source_lengths, self.selection.target_lengths)
        self.ladder = training_ladder(longer, config)
        self._members, sizes = _by_bucket(longer, self.ladder)
        self._table = _BatchTable.make(
            sizes, [rows_within(config.tokens, length) for length in self.ladder]
        )
        self.shapes = tuple(
            BatchShape(rows_within(config.tokens, self.ladder[b]), self.ladder[b], self.ladder[b])
            for b in self._table.used
        )
        self._bounds = np.concatenate([[0], np.cumsum(sizes)])
        self._lock = threading.Lock()
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, the same in all."""
        return len(self._table.bucket)

    @property
    def padding(self) -> Padding:
        """Share of positions without a token."""
        return measure_padding(self.selection, self.shapes, np.bincount(self._table.bucket))

    def batch(self, step: int) -> PlannedBatch:
        """The batch of a step; any step, in any order."""
        epoch, index = divmod(step, self.steps_per_epoch)
        members, order = self._shuffled(epoch)
        place = int(order[index])
        chosen = members[self._table.start[place] : self._table.stop[place]]
        bucket = int(self._table.bucket[place])
        return one_per_row(step, bucket, self.shapes[bucket], self.selection, chosen)

    def _shuffled(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:  # reading threads ask at the same time; one of them does the work
            if self._epoch is None or self._epoch[0] != epoch:
                members = np.empty_like(self._members)
                for bucket, (start, stop) in enumerate(
                    zip(self._bounds[:-1], self._bounds[1:], strict=True)
                ):
                    order = permutation(int(stop - start), self.seed, epoch, bucket + 1)
                    members[start:stop] = self._members[start:stop][order]
                self._epoch = (
                    epoch,
                    members,
                    permutation(self.steps_per_epoch, self.seed, epoch, 0),
                )
            return self._epoch[1:]


class EvaluationPlan:
    """Every example exactly once, longest first, nothing dropped; the ids restore the order.

    Sentences beyond the training ladder get buckets of their own, doubling in length, up to
    `config.evaluation_max_length`, where they are cut (and counted in `selection.truncated`).

    Args:
        source_lengths: `[examples]` tokens of each source sentence, without end marker.
        target_lengths: the same of the other side; None, for prediction, buckets by the source
            alone.
        config: budget and buckets.
        end_marks: how many marks each sequence gets at its end.
    """

    steps_per_epoch: int

    def __init__(
        self,
        source_lengths: np.ndarray,
        target_lengths: np.ndarray | None,
        config: BatchConfig,
        *,
        end_marks: int = 1,
    ):
        source = np.asarray(source_lengths, np.int32) + end_marks
        given = source_lengths if target_lengths is None else target_lengths
        target = np.asarray(given, np.int32) + end_marks
        if source.shape != target.shape:
            raise UserError(
                f'the source has {len(source)} sentences and the target {len(target)}; they must '
                'match'
            )
        if len(source) == 0:
            raise UserError('there is nothing to evaluate: the input has no lines')
        limit = config.longest_evaluated
        longer = np.maximum(source, target)
        self.selection = Selection(
            ids=np.arange(len(source), dtype=np.int32),
            source_lengths=np.minimum(source, limit),
            target_lengths=np.minimum(target, limit),
            dropped_empty=0,
            dropped_long=0,
            truncated=int(np.count_nonzero(longer > limit)),
        )
        ladder = list(config.buckets or geometric_ladder(config.max_length, config.length_multiple))
        while ladder[-1] < min(int(longer.max()), limit):
            ladder.append(min(2 * ladder[-1], limit))
        bucket = np.searchsorted(ladder, np.minimum(longer, limit))
        sizes = np.bincount(bucket, minlength=len(ladder))
        rows = [
            self._rows(length, int(size), config)
            for length, size in zip(ladder, sizes, strict=True)
        ]
        self._table = _BatchTable.make(sizes, rows)
        self.shapes = tuple(BatchShape(rows[b], ladder[b], ladder[b]) for b in self._table.used)
        self._members = np.lexsort((longer, bucket)).astype(np.int32)
        self.steps_per_epoch = len(self._table.bucket)

    @staticmethod
    def _rows(length: int, size: int, config: BatchConfig) -> int:
        rows = max(1, rows_within(config.tokens, length))
        if config.evaluation_rows is not None:
            rows = min(rows, config.evaluation_rows)
        # A handful of sentences do not need a full batch; powers of two keep the shapes few.
        return min(rows, max(8, 1 << (max(size, 1) - 1).bit_length()))

    def __len__(self) -> int:
        return self.steps_per_epoch

    @property
    def padding(self) -> Padding:
        """Share of positions without a token."""
        return measure_padding(self.selection, self.shapes, np.bincount(self._table.bucket))

    def batch(self, step: int) -> PlannedBatch:
        """The batch of a step from 0 to `steps_per_epoch - 1`."""
        # Longest first: what does not fit into memory fails at once.
        place = self.steps_per_epoch - 1 - step
        chosen = self._members[self._table.start[place] : self._table.stop[place]]
        bucket = int(self._table.bucket[place])
        return one_per_row(step, bucket, self.shapes[bucket], self.selection, chosen)


def training_ladder(longer: np.ndarray, config: BatchConfig) -> tuple[int, ...]:
    """The bucket lengths of a configuration; `longer`: `[examples]` the longer side of each."""
    if config.buckets is not None:
        return config.buckets
    if config.fitted_buckets is not None:
        return fitted_ladder(
            longer, config.fitted_buckets, config.max_length, config.length_multiple
        )
    return geometric_ladder(config.max_length, config.length_multiple)


def _by_bucket(longer: np.ndarray, ladder: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the sentences bucket after bucket, int32, and how many each has.

    One bucket at a time: sorting tens of millions at once would take a gigabyte.
    """
    members, sizes, begin, shorter = np.empty(len(longer), np.int32), [], 0, 0
    for length in ladder:
        here = np.flatnonzero((longer > shorter) & (longer <= length))
        members[begin : begin + len(here)] = here
        sizes.append(len(here))
        begin, shorter = begin + len(here), length
    return members, np.array(sizes)


def one_per_row(
    step: int, bucket: int, shape: BatchShape, selection: Selection, chosen: np.ndarray
) -> PlannedBatch:
    """A batch with one example a row; `chosen` are positions in the selection."""
    count = len(chosen)
    example_ids = np.full(shape.rows, -1, np.int64)
    example_ids[:count] = selection.ids[chosen]
    zeros = np.zeros(count, np.int64)
    return PlannedBatch(
        step=step,
        bucket=bucket,
        shape=shape,
        example_ids=example_ids,
        examples=example_ids[:count],
        row=np.arange(count),
        segment=zeros + 1,
        source_offset=zeros,
        target_offset=zeros,
        source_lengths=selection.source_lengths[chosen],
        target_lengths=selection.target_lengths[chosen],
    )


def measure_padding(
    selection: Selection, shapes: tuple[BatchShape, ...], counts: np.ndarray
) -> Padding:
    """Padding of an epoch in which each shape occurs so many times."""
    source = sum(s.rows * s.source_length * int(n) for s, n in zip(shapes, counts, strict=True))
    target = sum(s.rows * s.target_length * int(n) for s, n in zip(shapes, counts, strict=True))
    return Padding(
        source=1 - int(selection.source_lengths.sum(dtype=np.int64)) / source,
        target=1 - int(selection.target_lengths.sum(dtype=np.int64)) / target,
    )


class _BatchTable:
    """For every batch: its bucket, counted among those used, and its slice of the bucket order."""

    def __init__(self, used: list[int], bucket: np.ndarray, start: np.ndarray, stop: np.ndarray):
        self.used = used
        self.bucket = bucket
        self.start = start
        self.stop = stop

    @classmethod
    def make(cls, sizes: np.ndarray, rows: list[int]) -> '_BatchTable':
        used = [bucket for bucket, size in enumerate(sizes) if size]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        bounds = [offsets[b] + evenly(int(sizes[b]), -(-int(sizes[b]) // rows[b])) for b in used]
        return cls(
            used,
            np.concatenate([np.full(len(bound) - 1, i) for i, bound in enumerate(bounds)]),
            np.concatenate([bound[:-1] for bound in bounds]),
            np.concatenate([bound[1:] for bound in bounds]),
        )
