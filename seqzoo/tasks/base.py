"""What a task promises: data, loss, predictions and scores of one kind of problem.

A task is a frozen dataclass, part of what defines a run. It turns files into token stores
(`prepare`), a batch into sums and weights (`loss`), and inputs into records that people read
(`predict`).
"""

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import flax.struct
import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from seqzoo.configuration.checks import check_sizes, check_types
from seqzoo.data.batching import ArraySpec, BatchConfig
from seqzoo.errors import ConfigError, UserError
from seqzoo.models.base import ModelConfig
from seqzoo.parallel.compile import compile_for_carried_rows, compile_for_rows
from seqzoo.parallel.mesh import put_rows

Batch = dict[str, Any]


@flax.struct.dataclass
class Sums:
    """A mean in two parts, so that parts of a batch can be added: `total / weight` once everything
    is summed.
    """

    total: jax.Array
    weight: jax.Array

    def __add__(self, other: 'Sums') -> 'Sums':
        return Sums(self.total + other.total, self.weight + other.weight)


@flax.struct.dataclass
class Losses:
    """Sums of the terms of the objective, and of what is only reported.

    Attributes:
        terms: unnormalised totals, by the names that `Task.weights` returns; the objective is the
            sum over names of total / global weight.
        metrics: quantities to report; no gradient is taken.
    """

    terms: dict[str, jax.Array]
    metrics: dict[str, Sums]


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How outputs are searched for or drawn.

    Attributes:
        method: `'beam'`, `'greedy'` or `'sample'`.
        beams: width of the beam search.
        length_penalty: alpha of ((5 + |Y|) / 6)^alpha (Wu et al. 2016, equation 14).
        extra_length: an output may be this many tokens longer than its input; a continuation has at
            most this many.
        stop_at_end: whether the end mark ends an output. Without it, which is for language models
            alone, every continuation has `extra_length` tokens and may run over line ends.
        temperature, top_k, top_p: of sampling; `None` or 1.0 leave the distribution alone.
        n_best: how many outputs per input are returned.
        rows: inputs decoded at a time.
        seed: of sampling.
        banned: ids that are never chosen; some checkpoints ban their filling. The others share
            what probability these had.
    """

    method: Literal['beam', 'greedy', 'sample'] = 'beam'
    beams: int = 4
    length_penalty: float = 0.6
    extra_length: int = 50
    stop_at_end: bool = True
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    n_best: int = 1
    rows: int = 64
    seed: int = 0
    banned: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        check_sizes(self, 'beams', 'rows', 'n_best', 'top_k')
        check_sizes(self, 'extra_length', 'temperature', least=0)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f'top_p is {self.top_p}: a share of the probability lies in (0, 1]')
        if self.method == 'greedy' and self.n_best > 1:
            raise UserError(
                'Greedy search has one output; take --decode.method beam or sample for several.'
            )


@dataclass(frozen=True)
class Prediction:
    """One output record.

    Attributes:
        text: as a person reads it.
        score: what the search ranked by; log-probability over length penalty for beams.
        log_prob: sum of the log-probabilities of its tokens, the end included.
        tokens: pieces of the output, the end excluded.
        source_tokens: pieces of the input.
        alignment: `[target, source]` attention, where it was asked for.
        alternatives: the other outputs of an n-best list, best first.
        details: what else the task knows about the output, as plain JSON.
    """

    text: str
    score: float = 0.0
    log_prob: float = 0.0
    tokens: tuple[str, ...] = ()
    source_tokens: tuple[str, ...] = ()
    alignment: np.ndarray | None = None
    alternatives: tuple['Prediction', ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Runtime:
    """A model with its variables on a mesh: what evaluation and prediction need, and training
    lends.

    Attributes:
        model: the module.
        variables: all its collections, unboxed.
        shardings: of the variables.
        mesh: where they lie.
        programs: what has been compiled for them; `with_variables` keeps it.
    """

    model: nn.Module
    variables: Any
    shardings: Any
    mesh: Mesh
    programs: dict[Any, Callable[..., Any]] = field(default_factory=dict)

    def with_variables(self, variables: Any) -> 'Runtime':
        """The same model with other numbers."""
        return replace(self, variables=variables)

    def run(self, name: Any, function: Callable[..., Any], batch: Batch) -> Any:
        """`function(variables, batch)`, compiled for the mesh once for each `name` and shape of the
        batch.
        """
        if name not in self.programs:
            self.programs[name] = compile_for_rows(function, self.mesh, self.shardings)
        return self.programs[name](self.variables, put_rows(batch, self.mesh))

    def fold(
        self,
        name: Any,
        function: Callable[..., tuple[Any, Any]],
        batches: Iterable[Batch],
        carry: Any,
    ) -> Iterator[Any]:
        """What `function(variables, batch, carry) -> (result, carry)` says of batches in their
        order, the carry going from each to the next.

        Args:
            name: of the compiled program.
            function: pure; rows of the carry belong to rows of the batch.
            batches: all of one shape; this process's rows.
            carry: before the first batch, a tree of arrays with this process's rows.
        """
        if name not in self.programs:
            self.programs[name] = compile_for_carried_rows(function, self.mesh, self.shardings)
        leaves, tree = jax.tree.flatten(carry)
        placed = put_rows({str(number): leaf for number, leaf in enumerate(leaves)}, self.mesh)
        carry = tree.unflatten(placed.values())
        for batch in batches:
            found, carry = self.programs[name](self.variables, put_rows(batch, self.mesh), carry)
            yield found


class Prepared(abc.ABC):
    """The data of a task, ready to be batched; made by `Task.prepare`."""

    vocab_size: int | None

    @property
    @abc.abstractmethod
    def identity(self) -> dict[str, str]:
        """Fingerprints of what a run may not exchange, by what it is called in a message."""

    @abc.abstractmethod
    def save(self, run_dir: Path) -> None:
        """Stores in the run what evaluation and prediction need without the training data (the
        tokenizer).
        """

    def describe_batch(self, batch: Mapping[str, np.ndarray], rows: int) -> str:
        """The first rows of a batch as a person reads them, for `seqzoo data show`."""
        return '\n'.join(
            f'{name} {list(array.shape)} {array.dtype}: '
            f'{np.array2string(array[:rows], threshold=200)}'
            for name, array in batch.items()
        )


class Task(abc.ABC):
    """One kind of problem. Subclasses are frozen dataclasses."""

    def __post_init__(self) -> None:
        check_types(self)

    @property
    @abc.abstractmethod
    def data_name(self) -> str:
        """The data set in a word, for `seqzoo list`."""

    @property
    @abc.abstractmethod
    def nominal_vocab_size(self) -> int | None:
        """The vocabulary size before any data has been seen: the paper's figure."""

    def nominal_model(self, model: ModelConfig) -> ModelConfig:
        """The configuration with such sizes where `resolve` has not filled them in."""
        if getattr(model, 'vocab_size', 0) is not None:
            return model
        return replace(model, vocab_size=self.nominal_vocab_size)  # type: ignore[call-arg]

    def nominal_length(self, batch: BatchConfig) -> int:
        """How long a sequence is before any data has been seen, for estimates: the longest."""
        return batch.max_length

    @property
    @abc.abstractmethod
    def best_metric(self) -> tuple[str, str]:
        """Name and mode (`'max'` or `'min'`) of the metric by which a checkpoint is best."""

    @abc.abstractmethod
    def prepare(
        self,
        batch: BatchConfig,
        *,
        data_dir: Path | None,
        cache_dir: Path,
        run_dir: Path | None = None,
        splits: Sequence[str] = ('train', 'dev'),
        announce: Callable[[str], None] = lambda text: None,
    ) -> Prepared:
        """Reads the splits; with `run_dir` the tokenizer stored there is used."""

    def prepare_from(
        self,
        pretrained: Path,
        batch: BatchConfig,
        *,
        data_dir: Path | None,
        cache_dir: Path,
        announce: Callable[[str], None] = lambda text: None,
    ) -> Prepared:
        """Reads the splits 'train' and 'dev' with the tokenizer of another run, whose parameters
        mean nothing with any other; the rest is learnt as `prepare` would.

        Raises:
            UserError: the task has no tokenizer that another one's run could have.
        """
        del batch, data_dir, cache_dir, announce
        raise UserError(
            f'--pretrained {pretrained}: {type(self).__name__} reads nothing that such a run could '
            'have learnt to read; take a task over text in pieces, or --fork-from for the '
            'parameters of the same model.'
        )

    @abc.abstractmethod
    def resolve(self, model: ModelConfig, prepared: Prepared) -> ModelConfig:
        """Fills in what the model's configuration left open."""

    @abc.abstractmethod
    def plan(self, prepared: Prepared, batch: BatchConfig, seed: int) -> Any:
        """The batch plan of the training split."""

    def longest_evaluated(self, prepared: Prepared, split: str, batch: BatchConfig) -> int:
        """The length of the longest batch by which a split is evaluated; 0 where it is cut to what
        the model can read.
        """
        del prepared, split, batch
        return 0

    def nominal_plan(self, batch: BatchConfig) -> Any:
        """A plan of the shapes that batches will have, made without any data: of examples of every
        length. It has all buckets, `batch_specs` and `first_carry` take it, and nothing is read.

        Raises:
            UserError: this task cannot say what its data will look like.
        """
        del batch
        raise UserError(f'{type(self).__name__} does not know its batches before it has the data.')

    def nominal_search(
        self, model: nn.Module, config: ModelConfig, batch: BatchConfig, decoding: Decoding
    ) -> tuple[Callable[[Any, Batch], Any], Mapping[str, ArraySpec]]:
        """What `predict` compiles for its longest input, and the arrays that it takes.

        Args:
            model: the module.
            config: that it was built from, every size filled in.
            batch: its longest bucket is the length of the inputs.
            decoding: how to search; `rows` inputs at a time.

        Raises:
            UserError: nothing is searched for in this task.
        """
        del model, config, batch, decoding
        raise UserError(
            f'{type(self).__name__} searches for nothing: there is no decoding to compile; leave '
            '--decode out.'
        )

    @abc.abstractmethod
    def batches(
        self,
        prepared: Prepared,
        plan: Any,
        *,
        start_step: int,
        row_multiple: int,
        process_index: int,
        process_count: int,
    ) -> Iterator[Any]:
        """Training batches from `start_step` on, without end."""

    @abc.abstractmethod
    def batch_specs(
        self, plan: Any, *, row_multiple: int, process_count: int
    ) -> Sequence[Mapping[str, ArraySpec]]:
        """The arrays of one process in each kind of batch that `batches` gives: one compilation
        each.
        """

    def first_carry(self, model: nn.Module, plan: Any, *, row_multiple: int) -> Any:
        """The recurrent state before the first batch, every leaf `[rows, ...]`; `()` where each
        batch begins anew.

        Raises:
            UserError: the rows of the plan cannot be split into `row_multiple` parts.
        """
        del model, plan, row_multiple
        return ()

    @abc.abstractmethod
    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """By what each term of the loss is divided, summed over this part of the batch."""

    @abc.abstractmethod
    def loss(
        self, model: nn.Module, variables: Any, batch: Batch, carry: Any, *, key: jax.Array | None
    ) -> tuple[Losses, Any]:
        """Sums over this part of the batch; `key=None` evaluates without dropout."""

    @abc.abstractmethod
    def evaluate(
        self,
        runtime: Runtime,
        prepared: Prepared,
        split: str,
        batch: BatchConfig,
        decoding: Decoding | None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, Any]:
        """Metrics of a split, every example counted once; without `decoding` only the loss."""

    @abc.abstractmethod
    def predict(
        self,
        runtime: Runtime,
        prepared: Prepared,
        records: Sequence[str],
        batch: BatchConfig,
        decoding: Decoding,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Prediction]:
        """One prediction per record, in order."""
