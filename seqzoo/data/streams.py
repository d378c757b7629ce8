"""Batches of running text: which tokens each row predicts in each step.

A text of N tokens is predicted in batches of `rows = batch.tokens // batch.max_length` rows of
`length = batch.max_length` tokens, in one of two orders.

`'streams'` (truncated back-propagation through time): the text is cut into `rows` streams, stream i
following stream i - 1. Row i of step s goes on where row i of step s - 1 stopped, so that the state
of a recurrent network can be carried from batch to batch; it begins anew in every epoch.

`'windows'`: the text is cut into windows of `length`, and they are shuffled. Each begins anew.

Either way an epoch predicts each token once, but for a rest of fewer than `rows x length` at the
end of the text, or of the shuffled windows. With `random_offset` an epoch begins at a token drawn
from the first `length`: its batches lie otherwise than those of the epoch before, and up to
`length - 1` tokens more are left out.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from seqzoo.data.batching import (
    ArraySpec,
    Batch,
    BatchConfig,
    BatchShape,
    Padding,
    PlannedBatch,
    Selection,
    evenly,
    permutation,
)
from seqzoo.errors import UserError

Order = Literal['streams', 'windows']

# Fields of `BatchConfig` that speak of sentences.
_OF_SENTENCES = (
    *('buckets', 'fitted_buckets', 'packing', 'pack_length'),
    *('long_sentences', 'empty_lines'),
)


class TextPlan:
    """The training batches of a text, a function of (seed, step).

    Attributes:
        rows, length: of every batch.
        num_tokens: in the text.
        steps_per_epoch: batches in an epoch.
        shapes: one.

    Args:
        num_tokens: in the text.
        config: budget and length; options that speak of sentences are refused.
        order: see above.
        random_offset: see above.
        seed: of the shuffled windows and of the offsets.

    Raises:
        UserError: the text is shorter than a batch, or an option has no meaning here.
    """

    def __init__(
        self,
        num_tokens: int,
        config: BatchConfig,
        *,
        order: Order = 'streams',
        random_offset: bool = False,
        seed: int = 0,
    ):
        refuse_options_of_sentences(config)
        self.num_tokens, self.order, self.seed = num_tokens, order, seed
        self.length = config.max_length
        self.rows = config.tokens // config.max_length
        self._offsets = self.length if random_offset else 1
        self._order = (-1, np.zeros(0, np.int64))
        self.steps_per_epoch = (num_tokens - self._offsets + 1) // (self.rows * self.length)
        if self.steps_per_epoch < 1:
            raise UserError(
                f'the training text has {num_tokens:,} tokens, fewer than the {self.rows} x '
                f'{self.length} of a batch (batch.tokens {config.tokens}, batch.max_length '
                f'{self.length}); lower batch.tokens, or take more text'
            )
        self.shapes = (BatchShape(self.rows, self.length, self.length),)

    @property
    def left_out(self) -> int:
        """Tokens that an epoch does not predict."""
        return self.num_tokens - self.steps_per_epoch * self.rows * self.length

    @property
    def selection(self) -> Selection:
        """The streams of an epoch, or its windows."""
        streams = self.order == 'streams'
        count = self.rows if streams else self.rows * self.steps_per_epoch
        length = self.length * (self.steps_per_epoch if streams else 1)
        return Selection.whole(np.full(count, length, np.int32))

    @property
    def padding(self) -> Padding:
        """None."""
        return Padding(source=0.0, target=0.0)

    def begins_anew(self, step: int) -> bool:
        """Whether the rows of a step follow nothing."""
        return self.order == 'windows' or step % self.steps_per_epoch == 0

    def batch(self, step: int) -> PlannedBatch:
        """The batch of a step; its examples are the numbers of the first tokens predicted."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self.order == 'streams':
            first = np.arange(self.rows) * self.steps_per_epoch + place
        else:
            first = self._shuffled(epoch)[place * self.rows : (place + 1) * self.rows]
        starts = self._offset(epoch) + first * self.length
        return _planned(step, self.shapes[0], starts, np.full(self.rows, self.length))

    def _shuffled(self, epoch: int) -> np.ndarray:
        """The windows in the order of an epoch."""
        known, order = self._order
        if known != epoch:  # of a long text this takes longer than a batch
            windows = (self.num_tokens - self._offsets + 1) // self.length
            order = permutation(windows, self.seed, epoch)
            self._order = (epoch, order)
        return order

    def _offset(self, epoch: int) -> int:
        if self._offsets == 1:
            return 0
        bits = np.random.Philox(np.random.SeedSequence([self.seed % 2**64, epoch, 1])).random_raw()
        return int(bits) % self._offsets


class TextEvaluationPlan:
    """Every token of a text exactly once, in `rows` streams whose lengths differ by one at most.

    A stream begins without a past (but for the token before it). One row is the exact perplexity of
    the whole text; each further one asks the model once more to begin in the middle, which costs a
    little, and is faster.

    Attributes:
        rows, length: of every batch.
        num_tokens: in the text.
        shapes: one.
        steps_per_epoch: batches.

    Args:
        num_tokens: in the text.
        config: `evaluation_rows` streams, or as many as in training; `evaluation_max_length` tokens
            of each in a batch, or as many as in training.
        order: 'streams' carries the state from batch to batch; of 'windows' each begins anew.
    """

    def __init__(self, num_tokens: int, config: BatchConfig, *, order: Order = 'streams'):
        self.num_tokens, self.order = num_tokens, order
        rows = config.evaluation_rows or config.tokens // config.max_length
        self.rows = min(rows, num_tokens)
        self.length = config.evaluation_max_length or config.max_length
        self._bounds = evenly(num_tokens, self.rows)
        self.steps_per_epoch = -(-int(np.diff(self._bounds).max()) // self.length)
        self.shapes = (BatchShape(self.rows, self.length, self.length),)

    def begins_anew(self, step: int) -> bool:
        """Whether the rows of a step follow nothing."""
        return self.order == 'windows' or step == 0

    def batch(self, step: int) -> PlannedBatch:
        """The batch of a step from 0 to `steps_per_epoch - 1`."""
        starts = np.minimum(self._bounds[:-1] + step * self.length, self._bounds[1:])
        lengths = np.minimum(self._bounds[1:] - starts, self.length)
        return _planned(step, self.shapes[0], starts, lengths)


@dataclass(frozen=True)
class TextRows:
    """The arrays of a batch of running text, a `pipeline.RowContent`.

        tokens    [rows, length + 1] int32: the token before, and those to be predicted
        anew      [rows] int32, 1 where nothing is carried over from the step before
        segments  [rows, length] int32, 1 where a token is to be predicted, 0 at padding; only where
                  there may be padding, or where lines are apart: then each line after the first has
                  the next number

    Attributes:
        ids: `[tokens]` int32, the text.
        plan: says which of them stand where.
        before: what is read before the first of them.
        padded: whether a row may have fewer tokens than the batch is long, or none.
        apart: whether each line, which begins behind a token `before`, is a text of its own.
        on_disk: whether reading waits for a disk.
    """

    ids: np.ndarray
    plan: TextPlan | TextEvaluationPlan
    before: int
    padded: bool = False
    apart: bool = False
    on_disk: bool = False

    def arrays(self, planned: PlannedBatch, first_row: int, rows: int) -> Batch:
        """The arrays of `rows` rows of the batch from `first_row` on."""
        here = slice(first_row, first_row + rows)
        fill = (0, rows - len(planned.examples[here]))
        starts = np.pad(planned.examples[here], fill)
        lengths = np.pad(planned.target_lengths[here], fill)
        column = np.arange(planned.shape.target_length + 1)
        places = starts[:, None] - 1 + column
        tokens = self.ids[np.clip(places, 0, len(self.ids) - 1)]
        tokens = np.where(places < 0, self.before, tokens)
        is_read = (column <= lengths[:, None]) & (lengths[:, None] > 0)
        arrays: Batch = {
            'tokens': np.where(is_read, tokens, 0).astype(np.int32),
            'anew': np.full(rows, self.plan.begins_anew(planned.step), np.int32),
        }
        if self.apart:  # a line that begins where a batch does
            arrays['anew'] |= arrays['tokens'][:, 0] == self.before
        if self.padded or self.apart:
            predicted = column[:-1] < lengths[:, None]
            line = np.ones_like(predicted, np.int32)
            if self.apart:
                # What closes a line begins the next, as it begins a prompt.
                line[:, 1:] += np.cumsum(arrays['tokens'][:, 1:-1] == self.before, axis=1)
            arrays['segments'] = (predicted * line).astype(np.int32)
        return arrays

    def specs(self, shape: BatchShape, rows: int) -> dict[str, ArraySpec]:
        """Shapes and types of what `arrays` gives."""
        length = shape.target_length
        found = {'tokens': ArraySpec((rows, length + 1)), 'anew': ArraySpec((rows,))}
        has_segments = self.padded or self.apart
        return {**found, 'segments': ArraySpec((rows, length))} if has_segments else found


def _planned(step: int, shape: BatchShape, starts: np.ndarray, lengths: np.ndarray) -> PlannedBatch:
    nothing = np.zeros(len(starts), np.int64)
    return PlannedBatch(
        step=step,
        bucket=0,
        shape=shape,
        example_ids=starts,
        examples=starts,
        row=np.arange(len(starts)),
        segment=nothing + 1,
        source_offset=nothing,
        target_offset=nothing,
        source_lengths=lengths,
        target_lengths=lengths,
    )


def refuse_options_of_sentences(config: BatchConfig) -> None:
    """Raises `UserError` where a configuration says of a text what can be said of sentences."""
    usual = BatchConfig()
    for name in _OF_SENTENCES:
        if getattr(config, name) != getattr(usual, name):
            raise UserError(
                f'batch.{name} is for sentences; running text is cut into rows of '
                f'batch.max_length: leave batch.{name} out'
            )
