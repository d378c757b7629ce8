"""GPT: the papers' sizes, bands, kinds of layers, and decoding with many hypotheses."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.analysis.flops import traced_flops
from seqzoo.analysis.parameters import count_parameters
from seqzoo.configuration import load_config
from seqzoo.errors import UserError
from seqzoo.layers.attention import dot_product_attention
from seqzoo.layers.transformer_layers import CausalLayer, Context
from seqzoo.models.gpt import GPTConfig
from seqzoo.parallel.mesh import MeshConfig, build_mesh
from seqzoo.parallel.storage import shardings_of
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.sequence_search import causal_search

# Dense and banded layers in turn, two of each.
TINY = dataclasses.replace(GPTConfig.tiny(), num_layers=4, attention_bands=(0, 2))
NEOX = GPTConfig(
    vocab_size=32, num_layers=2, embed_dim=16, num_heads=2, positions='rotary', rotary_share=0.5,
    parallel_residual=True, tie=False, mlp_activation='gelu', max_length=16,
)  # fmt: skip


def initialized(config, seed=0):
    """Parameters far from zero, drawn by shape: nothing is compiled."""
    shapes = meta.unbox(jax.eval_shape(config.build().init, jax.random.key(0), *inputs(config)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32) / 3, shapes)


def inputs(config, batch=2, length=8):
    return config.example_inputs(batch, length)


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('gpt1', 116_534_784),
        ('gpt2', 124_439_808),
        ('gpt2:medium', 354_823_168),
        ('gpt2:large', 774_030_080),
        ('gpt2:xl', 1_557_611_200),
        ('gpt3:small', 125_226_240),
        ('gpt3:medium', 355_871_744),
        ('gpt3:large', 760_300_032),
        ('gpt3:xl', 1_315_723_264),
        ('gpt3:2_7b', 2_651_553_280),
        ('gpt3:6_7b', 6_658_404_352),
        ('gpt3:13b', 12_853_386_240),
        ('gpt3', 174_604_259_328),
        ('gpt_neox_20b', 20_554_567_680),
        ('gpt_char_shakespeare', 10_646_784 + 256 * 384),  # nanoGPT leaves positions out
    ],
)
def test_configurations_are_as_large_as_the_papers_say(name, expected):
    assert count_parameters(load_config(name).nominal_model()) == expected


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        # Table 2.1 of GPT-3 as it is printed: the counts of table D.1 are 1,320 and 12,850 million.
        ({'num_layers': 24, 'embed_dim': 2048, 'num_heads': 24}, 1_517_123_584),
        ({'num_layers': 40, 'embed_dim': 5140, 'num_heads': 40}, 12_936_488_380),
    ],
)
def test_misprints_would_give_other_counts(changes, expected):
    config = GPTConfig(vocab_size=50_257, max_length=2048, head_dim=128, **changes)
    assert count_parameters(config) == expected


@pytest.mark.parametrize('config', [TINY, NEOX, dataclasses.replace(TINY, norm='post')])
def test_operations_by_formula_are_those_of_the_traced_program(config):
    def forward(tokens):
        model = config.build()
        variables = model.init(jax.random.key(0), tokens)
        return model.apply(variables, model.apply(variables, tokens).features, method='unembed')

    def both(tokens):
        return config.build().init(jax.random.key(0), tokens)

    tokens = jnp.zeros((3, 8), jnp.int32)
    counted = traced_flops(forward, tokens) - traced_flops(both, tokens)
    assert config.flops(3, 8).forward == counted


def test_residual_kernels_start_smaller_the_deeper_the_network():
    config = dataclasses.replace(TINY, embed_dim=64, mlp_dim=256, num_layers=8)
    for deep in (config, dataclasses.replace(config, residual_init_std=0.005)):
        assert (deep.init_std, deep.residual_std) == (0.02, 0.005)
    module = CausalLayer(config.layers()[0])
    x = jnp.zeros((1, 2, 64))
    tree = meta.unbox(jax.jit(module.init)(jax.random.key(0), x, Context()))['params']
    for kernel in (tree['self_attention']['output'], tree['feed_forward']['down']):
        assert np.std(kernel['kernel']) == pytest.approx(0.005, rel=0.05)
    for kernel in (tree['self_attention']['key'], tree['feed_forward']['up']):
        assert np.std(kernel['kernel']) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(('length', 'band'), [(11, 3), (8, 4)])
def test_blocks_of_a_band_equal_a_mask(length, band):
    rng = np.random.default_rng(0)
    query, key, value = rng.normal(size=(3, 2, length, 2, 4)).astype(np.float32)
    segments = jnp.asarray([[1] * length, [1] * 4 + [2] * (length - 4)])

    @functools.partial(jax.jit, static_argnums=0)
    def attend(band, mask):
        return dot_product_attention(
            query, key, value, mask=mask, query_segments=segments, key_segments=segments,
            causal=True, band=band,
        )  # fmt: skip

    place = np.arange(length)
    near = (place[:, None] - place < band)[None, None]
    np.testing.assert_allclose(attend(band, None), attend(None, near), atol=1e-6)


def test_a_banded_layer_computes_two_bands_of_scores():
    banded = dataclasses.replace(TINY, attention_bands=(4,))
    dense = dataclasses.replace(TINY, attention_bands=(0,))
    short, long = (
        [c.flops(1, length).attention_scores for c in (banded, dense)] for length in (64, 128)
    )
    assert long[0] == 2 * short[0]  # it grows with the length, not with its square
    assert long[1] == 4 * short[1]


def test_a_band_reaches_no_further_than_its_layers_together():
    config = dataclasses.replace(TINY, attention_bands=(2,), num_layers=2)
    model, variables = config.build(), initialized(config)
    (tokens,) = inputs(config)

    @jax.jit
    def features(tokens):
        output: Any = model.apply(variables, tokens)
        return output.features

    change = np.abs(features(tokens.at[:, 1].set(1)) - features(tokens)).max((0, 2)) > 0
    assert change.tolist() == [False, True, True, True, False, False, False, False]


def search(model, variables, prompts, decoding):
    """What a search finds, `[rows, beams, room]`."""
    length = max(map(len, prompts))
    rows = [[*prompt, *[0] * (length - len(prompt))] for prompt in prompts]
    segments = [[int(i < len(prompt)) for i in range(length)] for prompt in prompts]
    batch = {
        'tokens': jnp.asarray(rows), 'segments': jnp.asarray(segments),
        'rows': jnp.arange(len(prompts)),
    }  # fmt: skip
    return jax.jit(causal_search(model, decoding, 32, None))(variables, batch)


PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6]]


@pytest.mark.parametrize(('config', 'method'), [(TINY, 'beam'), (NEOX, 'sample')])
def test_hypotheses_have_the_probability_of_the_full_pass(config, method):
    model, variables = config.build(), initialized(config)
    decoding = Decoding(method=method, beams=3, n_best=3, extra_length=6, stop_at_end=False)
    found = search(model, variables, PROMPTS, decoding)

    @jax.jit
    def log_probs(tokens):
        output: Any = model.apply(variables, tokens)
        return jax.nn.log_softmax(model.apply(variables, output.features, method='unembed'))

    for row, prompt in enumerate(PROMPTS):
        tails = np.asarray(found.tokens[row, :, :6])
        whole = np.concatenate([np.tile(prompt, (3, 1)), tails], axis=1)
        padded = np.pad(whole, ((0, 0), (0, 11 - whole.shape[1])))
        expected = np.take_along_axis(
            np.asarray(log_probs(padded))[:, len(prompt) - 1 :][:, :6], tails[..., None], axis=2
        ).sum((1, 2))
        np.testing.assert_allclose(found.log_probs[row], expected, rtol=1e-4)
        assert len({tuple(tail) for tail in tails}) == 3


@pytest.mark.parametrize('rows', [1, 2])
def test_decoding_writes_a_token_into_the_cache_and_copies_none(rows):
    config = dataclasses.replace(TINY, num_layers=1, attention_bands=(0,))
    model, room = config.build(), 9
    decoding = Decoding(method='greedy', extra_length=room, stop_at_end=False)
    numbers = jax.ShapeDtypeStruct((rows, 4), jnp.int32)
    batch = {'tokens': numbers, 'segments': numbers, 'rows': numbers.update(shape=(rows,))}
    search = jax.jit(causal_search(model, decoding, 32, None))
    text = search.lower(initialized(config), batch).compile().as_text()
    loops, _, _ = text.partition('\nENTRY ')  # outside the loop, caches are made
    touched = [x for x in loops.splitlines() if re.search(rf'= f32\[[\d,]*{4 + room + 1},8\]', x)]
    assert any('dynamic-update-slice' in line for line in touched)
    assert not any(' copy(' in line or ' transpose(' in line for line in touched)


@pytest.mark.slow
def test_kinds_of_layers_in_turn_may_be_scanned_unrolled_or_computed_again():
    variables, (tokens,) = initialized(TINY), inputs(TINY)

    def gradients(**options):
        model = dataclasses.replace(TINY, **options).build()

        @jax.jit
        @jax.grad
        def of_loss(variables):
            output: Any = model.apply(variables, tokens)
            return jnp.square(output.features[..., 0]).mean()

        return of_loss(variables)

    wanted = gradients()
    for options in ({'scan_layers': False}, {'remat': 'full'}):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4),
            gradients(**options),
            wanted,
        )


def test_layers_taken_apart_before_decode_the_same():
    model, variables = TINY.build(), initialized(TINY)
    apart = model.for_decoding(variables)
    (tokens,) = inputs(TINY)

    @jax.jit
    def logits(variables):
        cache = model.apply(variables, 2, 8, method='init_cache')
        return model.apply(variables, tokens, jnp.array([8, 8]), cache, method='extend')[0]

    np.testing.assert_array_equal(logits(apart), logits(variables))


@pytest.mark.parametrize('config', [TINY, NEOX])
def test_attention_weights_come_out_of_every_kind_of_layer(config):
    model, variables = config.build(), initialized(config)
    (tokens,) = inputs(config)
    _, sown = jax.eval_shape(
        lambda: model.apply(variables, tokens, mutable=['intermediates'])  # pyright: ignore
    )
    shapes = [x.shape for x in jax.tree.leaves(sown)]
    kinds = len(config.attention_bands)
    assert shapes == kinds * [(config.num_layers // kinds, 2, 2, 8, 8)]


def test_every_parameter_can_be_split_over_fsdp_and_tensor_axes():
    mesh = build_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    boxed = jax.eval_shape(TINY.build().init, jax.random.key(0), *inputs(TINY))['params']
    found = {
        jax.tree_util.keystr(path[-2:]): placed.spec
        for path, placed in jax.tree_util.tree_leaves_with_path(shardings_of(boxed, mesh))
    }
    assert tuple(found["['query']['kernel']"]) == (None, 'fsdp', 'tensor', None)
    assert tuple(found["['down']['kernel']"]) == (None, 'tensor', 'fsdp')
    assert tuple(found["['embedding']['table']"]) == ('tensor', 'fsdp')


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'num_heads': 7}, 'num_heads 7.*set head_dim'),
        ({'num_layers': 3}, 'names 2 kinds of layers'),
        ({'attention_bands': ()}, 'attention_bands'),
        ({'embed_dim': 0}, 'embed_dim is 0'),
        ({'dropout_rate': 1.0}, 'dropout_rate'),
        ({'norm': 'post', 'parallel_residual': True}, "needs norm 'pre'"),
        ({'positions': 'rotary', 'rotary_share': 1.5}, 'rotary_share is 1.5'),
        ({'attention_implementation': 'cudnn'}, 'attention_dropout_rate to 0'),
    ],
)
def test_impossible_settings_are_refused_with_a_remedy(options, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(TINY, **options)


def test_a_text_longer_than_learned_positions_is_refused():
    tokens = jnp.zeros((1, 17), jnp.int32)
    with pytest.raises(UserError, match='max_length 16'):
        jax.eval_shape(TINY.build().init, jax.random.key(0), tokens)
    jax.eval_shape(NEOX.build().init, jax.random.key(0), tokens)
