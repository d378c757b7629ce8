"""From a plan and what its rows hold to padded arrays, read ahead by Grain.

Of pairs of sentences the pipeline adds the end marker and nothing else: the task shifts targets and
adds what else its model wants.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from seqzoo.data.batching import (
    ArraySpec,
    Batch,
    BatchConfig,
    BatchShape,
    Plan,
    PlannedBatch,
)
from seqzoo.data.bucketing import BucketPlan, EvaluationPlan
from seqzoo.data.packing import PackPlan
from seqzoo.data.parallel_encoding import LineEncoder, encode_in_chunks, workers_for
from seqzoo.data.text_files import BlankAsEmpty, Lines, ParallelText
from seqzoo.data.token_store import TokenStore, TokenStoreWriter
from seqzoo.data.tokenizers import Tokenizer, TokenizerPair
from seqzoo.errors import UserError

_ENDLESS = 1 << 40  # steps; Grain wants a length
OUR_ENDS = (Tokenizer.eos_id, Tokenizer.eos_id)  # of source and target; imported ones have others


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """One process's part of a step's batch.

    Attributes:
        step: number of the step.
        bucket: index into the plan's `shapes`.
        shape: of the global batch, before rows were added for the devices.
        arrays: of this process, `[rows, ...]` each: int32 'rows', their numbers in the global
            batch, and what the content gives; of pairs `[rows, length]` int32 'source' and
            'target' (tokens and end marker, not shifted), 'source_segments' and 'target_segments'
            (1, 2, ... and 0 for padding), 'source_positions' and 'target_positions' (from 0 in each
            segment).
        example_ids: global, whatever the process: `[rows]` with -1 for fill rows, or `[rows,
            slots]` if packed.
        digest: 16 hexadecimal digits that stand for the examples and their order: the same on every
            process, and for every number of devices, processes and parts.
        examples: examples in the global batch.
        source_tokens: tokens in the global batch, end markers included.
        target_tokens: the same of the other side.
    """

    step: int
    bucket: int
    shape: BatchShape
    arrays: Batch
    example_ids: np.ndarray
    digest: str
    examples: int
    source_tokens: int
    target_tokens: int


@dataclass(frozen=True, kw_only=True)
class PairStores:
    """The token stores of both sides."""

    source: TokenStore
    target: TokenStore


def make_plan(
    source_lengths: np.ndarray, target_lengths: np.ndarray, config: BatchConfig, *, seed: int = 0
) -> BucketPlan | PackPlan:
    """The training plan that `config` asks for; lengths (`[examples]`) without end markers."""
    kind = PackPlan if config.packing else BucketPlan
    return kind(source_lengths, target_lengths, config, seed=seed)


def encode_lines(
    lines: Iterable[str],
    tokenizer: LineEncoder,
    *,
    directory: str | Path | None = None,
    key: str = '',
    progress: Callable[[int], None] = lambda lines: None,
) -> TokenStore:
    """Lines as token ids, in memory or in a folder.

    Args:
        lines: any iterable of text.
        tokenizer: cuts them into pieces.
        directory: where the store goes; None keeps it in memory. A store already there is used if
            it was written with the same tokenizer and `key`, and one that an earlier call began is
            finished.
        key: names the text, for example by file, size and time.
        progress: called now and then with how many lines more are done.
    """
    metadata = {'tokenizer': tokenizer.fingerprint, 'key': key}
    if directory is None:
        chunks = encode_in_chunks(lines, tokenizer)
        return TokenStore.from_chunks(((c.ids, c.lengths) for c in chunks), metadata)
    directory = Path(directory)
    if key and (store := stored(directory, tokenizer, key)) is not None:
        return store
    count = len(lines) if isinstance(lines, Sized) else None
    with TokenStoreWriter(directory, metadata, resume=bool(key)) as writer:
        left = islice(lines, writer.sentences, None)  # an earlier call may have died on the way
        workers = workers_for(tokenizer, None if count is None else count - writer.sentences)
        for chunk in encode_in_chunks(left, tokenizer, workers=workers):
            writer.add_encoded(chunk.ids, chunk.lengths)
            progress(len(chunk.lengths))
    return TokenStore.open(directory)


def stored(directory: Path, tokenizer: LineEncoder, key: str) -> TokenStore | None:
    """The store of a folder if it was written with this tokenizer and `key`."""
    try:
        store = TokenStore.open(directory)
    except UserError:  # not there, or damaged: written anew
        return None
    wanted = {'tokenizer': tokenizer.fingerprint, 'key': key}
    return store if store.metadata == wanted else None


def encode_pairs(
    text: ParallelText,
    tokenizers: TokenizerPair,
    *,
    directory: str | Path | None = None,
    key: str = '',
    progress: Callable[[int], None] = lambda lines: None,
) -> PairStores:
    """Both sides of a corpus as token ids; see `encode_lines`. Sentence n is line n; of a blank
    line it has no ids.
    """

    def side(name: str, lines: Lines, tokenizer: LineEncoder) -> TokenStore:
        return encode_lines(
            BlankAsEmpty(lines),
            tokenizer,
            directory=None if directory is None else Path(directory) / name,
            key=key,
            progress=progress,
        )

    return PairStores(
        source=side('source', text.source, tokenizers.source),
        target=side('target', text.target, tokenizers.target),
    )


class RowContent(Protocol):
    """What the rows of a batch hold: turns a plan's places into arrays."""

    @property
    def on_disk(self) -> bool:
        """Whether reading waits for a disk."""
        ...

    def arrays(self, planned: PlannedBatch, first_row: int, rows: int) -> Batch:
        """The arrays, `[rows, ...]` each, of `rows` rows of the batch from `first_row` on."""
        ...

    def specs(self, shape: BatchShape, rows: int) -> dict[str, ArraySpec]:
        """Shapes and types of what `arrays` gives for a batch of that shape."""
        ...


class Steps(Protocol):
    """What every plan is: a function from step to batch."""

    def batch(self, step: int) -> PlannedBatch:
        """The batch of a step, counted from 0."""
        ...


def step_batches(
    content: RowContent,
    plan: Steps,
    *,
    start_step: int = 0,
    steps: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    row_multiple: int = 1,
    threads: int | None = None,
) -> Iterator[StepBatch]:
    """Batches of step `start_step` and those that follow.

    Their shapes are those of `step_specs`.

    Args:
        content: what the rows hold.
        plan: which examples take part in which step.
        start_step: where to go on; the batches are those of an uninterrupted run.
        steps: how many; `None` goes on without end.
        process_index: this process.
        process_count: processes that share the batch; each takes a contiguous slice of its rows.
        row_multiple: rows are filled up to a multiple of this, for the devices. It changes no
            example's step.
        threads: that read ahead; None reads ahead only where the content lies on disk, 0 never.
    """
    builder = _Builder(
        content,
        plan,
        process_index,
        process_count,
        row_multiple,
        start_step,
        _ENDLESS if steps is None else steps,
    )
    return _read_ahead(builder, threads)


def step_specs(
    content: RowContent, plan: Plan, *, process_count: int = 1, row_multiple: int = 1
) -> tuple[dict[str, ArraySpec], ...]:
    """The arrays of one process in every kind of batch that `step_batches` will give."""
    multiple = math.lcm(row_multiple, process_count)
    specs = []
    for shape in plan.shapes:
        rows = _filled(shape.rows, multiple) // process_count
        specs.append({'rows': ArraySpec((rows,)), **content.specs(shape, rows)})
    return tuple(specs)


def training_batches(
    source: TokenStore,
    target: TokenStore,
    plan: Plan,
    *,
    end_ids: tuple[int, int] = OUR_ENDS,
    **options: Any,
) -> Iterator[StepBatch]:
    """Batches of pairs, without end.

    Args:
        source: ids of all sentences, without end markers.
        target: the same of the other side.
        plan: which take part in which step.
        end_ids: the end markers of both sides.
        **options: those of `step_batches`.
    """
    return step_batches(_Pairs(source, target, end_ids=end_ids), plan, **options)


def batch_specs(plan: Plan, **options: Any) -> tuple[dict[str, ArraySpec], ...]:
    """What `training_batches` will give; `options` are those of `step_specs`."""
    return step_specs(_Pairs(None, None), plan, **options)


def examples_digest(examples: np.ndarray) -> str:
    """16 hexadecimal digits that stand for numbers of examples in their order."""
    numbers = np.ascontiguousarray(examples, '<i8')
    return hashlib.blake2b(numbers.tobytes(), digest_size=8).hexdigest()


def evaluation_batches(
    source: TokenStore,
    target: TokenStore | None,
    plan: EvaluationPlan,
    *,
    end_ids: tuple[int, int] = OUR_ENDS,
    **options: Any,
) -> Iterator[StepBatch]:
    """All batches of an evaluation, once; without `target` the arrays have a source side only.

    `options` are those of `step_batches`, `end_ids` that of `training_batches`.
    `StepBatch.example_ids` (`[rows]`, -1 for fill rows) says where each row's result belongs.
    """
    pairs = _Pairs(source, target, target is not None, end_ids)
    return step_batches(pairs, plan, steps=plan.steps_per_epoch, **options)


@dataclass(frozen=True)
class _Pairs:
    """Tokens of both sides, each with its end marker."""

    source: TokenStore | None
    target: TokenStore | None
    has_target: bool = True
    end_ids: tuple[int, int] = OUR_ENDS

    @property
    def on_disk(self) -> bool:
        return self.source is not None and self.source.directory is not None

    def arrays(self, planned: PlannedBatch, first_row: int, rows: int) -> Batch:
        assert self.source is not None
        arrays = _side('source', self.source, planned, first_row, rows, self.end_ids[0])
        if self.target is not None:
            arrays |= _side('target', self.target, planned, first_row, rows, self.end_ids[1])
        return arrays

    def specs(self, shape: BatchShape, rows: int) -> dict[str, ArraySpec]:
        specs = {}
        for name in ('source', 'target') if self.has_target else ('source',):
            wide = ArraySpec((rows, getattr(shape, f'{name}_length')))
            specs |= {name: wide, f'{name}_segments': wide, f'{name}_positions': wide}
        return specs


class _Builder:
    """A random-access source for Grain: step -> this process's arrays."""

    def __init__(
        self,
        content: RowContent,
        plan: Steps,
        process_index: int,
        process_count: int,
        row_multiple: int,
        start_step: int,
        length: int,
    ):
        if not 0 <= process_index < process_count:
            raise ValueError(f'process_index is {process_index} of {process_count} processes')
        self.content = content
        self.plan = plan
        self.process_index = process_index
        self.process_count = process_count
        self.multiple = math.lcm(row_multiple, process_count)
        self.start_step = start_step
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> PlannedBatch:
        return self.plan.batch(self.start_step + index)

    def build(self, planned: PlannedBatch) -> StepBatch:
        rows = _filled(planned.shape.rows, self.multiple)
        own = rows // self.process_count
        first = self.process_index * own
        arrays: Batch = {'rows': np.arange(first, first + own, dtype=np.int32)}
        arrays |= self.content.arrays(planned, first, own)
        fill = np.full((rows - planned.shape.rows, *planned.example_ids.shape[1:]), -1, np.int64)
        return StepBatch(
            step=planned.step,
            bucket=planned.bucket,
            shape=planned.shape,
            arrays=arrays,
            example_ids=np.concatenate([planned.example_ids, fill]),
            digest=examples_digest(planned.examples),
            examples=len(planned.examples),
            source_tokens=int(planned.source_lengths.sum()),
            target_tokens=int(planned.target_lengths.sum()),
        )


def _filled(rows: int, multiple: int) -> int:
    return -(-rows // multiple) * multiple


def _side(
    name: str, store: TokenStore, planned: PlannedBatch, first_row: int, rows: int, end_id: int
) -> Batch:
    """One side's arrays of `rows` rows from `first_row` on, all examples at once."""
    here = (planned.row >= first_row) & (planned.row < first_row + rows)
    width = getattr(planned.shape, f'{name}_length')
    lengths = getattr(planned, f'{name}_lengths')[here].astype(np.int64)
    begins = store.offsets[planned.examples[here]]
    ends = np.cumsum(lengths)
    position = np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
    start = (planned.row[here] - first_row) * width + getattr(planned, f'{name}_offset')[here]
    to = np.repeat(start, lengths) + position
    # The end marker takes the place after the last token that is kept; what a store holds there is
    # another sentence.
    values = np.full(len(to), end_id, np.int32)
    is_token = np.ones(len(to), bool)
    is_token[ends - 1] = False
    values[is_token] = store.ids[(np.repeat(begins, lengths) + position)[is_token]]
    tokens, segments, positions = np.zeros((3, rows * width), np.int32)
    tokens[to] = values
    segments[to] = np.repeat(planned.segment[here], lengths)
    positions[to] = position
    return {
        name: tokens.reshape(rows, width),
        f'{name}_segments': segments.reshape(rows, width),
        f'{name}_positions': positions.reshape(rows, width),
    }


def _read_ahead(builder: _Builder, threads: int | None) -> Iterator[StepBatch]:
    import grain

    if threads is None:
        # Building a batch from memory takes less than handing it from thread to thread; waiting for
        # a disk does not.
        threads = 4 if builder.content.on_disk else 0
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return iter(grain.MapDataset.source(builder).map(builder.build).to_iter_dataset(options))
