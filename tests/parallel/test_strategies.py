"""One step, laid over devices in any way: the loss, the gradient and the new state of one device.

To hold another layout to it, add it to `WAYS`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from seqzoo.errors import UserError
from seqzoo.layers.dropout import Dropout
from seqzoo.models.transformer import TransformerConfig
from seqzoo.optimization.schedules import Constant
from seqzoo.parallel.axes import axis_rules, sum_over_shards
from seqzoo.parallel.compile import (
    check_strategy,
    compile_for_rows,
    compile_train_step,
    compiler_options,
)
from seqzoo.parallel.mesh import MeshConfig, build_mesh, put_rows
from seqzoo.tasks.base import Losses, Sums
from seqzoo.tasks.translation import Translation
from seqzoo.training.state import StateFactory
from seqzoo.training.step import make_train_step

CONFIG = TransformerConfig(
    vocab_size=64, num_layers=2, embed_dim=32, mlp_dim=64, num_heads=4, dropout_rate=0.1
)
ROWS, FILL, LENGTH, STEPS = 32, 5, 12, 2


@dataclasses.dataclass(frozen=True)
class Way:
    """A strategy and a mesh."""

    strategy: str = 'jit'
    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1

    @property
    def mesh(self):
        sizes = {k: v for k, v in vars(self).items() if k != 'strategy'}
        return build_mesh(MeshConfig(**sizes), jax.devices()[: np.prod(list(sizes.values()))])

    def __str__(self):
        sizes = (f'{size}{k}' for k, size in vars(self).items() if k != 'strategy' and size > 1)
        return f'{self.strategy}-{"x".join(sizes) or 1}'


ONE = Way()
WAYS = [
    Way('pmap', data=8),
    Way('shard_map', data=8),
    Way(data=8),
    Way(fsdp=8),
    Way(data=4, tensor=2),
    Way(data=2, fsdp=2, tensor=2),
    Way(data=2, sequence=4),
]
QUICK = [(way, parts) for way in WAYS[:2] for parts in (1, 4)] + [(WAYS[3], 1)]


def remembering():
    """Plain gradient descent whose state is the last gradient."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda g, state, params: (g, g)
    )


@functools.cache
def batch():
    """Sentences of very unequal length, the short ones together, and rows that only fill up: one
    of eight shards has nothing to learn from.
    """
    generator = np.random.default_rng(0)
    arrays = {'rows': np.arange(ROWS, dtype=np.int32)}
    for side in ('source', 'target'):
        lengths = np.sort(generator.integers(1, LENGTH + 1, size=ROWS))
        inside = np.arange(LENGTH) < lengths[:, None]
        inside[-FILL:] = False
        arrays[side] = np.where(inside, generator.integers(4, 64, (ROWS, LENGTH)), 0).astype('i4')
        arrays[f'{side}_segments'] = inside.astype(np.int32)
        arrays[f'{side}_positions'] = np.where(inside, np.arange(LENGTH), 0).astype(np.int32)
    return arrays


@dataclasses.dataclass
class Outcome:
    """What some steps did: gradients and metrics of each, and the last parameters."""

    gradients: list
    metrics: list
    params: dict


@functools.cache
def first_state():
    """Made once: the programs that make it on each mesh take as long to compile as the steps."""
    state = StateFactory(CONFIG, CONFIG.build(), remembering(), ONE.mesh, seed=0).create()
    return jax.device_get(dataclasses.replace(state, key=jax.random.key_data(state.key)))


@functools.cache
def outcome(way, accumulation=1):
    mesh, model, transformation = way.mesh, CONFIG.build(), remembering()
    factory = StateFactory(CONFIG, model, transformation, mesh, seed=0)
    step = make_train_step(
        Translation(), model, transformation, Constant(rate=0.1).build(1), accumulation
    )
    compiled = compile_train_step(step, mesh, factory.shardings(), strategy=way.strategy)
    state = dataclasses.replace(first_state(), key=jax.random.wrap_key_data(first_state().key))
    state = jax.device_put(state, factory.shardings())
    found = Outcome([], [], {})
    for _ in range(STEPS):
        state, metrics = compiled(state, put_rows(batch(), mesh))
        found.gradients.append(jax.device_get(state.opt_state))
        found.metrics.append(jax.device_get(metrics))
    found.params = jax.device_get(state.params)
    return found


def assert_close(found, wanted, tolerance):
    """Distance over all leaves, relative to the norm over all leaves."""
    distance = optax.global_norm(jax.tree.map(jnp.subtract, found, wanted))
    assert distance <= tolerance * optax.global_norm(wanted)


@pytest.mark.parametrize(
    ('way', 'accumulation'),
    [
        pytest.param(way, parts, marks=() if (way, parts) in QUICK else pytest.mark.slow)
        for way in WAYS
        for parts in (1, 4)
    ],
    ids=str,
)
def test_loss_gradient_and_parameters_are_those_of_one_device(way, accumulation):
    found, wanted = outcome(way, accumulation), outcome(ONE)
    for ours, theirs in zip(found.metrics, wanted.metrics, strict=True):
        assert ours['loss'].weight == theirs['loss'].weight
        assert ours['finite']
        for name in ('loss', 'nll'):
            np.testing.assert_allclose(ours[name].total, theirs[name].total, rtol=2e-6)
        np.testing.assert_allclose(ours['gradient_norm'], theirs['gradient_norm'], rtol=1e-5)
    for ours, theirs in zip(found.gradients, wanted.gradients, strict=True):
        assert_close(ours, theirs, 1e-5)
    assert_close(found.params, wanted.params, 1e-6)


def test_the_batch_could_tell_a_mean_of_means_and_missing_dropout():
    weights = (batch()['target_segments'] > 0).sum(axis=1).reshape(8, -1).sum(axis=1)
    assert weights[-1] == 0
    assert weights.max() > 5 * weights[0]
    losses = [m['loss'].total for m in outcome(ONE).metrics]
    assert abs(losses[0] / losses[1] - 1) > 1e-3  # other masks, and a step was taken


# ------------------------------------------------------------------- what the Transformer has not


class Masks(nn.Module):
    """One parameter, and dropout of ones."""

    @nn.compact
    def __call__(self, x, train=False):
        scale = self.param('scale', nn.initializers.ones, (1,))
        return Dropout(0.5)(jnp.ones((x.shape[0], 64)), train) * scale


@dataclasses.dataclass(frozen=True)
class MasksConfig:
    def example_inputs(self):
        return (jnp.ones((2, 1)),)


class KeepsMasks:
    """A task whose carry is the dropout mask of every row, and how many steps it went through."""

    def weights(self, batch):
        return {'loss': jnp.sum(batch['weight'])}

    def loss(self, model, variables, batch, carry, *, key):
        kept = model.apply(variables, batch['weight'], train=True, rngs={'dropout': key})
        means, weights = jnp.mean(kept, axis=1), batch['weight']
        mean = sum_over_shards(jnp.sum(means * weights)) / sum_over_shards(jnp.sum(weights))
        weight = jnp.sum(batch['weight'])
        total = jnp.square(mean) * weight  # a statistic of the whole batch, not linear in it
        sums = {'loss': Sums(jax.lax.stop_gradient(total), weight)}
        new = {'masks': kept != 0, 'steps': carry['steps'] + batch['rows'] * (batch['weight'] > 0)}
        return Losses({'loss': total}, sums), new


def masks_step(strategy, devices, accumulation=1, weight=None):
    """The factory of its state, the compiled step, and a batch."""
    mesh = build_mesh(MeshConfig(), jax.devices()[:devices])
    model, transformation = Masks(), remembering()
    factory = StateFactory(
        MasksConfig(), model, transformation, mesh, seed=0,
        first_carry=lambda: {'masks': jnp.zeros((16, 64), bool), 'steps': jnp.zeros(16, jnp.int32)},
    )  # fmt: skip
    schedule = Constant(rate=0.1).build(1)
    step = make_train_step(KeepsMasks(), model, transformation, schedule, accumulation)
    compiled = compile_train_step(step, mesh, factory.shardings(), strategy=strategy)
    weight = np.arange(16, dtype=np.float32) if weight is None else weight
    rows = put_rows({'rows': np.arange(16, dtype=np.int32), 'weight': weight}, mesh)
    return factory, compiled, rows


@functools.cache
def masks_of(strategy, devices, accumulation=1):
    """State and metrics after two steps."""
    factory, compiled, rows = masks_step(strategy, devices, accumulation)
    state, _ = compiled(factory.create(), rows)
    return jax.device_get(compiled(state, rows))


MASK_WAYS = [('jit', 8, 1), ('jit', 4, 4), ('shard_map', 8, 2), ('shard_map', 8, 1), ('pmap', 8, 2)]


@pytest.mark.parametrize(('strategy', 'devices', 'accumulation'), MASK_WAYS)
def test_masks_and_carry_belong_to_the_row_and_not_to_the_device(strategy, devices, accumulation):
    found, _ = masks_of(strategy, devices, accumulation)
    masks = found.carry['masks']
    assert len({row.tobytes() for row in masks}) == 16, 'two rows share a mask'
    wanted, _ = masks_of('jit', 1)
    np.testing.assert_array_equal(masks, wanted.carry['masks'])
    np.testing.assert_array_equal(found.carry['steps'], 2 * np.arange(16))


@pytest.mark.parametrize('strategy', ['jit', 'shard_map', 'pmap'])
def test_a_statistic_that_is_not_linear_in_the_batch_is_summed_before_it_is_used(strategy):
    (found, metrics), (wanted, other) = masks_of(strategy, 8), masks_of('jit', 1)
    np.testing.assert_allclose(metrics['loss'].total, other['loss'].total, rtol=2e-6)
    np.testing.assert_allclose(found.opt_state['scale'], wanted.opt_state['scale'], rtol=2e-6)


@pytest.mark.parametrize('strategy', ['jit', 'shard_map', 'pmap'])
def test_a_step_that_is_not_finite_on_one_shard_is_left_out_on_all(strategy):
    weight = np.arange(16, dtype=np.float32)
    weight[3] = np.inf
    factory, compiled, rows = masks_step(strategy, 8, weight=weight)
    state, metrics = jax.device_get(compiled(factory.create(), rows))
    assert not metrics['finite']
    assert state.step == 1
    assert state.params['scale'] == 1.0
    assert not state.carry['masks'].any()
    assert not state.carry['steps'].any()


def test_sums_over_shards_need_to_know_the_axes():
    mesh, spec = build_mesh(MeshConfig()), jax.sharding.PartitionSpec('data')
    run = jax.shard_map(sum_over_shards, mesh=mesh, in_specs=spec, out_specs=spec)
    with pytest.raises(ValueError, match='axis_rules'):
        run(jnp.ones(8))
    assert sum_over_shards(3) == 3
    with axis_rules(mesh):
        assert sum_over_shards(3) == 3


# ------------------------------------------------------------------------------------ the state


def test_one_state_goes_from_strategy_to_strategy_and_to_evaluation():
    steps = {strategy: masks_step(strategy, 8) for strategy in ('pmap', 'shard_map', 'jit')}
    factory, _, rows = steps['jit']
    evaluate = compile_for_rows(
        lambda params, rows: params['scale'] * jnp.sum(rows['weight']),
        factory.mesh,
        factory.shardings().params,
    )
    state = factory.create()
    for strategy in ('pmap', 'jit', 'pmap', 'shard_map', 'pmap'):
        old, (state, metrics) = state, steps[strategy][1](state, rows)
        assert metrics['finite']
        assert old.params['scale'].is_deleted(), 'not donated'
        for leaf, place in zip(*map(jax.tree.leaves, (state, factory.shardings())), strict=True):
            assert leaf.sharding == place
        np.testing.assert_allclose(evaluate(state.params, rows), state.params['scale'] * 120)
    np.testing.assert_array_equal(state.carry['steps'], 5 * np.arange(16))


@pytest.mark.parametrize('strategy', ['shard_map', 'pmap'])
@pytest.mark.parametrize('axis', ['fsdp', 'expert', 'tensor', 'sequence'])
def test_a_mesh_that_a_strategy_cannot_do_is_refused_with_the_remedy(strategy, axis):
    mesh = build_mesh(MeshConfig(**{'data': 4, axis: 2}))
    with pytest.raises(UserError) as refusal:
        compile_train_step(lambda state, batch: None, mesh, None, strategy=strategy)
    assert f'{axis} = 2' in str(refusal.value)
    assert '--strategy jit' in str(refusal.value)
    assert f'--mesh.{axis} 1' in str(refusal.value)


def test_pmap_in_several_processes_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    with pytest.raises(UserError, match='--strategy shard_map'):
        check_strategy('pmap', build_mesh(MeshConfig()))
    check_strategy('shard_map', build_mesh(MeshConfig()))


def test_deterministic_kernels_are_asked_for_by_a_name_that_the_compiler_knows():
    assert compiler_options('cpu') is None
    options = compiler_options('gpu')
    assert options
    compiled = jax.jit(lambda x: x + 1, compiler_options=options).lower(1.0).compile()
    assert compiled(1.0) == 2.0
    with pytest.raises(jax.errors.JaxRuntimeError, match='No such compile option'):
        jax.jit(lambda x: x, compiler_options={'xla_gpu_no_such': True}).lower(1.0).compile()
