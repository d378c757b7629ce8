"""Operations by formula, by tracing, and by XLA."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from seqzoo.analysis.chips import peak_flops_per_second
from seqzoo.analysis.flops import (
    humanize,
    model_flops_utilization,
    render_flops,
    traced_flops,
)
from seqzoo.models.flops import (
    Flops,
    attention_flops,
    feed_forward_flops,
    logits_flops,
    matmul_flops,
)
from seqzoo.models.transformer import TransformerConfig
from seqzoo.models.transformer_flops import transformer_flops

CONFIG = TransformerConfig(
    vocab_size=200,
    num_encoder_layers=3,
    num_decoder_layers=2,
    embed_dim=64,
    mlp_dim=96,
    num_heads=4,
    key_dim=8,
    value_dim=24,
    attention_implementation='xla',
)
BATCH, SOURCE, TARGET = 2, 24, 40


def forward_arguments(config):
    model = config.build()
    source, target = (jnp.zeros((BATCH, length), jnp.int32) for length in (SOURCE, TARGET))
    variables = jax.eval_shape(model.init, jax.random.key(0), source, target)

    def forward(variables, source, target):
        features = model.apply(variables, source, target).features
        return model.apply(variables, features, method='unembed')

    return forward, jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
        (variables, source, target),
    )


def test_a_product_costs_two_operations_per_term():
    assert matmul_flops(3, 5, 7) == 210


def test_attention_by_hand():
    flops = attention_flops(
        batch=2, query_length=3, key_length=5, embed_dim=8, num_heads=2, key_dim=4, value_dim=6
    )
    query, key, value = 2 * 6 * 8 * 8, 2 * 10 * 8 * 8, 2 * 10 * 8 * 12
    output = 2 * 6 * 12 * 8
    assert flops.attention_projections == query + key + value + output
    assert flops.attention_scores == 2 * 2 * (2 * 3 * 5 * 4) + 2 * 2 * (2 * 3 * 5 * 6)
    assert flops.forward == flops.attention_projections + flops.attention_scores


def test_shared_keys_and_values_cost_less():
    sizes = {'batch': 1, 'query_length': 4, 'key_length': 4, 'embed_dim': 8, 'num_heads': 4}
    grouped = attention_flops(**sizes, key_dim=2, value_dim=2, num_kv_heads=1)
    full = attention_flops(**sizes, key_dim=2, value_dim=2)
    assert full.attention_scores == grouped.attention_scores
    assert full.attention_projections - grouped.attention_projections == 2 * 4 * 8 * (4 * 3)


def test_feed_forward_and_logits_by_hand():
    assert feed_forward_flops(tokens=5, embed_dim=3, mlp_dim=7).feed_forward == 2 * 2 * 5 * 3 * 7
    gated = feed_forward_flops(tokens=5, embed_dim=3, mlp_dim=7, gated=True)
    assert gated.feed_forward == 3 * 2 * 5 * 3 * 7
    assert logits_flops(tokens=5, embed_dim=3, vocab_size=11).logits == 2 * 5 * 3 * 11


def test_the_base_transformer_by_hand():
    # 32 sentences of 32 + 32 tokens, vocabulary 8,192: 12 self-attentions, 6 cross-attentions
    flops = transformer_flops(
        TransformerConfig(vocab_size=8192), batch=32, source_length=32, target_length=32
    )
    tokens = 32 * 32
    assert flops.attention_projections == 18 * 4 * 2 * tokens * 512 * 512
    assert flops.attention_scores == 18 * 2 * 2 * tokens * 32 * 512
    assert flops.feed_forward == 12 * 2 * 2 * tokens * 512 * 2048
    assert flops.logits == 2 * tokens * 512 * 8192
    assert flops.embedding == 0


def test_training_is_three_forward_passes_and_remat_runs_the_layers_again():
    flops = Flops(embedding=1, attention_scores=10, feed_forward=100, logits=1000)
    assert flops.training() == 3 * 1111
    assert flops.training(remat=True) == 3 * 1111 + 110


def test_flops_add_and_scale_by_part():
    one = Flops(attention_scores=1, logits=2)
    assert 3 * one + Flops(logits=1) == Flops(attention_scores=3, logits=7)


def test_open_vocabulary_is_refused():
    with pytest.raises(ValueError, match='vocab_size'):
        transformer_flops(TransformerConfig(), batch=1, source_length=1, target_length=1)


@pytest.mark.parametrize('scan', [True, False])
def test_the_formula_equals_the_matrix_products_in_the_traced_transformer(scan):
    config = dataclasses.replace(CONFIG, scan_layers=scan)
    forward, arguments = forward_arguments(config)
    expected = transformer_flops(config, batch=BATCH, source_length=SOURCE, target_length=TARGET)
    assert traced_flops(forward, *arguments) == expected.forward


def test_the_formula_agrees_with_xla_where_xla_sees_every_layer():
    config = dataclasses.replace(CONFIG, scan_layers=False)
    forward, arguments = forward_arguments(config)
    analysis = jax.jit(forward).lower(*arguments).cost_analysis()
    expected = transformer_flops(config, batch=BATCH, source_length=SOURCE, target_length=TARGET)
    # XLA also counts normalization, softmax and activations.
    assert 1.0 <= analysis['flops'] / expected.forward < 1.06


def test_a_traced_gradient_costs_what_training_is_said_to_cost():
    forward, arguments = forward_arguments(CONFIG)

    def loss(*args):
        return jnp.sum(forward(*args) ** 2)

    expected = transformer_flops(CONFIG, batch=BATCH, source_length=SOURCE, target_length=TARGET)
    traced = traced_flops(jax.grad(loss, allow_int=False), *arguments)
    assert traced == pytest.approx(expected.training(), rel=0.01)


def test_a_traced_scan_is_charged_for_every_iteration():
    def deep(x, w):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

    x, w = jax.ShapeDtypeStruct((2, 8), jnp.float32), jax.ShapeDtypeStruct((5, 8, 8), jnp.float32)
    assert traced_flops(deep, x, w) == 5 * 2 * 2 * 8 * 8
    assert traced_flops(jax.jit(jax.checkpoint(deep)), x, w) == 5 * 2 * 2 * 8 * 8


def test_of_a_traced_cond_the_dearest_branch_counts():
    def either(p, x):
        return jax.lax.cond(p, lambda x: x @ x, lambda x: x, x)

    x = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    assert traced_flops(either, jax.ShapeDtypeStruct((), bool), x) == 2 * 4**3


@pytest.mark.parametrize('groups', [1, 2])
def test_a_traced_convolution_by_hand(groups):
    convolve = partial(
        jax.lax.conv_general_dilated,
        window_strides=(1,),
        padding='VALID',
        dimension_numbers=('NWC', 'WIO', 'NWC'),
        feature_group_count=groups,
    )
    x = jax.ShapeDtypeStruct((2, 10, 4), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 4 // groups, 6), jnp.float32)
    # [batch, 8 positions, 6 channels], each over 3 taps and its group's input channels
    assert traced_flops(convolve, x, kernel) == 2 * (2 * 8 * 6) * 3 * (4 // groups)


def test_utilization_is_a_share_of_the_peak_of_all_devices():
    share = model_flops_utilization(10**12, 0.5, num_devices=4, peak_per_device=1e12)
    assert math.isclose(share, 0.5)


def test_peaks_are_known_by_the_names_that_devices_report():
    assert peak_flops_per_second('TPU v5 lite') == 197e12
    assert peak_flops_per_second('TPU v5') == 459e12
    assert peak_flops_per_second('NVIDIA H100 80GB HBM3') == 989e12
    assert peak_flops_per_second('cpu') is None
    assert peak_flops_per_second('NVIDIA L40S') is None


@pytest.mark.parametrize(
    ('count', 'text'),
    [(0, '0 FLOP'), (999, '999 FLOP'), (1500, '1.50 kFLOP'), (141_733_920_768, '141.73 GFLOP')],
)
def test_counts_are_printed_with_a_unit(count, text):
    assert humanize(count) == text


def test_the_printed_table_has_the_parts_that_exist():
    text = render_flops(Flops(attention_scores=250, logits=750), remat=True)
    assert 'attention scores' in text
    assert '25.0 %' in text
    assert 'recurrent' not in text
    assert text.splitlines()[-1].split()[-3:] == ['kFLOP', '325.0', '%']
