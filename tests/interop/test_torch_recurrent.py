"""Our recurrent layers beside torch's: outputs, last states and gradients, on random sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.errors import UserError
from seqzoo.interop.torch_recurrent import export_torch, import_torch
from seqzoo.layers.recurrent import RecurrentConfig, RecurrentStack, length_mask
from seqzoo.layers.recurrent_cells import GRU, LSTM, Elman

torch = pytest.importorskip('torch')

NAMES = ['elman', 'relu', 'lstm', 'projected', 'gru']
# layers, directions, batch, length, input, hidden: drawn once, at random.
SIZES = {'elman': (2, 2, 3, 6, 4, 5), 'relu': (1, 1, 2, 5, 3, 7), 'lstm': (3, 1, 4, 7, 6, 5)}
SIZES |= {'projected': (2, 2, 3, 5, 4, 6), 'gru': (2, 2, 5, 8, 3, 4)}


def pair(name, seed=0):
    """A torch module, and the configuration that is the same network."""
    layers, directions, *_, inputs, hidden = SIZES[name]
    torch.manual_seed(seed)
    common = {'batch_first': True, 'bidirectional': directions == 2, 'num_layers': layers}
    module, cell = {
        'elman': lambda: (torch.nn.RNN, Elman(hidden_dim=hidden, biases=2)),
        'relu': lambda: (torch.nn.RNN, Elman(hidden_dim=hidden, biases=2, activation='relu')),
        'lstm': lambda: (torch.nn.LSTM, LSTM(hidden_dim=hidden, biases=2)),
        'projected': lambda: (
            torch.nn.LSTM,
            LSTM(hidden_dim=hidden, biases=2, projection_dim=hidden - 2),
        ),
        'gru': lambda: (torch.nn.GRU, GRU(hidden_dim=hidden, biases=2)),
    }[name]()
    extra = {'nonlinearity': 'relu'} if name == 'relu' else {}
    extra |= {'proj_size': hidden - 2} if name == 'projected' else {}
    config = RecurrentConfig(
        cell=cell,
        num_layers=layers,
        directions='concatenated' if directions == 2 else 'forward',
    )
    return module(inputs, hidden, **common, **extra), config


def weights_of(module):
    return {name: x.detach().numpy() for name, x in module.state_dict().items()}


def states(carry, name):
    """Our carry in torch's order: layers, and directions within them."""
    flat = [one for layer in carry for one in (layer if isinstance(layer, tuple) else (layer,))]
    return np.stack([one[name] for one in flat])


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('ragged', [False, True])
def test_outputs_states_and_gradients_are_those_of_torch(name, ragged):
    module, config = pair(name)
    _, _, batch, length, inputs, _ = SIZES[name]
    rng = np.random.default_rng(1)
    x = rng.normal(size=(batch, length, inputs)).astype(np.float32)
    lengths = rng.integers(1, length + 1, batch) if ragged else np.full(batch, length)
    lengths[0] = length
    theirs_x = torch.tensor(x, requires_grad=True)
    given = theirs_x
    if ragged:
        given = torch.nn.utils.rnn.pack_padded_sequence(
            theirs_x, torch.tensor(lengths), batch_first=True, enforce_sorted=False
        )
    theirs, last = module(given)
    if ragged:
        theirs, _ = torch.nn.utils.rnn.pad_packed_sequence(
            theirs, batch_first=True, total_length=length
        )
    last = dict(zip('hc', last if isinstance(last, tuple) else (last,), strict=False))
    weighting = rng.normal(size=theirs.shape).astype(np.float32)
    loss = (torch.sin(theirs) * torch.tensor(weighting)).sum()
    loss = loss + sum(torch.sin(state).sum() for state in last.values())
    loss.backward()

    stack, params = RecurrentStack(config, jnp.float32), import_torch(weights_of(module), config)
    mask = length_mask(jnp.asarray(lengths), length) if ragged else None

    def objective(params, x):
        result = stack.apply({'params': params}, x, mask=mask)
        total = jnp.sum(jnp.sin(result.features) * weighting)
        for leaf in jax.tree.leaves(result.carry):
            total += jnp.sum(jnp.sin(leaf))
        return total, result

    run = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))
    (value, ours), (d_params, d_x) = run(params, x)
    close = {'rtol': 1e-5, 'atol': 1e-5}
    np.testing.assert_allclose(value, loss.item(), **close)
    np.testing.assert_allclose(ours.features, theirs.detach().numpy(), **close)
    for state, expected in last.items():
        np.testing.assert_allclose(states(ours.carry, state), expected.detach().numpy(), **close)
    np.testing.assert_allclose(d_x, theirs_x.grad.numpy(), **close)
    gradients = export_torch(d_params, config)
    for weight, tensor in module.named_parameters():
        np.testing.assert_allclose(gradients[weight], tensor.grad.numpy(), **close, err_msg=weight)


@pytest.mark.parametrize('name', NAMES)
def test_weights_come_back_as_they_were(name):
    module, config = pair(name, seed=2)
    state = weights_of(module)
    back = export_torch(import_torch(state, config), config)
    assert back.keys() == state.keys()
    for weight, array in state.items():
        np.testing.assert_array_equal(back[weight], array)
    module.load_state_dict({weight: torch.tensor(array) for weight, array in back.items()})


@pytest.mark.parametrize('name', ['lstm', 'gru'])
def test_our_own_weights_run_in_torch(name):
    module, config = pair(name)
    config = dataclasses.replace(config, cell=dataclasses.replace(config.cell, biases=1))
    stack, x = RecurrentStack(config, jnp.float32), jax.random.normal(jax.random.key(0), (2, 5, 6))
    x = x[..., : SIZES[name][4]]
    params = meta.unbox(stack.init(jax.random.key(1), x))['params']
    params = jax.tree.map(lambda p: p + 0.1, params)  # biases too
    state = export_torch(params, config)
    module.load_state_dict({weight: torch.tensor(array) for weight, array in state.items()})
    expected = module(torch.tensor(np.asarray(x)))[0].detach().numpy()
    result = stack.apply({'params': params}, x).features
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    again = import_torch(state, config)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, again)


@pytest.mark.parametrize('name', ['elman', 'lstm', 'gru'])
def test_two_bias_sets_fold_into_one(name):
    module, config = pair(name)
    one = dataclasses.replace(config, cell=dataclasses.replace(config.cell, biases=1))
    x = jax.random.normal(jax.random.key(0), (2, 5, SIZES[name][4]))
    both = [
        RecurrentStack(c, jnp.float32)
        .apply({'params': import_torch(weights_of(module), c)}, x)
        .features
        for c in (config, one)
    ]
    np.testing.assert_allclose(*both, rtol=1e-5, atol=1e-6)


def test_weights_that_do_not_fit_are_refused_with_a_remedy():
    module, config = pair('lstm')
    state = weights_of(module)
    with pytest.raises(UserError, match='weight_ih_l3'):
        import_torch(state, dataclasses.replace(config, num_layers=4))
    with pytest.raises(UserError, match='also hold'):
        import_torch(state, dataclasses.replace(config, num_layers=1))
    with pytest.raises(UserError, match='shape'):
        import_torch(state, dataclasses.replace(config, cell=LSTM(hidden_dim=6)))
    with pytest.raises(UserError, match='biases'):
        import_torch(
            state, dataclasses.replace(config, cell=LSTM(hidden_dim=5, biases=0, forget_bias=0.0))
        )
    for other, word in [
        (GRU(hidden_dim=4, reset='before'), 'reset'),
        (LSTM(hidden_dim=4, peepholes=True), 'peepholes'),
        (LSTM(hidden_dim=4, cell_clip=3.0), 'cell_clip'),
        (LSTM(hidden_dim=4, projection_dim=2, projection_clip=3.0), 'projection_clip'),
    ]:
        with pytest.raises(UserError, match=word):
            export_torch({}, RecurrentConfig(cell=other))
    with pytest.raises(UserError, match='backward alone'):
        export_torch({}, RecurrentConfig(cell=LSTM(hidden_dim=4), directions='backward'))
