"""Whole training steps compiled for several meshes, once for all tests here."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest

from seqzoo.models.transformer import TransformerConfig
from seqzoo.optimization.optimizers import SGD
from seqzoo.optimization.schedules import Constant
from seqzoo.parallel.compile import compile_train_step
from seqzoo.parallel.mesh import MeshConfig, build_mesh, put_rows
from seqzoo.parallel.storage import true_size
from seqzoo.tasks.translation import Translation
from seqzoo.training.state import StateFactory
from seqzoo.training.step import make_train_step

ROWS, SOURCE, TARGET, VOCAB = 8, 40, 24, 61
CONFIG = dataclasses.replace(
    TransformerConfig.tiny(),
    vocab_size=VOCAB,
    num_heads=4,
    embed_dim=32,
    dropout_rate=0.1,
    attention_dropout_rate=0.1,
    attention_implementation='xla',
)


@dataclass(frozen=True)
class Program:
    """One training step: what was traced, what was compiled, and what it does.

    Attributes:
        lowered: text before partitioning.
        hlo: text of what runs on each device.
        executable: compiled.
        factory: of the state.
        parameters: their shapes and shardings.
    """

    lowered: str
    hlo: str
    executable: Any
    factory: StateFactory
    parameters: Any

    def step(self, batch: dict[str, np.ndarray]) -> tuple[float, Any, Any]:
        """The loss, the gradient, and the parameters as stored after the step."""
        state = self.factory.create()
        boxed = jax.eval_shape(self.factory._variables, jax.random.key(0))['params']
        before = jax.device_get(true_size(state.params, boxed))
        state, metrics = self.executable(state, put_rows(batch, self.factory.mesh))
        after = jax.device_get(true_size(state.params, boxed))
        loss = metrics['loss'].total / metrics['loss'].weight
        # The rate of the optimizer is 1.
        gradient = jax.tree.map(lambda a, b: a - b, before, after)
        return float(loss), gradient, jax.device_get(state.params)


@functools.cache
def _program(changes: tuple[tuple[str, Any], ...], **mesh: int) -> Program:
    config = dataclasses.replace(CONFIG, **dict(changes))
    devices = jax.devices()[: int(np.prod([*mesh.values()]))]
    factory = StateFactory(
        config,
        model := config.build(),
        transformation := SGD().build(),
        build_mesh(MeshConfig(**{'data': 1, **mesh}), devices),
        seed=0,
    )
    step = make_train_step(Translation(), model, transformation, Constant(rate=1.0).build(1))
    compiled = compile_train_step(step, factory.mesh, factory.shardings())
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in _batch().items()}
    state = factory.abstract()
    lowered = compiled.lower(state, shapes)
    # Partitioning is the same at any level, and code generation half of the time.
    executable = lowered.compile(compiler_options={'xla_backend_optimization_level': 0})
    text = executable.as_text() or ''
    return Program(lowered.as_text(), text, executable, factory, state.params)


@pytest.fixture(scope='session')
def program():
    """`program(changes to CONFIG as pairs, **mesh)`: the step compiled for a mesh, kept."""
    if jax.device_count() < 8:
        pytest.skip('needs 8 devices')
    return _program


@functools.cache
def _batch() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    arrays = {'rows': np.arange(ROWS, dtype=np.int32)}
    for side, length in (('source', SOURCE), ('target', TARGET)):
        # Two sentences in a row, of unequal lengths, and padding.
        first, second = generator.integers(2, length // 2, size=(2, ROWS, 1))
        place = np.arange(length)[None]
        segments = np.where(place < first, 1, np.where(place < first + second, 2, 0))
        tokens = generator.integers(4, VOCAB, (ROWS, length))
        arrays[side] = np.where(segments > 0, tokens, 0).astype(np.int32)
        arrays[f'{side}_segments'] = segments.astype(np.int32)
        positions = np.where(segments == 2, place - first, np.where(segments == 1, place, 0))
        arrays[f'{side}_positions'] = positions.astype(np.int32)
    return arrays


@pytest.fixture(scope='session')
def batch() -> dict[str, np.ndarray]:
    """Packed rows of both sides, unequally full."""
    return _batch()
