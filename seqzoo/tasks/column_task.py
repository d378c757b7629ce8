"""What tasks over tables share: examples with named columns in, one record for each example out.

A subclass says what the examples are (`read`), what is learnt from those of the training split
(`learn`: word lists, means), how they become columns (`encode`), what a step minimises (`loss`),
and what the model answers for a batch (`answers`), of which `measure` makes the metrics of a split.
The plans, the batches, what is stored in a run, and a pass over a split that counts every example
once, on any number of devices and processes, are here.
"""

import abc
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.data.batching import ArraySpec, BatchConfig
from seqzoo.data.bucketing import BucketPlan, EvaluationPlan, geometric_ladder
from seqzoo.data.columns import Column, Columns, Fixed, Ragged
from seqzoo.data.pipeline import step_batches, step_specs
from seqzoo.errors import UserError
from seqzoo.parallel.mesh import row_shards
from seqzoo.parallel.rows import row_share
from seqzoo.tasks.base import Batch, Decoding, Prepared, Runtime, Task

LEARNT_FILE = 'learnt.json'


@flax.struct.dataclass
class Answers:
    """What a model says about the rows of a batch, by name.

    Attributes:
        examples: `[rows, ...]` each: one value for each example.
        positions: `[rows, length, ...]` each: one value for each position.
    """

    examples: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    positions: dict[str, jax.Array] = flax.struct.field(default_factory=dict)


class TablePlan(BucketPlan):
    """The training batches of a table.

    Attributes:
        table: what it plans.
    """

    def __init__(self, table: Columns, config: BatchConfig, *, seed: int = 0) -> None:
        if config.packing:
            raise UserError('batch.packing is for sentences; a table has one example a row.')
        super().__init__(table.lengths, table.lengths, config, seed=seed, end_marks=0)
        self.table = table


@dataclass(frozen=True)
class PreparedColumns(Prepared):
    """The splits of a task as tables.

    Attributes:
        learnt: what `ColumnTask.learn` found in the training split; plain JSON.
        splits: tables by name.
    """

    learnt: Mapping[str, Any] = field(default_factory=dict)
    splits: Mapping[str, Columns] = field(default_factory=dict)
    vocab_size: ClassVar[None] = None  # type: ignore[assignment]

    @property
    def identity(self) -> dict[str, str]:
        """Fingerprints of what was learnt, and of the training data."""
        text = json.dumps(self.learnt, sort_keys=True, ensure_ascii=False)
        found = {'vocabulary': hashlib.sha256(text.encode()).hexdigest()}
        if 'train' in self.splits:
            found['training data'] = self.splits['train'].fingerprint
        return found

    def describe_batch(self, batch: Mapping[str, np.ndarray], rows: int) -> str:
        """The arrays, and the words of what is a text."""
        lines, words = [super().describe_batch(batch, rows)], self.learnt.get('words', ())
        for name in {'inputs', 'tokens'} & batch.keys() if words else ():
            for row, segments in zip(batch[name][:rows], batch['segments'], strict=False):
                lines.append(' '.join(words[number] for number in row[segments > 0]))
        return '\n'.join(lines)

    def save(self, run_dir: Path) -> None:
        """Writes what was learnt: all that prediction needs."""
        partial = run_dir / f'.{LEARNT_FILE}.part'
        text = json.dumps(self.learnt, ensure_ascii=False, indent=1)
        partial.write_text(text + '\n', encoding='utf-8')
        partial.replace(run_dir / LEARNT_FILE)


def load_learnt(run_dir: Path) -> dict[str, Any]:
    """What `PreparedColumns.save` wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    file = run_dir / LEARNT_FILE
    try:
        learnt = json.loads(file.read_text(encoding='utf-8'))
        if not isinstance(learnt, dict):
            raise ValueError(f'{type(learnt).__name__} instead of an object')
    except (OSError, ValueError) as error:
        raise UserError(f'{file} cannot be read ({error}); train the run anew.') from error
    return learnt


@dataclass(frozen=True, kw_only=True)
class ColumnTask(Task):
    """A task whose data is a table: subclasses are frozen dataclasses."""

    # What a subclass says

    @abc.abstractmethod
    def read(self, split: str, data_dir: Path | None) -> Any:
        """The examples of a split, as the task likes them; `len` is their number."""

    def learn(self, examples: Any) -> dict[str, Any]:
        """What encoding needs to know, from the examples of the training split; plain JSON."""
        del examples
        return {}

    @abc.abstractmethod
    def encode(self, examples: Any, learnt: Mapping[str, Any]) -> Columns:
        """Examples of any split as a table."""

    @abc.abstractmethod
    def answers(self, model: nn.Module, variables: Any, batch: Batch) -> Answers:
        """What the model says about a batch, without dropout; pure, compiled by the caller."""

    @abc.abstractmethod
    def measure(
        self, table: Columns, answers: Columns, learnt: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Metrics of a split.

        Args:
            table: the examples.
            answers: columns by the names of `answers`, example i being example i of `table`.
            learnt: what `learn` found.
        """

    def nominal_table(self, lengths: Sequence[int]) -> Columns:
        """Examples of these lengths, in columns as of `encode`, whatever stands in them."""
        del lengths
        raise UserError(f'{type(self).__name__} does not know its batches before it has the data.')

    # What follows from it

    @property
    def nominal_vocab_size(self) -> int | None:
        return None

    def prepare(
        self,
        batch: BatchConfig,
        *,
        data_dir: Path | None,
        cache_dir: Path,
        run_dir: Path | None = None,
        splits: Sequence[str] = ('train', 'dev'),
        announce: Callable[[str], None] = lambda text: None,
    ) -> PreparedColumns:
        del batch, cache_dir

        def learnt(examples: Mapping[str, Any]) -> Mapping[str, Any]:
            return self.learn(examples['train']) if run_dir is None else load_learnt(run_dir)

        return self.tabulated(splits, data_dir, learnt, run_dir is None, announce)

    def prepared(self, learnt: Mapping[str, Any], splits: Mapping[str, Columns]) -> PreparedColumns:
        """What was learnt and the splits, put together."""
        return PreparedColumns(learnt, splits)

    def tabulated(
        self,
        splits: Sequence[str],
        data_dir: Path | None,
        learn: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        learns: bool,
        announce: Callable[[str], None],
    ) -> PreparedColumns:
        """Reads splits, and encodes them.

        Args:
            splits: names.
            data_dir: where they lie.
            learn: gives what encoding needs to know, from the examples of all splits.
            learns: whether it needs the training split.
            announce: takes sentences about the data.
        """
        if learns and 'train' not in splits:
            raise ValueError('what is learnt comes from the training split or from a run')
        examples = {split: self.read(split, data_dir) for split in splits}
        for split, found in examples.items():
            if not len(found):
                raise UserError(f'{self.data_name}: the split {split} has no examples.')
        learnt, tables = learn(examples), {}
        for split, found in examples.items():
            tables[split] = self.encode(found, learnt)
            positions = int(tables[split].lengths.sum(dtype=np.int64))
            announce(f'{split}: {len(tables[split]):,} examples, {positions:,} positions')
        return self.prepared(learnt, tables)

    def plan(self, prepared: Prepared, batch: BatchConfig, seed: int) -> TablePlan:
        return TablePlan(_tables(prepared)['train'], batch, seed=seed)

    def longest_evaluated(self, prepared: Prepared, split: str, batch: BatchConfig) -> int:
        plan = _evaluation_plan(_tables(prepared)[split], batch)
        return max(shape.source_length for shape in plan.shapes)

    def nominal_plan(self, batch: BatchConfig) -> TablePlan:
        lengths = batch.buckets or geometric_ladder(batch.max_length, batch.length_multiple)
        return TablePlan(self.nominal_table(lengths), batch)

    def batches(
        self,
        prepared: Prepared,
        plan: TablePlan,
        *,
        start_step: int,
        row_multiple: int,
        process_index: int,
        process_count: int,
    ) -> Iterator[Any]:
        del prepared
        return step_batches(
            plan.table,
            plan,
            start_step=start_step,
            process_index=process_index,
            process_count=process_count,
            row_multiple=row_multiple,
        )

    def batch_specs(
        self, plan: TablePlan, *, row_multiple: int, process_count: int
    ) -> Sequence[Mapping[str, ArraySpec]]:
        return step_specs(plan.table, plan, row_multiple=row_multiple, process_count=process_count)

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Examples; a task whose loss is a mean over positions overrides it."""
        return {'loss': jnp.sum(batch['weight'])}

    def evaluate(
        self,
        runtime: Runtime,
        prepared: Prepared,
        split: str,
        batch: BatchConfig,
        decoding: Decoding | None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, Any]:
        del decoding  # nothing is searched for
        assert isinstance(prepared, PreparedColumns)
        table = prepared.splits[split]
        answers = self.answers_for(runtime, table, batch, progress)
        return self.measure(table, answers, prepared.learnt)

    def answers_for(
        self,
        runtime: Runtime,
        table: Columns,
        batch: BatchConfig,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Columns:
        """What the model says about a whole table, for evaluation and for prediction."""

        def answers(variables: Any, batch: Batch) -> Answers:
            return self.answers(runtime.model, variables, batch)

        return pass_over(runtime, table, batch, 'answers', answers, progress)


def pass_over(
    runtime: Runtime,
    table: Columns,
    batch: BatchConfig,
    name: Any,
    function: Callable[[Any, Batch], Answers],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Columns:
    """Applies `function(variables, batch)` to a table; every example counts once, none is cut.

    Args:
        runtime: model and mesh.
        table: the examples; a batch has its columns, `segments`, `weight` and `rows`.
        batch: buckets, and the budget of positions.
        name: of the compiled program in `runtime`; anything hashable.
        function: pure; its arrays are those of the batch's rows.
        progress: called with how many examples are done, of how many.

    Returns:
        The answers as columns in the order of the table, the same on every process.
    """
    plan = _evaluation_plan(table, batch)
    share = row_share(runtime.mesh)
    batches = step_batches(
        table,
        plan,
        steps=plan.steps_per_epoch,
        process_index=share.index,
        process_count=share.count,
        row_multiple=row_shards(runtime.mesh),
    )
    whole: dict[str, list[Any]] = {}
    cut: dict[str, list[Any]] = {}
    done = 0
    for item in batches:
        found: Answers = jax.device_get(runtime.run(name, function, item.arrays))
        for row in np.flatnonzero(item.example_ids >= 0):
            example = int(item.example_ids[row])
            for key, values in found.examples.items():
                whole.setdefault(key, [None] * len(table))[example] = values[row]
            for key, values in found.positions.items():
                own = values[row, : table.lengths[example]]
                cut.setdefault(key, [None] * len(table))[example] = own
        done += item.examples
        progress(done, len(table))
    columns: dict[str, Column] = {key: Fixed(np.stack(rows)) for key, rows in whole.items()}
    columns |= {key: Ragged.of(rows, rows[0].dtype) for key, rows in cut.items()}
    return Columns(columns, length=table.length)


def _evaluation_plan(table: Columns, batch: BatchConfig) -> EvaluationPlan:
    longest = int(table.lengths.max())
    batch = replace(batch, packing=False, evaluation_max_length=max(longest, batch.max_length))
    return EvaluationPlan(table.lengths, None, batch, end_marks=0)


def _tables(prepared: Prepared) -> Mapping[str, Columns]:
    assert isinstance(prepared, PreparedColumns)
    return prepared.splits
