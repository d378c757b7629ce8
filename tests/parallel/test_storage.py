"""Parameters on a mesh: padded where the configuration says so, split, or refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import meta
from jax.sharding import PartitionSpec

from seqzoo.analysis.parameters import (
    abstract_parameters,
    count_parameters,
    parameter_table,
    render_parameter_table,
)
from seqzoo.errors import UserError
from seqzoo.models.transformer import TransformerConfig
from seqzoo.optimization.losses import smoothed_cross_entropy
from seqzoo.optimization.optimizers import Adam
from seqzoo.parallel.axes import named
from seqzoo.parallel.mesh import MeshConfig, build_mesh
from seqzoo.parallel.storage import (
    Padded,
    padded,
    shardings_of,
    stored_size,
    true_count,
    true_size,
    without_padding,
)

# As GPT-2: words that no power of two divides; and heads that not even 2 divides.
GPT2 = TransformerConfig(
    vocab_size=50_257, embed_dim=1600, mlp_dim=6400, num_heads=25, num_layers=2, tie='none'
)
EVEN_HEADS = dataclasses.replace(GPT2, num_heads=16, tie='all')
BASE = TransformerConfig(vocab_size=37_000)
BIG = TransformerConfig(vocab_size=32_000, embed_dim=1024, mlp_dim=4096, num_heads=16)

TINY = dataclasses.replace(
    TransformerConfig.tiny(),
    vocab_size=61,
    num_layers=1,
    tie='none',
    final_logit_bias=True,
    dropout_rate=0.0,
)
WIDE = dataclasses.replace(TINY, vocab_multiple=16)


@functools.cache
def abstract(config):
    return abstract_parameters(config)


def shardings(config, **mesh):
    count = int(np.prod([*mesh.values()]))
    return shardings_of(
        abstract(config), build_mesh(MeshConfig(**{'data': 1, **mesh}), jax.devices()[:count])
    )


def share_left_whole(config, **mesh):
    """Of all parameters, those that every device of a mesh holds in full."""
    boxes = jax.tree.leaves(abstract(config), is_leaf=lambda x: hasattr(x, 'names'))
    sizes = [box.value.size for box in boxes]
    placed = jax.tree.leaves(shardings(config, **mesh))
    whole = [n for n, sharding in zip(sizes, placed, strict=True) if not any(sharding.spec)]
    return sum(whole) / sum(sizes)


# What a mesh does not divide


@pytest.mark.parametrize(('axis', 'size'), [(a, n) for a in ('fsdp', 'tensor') for n in (2, 4, 8)])
@pytest.mark.parametrize('config', [BASE, BIG, dataclasses.replace(EVEN_HEADS, vocab_multiple=128)])
def test_published_sizes_are_split_on_powers_of_two(config, axis, size):
    # Over `tensor` no rule splits layer norms and the biases of the second feed-forward product.
    assert share_left_whole(config, **{axis: size}) <= 0.02


@pytest.mark.parametrize('config', [GPT2, BASE, BIG])
@pytest.mark.parametrize('axis', ['fsdp', 'tensor'])
def test_three_devices_are_refused_with_a_mesh_that_works(config, axis):
    with pytest.raises(UserError, match=rf'mesh\.{axis} 3 .*--mesh\.{axis} 1 and --mesh\.data -1'):
        shardings(config, **{axis: 3})
    shardings(config, data=3)


@pytest.mark.parametrize('size', [2, 4, 8])
def test_a_vocabulary_that_is_not_divided_is_refused_until_it_is_padded(size):
    with pytest.raises(UserError) as refusal:
        shardings(EVEN_HEADS, tensor=size)
    message = str(refusal.value)
    for part in (f'mesh.tensor {size}', '50,257', "'vocab'", ' embedding/table (50,257 x 1,600)'):
        assert part in message
    assert '--model.vocab-multiple 128' in message
    shardings(dataclasses.replace(EVEN_HEADS, vocab_multiple=128), tensor=size)


def test_a_multiple_that_does_not_suit_the_mesh_is_mended():
    config = TransformerConfig(
        vocab_size=37_000, vocab_multiple=128, embed_dim=768, mlp_dim=3072, num_heads=12
    )
    with pytest.raises(UserError, match=r'--model\.vocab-multiple 384'):
        shardings(config, tensor=3)
    shardings(dataclasses.replace(config, vocab_multiple=384), tensor=3)


@pytest.mark.parametrize('multiple', [1, 128])
def test_heads_that_are_not_divided_are_refused_whatever_the_vocabulary(multiple):
    config = dataclasses.replace(GPT2, vocab_multiple=multiple)
    with pytest.raises(UserError, match=r"divide 25, the axis 'heads' .*--model\.num-heads") as e:
        shardings(config, tensor=2)
    assert 'vocab-multiple' not in str(e.value)  # it would not help
    shardings(config, fsdp=8)


def test_the_nearest_mesh_that_works_divides_every_size():
    config = TransformerConfig(vocab_size=36, embed_dim=36, mlp_dim=144, num_heads=6)
    with pytest.raises(UserError, match=r'--mesh\.tensor 2 and'):
        shardings(config, tensor=8)
    shardings(config, tensor=2)


def test_a_small_rest_may_stay_whole():
    def boxed(rest):
        def init(key):
            zeros = jax.nn.initializers.zeros
            return {
                'kernel': named(zeros, 'embed', 'mlp')(key, (64, 64)),
                'bias': named(zeros, 'mlp')(key, (rest,)),
            }

        return jax.eval_shape(init, jax.random.key(0))

    mesh = build_mesh(MeshConfig(data=4, tensor=2))
    placed = shardings_of(boxed(81), mesh)
    assert placed['kernel'].spec == PartitionSpec(None, 'tensor')
    assert not any(placed['bias'].spec)
    assert shardings_of(boxed(84), mesh)['bias'].spec == PartitionSpec('tensor')
    with pytest.raises(UserError, match='2% of the parameters'):
        shardings_of(boxed(85), mesh)


# Padding is only storage


def compiled(function, *args):
    """Compiled quickly, to run a few times."""
    lowered = jax.jit(function).lower(*args)
    return lowered.compile(compiler_options={'xla_backend_optimization_level': 0})


@functools.cache
def initialized(config):
    inputs = (jax.random.key(0), *config.example_inputs())
    return meta.unbox(compiled(config.build().init, *inputs)(*inputs)['params'])


def test_counts_and_tables_speak_of_the_true_size():
    assert count_parameters(WIDE) == count_parameters(TINY) == true_count(abstract(WIDE))
    assert render_parameter_table(parameter_table(WIDE)) == render_parameter_table(
        parameter_table(TINY)
    )
    stored = sum(x.size for x in jax.tree.leaves(initialized(WIDE)))
    assert stored == count_parameters(TINY) + 3 * (3 * 16 + 1)


def test_a_padded_model_begins_with_the_same_numbers_and_zeros():
    narrow, wide = initialized(TINY), initialized(WIDE)
    assert wide['target_embedding']['table'].shape == (64, 16)
    assert wide['output']['kernel'].shape == (16, 64)
    jax.tree.map(np.testing.assert_array_equal, true_size(wide, abstract(WIDE)), narrow)
    again = stored_size(narrow, abstract(WIDE))
    jax.tree.map(np.testing.assert_array_equal, again, wide)
    with pytest.raises(ValueError, match='none of'):
        stored_size(jax.tree.map(lambda x: x[..., :1], narrow), abstract(WIDE))


def test_boxes_keep_the_true_shape_when_layers_are_stacked():
    box = padded(jax.nn.initializers.ones, 'vocab', 'embed', axis=0, multiple=4)(
        jax.random.key(0), (3, 2)
    )
    assert isinstance(box, Padded)
    assert box.value.shape == (4, 2)
    stacked = box.replace(value=jnp.stack([box.value] * 5)).add_axis(
        0, {'partition_name': 'layers'}
    )
    assert (stacked.names, stacked.true_shape) == (('layers', 'vocab', 'embed'), (5, 3, 2))
    assert stacked.remove_axis(0, {'partition_name': 'layers'}).true_shape == (3, 2)
    assert without_padding(box.value, (3, 2)).shape == (3, 2)


def test_padding_stays_zero_and_training_is_the_same():
    """Also under weight decay, and with the smoothing of labels, which wants every class."""
    tokens = jnp.arange(2 * 8, dtype=jnp.int32).reshape(2, 8) * 3
    optimizer = Adam(weight_decay=0.1, clip_norm=1.0).build()

    def train(config):
        model = config.build()

        def loss(params):
            output = model.apply({'params': params}, tokens, tokens)
            logits = model.apply({'params': params}, output.features, method='unembed')
            assert logits.shape == (2, 8, 61)
            return smoothed_cross_entropy(logits, tokens, 0.1)[0].mean()

        def step(params, state):
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(grads, state, params)
            params = jax.tree.map(lambda p, u: p - 0.01 * u, params, updates)
            return params, state, value, optax.global_norm(grads)

        params = initialized(config)
        state, seen = optimizer.init(params), []
        run = compiled(step, params, state)
        for _ in range(3):
            params, state, *numbers = run(params, state)
            seen.append(numbers)
        return params, state, seen

    narrow, _, expected = train(TINY)
    wide, state, found = train(WIDE)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for stored in (wide, *(s for s in jax.tree.leaves(state, is_leaf=_is_params) if _is_params(s))):
        padding = jax.tree.map(
            lambda x, true: float(jnp.abs(x).sum() - jnp.abs(true).sum()),
            stored,
            stored_size(true_size(stored, abstract(WIDE)), abstract(WIDE)),
        )
        assert set(jax.tree.leaves(padding)) == {0.0}
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-5),
        true_size(wide, abstract(WIDE)),
        narrow,
    )


def _is_params(x):
    return isinstance(x, dict) and 'target_embedding' in x


def test_a_padded_vocabulary_on_a_mesh_takes_the_step_of_one_device(program, batch):
    # 61 words on 2 devices.
    with pytest.raises(UserError, match='vocab-multiple'):
        program((), data=4, tensor=2)
    wanted = program((), data=1).step(batch)
    found = program((('vocab_multiple', 8),), data=4, tensor=2).step(batch)
    np.testing.assert_allclose(found[0], wanted[0], rtol=2e-6)
    distance = optax.global_norm(jax.tree.map(jnp.subtract, found[1], wanted[1]))
    assert distance <= 1e-5 * optax.global_norm(wanted[1])
    table = found[2]['embedding']['table']
    assert table.shape == (64, 32)
    assert not table[61:].any()
