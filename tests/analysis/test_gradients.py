"""Gradients through time: products of Jacobians by hand, and the same inside whole models."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.__main__ import main
from seqzoo.analysis.gradient_pictures import (
    curves_of_cells,
    gradient_picture,
    gradient_rows,
    gradient_table,
)
from seqzoo.analysis.gradients import (
    GradientsThroughTime,
    gradients_of_layer,
    gradients_of_model,
)
from seqzoo.data.memory_problems import Adding, CopyMemory
from seqzoo.errors import UserError
from seqzoo.layers.inputs import Numbers, Tokens
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM, Elman
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.tasks.memory import AddingTask, CopyTask

ROWS, LENGTH, INPUT, HIDDEN = 2, 7, 3, 4
RNG = np.random.default_rng(0)


def drawn(cell, input_dim=INPUT):
    """Parameters of a cell, none of them zero."""
    weights = cell.weights(input_dim)
    return {name: RNG.normal(size=w.shape).astype(np.float32) for name, w in weights.items()}


def norm(*arrays):
    return np.sqrt(sum(np.sum(np.square(a)) for a in arrays))


@pytest.mark.parametrize('activation', ['tanh', 'relu'])
def test_of_a_simple_network_they_are_the_recursion_unrolled_by_hand(activation):
    cell = Elman(hidden_dim=HIDDEN, activation=activation)
    params, x = drawn(cell), RNG.normal(size=(ROWS, LENGTH, INPUT)).astype(np.float32)
    direction = RNG.normal(size=(ROWS, HIDDEN)).astype(np.float32)
    found = gradients_of_layer(cell, params, jnp.asarray(x), jnp.asarray(direction))

    w, u, b = (params[k].astype(float) for k in ('input_kernel', 'recurrent_kernel', 'input_bias'))
    w, u, b = w[:, 0], u[:, 0], b[0]
    norms = np.zeros((ROWS, LENGTH + 1))
    d_w, d_u, d_b = np.zeros_like(w), np.zeros_like(u), np.zeros_like(b)
    for row in range(ROWS):
        states = [np.zeros(HIDDEN)]
        for t in range(LENGTH):
            total = x[row, t] @ w + states[-1] @ u + b
            states.append(np.tanh(total) if activation == 'tanh' else np.maximum(total, 0))
        gradient = direction[row].astype(float)
        norms[row, 0] = norm(gradient)
        for back in range(LENGTH):
            t = LENGTH - back
            slope = 1 - states[t] ** 2 if activation == 'tanh' else states[t] > 0
            # J_t = d s_t / d s_{t-1} = U diag(slope), a row of `gradient` on its right
            at_total = gradient * slope
            d_w += np.outer(x[row, t - 1], at_total)
            d_u += np.outer(states[t - 1], at_total)
            d_b += at_total
            gradient = at_total @ u.T
            norms[row, back + 1] = norm(gradient)
    np.testing.assert_allclose(found.norms, norms.mean(axis=0), rtol=2e-5)
    np.testing.assert_allclose(found.parameters, norm(d_w, d_u, d_b) / ROWS, rtol=2e-5)


def lstm_output(params, x, states, start):
    """`h` after the last step, from the state before step `start`, in float64."""
    h, c = states
    w, u, b = (params[k].astype(float) for k in ('input_kernel', 'recurrent_kernel', 'input_bias'))
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    before = [(h, c)]
    for t in range(start, len(x)):
        i, f, g, o = np.einsum('i,igh->gh', x[t], w) + np.einsum('i,igh->gh', h, u) + b
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        before.append((h, c))
    return h, before


def test_of_an_lstm_they_are_differences_of_the_loss_over_both_parts_of_the_state():
    cell = LSTM(hidden_dim=HIDDEN)
    params, x = drawn(cell), RNG.normal(size=(1, LENGTH, INPUT)).astype(np.float32)
    direction = RNG.normal(size=(1, HIDDEN)).astype(np.float32)
    found = gradients_of_layer(cell, params, jnp.asarray(x), jnp.asarray(direction))
    zeros, step = np.zeros(HIDDEN), 1e-6
    _, states = lstm_output(params, x[0], (zeros, zeros), 0)
    for back in range(1, LENGTH + 1):
        t = LENGTH - back
        gradient = []
        for part in range(2):
            for unit in range(HIDDEN):
                ends = []
                for sign in (-1, 1):
                    state = [s.copy() for s in states[t]]
                    state[part][unit] += sign * step
                    ends.append(lstm_output(params, x[0], state, t)[0] @ direction[0])
                gradient.append((ends[1] - ends[0]) / (2 * step))
        np.testing.assert_allclose(found.norms[back], norm(np.array(gradient)), rtol=1e-4)


def model_and_batch(task, inputs, lengths, cell, **changes):
    layers = RecurrentConfig(cell=cell)
    encoder = RecurrentEncoderConfig(inputs=inputs, layers=dataclasses.replace(layers, **changes))
    per = 'sequence' if isinstance(task, AddingTask) else 'step'
    config = task.nominal_model(LabelerConfig(encoder=encoder, per=per))
    model = config.build()
    variables = meta.unbox(jax.jit(model.init)(jax.random.key(0), *config.example_inputs()))
    table = task.encode(task.corpus.draw('dev'), {})
    steps = int(table.lengths[0])
    rows = range(len(lengths))
    batch = {
        'inputs': np.stack([table.columns['inputs'][row] for row in rows]),
        'segments': (np.arange(steps) < np.array(lengths)[:, None]).astype(np.int32),
        'weight': np.ones(len(lengths), np.float32),
        'rows': np.arange(len(lengths)),
    }
    target = table.columns['target']
    is_sum = isinstance(task, AddingTask)
    batch['target'] = np.stack([target.values[row] if is_sum else target[row] for row in rows])
    return model, variables, batch


def test_inside_a_model_each_sequence_counts_back_from_its_own_end():
    task, cell = AddingTask(corpus=Adding(length=LENGTH)), Elman(hidden_dim=HIDDEN)
    model, variables, batch = model_and_batch(task, Numbers(), (LENGTH, 4), cell)
    found = gradients_of_model(task, model, variables, batch)['encoder/stack']
    layer = variables['params']['encoder']['stack']['layer_0']
    kernel = variables['params']['head']['kernel'][:, 0]
    outputs = model.apply(variables, batch['inputs'], segments=batch['segments']).outputs[:, 0]
    norms = np.full((2, LENGTH + 1), np.nan)
    for row, length in enumerate((LENGTH, 4)):
        # d (o - y)^2 / d h_T
        direction = 2 * (outputs[row] - batch['target'][row]) * kernel
        alone = gradients_of_layer(
            cell, layer, jnp.asarray(batch['inputs'][row : row + 1, :length]), direction[None]
        )
        norms[row, : length + 1] = alone.norms
    np.testing.assert_allclose(found.norms, np.nanmean(norms, axis=0), rtol=1e-5)


def test_only_the_loss_of_the_last_real_step_counts():
    task, cell = CopyTask(corpus=CopyMemory(length=2)), LSTM(hidden_dim=4)
    lengths = (22, 9)
    model, variables, batch = model_and_batch(task, Tokens(embed_dim=3), lengths, cell)
    found = gradients_of_model(task, model, variables, batch)['encoder/stack']
    params = variables['params']
    outputs = model.apply(variables, batch['inputs'], segments=batch['segments']).outputs
    (table,) = jax.tree.leaves(params['encoder']['reader'])
    layer = params['encoder']['stack']['layer_0']
    norms = np.full((2, 23), np.nan)
    for row, length in enumerate(lengths):
        # d cross-entropy of the last step / d h
        error = jax.nn.softmax(outputs[row, length - 1])
        error -= jax.nn.one_hot(batch['target'][row, length - 1], 10)
        direction = params['head']['kernel'] @ error
        x = table[batch['inputs'][row : row + 1, :length]]
        norms[row, : length + 1] = gradients_of_layer(cell, layer, x, direction[None]).norms
    np.testing.assert_allclose(found.norms, np.nanmean(norms, axis=0), rtol=1e-5)


def test_layers_that_read_both_ways_have_no_last_state():
    task = AddingTask(corpus=Adding(length=4))
    made = model_and_batch(task, Numbers(), (4,), Elman(hidden_dim=2), directions='concatenated')
    with pytest.raises(UserError, match='no recurrent layers that read forward'):
        gradients_of_model(task, *made)


def test_clipping_scales_what_is_too_large_and_nothing_else():
    found = GradientsThroughTime(np.array([1.0, 10.0, 100.0]), parameters=50.0)
    np.testing.assert_allclose(found.clipped(5.0).norms, [0.1, 1.0, 10.0])
    assert found.clipped(5.0).parameters == 5.0
    np.testing.assert_array_equal(found.clipped(60.0).norms, found.norms)


@pytest.fixture
def curves():
    back = np.arange(61)
    return {
        'vanishing': {'a': GradientsThroughTime(0.8**back, 2.0)},
        'exploding': {
            'a': GradientsThroughTime(1.5**back, 4e10),
            'b': GradientsThroughTime(np.where(back < 30, 0.1**back, 0.0), 1.0),
        },
    }


def test_the_table_has_the_factor_of_a_step_and_what_clipping_takes(curves):
    rows = gradient_rows(curves, clip=2.0)
    assert [round(row['per_step'], 6) for row in rows] == [0.8, 1.5, 0.1]
    assert rows[1]['back'].keys() == {'1', '10', '50', '60'}
    assert rows[1]['back']['50'] == pytest.approx(1.5**50)
    assert [row['clipped_by'] for row in rows] == [1.0, pytest.approx(5e-11), 1.0]
    table = gradient_table(curves, legend='line', clip=2.0).splitlines()
    assert len(table) == 2 + 3
    assert table[3].startswith('| exploding | a | 1.5 | 58 |')
    json.dumps(rows)


def test_the_picture_is_logarithmic_and_dashes_what_clipping_leaves(curves, tmp_path):
    figure = gradient_picture(curves, tmp_path / 'g.png', title='t', legend='line', clip=2.0)
    assert (tmp_path / 'g.png').read_bytes().startswith(b'\x89PNG')
    left, right = figure.axes[:2]
    assert left.get_yscale() == 'log'
    assert [line.get_linestyle() for line in left.lines] == ['-', '-']  # and the line at 1
    dashed = [line for line in right.lines if line.get_linestyle() == '--']
    np.testing.assert_allclose(dashed[0].get_ydata(), 1.5 ** np.arange(61) * 5e-11)
    assert right.get_title(loc='left') == 'exploding: 0.10 to 1.50 times a step'


def test_a_cell_is_drawn_at_every_scale():
    found = curves_of_cells({'Elman': Elman(hidden_dim=8)}, gains=(0.5, 4.0), steps=12)
    small, large = found['Elman'].values()
    assert small.norms[0] == pytest.approx(1.0)
    assert small.norms[-1] < 1e-3 < 1 < large.norms[-1]


@pytest.mark.parametrize(
    ('arguments', 'words'), [([], 'missing: R'), (['--gradients'], 'say with --output')]
)
def test_plot_says_what_is_missing(arguments, words, capsys):
    assert main(['plot', *arguments]) == 2
    assert words in capsys.readouterr().err
