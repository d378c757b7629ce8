"""How fast the real training step runs on some devices, and how fast its input arrives.

What is timed is what `seqzoo train` runs: the step of `training.step`, compiled by
`parallel.compile`, on batches of the task. A *round* runs the same few batches of the plan through
the step and waits for the last one; the rounds of all cases take turns, so that whatever else a
machine does falls on all of them alike.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from seqzoo.analysis.chips import peak_flops_per_second
from seqzoo.analysis.flops import traced_flops
from seqzoo.data.batching import ArraySpec
from seqzoo.errors import UserError
from seqzoo.experiment import Experiment
from seqzoo.parallel import agreement
from seqzoo.parallel.compile import Strategy
from seqzoo.parallel.mesh import build_mesh, put_rows
from seqzoo.parallel.prng import example_rows
from seqzoo.tasks.base import Prepared
from seqzoo.training.program import Program, build_program
from seqzoo.training.run_folder import default_cache_dir, default_data_dir

Scaling = Literal['strong', 'weak']

FORMULA = (
    'MFU = 3 x operations of the forward pass / (seconds x devices x peak): matrix products and '
    'convolutions, counted in the traced program at the padded shapes of the batches, the backward '
    'pass at twice the forward one, rematerialised layers not again; the peak is the dense '
    "bfloat16 peak of the vendor's data sheet, or --peak-flops"
)


@dataclass(frozen=True)
class Source:
    """Where batches come from.

    Attributes:
        prepared: the data; None for synthetic batches.
        note: in a sentence.
    """

    prepared: Prepared | None
    note: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured of an experiment.

    Attributes:
        scalings: `'strong'` keeps the batch whatever the devices, `'weak'` gives every device the
            batch of the configuration.
        strategies: of laying the step over the devices.
        steps: batches of a round.
        peak_flops: of one device; None takes that of the data sheet.
    """

    scalings: tuple[Scaling, ...] = ('strong',)
    strategies: tuple[Strategy, ...] = ('jit',)
    steps: int = 5
    peak_flops: float | None = None


def find_data(
    experiment: Experiment,
    *,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    synthetic: bool = False,
) -> Source:
    """The training data of an experiment, or the sentence that says why there is none."""
    if synthetic:
        return Source(None, 'synthetic, as asked for')
    try:
        prepared = agreement.once_a_host(
            lambda: experiment.task.prepare(
                experiment.batch,
                data_dir=default_data_dir(data_dir),
                cache_dir=Path(cache_dir) if cache_dir else default_cache_dir(),
                splits=('train',),
            )
        )
    except UserError as error:
        return Source(None, f'synthetic, for there is no data ({error})')
    return Source(prepared, f'training batches of {experiment.task.data_name}')


class Case:
    """One way to run the step: so many devices, a size of batch, a strategy."""

    def __init__(
        self,
        experiment: Experiment,
        devices: Sequence[Any],
        source: Source,
        settings: Settings,
        strategy: Strategy,
        scalings: tuple[Scaling, ...],
        tokens: int,
    ) -> None:
        """Makes state and batches; nothing is compiled yet."""
        self.scalings, self.strategy, self.devices = scalings, strategy, devices
        batch = replace(experiment.batch, tokens=tokens)
        self.program = program = _program(
            replace(experiment, batch=batch, strategy=strategy), devices, source
        )
        self._step = program.compiled()
        self._state = program.factory.create()
        self._batches, self.input_seconds, self.examples = _batches(program, source, settings.steps)
        started = time.perf_counter()
        self._placed = [put_rows(arrays, program.mesh) for arrays in self._batches]
        jax.block_until_ready(self._placed)
        self.transfer_seconds = (time.perf_counter() - started) / len(self._placed)
        self.tokens = 0.0
        self.compile_seconds = 0.0

    def warm_up(self) -> None:
        """Compiles for every shape of the batches, and counts their tokens."""
        first, counted = [], []
        for placed in self._placed:
            started = time.perf_counter()
            self._state, metrics = jax.block_until_ready(self._step(self._state, placed))
            first.append(time.perf_counter() - started)
            counted.append(float(metrics['loss'].weight))
        self.tokens = sum(counted)
        again = self.round()
        self.compile_seconds = max(sum(first) - again, 0.0)

    def round(self) -> float:
        """Seconds of all batches, one after the other, up to the end of the last."""
        jax.block_until_ready(self._state)
        agreement.gather('')  # together: a step waits for the last of the processes
        started = time.perf_counter()
        metrics = None
        for placed in self._placed:
            self._state, metrics = self._step(self._state, placed)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - started

    def about(self, peak: float | None) -> dict[str, Any]:
        """Everything about it but its rounds; all of JSON."""
        positions = [max(map(_positions, batch.values())) for batch in self._batches]
        share = self.program.share.count
        own = [d for d in self.devices if d.process_index == jax.process_index()]
        stats = own[0].memory_stats() or {}  # no other process's can be asked
        return {
            'scalings': list(self.scalings),
            'strategy': self.strategy,
            'devices': len(self.devices),
            'mesh': {axis: n for axis, n in self.program.mesh.shape.items() if n > 1},
            'steps_per_round': len(self._placed),
            'shapes': len({tuple(sorted(_shapes(b).items())) for b in self._batches}),
            'tokens_per_round': self.tokens,
            'positions_per_round': share * sum(positions),
            'examples_per_round': self.examples,
            'flops_per_round': sum(_training_flops(self.program, b) for b in self._batches) * share,
            'peak_flops_per_device': peak,
            'compile_seconds': self.compile_seconds,
            'input_seconds_per_step': self.input_seconds,
            'transfer_seconds_per_step': self.transfer_seconds,
            'peak_bytes_of_a_device': stats.get('peak_bytes_in_use'),
        }


@dataclass
class Bench:
    """All cases of one set of devices, in this process (and its fellows on other hosts)."""

    experiment: Experiment
    count: int | None
    settings: Settings
    source: Source
    cases: list[Case] = field(default_factory=list)

    def prepare(self) -> dict[str, Any]:
        """Compiles everything; says where it runs and what the cases are."""
        devices = jax.devices()
        if self.count is not None and self.count > len(devices):
            there = 'is 1 device' if len(devices) == 1 else f'are {len(devices)} devices'
            raise UserError(
                f'--devices {self.count}, but on {devices[0].platform} there {there}; take fewer.'
            )
        used = devices[: self.count]
        if agreement.several():
            agreement.connect(build_mesh(self.experiment.mesh, used))
        peak = self.settings.peak_flops or peak_flops_per_second(used[0].device_kind)
        for tokens, scalings in self._sizes(len(used)).items():
            for strategy in self.settings.strategies:
                case = Case(
                    *(self.experiment, used, self.source, self.settings),
                    *(strategy, scalings, tokens),
                )
                case.warm_up()
                self.cases.append(case)
        return {
            'data': self.source.note,
            'platform': used[0].platform,
            'device_kind': used[0].device_kind,
            'processes': jax.process_count(),
            'simulated': used[0].platform == 'cpu' and len(used) > 1,
            'cases': [case.about(peak) for case in self.cases],
        }

    def round(self) -> list[float]:
        """One round of every case, in seconds."""
        return [case.round() for case in self.cases]

    def _sizes(self, count: int) -> dict[int, tuple[Scaling, ...]]:
        """Tokens of the batch, and the scalings that ask for them: on one device they agree."""
        found: dict[int, tuple[Scaling, ...]] = {}
        for scaling in self.settings.scalings:
            tokens = self.experiment.batch.tokens * (count if scaling == 'weak' else 1)
            found[tokens] = (*found.get(tokens, ()), scaling)
        return found


def _program(experiment: Experiment, devices: Sequence[Any], source: Source) -> Program:
    """The step on a mesh over the devices, with what the data, or else the paper, resolves."""
    task, mesh = experiment.task, build_mesh(experiment.mesh, devices)
    if source.prepared is None:
        resolved = replace(experiment, model=experiment.nominal_model())
        plan = task.nominal_plan(experiment.batch)
    else:
        resolved = replace(experiment, model=task.resolve(experiment.model, source.prepared))
        plan = task.plan(source.prepared, experiment.batch, experiment.seed)
    return build_program(resolved, plan, mesh)


def _batches(
    program: Program, source: Source, steps: int
) -> tuple[list[dict[str, np.ndarray]], float, int]:
    """This process's arrays of the first steps, seconds that each took, examples in them all."""
    if source.prepared is None:
        vocab_size = getattr(program.experiment.model, 'vocab_size', None) or 2
        specs = longest(program.specs)
        made = [
            synthetic_arrays(specs, vocab_size, seed=n, share=program.share.index)
            for n in range(steps)
        ]
        rows = sum(len(arrays['rows']) for arrays in made) * program.share.count
        return made, 0.0, rows
    waiting = program.batches(source.prepared)
    found = [next(waiting)]  # which also starts what reads ahead
    started = time.perf_counter()
    found += [next(waiting) for _ in range(1, steps)]
    seconds = (time.perf_counter() - started) / max(steps - 1, 1)
    return [batch.arrays for batch in found], seconds, sum(batch.examples for batch in found)


def longest(specs: Sequence[Mapping[str, ArraySpec]]) -> Mapping[str, ArraySpec]:
    """The kind of batch with the longest rows: what a budget of tokens is set for."""

    def length(arrays: Mapping[str, ArraySpec]) -> int:
        return max((spec.shape[1] for spec in arrays.values() if len(spec.shape) > 1), default=1)

    return max(specs, key=length)


def synthetic_arrays(
    specs: Mapping[str, ArraySpec], vocab_size: int, *, seed: int, share: int = 0
) -> dict[str, np.ndarray]:
    """A full batch of random tokens: every position of every row counts.

    Args:
        specs: shapes and types, by name.
        vocab_size: of the tokens; the first four are control symbols.
        seed: of the tokens.
        share: which part of the rows of the global batch this is.
    """
    generator = np.random.default_rng([seed, share])
    arrays: dict[str, np.ndarray] = {}
    for name, spec in specs.items():
        if name == 'rows':
            value = np.arange(spec.shape[0]) + share * spec.shape[0]
        elif name.endswith('segments') or name == 'weight':
            value = np.ones(spec.shape)
        elif name.endswith('positions'):
            value = np.broadcast_to(np.arange(spec.shape[-1]), spec.shape)
        elif name == 'anew':
            value = np.zeros(spec.shape)
        elif name in ('source', 'target', 'tokens', 'inputs'):
            value = generator.integers(min(4, vocab_size - 1), vocab_size, spec.shape)
        else:  # labels and the like: one that every task has
            value = np.zeros(spec.shape)
        arrays[name] = np.ascontiguousarray(value, spec.dtype)
    return arrays


def _training_flops(program: Program, arrays: Mapping[str, np.ndarray]) -> int:
    """Three times the forward pass of this process's rows; fused kernels are counted as plain."""
    config = program.experiment.model
    if hasattr(config, 'attention_implementation'):
        config = replace(config, attention_implementation='xla')  # type: ignore[call-arg]
    model, task = config.build(), program.experiment.task
    state = program.factory.abstract()
    abstract = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in arrays.items()}
    # A recurrent state has the rows of the whole batch; the operations are those of ours.
    rows = len(arrays['rows'])
    carry = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype), state.carry
    )

    def forward(variables: Any, batch: Any, carry: Any) -> Any:
        with example_rows(batch['rows']):
            losses, _ = task.loss(model, variables, batch, carry, key=jax.random.key(0))
        return losses.terms

    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
        {**state.variables, 'params': state.params},
    )
    return 3 * traced_flops(forward, shapes, abstract, carry)


def _positions(array: np.ndarray) -> int:
    return math.prod(array.shape[:2])


def _shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}
