"""The Transformer against `torch.nn.Transformer` with copied weights: logits and gradients."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.layers.transformer_layers import Context, DecoderLayer, EncoderLayer
from seqzoo.models.transformer import TransformerConfig

if os.environ.get('SEQZOO_REQUIRE_PARITY') == '1':
    import torch
else:
    torch = pytest.importorskip('torch', reason='torch is not installed: make install-parity')

VOCAB, DIM, MLP, HEADS, LAYERS = 11, 12, 20, 3, 2
SOURCE_LENGTHS, TARGET_LENGTHS = np.array([6, 4]), np.array([5, 3])


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision('highest'):
        yield


def config(norm='post', activation='relu'):
    return TransformerConfig(
        vocab_size=VOCAB,
        num_layers=LAYERS,
        embed_dim=DIM,
        mlp_dim=MLP,
        num_heads=HEADS,
        dropout_rate=0.0,
        norm=norm,
        attention_bias=True,
        mlp_activation=activation,
    )


def torch_layer(kind, norm, activation):
    return kind(
        DIM,
        HEADS,
        MLP,
        dropout=0.0,
        activation=activation,
        layer_norm_eps=1e-6,
        batch_first=True,
        norm_first=norm == 'pre',
    )


def torch_transformer(norm, activation):
    """The paper's stacks: a norm at the end of each only with pre-norm."""
    torch.manual_seed(0)

    def stack(kind, layer):
        final = torch.nn.LayerNorm(DIM, eps=1e-6) if norm == 'pre' else None
        options = {'enable_nested_tensor': False} if kind is torch.nn.TransformerEncoder else {}
        return kind(torch_layer(layer, norm, activation), LAYERS, norm=final, **options)

    model = torch.nn.Transformer(
        DIM,
        HEADS,
        batch_first=True,
        custom_encoder=stack(torch.nn.TransformerEncoder, torch.nn.TransformerEncoderLayer),
        custom_decoder=stack(torch.nn.TransformerDecoder, torch.nn.TransformerDecoderLayer),
    )
    randomize(model)
    return model


def randomize(model):
    """Equal layers, biases of zero and scales of one would hide a mix-up."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def tree(model, value=lambda parameter: parameter.detach().numpy()):
    """Our parameters (or their gradients, by another `value`) of one torch layer."""

    def attention(module):
        kernels = np.split(value(module.in_proj_weight), 3)
        biases = np.split(value(module.in_proj_bias), 3)
        result = {
            name: {'kernel': kernel.T.reshape(DIM, HEADS, -1), 'bias': bias.reshape(HEADS, -1)}
            for name, kernel, bias in zip(('query', 'key', 'value'), kernels, biases, strict=True)
        }
        weight, bias = value(module.out_proj.weight), value(module.out_proj.bias)
        result['output'] = {'kernel': weight.T.reshape(HEADS, -1, DIM), 'bias': bias}
        return result

    def linear(module):
        return {'kernel': value(module.weight).T, 'bias': value(module.bias)}

    def layer_norm(module):
        return {'scale': value(module.weight), 'bias': value(module.bias)}

    names = ['self_attention', 'feed_forward']
    result = {'self_attention': attention(model.self_attn)}
    if hasattr(model, 'multihead_attn'):
        names.insert(1, 'cross_attention')
        result['cross_attention'] = attention(model.multihead_attn)
    result['feed_forward'] = {'up': linear(model.linear1), 'down': linear(model.linear2)}
    for i, name in enumerate(names):
        result[f'{name}_residual'] = {'layer_norm': layer_norm(getattr(model, f'norm{i + 1}'))}
    return result


def full_tree(model, table, value=lambda parameter: parameter.detach().numpy()):
    result = {'embedding': {'table': value(table)}}
    for name in ('encoder', 'decoder'):
        stack = getattr(model, name)
        layers = [tree(layer, value) for layer in stack.layers]
        result[name] = {'layer': jax.tree.map(lambda *x: np.stack(x), *layers)}
        if stack.norm is not None:
            weight, bias = value(stack.norm.weight), value(stack.norm.bias)
            result[f'{name}_norm'] = {'scale': weight, 'bias': bias}
    return result


def paper_positions(length):
    p, i = np.meshgrid(np.arange(length), np.arange(DIM), indexing='ij')
    angles = p / 10000 ** (2 * (i // 2) / DIM)
    return np.where(i % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)


def padding(lengths):
    return np.arange(lengths.max()) >= lengths[:, None]


def close(ours, theirs, tolerance=1e-5):
    jax.tree.map_with_path(
        lambda path, a, b: np.testing.assert_allclose(
            a, b, rtol=1e-5, atol=tolerance * max(1.0, np.abs(b).max()), err_msg=str(path)
        ),
        ours,
        theirs,
    )


@pytest.mark.parametrize(
    ('norm', 'activation'), [('post', 'relu'), ('pre', 'relu'), ('pre', 'gelu')]
)
def test_the_model_and_its_gradients_equal_torch(norm, activation):
    rng = np.random.default_rng(0)
    source, target = (rng.integers(0, VOCAB, (2, n)) for n in (6, 5))
    source_pad, target_pad = padding(SOURCE_LENGTHS), padding(TARGET_LENGTHS)
    direction = rng.normal(size=(2, 5, VOCAB)).astype(np.float32) * ~target_pad[..., None]

    theirs = torch_transformer(norm, activation)
    table = torch.nn.Parameter(0.3 * torch.randn(VOCAB, DIM))

    def embed(tokens):
        x = table[torch.from_numpy(tokens)] * DIM**0.5
        return x + torch.from_numpy(paper_positions(tokens.shape[1]))

    features = theirs(
        embed(source),
        embed(target),
        tgt_mask=torch.triu(torch.ones(5, 5, dtype=torch.bool), 1),
        src_key_padding_mask=torch.from_numpy(source_pad),
        memory_key_padding_mask=torch.from_numpy(source_pad),
    )
    logits = features @ table.T
    (logits * torch.from_numpy(direction)).sum().backward()

    model = config(norm, activation).build()

    @jax.jit
    def run(params):
        def loss(params):
            output = model.apply(
                {'params': params},
                jnp.asarray(source),
                jnp.asarray(target),
                source_segments=jnp.asarray(~source_pad, jnp.int32),
                target_segments=jnp.asarray(~target_pad, jnp.int32),
            )
            logits = model.apply({'params': params}, output.features, method='unembed')
            return (logits * direction).sum(), logits

        return jax.value_and_grad(loss, has_aux=True)(params)

    params = full_tree(theirs, table)
    expected = meta.unbox(
        jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(source), jnp.asarray(target))
    )['params']
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, expected)  # nothing is missing

    (_, ours), gradients = run(params)
    close(np.asarray(ours)[~target_pad], logits.detach().numpy()[~target_pad])
    close(gradients, full_tree(theirs, table, lambda parameter: parameter.grad.numpy()))


@pytest.mark.parametrize('norm', ['post', 'pre'])
def test_single_layers_and_their_gradients_equal_torch(norm):
    rng = np.random.default_rng(1)
    source, target = (rng.normal(size=(2, n, DIM)).astype(np.float32) for n in (6, 5))
    source_pad = padding(SOURCE_LENGTHS)
    segments = jnp.asarray(~source_pad, jnp.int32)
    layer = config(norm).layer()

    encoder = torch_layer(torch.nn.TransformerEncoderLayer, norm, 'relu')
    decoder = torch_layer(torch.nn.TransformerDecoderLayer, norm, 'relu')
    randomize(encoder)
    randomize(decoder)
    x, y = (torch.from_numpy(a).requires_grad_() for a in (source, target))
    memory = encoder(x, src_key_padding_mask=torch.from_numpy(source_pad))
    expected = decoder(
        y,
        memory,
        tgt_mask=torch.triu(torch.ones(5, 5, dtype=torch.bool), 1),
        memory_key_padding_mask=torch.from_numpy(source_pad),
    )
    expected.square().mean().backward()

    @jax.jit
    def run(params, x, y):
        def loss(params, x, y):
            memory = EncoderLayer(layer).apply({'params': params[0]}, x, Context(segments))
            context = Context(jnp.ones((2, 5), jnp.int32), memory, segments)
            result = DecoderLayer(layer).apply({'params': params[1]}, y, context)
            return jnp.square(result).mean(), (result, memory)

        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, x, y)

    (_, results), gradients = run((tree(encoder), tree(decoder)), source, target)
    close(results[0], expected.detach().numpy())
    close(np.asarray(results[1])[~source_pad], memory.detach().numpy()[~source_pad])
    grad = lambda parameter: parameter.grad.numpy()  # noqa: E731
    close(gradients, ((tree(encoder, grad), tree(decoder, grad)), grad(x), grad(y)))
