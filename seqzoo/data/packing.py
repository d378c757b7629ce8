"""Plans that put several sentences into each row: one shape, hardly any padding.

Which lengths share a row is decided once, from the counts of the (source, target) length pairs: a
*template* says, for example, that a row takes pairs of (60, 64), (41, 40) and (27, 24) tokens. Each
epoch then deals random sentences of these lengths into the templates' slots. So every epoch has the
same number of steps, a sentence meets other neighbours in each, and the cost of fitting does not
grow with the corpus.
"""

import threading

import numpy as np

from seqzoo.data.batching import (
    BatchConfig,
    BatchShape,
    Padding,
    PlannedBatch,
    evenly,
    permutation,
    rows_within,
    select_examples,
)
from seqzoo.data.bucketing import measure_padding

# Lengths told apart when fitting; longer rows round lengths up to keep the pairs few.
_MOST_LENGTHS = 128


class PackPlan:
    """Every example once an epoch, several to a row, kept apart by segments.

    Args:
        source_lengths: `[examples]` tokens of each source sentence, without end marker.
        target_lengths: the same of the other side.
        config: budget, row length and policies.
        seed: of the order.
    """

    def __init__(
        self,
        source_lengths: np.ndarray,
        target_lengths: np.ndarray,
        config: BatchConfig,
        *,
        seed: int = 0,
    ):
        self.selection = select_examples(source_lengths, target_lengths, config)
        self.seed = seed
        length = config.pack_length or config.max_length
        rows = rows_within(config.tokens, length)
        self.shapes = (BatchShape(rows, length, length),)
        kinds, self._kind = self._length_pairs(length)
        slots, row_sizes = _fill_rows(kinds, np.bincount(self._kind, minlength=len(kinds)), length)
        self._slots_by_kind = np.argsort(slots, kind='stable').astype(np.int32)
        self._row_start = np.concatenate([[0], np.cumsum(row_sizes)])
        self._widest = int(row_sizes.max())
        self._bounds = evenly(len(row_sizes), -(-len(row_sizes) // rows))
        self._lock = threading.Lock()
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None

    def _length_pairs(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """`[kinds, 2]` distinct length pairs, longest first, and `[kept]` the kind of each."""
        coarse = -(-length // _MOST_LENGTHS)
        pairs = np.stack(
            [self.selection.source_lengths, self.selection.target_lengths], axis=1
        ).astype(np.int64)
        pairs = np.minimum(-(-pairs // coarse) * coarse, length)
        code = (pairs.max(axis=1) * 2 * (length + 1) + pairs.sum(axis=1)) * (length + 1) + pairs[
            :, 0
        ]
        _, first, kind = np.unique(-code, return_index=True, return_inverse=True)
        # At most 2 ** 14 kinds: 16 bits make the stable sort of every epoch a radix sort.
        return pairs[first], kind.reshape(-1).astype(np.uint16)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, the same in all."""
        return len(self._bounds) - 1

    @property
    def padding(self) -> Padding:
        """Share of positions without a token."""
        return measure_padding(self.selection, self.shapes, np.array([self.steps_per_epoch]))

    def batch(self, step: int) -> PlannedBatch:
        """The batch of a step; any step, in any order."""
        epoch, index = divmod(step, self.steps_per_epoch)
        dealt, order = self._shuffled(epoch)
        shape = self.shapes[0]
        rows = order[self._bounds[index] : self._bounds[index + 1]]
        starts = self._row_start[rows]
        sizes = self._row_start[rows + 1] - starts
        row = np.repeat(np.arange(len(rows)), sizes)
        slot = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        chosen = dealt[np.repeat(starts, sizes) + slot]
        source_lengths = self.selection.source_lengths[chosen]
        target_lengths = self.selection.target_lengths[chosen]
        example_ids = np.full((shape.rows, self._widest), -1, np.int64)
        example_ids[row, slot] = self.selection.ids[chosen]
        return PlannedBatch(
            step=step,
            bucket=0,
            shape=shape,
            example_ids=example_ids,
            examples=self.selection.ids[chosen].astype(np.int64),
            row=row,
            segment=slot + 1,
            source_offset=_starts_within_rows(source_lengths, row, slot),
            target_offset=_starts_within_rows(target_lengths, row, slot),
            source_lengths=source_lengths,
            target_lengths=target_lengths,
        )

    def _shuffled(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:  # reading threads ask at the same time; one of them does the work
            if self._epoch is None or self._epoch[0] != epoch:
                mixed = permutation(len(self._kind), self.seed, epoch, 1).astype(np.int32)
                by_kind = mixed[np.argsort(self._kind[mixed], kind='stable')]
                dealt = np.empty_like(by_kind)
                dealt[self._slots_by_kind] = by_kind
                self._epoch = (
                    epoch,
                    dealt,
                    permutation(len(self._row_start) - 1, self.seed, epoch, 0),
                )
            return self._epoch[1:]


def _starts_within_rows(lengths: np.ndarray, row: np.ndarray, slot: np.ndarray) -> np.ndarray:
    """`[examples]` int64: the column where each segment begins, rows being packed from the left."""
    before = np.cumsum(lengths, dtype=np.int64) - lengths
    return before - before[slot == 0][row]


def _fill_rows(
    kinds: np.ndarray, counts: np.ndarray, capacity: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fits all examples into rows, by best fit decreasing with two capacities.

    A row begins with the longest kind that is left and goes on with the kind that fits best until
    nothing fits. The row just found is then repeated as often as the counts allow, so the work
    depends on the kinds, not the examples.

    Args:
        kinds: `[kinds, 2]` source and target length, longest first.
        counts: `[kinds]` examples of each.
        capacity: tokens of a row, on either side.

    Returns:
        `[examples]` the kind in each slot, row after row, and `[rows]` the slots of each row.
    """
    left = counts.astype(np.int64).copy()
    total = kinds.sum(axis=1)
    slots: list[np.ndarray] = []
    row_sizes: list[np.ndarray] = []
    live = np.flatnonzero(left)
    while len(live):
        template: list[int] = []
        used = np.zeros(len(live), np.int64)
        room = np.array([capacity, capacity])
        choice = 0
        while choice >= 0:
            used[choice] += 1
            template.append(int(live[choice]))
            room = room - kinds[live[choice]]
            choice = _best_fit(kinds[live], total[live], left[live] - used, room)
        repeats = int((left[live][used > 0] // used[used > 0]).min())
        left[live] -= used * repeats
        slots.append(np.tile(np.array(template), repeats))
        row_sizes.append(np.full(repeats, len(template)))
        live = live[left[live] > 0]
    return np.concatenate(slots), np.concatenate(row_sizes)


def _best_fit(kinds: np.ndarray, total: np.ndarray, available: np.ndarray, room: np.ndarray) -> int:
    """Index of the kind that fits into `room` (`[2]`) and fills it best, or -1."""
    after = room - kinds
    fits = (after.min(axis=1) >= 0) & (available > 0)
    # Tokens placed, less what the two sides of the room would then differ: lopsided room is hard to
    # fill.
    score = np.where(fits, total - np.abs(after[:, 0] - after[:, 1]), np.iinfo(np.int64).min)
    best = int(np.argmax(score))
    return best if fits[best] else -1
