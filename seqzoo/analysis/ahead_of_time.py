"""The real programs of an experiment, compiled for devices that are not here.

The state and the batch are shapes, never arrays: 175 billion parameters take no memory. The step
is that of `training/program.py` through `parallel/compile.py`, the search that of `Task.predict`;
sizes that only the data knows are the nominal ones of the task.
"""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from seqzoo.analysis.slices import without_cache
from seqzoo.data.batching import ArraySpec
from seqzoo.errors import UserError
from seqzoo.experiment import Experiment
from seqzoo.models.base import ModelConfig
from seqzoo.parallel.compile import compile_for_rows
from seqzoo.parallel.mesh import row_shards, rows_sharding
from seqzoo.parallel.rows import RowShare
from seqzoo.training.program import build_program
from seqzoo.training.state import StateFactory

_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_EXCEEDS = re.compile(r'\(([\d.]+)([KMGT]?)\) exceeds available HBM')
_USED = re.compile(r'Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm')


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A program before XLA compiles it.

    Attributes:
        what: it does.
        lowered: by JAX.
        model: its configuration, every size filled in.
        rows: of the batch, those that only fill up included.
        length: of the rows.
        held: bytes that one device holds before the program begins, by what they are.
        mesh: that it is for.
    """

    what: str
    lowered: jax.stages.Lowered
    model: ModelConfig
    rows: int
    length: int
    held: Mapping[str, int]
    mesh: Mesh


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one device's main memory while a program runs.

    Attributes:
        held: arguments by what they are.
        filling: what the arguments take beyond that in their layout of tiles.
        temporaries: activations, gradients, and what else is made on the way.
        results: those that do not take the place of an argument.
        code: the program itself.
        room: that there is.
    """

    held: Mapping[str, int]
    filling: int
    temporaries: int
    results: int
    code: int
    room: int

    @property
    def parts(self) -> dict[str, int]:
        """All of it by what it is."""
        return {
            **self.held,
            'filling of tiles': self.filling,
            'activations and temporaries': self.temporaries,
            'results': self.results,
            'program': self.code,
        }

    @property
    def total(self) -> int:
        """What is needed."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether there is as much."""
        return self.total <= self.room


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A program as XLA made it, or what it would have needed.

    Attributes:
        traced: before.
        memory: of one device.
        text: of the optimised program; `None` where it does not fit and XLA gave up.
        seconds: that compiling took.
        executable: of JAX; `None` where it does not fit.
    """

    traced: Traced
    memory: Memory
    text: str | None
    seconds: float
    executable: jax.stages.Compiled | None


def trace_step(experiment: Experiment, mesh: Mesh, length: int | None = None) -> Traced:
    """The training step, for the batch shape with the longest rows, or for that of `length`.

    Raises:
        UserError: the mesh, the strategy or the batch do not go together.
    """
    if experiment.strategy == 'pmap':
        raise UserError(
            'strategy pmap finds its devices by itself and cannot be compiled ahead of time; take '
            '--strategy shard_map, which runs the same program on every device.'
        )
    plan = experiment.task.nominal_plan(experiment.batch)
    model_config = experiment.nominal_model()
    resolved = replace(experiment, model=model_config)
    # The devices belong to no process here: the batch is whole.
    program = build_program(resolved, plan, mesh, share=RowShare(index=0, count=1))
    state, lengths = program.factory.abstract(), [shape.target_length for shape in plan.shapes]
    index = _chosen(lengths, length)
    specs = program.specs[index]
    batch = _abstract(specs, mesh)
    held = {
        'parameters': held_bytes(state.params),
        'optimizer state': held_bytes(state.opt_state),
        'other state': held_bytes((state.variables, state.carry)),
        'batch': held_bytes(batch),
    }
    rows = specs['rows'].shape[0]
    return Traced(
        what='training step',
        lowered=program.compiled().lower(state, batch),  # type: ignore[attr-defined]
        model=model_config,
        rows=rows,
        length=lengths[index],
        held={name: size for name, size in held.items() if size or name == 'parameters'},
        mesh=mesh,
    )


def trace_search(experiment: Experiment, mesh: Mesh) -> Traced:
    """The search for outputs: prompts or inputs are read, and a loop decodes until all rows end.

    Raises:
        UserError: this task searches for nothing.
    """
    config = experiment.nominal_model()
    model, decoding = config.build(), experiment.decode
    search, specs = experiment.task.nominal_search(model, config, experiment.batch, decoding)
    factory = StateFactory(config, model, experiment.optimizer.build(), mesh, experiment.seed)
    state, shardings = factory.abstract(), factory.shardings()
    shards = row_shards(mesh)
    rows = -(-decoding.rows // shards) * shards  # filled up for the devices, like any batch
    specs = {n: ArraySpec((rows, *spec.shape[1:]), spec.dtype) for n, spec in specs.items()}
    batch = _abstract(specs, mesh)
    variables = {**state.variables, 'params': state.params}
    run = compile_for_rows(search, mesh, {**shardings.variables, 'params': shardings.params})
    return Traced(
        what=f'{decoding.method} search',
        lowered=run.lower(variables, batch),  # type: ignore[attr-defined]
        model=config,
        rows=rows,
        length=max(spec.shape[1] for spec in specs.values() if len(spec.shape) > 1),
        held={'parameters': held_bytes(state.params), 'batch': held_bytes(batch)},
        mesh=mesh,
    )


def compile_traced(traced: Traced, room: int) -> Compiled:
    """Compiles; a program that does not fit is a result like any other.

    Args:
        traced: from `trace_step` or `trace_search`.
        room: bytes of one device.
    """
    begin = time.perf_counter()
    held = sum(traced.held.values())
    try:
        with without_cache():
            executable = traced.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error), held)
        if needed is None:
            raise
        memory = Memory(
            held=traced.held,
            filling=0,
            temporaries=max(needed - held, 0),
            results=0,
            code=0,
            room=room,
        )
        seconds = time.perf_counter() - begin
        return Compiled(traced=traced, memory=memory, text=None, seconds=seconds, executable=None)
    seconds = time.perf_counter() - begin
    found = executable.memory_analysis()
    assert found is not None
    memory = Memory(
        held=traced.held,
        filling=found.argument_size_in_bytes - held,
        temporaries=found.temp_size_in_bytes,
        results=found.output_size_in_bytes - found.alias_size_in_bytes,
        code=found.generated_code_size_in_bytes,
        room=room,
    )
    return Compiled(
        traced=traced,
        memory=memory,
        text=executable.as_text(),
        seconds=seconds,
        executable=executable,
    )


def needed_bytes(message: str, held: int) -> int | None:
    """What a program needs of which XLA says that there is not as much; `None` of other errors.

    Args:
        message: of the error.
        held: bytes of its arguments, which are in one of XLA's two figures, but not in the other.
    """
    for pattern, beside in ((_EXCEEDS, held), (_USED, 0)):
        if found := pattern.search(message):
            return int(float(found[1]) * _UNITS[found[2]]) + beside
    return None


def held_bytes(tree: Any) -> int:
    """Bytes of the leaves of a tree of shapes on one device, as they are sharded."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * _itemsize(leaf.dtype)
    return total


def _itemsize(dtype: Any) -> int:
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return 8
    return dtype.itemsize


def _abstract(specs: Mapping[str, ArraySpec], mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    sharding = rows_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=sharding)
        for name, spec in specs.items()
    }


def _chosen(lengths: list[int], wanted: int | None) -> int:
    """The number of the bucket of the wanted length, or of the longest."""
    if wanted is None:
        return max(range(len(lengths)), key=lambda i: lengths[i])
    if wanted not in lengths:
        raise UserError(
            f'--length {wanted}: the batches have lengths {", ".join(map(str, lengths))}.'
        )
    return lengths.index(wanted)
