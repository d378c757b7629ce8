"""Recurrent language models: the papers' sizes, torch's numbers, regularisation, the mixture."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.analysis.flops import traced_flops
from seqzoo.analysis.parameters import count_parameters
from seqzoo.configuration import load_config
from seqzoo.errors import ConfigError
from seqzoo.layers.factorised import GroupedLSTM
from seqzoo.layers.mixture import MixtureConfig, MixtureOfExperts
from seqzoo.layers.recurrent import RecurrentConfig, RecurrentStack
from seqzoo.layers.recurrent_cells import GRU, LSTM, Elman
from seqzoo.models.recurrent_lm import RecurrentLMConfig

BATCH, LENGTH, VOCAB = 3, 5, 11
TINY = RecurrentLMConfig.tiny()
MIXED = RecurrentLMConfig(
    vocab_size=VOCAB,
    embed_dim=6,
    layers=RecurrentConfig(cell=LSTM(hidden_dim=6), num_layers=3, residual_from=0),
    mixture=MixtureConfig(num_experts=4, top_k=2, mlp_dim=8),
    mixture_after=2,
)


def lm(cell, num_layers=2, **more):
    """A model whose `layers.` are given with that prefix."""
    inner = {k.removeprefix('layers_'): more.pop(k) for k in list(more) if k.startswith('layers_')}
    layers = RecurrentConfig(cell=cell, num_layers=num_layers, **inner)
    return RecurrentLMConfig(layers=layers, **more)


def some_variables(config, seed=0):
    x = config.example_inputs(BATCH, LENGTH)
    shapes = meta.unbox(jax.eval_shape(config.build().init, jax.random.key(0), *x))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32) / 2, shapes)


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('lstm_ptb', 4_651_600),
        ('lstm_ptb:medium', 19_775_200),
        ('lstm_ptb:large', 66_022_000),
        ('awd_lstm_ptb', 24_221_600),
        ('awd_lstm_ptb:wikitext2', 33_556_078),
        ('lstm_char_shakespeare', 240_321),
    ],
)
def test_configurations_are_as_large_as_the_papers_say(name, expected):
    config = load_config(name).nominal_model()
    assert count_parameters(config) == expected
    padded = dataclasses.replace(config, vocab_multiple=128)
    assert count_parameters(padded) == expected


def test_the_character_network_of_d2l_has_its_count():
    config = lm(Elman(hidden_dim=32), 1, vocab_size=28, embed_dim=None)
    assert count_parameters(config) == 2_876


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('lstm_big_lm1b', 151_060_480),
        ('lstm_big_lm1b:f512', 52_494_336),
        ('lstm_big_lm1b:g2', 83_951_616),
        ('lstm_big_lm1b:g4', 50_397_184),
        ('lstm_big_lm1b:g8', 33_619_968),
        ('lstm_moe_lm1b', 272_891_904),
        ('lstm_moe_lm1b:moe_32', 37_781_504),
        ('lstm_moe_lm1b:moe_4', 8_392_704),
        ('lstm_moe_lm1b:lstm_4x512', 8_388_608),
    ],
)
def test_without_table_and_output_they_are_as_large_as_the_papers_say(name, expected):
    config = load_config(name).nominal_model()
    words = config.vocab_size
    assert words == 793_470
    assert count_parameters(config) - words * (config.embed_dim + config.features_dim + 1) == (
        expected
    )


def test_the_compared_networks_cost_the_same():
    names = ['', ':f_lstm', ':g_lstm', ':moe']
    models = [load_config(f'lstm_improvements_ptb{name}').nominal_model() for name in names]
    costs = [model.flops(32, 32).layers for model in models]
    assert max(costs) / min(costs) < 1.01


def test_loss_and_gradients_equal_torch():
    torch = pytest.importorskip('torch')
    from seqzoo.interop.torch_recurrent import import_torch

    config = lm(GRU(hidden_dim=6, biases=2), vocab_size=VOCAB, embed_dim=4)
    torch.manual_seed(0)
    table, out = torch.nn.Embedding(VOCAB, 4), torch.nn.Linear(6, VOCAB)
    recurrent = torch.nn.GRU(4, 6, 2, batch_first=True)
    named = {name: p.detach().numpy() for name, p in recurrent.named_parameters()}
    params = {
        'embedding': {'table': table.weight.detach().numpy()},
        'stack': import_torch(named, config.layers),
        'output': {'kernel': out.weight.detach().numpy().T},
        'logit_bias': out.bias.detach().numpy(),
    }
    tokens = np.random.default_rng(0).integers(VOCAB, size=(BATCH, LENGTH + 1))
    read, wanted = tokens[:, :-1], tokens[:, 1:]
    features, _ = recurrent(table(torch.tensor(read)))
    logits = out(features).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(wanted).flatten())
    expected.backward()
    module = config.build()

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        logits = module.apply(
            {'params': params}, module.apply({'params': params}, read).features, method='unembed'
        )
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[..., None], -1).mean()

    found, gradient = loss(params)
    np.testing.assert_allclose(found, expected.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient['embedding']['table'], table.weight.grad, atol=1e-6)
    np.testing.assert_allclose(gradient['output']['kernel'].T, out.weight.grad, atol=1e-6)
    own = {name: p.grad.numpy() for name, p in recurrent.named_parameters()}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        gradient['stack'],
        import_torch(own, config.layers),
    )


def test_the_mixture_lies_between_two_layers_and_its_input_is_added():
    variables, module = some_variables(MIXED), MIXED.build()
    (tokens,) = MIXED.example_inputs(BATCH, LENGTH)
    real = jnp.ones_like(tokens).at[0, 3:].set(0)
    carry = jax.tree.map(lambda x: x + 0.3, module.initial_carry(BATCH))
    found = jax.jit(lambda v, c: module.apply(v, tokens, segments=real, carry=c))(variables, carry)

    def by_hand(params, carry):
        below, above = MIXED.layers.split(2)
        x = params['embedding']['table'][tokens]

        def stack(config, name, x, carry):
            return RecurrentStack(config, jnp.float32).apply(
                {'params': params[name]}, x, mask=real > 0, carry=carry
            )

        first = stack(below, 'stack', x, carry[:2])
        mixture = MixtureOfExperts(MIXED.mixture, jnp.float32)
        mixed = mixture.apply({'params': params['mixture']}, first.features, mask=real > 0)
        h = first.features + 1 / (1 + jnp.exp(-mixed.features))
        second = stack(above, 'upper_stack', h, carry[2:])
        return second.features, first.carry + second.carry, mixed.losses

    expected = jax.jit(by_hand)(variables['params'], carry)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        (found.features, found.carry, found.losses),
        expected,
    )
    assert set(found.losses) == {'importance', 'load'}


@pytest.mark.parametrize('residual_from', [1, 2])
def test_a_stack_split_in_two_does_what_the_whole_one_does(residual_from):
    config = RecurrentConfig(
        cell=GRU(hidden_dim=4), num_layers=3, hidden_dims=(4, 4, 4), residual_from=residual_from,
        dropout_rate=0.1, input_dropout_rate=0.2, output_dropout_rate=0.3,
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(2, 4, 4)).astype(np.float32)
    shapes = jax.eval_shape(RecurrentStack(config, jnp.float32).init, jax.random.key(0), x)
    params = jax.tree.map(lambda s: jnp.full(s.shape, 0.1), meta.unbox(shapes)['params'])
    whole = RecurrentStack(config, jnp.float32).apply({'params': params}, x)
    for at in (1, 2):
        parts = config.split(at)
        assert [part.input_dropout_rate for part in parts] == [0.2, 0.0]
        assert [part.output_dropout_rate for part in parts] == [0.1, 0.3]
        features, names = x, iter(sorted(params))
        for part in parts:
            own = {f'layer_{i}': params[next(names)] for i in range(part.num_layers)}
            features = RecurrentStack(part, jnp.float32).apply({'params': own}, features).features
        np.testing.assert_allclose(features, whole.features, rtol=1e-5)
    with pytest.raises(ConfigError, match='split 3 layers'):
        config.split(3)


def test_activation_losses_are_means_over_real_tokens():
    """As Merity et al. have them; the second over all steps, so that parts of a batch add up."""
    variables, module = some_variables(TINY), TINY.build()
    (tokens,) = TINY.example_inputs(4, LENGTH)
    segments = jnp.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [1, 1, 2, 2, 2], [1, 1, 1, 0, 0]])
    key = jax.random.key(3)

    @jax.jit
    def run(tokens, segments):
        plain = module.apply(variables, tokens, segments=segments)
        trained = module.apply(
            variables, tokens, segments=segments, train=True, rngs={'dropout': key}
        )
        return plain, trained

    plain, trained = run(tokens, segments)
    h, dropped = np.asarray(plain.features), np.asarray(trained.features)
    count = np.count_nonzero(segments) * h.shape[-1]
    change = sum(
        np.sum((h[row, t] - h[row, t - 1]) ** 2)
        for row in range(4)
        for t in range(1, LENGTH)
        if segments[row, t] and segments[row, t] == segments[row, t - 1]
    )
    np.testing.assert_allclose(plain.losses['activation'], 2 * np.sum(h**2) / count, rtol=1e-5)
    np.testing.assert_allclose(plain.losses['temporal_activation'], change / count, rtol=1e-5)
    # While training the first is of the dropped outputs; every fifth or so is zero.
    expected = 2 * np.sum(dropped**2) / count
    np.testing.assert_allclose(trained.losses['activation'], expected, rtol=1e-5)
    assert 0.1 < np.mean(dropped[np.asarray(segments) > 0] == 0) < 0.3
    # Weighted by their tokens, the losses of two halves are those of the whole.
    real = np.count_nonzero(segments, axis=1)
    halves = [run(tokens[i], segments[i])[0].losses for i in (np.array([0, 1]), np.array([2, 3]))]
    for name, whole in plain.losses.items():
        parts = halves[0][name] * real[:2].sum() + halves[1][name] * real[2:].sum()
        np.testing.assert_allclose(parts / real.sum(), whole, rtol=1e-5)


def test_embedding_dropout_drops_a_word_wherever_it_occurs():
    config = lm(
        Elman(hidden_dim=4), 1, vocab_size=VOCAB, embed_dim=None, embedding_dropout_rate=0.5
    )
    variables, module = some_variables(config), config.build()
    tokens = jnp.tile(jnp.arange(VOCAB), (2, 3))

    def inputs(train):
        rngs = {'dropout': jax.random.key(1)}
        return module.apply(variables, tokens, train, rngs=rngs, method='_embed')

    seen = np.asarray(inputs(True)).sum(-1)
    assert set(seen.flat) == {0.0, 2.0}
    np.testing.assert_array_equal(seen, np.tile(seen[0, :VOCAB], (2, 3)))
    np.testing.assert_array_equal(inputs(False), jax.nn.one_hot(tokens, VOCAB))


def test_a_tied_output_is_the_table_of_embeddings():
    config = lm(LSTM(hidden_dim=6), vocab_size=VOCAB, embed_dim=6, tie=True)
    variables = some_variables(config)
    assert set(variables['params']) == {'embedding', 'logit_bias', 'stack'}
    x = np.random.default_rng(0).normal(size=(BATCH, 6)).astype(np.float32)
    logits = config.build().apply(variables, x, method='unembed')
    p = variables['params']
    np.testing.assert_allclose(logits, x @ p['embedding']['table'].T + p['logit_bias'], rtol=1e-5)


@pytest.mark.parametrize('cell', [LSTM(hidden_dim=6), GroupedLSTM(hidden_dim=6, groups=2)])
def test_the_formula_of_operations_equals_the_traced_ones(cell):
    for more in (
        {'embed_dim': 6},
        {'embed_dim': None, 'layers_residual_from': 1},
        {'embed_dim': 6, 'mixture': MixtureConfig(num_experts=4, top_k=2, mlp_dim=512)},
        {
            'embed_dim': 6,
            'mixture': MixtureConfig(
                num_experts=8,
                top_k=2,
                mlp_dim=512,
                dispatch='capacity',
                evaluation_dispatch='dense',
            ),
        },
    ):
        if isinstance(cell, GroupedLSTM) and more['embed_dim'] is None:
            continue  # eleven words do not fall into two groups
        config = lm(cell, vocab_size=VOCAB, **more)
        module, (tokens,) = config.build(), config.example_inputs(BATCH, LENGTH)

        def forward(variables, tokens, module=module):
            rngs = {'dropout': jax.random.key(0)}
            features = module.apply(variables, tokens, train=True, rngs=rngs).features
            return module.apply(variables, features, method='unembed')

        variables = jax.eval_shape(module.init, jax.random.key(0), tokens)
        traced = traced_flops(forward, variables, tokens)
        expected = config.flops(BATCH, LENGTH).forward
        # Sums over the choices of a mixture are products too, where they are traced.
        assert traced == expected if 'mixture' not in more else 1 <= traced / expected < 1.03


def test_show_speaks_of_the_operations_of_training(capsys):
    from seqzoo.__main__ import main

    assert main(['show', 'lstm_improvements_ptb:moe', '--json']) == 0
    shown = json.loads(capsys.readouterr().out)
    # Two layers and the softmax; two of sixteen experts, with places for a quarter more.
    layer = 4 * 256 * (128 + 128) + 256 * 128
    experts = 2 * 1.25 * 2 * 128 * 912 + 2 * 16 * 128
    per_word = 2 * layer + experts + 128 * 10_000
    assert shown['flops_per_step'] == pytest.approx(6 * 32 * 32 * per_word)
    assert main(['show', 'lstm_ptb']) == 0
    assert 'recurrent' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        ({'vocab_size': 0}, 'vocab_size is 0'),
        ({'embed_dim': 5, 'tie': True}, 'embed_dim is 5 and the top layer gives 6'),
        ({'embed_dim': None, 'tie': True}, 'embed_dim is None and'),
        ({'layers_directions': 'summed'}, "reads 'forward'"),
        ({'embedding_dropout_rate': 1.0}, 'embedding_dropout_rate'),
        ({'activation_weight': -1.0}, 'activation_weight'),
        ({'mixture': MIXED.mixture, 'mixture_after': 2}, 'mixture_after is 2 of 2 layers'),
        (
            {'mixture': dataclasses.replace(MIXED.mixture, dispatch='capacity')},
            "evaluation_dispatch to 'dense'",
        ),
    ],
)
def test_impossible_hyperparameters_are_refused_by_name(more, message):
    with pytest.raises(ConfigError, match=message):
        lm(LSTM(hidden_dim=6), **more)


def test_an_open_vocabulary_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match='vocab_size is open'):
        RecurrentLMConfig().build()


@pytest.mark.slow
@pytest.mark.parametrize('name', ['lstm_big_lm1b:g4', 'lstm_moe_lm1b:moe_32', 'awd_lstm_ptb'])
def test_a_network_of_a_papers_size_goes_downhill_with_a_small_vocabulary(name):
    config = dataclasses.replace(load_config(name).model, vocab_size=VOCAB)
    module = config.build()
    (tokens,) = config.example_inputs(2, 4)
    shapes = meta.unbox(jax.eval_shape(module.init, jax.random.key(0), tokens))['params']
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: rng.standard_normal(s.shape, np.float32) * s.shape[0] ** -0.5, shapes
    )

    @jax.jit
    def descend(params):
        def loss(params):
            rngs = {'dropout': jax.random.key(0)}
            output = module.apply({'params': params}, tokens, train=True, rngs=rngs)
            logits = module.apply({'params': params}, output.features, method='unembed')
            log_probs = jax.nn.log_softmax(logits[:, :-1])
            return -jnp.take_along_axis(log_probs, tokens[:, 1:, None], -1).mean()

        before, gradient = jax.value_and_grad(loss)(params)
        length = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradient)))
        return before, loss(jax.tree.map(lambda p, g: p - 0.1 * g / length, params, gradient))

    before, after = descend(params)
    assert np.isfinite(before)
    assert after < before
