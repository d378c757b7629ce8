"""The one step on one device; tests/parallel/test_strategies.py lays it over several."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from seqzoo.models.transformer import TransformerConfig
from seqzoo.optimization.optimizers import SGD, Adam
from seqzoo.optimization.schedules import Constant, Noam
from seqzoo.parallel.compile import compile_train_step
from seqzoo.parallel.mesh import MeshConfig, build_mesh, put_rows
from seqzoo.tasks.base import Losses, Sums
from seqzoo.tasks.translation import Translation
from seqzoo.training.state import StateFactory, TrainState
from seqzoo.training.step import make_train_step

CONFIG = dataclasses.replace(
    TransformerConfig.tiny(), vocab_size=64, num_heads=4, embed_dim=32, dropout_rate=0.1
)
ROWS, LENGTH = 32, 12
PLAIN = SGD()


@pytest.fixture(scope='module')
def batch():
    """Sentences of very unequal length: the shards of a batch hold unlike numbers of tokens."""
    generator = np.random.default_rng(0)
    arrays = {'rows': np.arange(ROWS, dtype=np.int32)}
    for side in ('source', 'target'):
        lengths = np.sort(generator.integers(1, LENGTH + 1, size=ROWS))
        inside = np.arange(LENGTH) < lengths[:, None]
        arrays[side] = np.where(inside, generator.integers(4, 64, (ROWS, LENGTH)), 0).astype('i4')
        arrays[f'{side}_segments'] = inside.astype(np.int32)
        arrays[f'{side}_positions'] = np.where(inside, np.arange(LENGTH), 0).astype(np.int32)
    return arrays


def one_step(batch, *, accumulation=1, optimizer=PLAIN, config=CONFIG, steps=1):
    """Parameters and metrics after some steps."""
    mesh = build_mesh(MeshConfig(data=1), jax.devices()[:1])
    model, transformation = config.build(), optimizer.build()
    factory = StateFactory(config, model, transformation, mesh, seed=0)
    step = make_train_step(
        Translation(), model, transformation, Constant(rate=1.0).build(1), accumulation
    )
    compiled = compile_train_step(step, mesh, factory.shardings())
    state = factory.create()
    start = jax.device_get(state.params)
    for _ in range(steps):
        state, metrics = compiled(state, put_rows(batch, mesh))
    return start, jax.device_get(state), jax.device_get(metrics)


@pytest.fixture(scope='module')
def reference(batch):
    return one_step(batch)


def gradient_of(start, state):
    return jax.tree.map(lambda a, b: a - b, start, state.params)


def assert_same(found, wanted):
    loss, other = (m['loss'].total / m['loss'].weight for m in (found[2], wanted[2]))
    np.testing.assert_allclose(loss, other, rtol=2e-6)
    ours, theirs = gradient_of(*found[:2]), gradient_of(*wanted[:2])
    distance = optax.global_norm(jax.tree.map(jnp.subtract, ours, theirs))
    assert distance <= 1e-5 * optax.global_norm(theirs)


def test_accumulation_takes_the_same_step_with_the_same_dropout(batch, reference):
    assert_same(one_step(batch, accumulation=4), reference)


def test_dropout_is_really_on(batch, reference):
    without = one_step(batch, config=dataclasses.replace(CONFIG, dropout_rate=0.0))
    losses = [r[2]['loss'].total / r[2]['loss'].weight for r in (reference, without)]
    assert abs(losses[0] - losses[1]) > 1e-4


def test_rows_that_only_fill_up_change_nothing(batch):
    config = dataclasses.replace(CONFIG, dropout_rate=0.0)
    fill = {k: np.concatenate([v, np.zeros_like(v[:8])]) for k, v in batch.items()}
    fill['rows'] = np.arange(ROWS + 8, dtype=np.int32)
    assert_same(one_step(fill, config=config), one_step(batch, config=config))


def test_the_mean_is_over_all_tokens_and_not_of_the_means_of_shards(batch):
    config = dataclasses.replace(CONFIG, dropout_rate=0.0)
    halves = [{k: v[part] for k, v in batch.items()} for part in (slice(0, 16), slice(16, 32))]
    parts = [one_step(half, config=config)[2]['loss'] for half in halves]
    whole = one_step(batch, config=config)[2]['loss']
    means = np.mean([p.total / p.weight for p in parts])
    np.testing.assert_allclose(
        whole.total / whole.weight,
        sum(p.total for p in parts) / sum(p.weight for p in parts),
        rtol=1e-6,
    )
    assert abs(means - whole.total / whole.weight) > 1e-4  # so that the difference can be seen


def test_a_gradient_that_is_not_finite_changes_nothing_but_the_step_number(batch):
    mesh = build_mesh(MeshConfig(data=1), jax.devices()[:1])
    model, transformation = CONFIG.build(), Adam().build()
    factory = StateFactory(CONFIG, model, transformation, mesh, seed=0)
    state = factory.create()
    poisoned = jax.tree.map(lambda x: x, state.params)
    name = next(iter(poisoned))
    poisoned[name] = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.nan), poisoned[name])
    state = dataclasses.replace(state, params=poisoned)
    before = jax.device_get((state.params, state.opt_state))
    step = make_train_step(Translation(), model, transformation, Noam().build(1))
    state, metrics = jax.jit(step)(state, {k: jnp.asarray(v) for k, v in batch.items()})
    assert not metrics['finite']
    assert int(state.step) == 1
    jax.tree.map(
        np.testing.assert_array_equal, before, jax.device_get((state.params, state.opt_state))
    )


def test_parameters_and_moments_are_born_sharded():
    mesh = build_mesh(MeshConfig(fsdp=8, data=1))
    factory = StateFactory(CONFIG, CONFIG.build(), Adam().build(), mesh, seed=0)
    state = factory.create()
    leaves = jax.tree.leaves((state.params, state.opt_state))
    matrices = [leaf for leaf in leaves if leaf.ndim >= 2 and 32 in leaf.shape]
    assert matrices
    whole = sum(leaf.size for leaf in leaves if leaf.sharding.is_fully_replicated)
    assert whole <= 0.05 * sum(leaf.size for leaf in leaves)


class Convolved:
    """The least task of a convolution: its outputs are to be ones."""

    def weights(self, batch):
        return {'loss': jnp.sum(batch['weight'])}

    def loss(self, model, variables, batch, carry, *, key):
        y = model.apply(variables, batch['x'])
        total = jnp.sum((y - 1) ** 2)
        return Losses({'loss': total}, {'loss': Sums(total, jnp.sum(batch['weight']))}), carry


@pytest.mark.parametrize(
    ('model', 'parts', 'loops'),
    [
        (nn.Conv(3, (3,)), 4, False),
        (nn.Conv(3, (3,)), 16, True),
        (nn.Dense(3), 4, True),
    ],
)
def test_convolutions_are_not_accumulated_in_a_loop_on_a_cpu(model, parts, loops):
    x = jax.random.normal(jax.random.key(0), (16, 5, 2))
    batch = {'x': x, 'weight': jnp.ones(16), 'rows': jnp.arange(16)}
    params = model.init(jax.random.key(1), x)['params']
    transformation = PLAIN.build()
    state = TrainState.first(params, transformation, jax.random.key(0))

    def program(accumulation):
        return jax.jit(
            make_train_step(Convolved(), model, transformation, lambda step: 0.1, accumulation)
        ).lower(state, batch)

    accumulated, whole = program(parts), program(1)
    assert ('stablehlo.while' in accumulated.as_text()) == loops
    found, wanted = (each.compile()(state, batch)[0].params for each in (accumulated, whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, wanted)
