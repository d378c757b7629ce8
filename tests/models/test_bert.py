"""BERT against transformers' own: features, both heads and gradients; counts; operations."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.analysis.flops import traced_flops
from seqzoo.analysis.parameters import count_parameters
from seqzoo.layers.inputs import TypedTokens
from seqzoo.models.base import ConfigError
from seqzoo.models.bert import BertConfig, BertPretrainingConfig
from seqzoo.models.labeler import LabelerConfig

if os.environ.get('SEQZOO_REQUIRE_PARITY') == '1':
    import torch
    import transformers
else:
    torch = pytest.importorskip('torch', reason='torch is not installed: make install-parity')
    transformers = pytest.importorskip('transformers')

LARGE = {'num_layers': 24, 'embed_dim': 1024, 'num_heads': 16}
SMALL = BertConfig(
    vocab_size=37,
    max_length=11,
    num_layers=3,
    embed_dim=15,
    num_heads=3,
    mlp_dim=22,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
)
LENGTHS = np.array([9, 5, 1])


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision('highest'):
        yield


def torch_model(config):
    """Theirs, at odd sizes, with every parameter away from its first value."""
    theirs = transformers.BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.embed_dim,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.mlp_dim,
        max_position_embeddings=config.max_length,
        attn_implementation='eager',
    )
    model = transformers.BertForPreTraining(theirs).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def copied(config, state):
    """Our tree with their numbers; `state` maps their names to arrays."""
    heads, dim = config.num_heads, config.embed_dim
    left = dict(state)
    for tied in ('cls.predictions.decoder.weight', 'cls.predictions.decoder.bias'):
        left.pop(tied, None)

    def linear(name):
        return {'kernel': left.pop(f'{name}.weight').T, 'bias': left.pop(f'{name}.bias')}

    def norm(name):
        return {'scale': left.pop(f'{name}.weight'), 'bias': left.pop(f'{name}.bias')}

    def projection(name):
        found = linear(name)
        kernel = found['kernel'].reshape(dim, heads, dim // heads)
        return {'kernel': kernel, 'bias': found['bias'].reshape(heads, dim // heads)}

    def layer(number):
        name = f'bert.encoder.layer.{number}'
        attention = {part: projection(f'{name}.attention.self.{part}') for part in
                     ('query', 'key', 'value')}  # fmt: skip
        output = linear(f'{name}.attention.output.dense')
        output['kernel'] = output['kernel'].reshape(heads, dim // heads, dim)
        return {
            'self_attention': {**attention, 'output': output},
            'self_attention_residual': {
                'layer_norm': norm(f'{name}.attention.output.LayerNorm'),
            },
            'feed_forward': {
                'up': linear(f'{name}.intermediate.dense'),
                'down': linear(f'{name}.output.dense'),
            },
            'feed_forward_residual': {'layer_norm': norm(f'{name}.output.LayerNorm')},
        }

    tables = 'bert.embeddings'
    layers = [layer(number) for number in range(config.num_layers)]
    params = {
        'encoder': {
            'embedding': {'table': left.pop(f'{tables}.word_embeddings.weight')},
            'positions': {'table': left.pop(f'{tables}.position_embeddings.weight')},
            'token_types': left.pop(f'{tables}.token_type_embeddings.weight'),
            'embedding_norm': norm(f'{tables}.LayerNorm'),
            'stack': {'layer': jax.tree.map(lambda *x: np.stack(x), *layers)},
            'pooler': linear('bert.pooler.dense'),
        },
        'transform': linear('cls.predictions.transform.dense'),
        'transform_norm': norm('cls.predictions.transform.LayerNorm'),
        'logit_bias': left.pop('cls.predictions.bias'),
        'next_sentence': linear('cls.seq_relationship'),
    }
    assert not left, f'not copied: {sorted(left)}'
    return params


def arrays_of(named_tensors):
    return {name: tensor.detach().numpy() for name, tensor in named_tensors}


def test_features_heads_and_gradients_are_those_of_transformers():
    theirs, config = torch_model(SMALL), BertPretrainingConfig(encoder=SMALL)
    rng = np.random.default_rng(0)
    # Without token 0, whose row of the table gets no gradient as an input there.
    tokens = rng.integers(1, SMALL.vocab_size, size=(3, 9)).astype(np.int32)
    types = (np.arange(9) >= 4).astype(np.int32) * np.ones((3, 1), np.int32)
    real = np.arange(9) < LENGTHS[:, None]
    weights = [rng.normal(size=s).astype(np.float32) for s in ((3, 9, SMALL.vocab_size), (3, 2))]
    weights[0] *= real[..., None]

    found = theirs(
        input_ids=torch.tensor(tokens, dtype=torch.long),
        token_type_ids=torch.tensor(types, dtype=torch.long),
        attention_mask=torch.tensor(real, dtype=torch.long),
        output_hidden_states=True,
    )
    wanted = [found.prediction_logits, found.seq_relationship_logits]
    (sum((x * torch.tensor(w)).sum() for x, w in zip(wanted, weights, strict=True))).backward()

    module = config.build()
    params = copied(SMALL, arrays_of(theirs.state_dict().items()))
    inputs = TypedTokens(jnp.asarray(tokens), jnp.asarray(types))
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)['params']
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, meta.unbox(shapes))

    @jax.jit
    def run(params):
        output = module.apply({'params': params}, inputs, segments=jnp.asarray(real, jnp.int32))
        logits = module.apply({'params': params}, output.features, method='unembed')
        answers = [logits, output.next_sentence]
        loss = sum(jnp.sum(x * w) for x, w in zip(answers, weights, strict=True))
        return loss, (output.features, *answers)

    gradients, (features, logits, following) = jax.grad(run, has_aux=True)(params)
    last = found.hidden_states[-1].detach().numpy()
    np.testing.assert_allclose(features[real], last[real], atol=1e-4)
    assert not np.any(features[~real])
    np.testing.assert_allclose(logits[real], wanted[0].detach().numpy()[real], atol=1e-4)
    np.testing.assert_allclose(following, wanted[1].detach().numpy(), atol=1e-4)

    slopes = copied(SMALL, arrays_of((n, p.grad) for n, p in theirs.named_parameters()))
    jax.tree.map_with_path(
        lambda path, ours, other: np.testing.assert_allclose(
            ours,
            other,
            atol=1e-4 * max(1.0, np.abs(other).max()),
            err_msg=jax.tree_util.keystr(path),
        ),
        gradients,
        slopes,
    )


@pytest.mark.parametrize(
    ('sizes', 'below', 'with_heads'),
    [({}, 109_482_240, 110_106_428), (LARGE, 335_141_888, 336_226_108)],
)
def test_both_sizes_have_the_parameters_of_the_released_models(sizes, below, with_heads):
    encoder = BertConfig(vocab_size=30_522, **sizes)
    assert count_parameters(encoder) == below
    assert count_parameters(BertPretrainingConfig(encoder=encoder)) == with_heads


def test_operations_by_formula_are_those_of_the_traced_program():
    config = BertPretrainingConfig(encoder=SMALL)
    module, batch, length, predicted = config.build(), 2, 10, 2

    def forward(params, tokens):
        output = module.apply({'params': params}, tokens)
        few = output.features[:, :predicted]
        return module.apply({'params': params}, few, method='unembed'), output.next_sentence

    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    params = meta.unbox(jax.eval_shape(module.init, jax.random.key(0), tokens)['params'])
    assert traced_flops(forward, params, tokens) == config.flops(batch, length).forward


def test_a_classifier_reads_what_the_pooler_makes_of_the_first_position():
    config = LabelerConfig(encoder=SMALL, num_outputs=3)
    (inputs,), module = config.example_inputs(), config.build()

    @jax.jit
    def both(inputs):
        params = meta.unbox(module.init(jax.random.key(0), inputs)['params'])
        below = SMALL.build().apply({'params': params['encoder']}, inputs)
        pooler, head = params['encoder']['pooler'], params['head']
        pooled = jnp.tanh(below.features[:, 0] @ pooler['kernel'] + pooler['bias'])
        by_hand = pooled @ head['kernel'] + head['bias']
        return module.apply({'params': params}, inputs).outputs, by_hand

    np.testing.assert_allclose(*both(inputs), atol=1e-6)
    assert config.backbone == BertPretrainingConfig(encoder=SMALL).backbone == ('encoder',)


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(ConfigError, match='embed_dim 15 is not a multiple of num_heads 2'):
        dataclasses.replace(SMALL, num_heads=2)
    with pytest.raises(ConfigError, match='attention_dropout_rate to 0'):
        BertConfig(attention_implementation='splash')
    with pytest.raises(ConfigError, match=r'set encoder\.pooler'):
        BertPretrainingConfig(encoder=BertConfig(pooler=False))
    with pytest.raises(ConfigError, match='12 positions, but they are learned up to max_length 11'):
        jax.eval_shape(SMALL.build().init, jax.random.key(0), jnp.zeros((1, 12), jnp.int32))
    headless = LabelerConfig(encoder=dataclasses.replace(SMALL, pooler=False), num_outputs=2)
    with pytest.raises(ConfigError, match='choose mean, max or attention'):
        jax.eval_shape(headless.build().init, jax.random.key(0), *headless.example_inputs())


def test_a_network_of_one_kind_of_token_reads_both_texts_as_that_kind():
    config = BertConfig(
        vocab_size=16, max_length=8, num_layers=1, embed_dim=8, num_heads=2, num_token_types=1
    )
    tokens, module = jnp.arange(8, dtype=jnp.int32)[None], config.build()
    variables = module.init(jax.random.key(0), tokens)
    typed = module.apply(variables, TypedTokens(tokens, (tokens > 3).astype(jnp.int32)))
    np.testing.assert_array_equal(typed.features, module.apply(variables, tokens).features)
