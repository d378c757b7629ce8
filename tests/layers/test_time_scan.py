"""The scan over time: equations against NumPy, its gradient against autodiff and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.layers.factorised import FactorisedLSTM, GroupedLSTM
from seqzoo.layers.recurrent import RecurrentLayer, length_mask
from seqzoo.layers.recurrent_cells import GRU, LSTM, Elman
from seqzoo.layers.time_scan import Control, boundaries, time_scan

BATCH, LENGTH, INPUT, HIDDEN = 3, 6, 4, 8
CELLS = {
    'elman': Elman(hidden_dim=HIDDEN),
    'lstm': LSTM(hidden_dim=HIDDEN),
    'peepholes': LSTM(hidden_dim=HIDDEN, peepholes=True, biases=2),
    'everything': LSTM(hidden_dim=HIDDEN, peepholes=True, projection_dim=6, layer_norm=True),
    'gru_after': GRU(hidden_dim=HIDDEN),
    'gru_before': GRU(hidden_dim=HIDDEN, reset='before'),
    'factorised': FactorisedLSTM(hidden_dim=HIDDEN, rank=3, projection_dim=6),
    'grouped': GroupedLSTM(hidden_dim=HIDDEN, groups=2, projection_dim=6),
}


def sigmoid(x):
    return 1 / (1 + jnp.exp(-x))


def normal(x, epsilon=1e-6):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + epsilon)


def by_gate(kernel, value):
    """`[batch, in]` and `[in, gates, hidden]` -> one `[batch, hidden]` per gate."""
    return [value @ kernel[:, gate] for gate in range(kernel.shape[1])]


def one_step(cell, p, x, h, c):
    """A step as the papers write it, gate by gate, independent of ours but for the parameters."""
    both = p.get('input_bias', 0.0) + p.get('recurrent_bias', 0.0)
    bias = list(both) if np.ndim(both) else [0.0] * 4
    if isinstance(cell, Elman):
        total = by_gate(p['input_kernel'], x)[0] + by_gate(p['recurrent_kernel'], h)[0] + bias[0]
        return (jnp.tanh(total) if cell.activation == 'tanh' else jnp.maximum(total, 0)), c
    if isinstance(cell, GRU):
        (xr, xz, xn) = by_gate(p['input_kernel'], x)
        w = p['recurrent_kernel']
        r = sigmoid(xr + h @ w[:, 0] + bias[0])
        z = sigmoid(xz + h @ w[:, 1] + bias[1])
        if cell.reset == 'before':
            n = jnp.tanh(xn + (r * h) @ w[:, 2] + bias[2])
        else:
            inner = p['candidate_bias'] if cell.biases == 1 else p['recurrent_bias'][2]
            n = jnp.tanh(xn + p['input_bias'][2] + r * (h @ w[:, 2] + inner))
        return (1 - z) * n + z * h, c
    if isinstance(cell, FactorisedLSTM):
        inner = jnp.concatenate([x, h], -1) @ jnp.concatenate(
            [p['input_kernel'], p['recurrent_kernel']]
        )
        gates = by_gate(p['gate_kernel'], inner)
    elif isinstance(cell, GroupedLSTM):
        gates = [[] for _ in range(4)]
        for group in range(cell.groups):
            own_x, own_h = (jnp.split(v, cell.groups, -1)[group] for v in (x, h))
            for gate in range(4):
                gates[gate].append(
                    own_x @ p['input_kernel'][:, group, gate]
                    + own_h @ p['recurrent_kernel'][:, group, gate]
                )
        gates = [jnp.concatenate(parts, -1) for parts in gates]
    elif cell.layer_norm:
        joined = [
            normal(jnp.concatenate(by_gate(kernel, value), -1)) * p[scale].reshape(-1)
            for kernel, value, scale in (
                (p['input_kernel'], x, 'input_norm_scale'),
                (p['recurrent_kernel'], h, 'recurrent_norm_scale'),
            )
        ]
        gates = jnp.split(joined[0] + joined[1], 4, -1)
    else:
        pairs = zip(by_gate(p['input_kernel'], x), by_gate(p['recurrent_kernel'], h), strict=True)
        gates = [a + b for a, b in pairs]
    i, f, g, o = (gate + one for gate, one in zip(gates, bias, strict=True))
    if cell.peepholes:
        i, f = i + p['peepholes'][0] * c, f + p['peepholes'][1] * c
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    if cell.peepholes:
        o = o + p['peepholes'][2] * c
    seen = normal(c) * p['cell_norm_scale'] + p['cell_norm_bias'] if cell.layer_norm else c
    h = sigmoid(o) * jnp.tanh(seen)
    return (h @ p['projection_kernel'] if cell.projection_dim else h), c


def by_autodiff(cell, params, x, carry, mask, fresh):
    """A plain scan, which jax differentiates."""

    def body(state, now):
        x, keep, new = now
        begin = {name: jnp.where(new[:, None], 0.0, leaf) for name, leaf in state.items()}
        h, c = one_step(cell, params, x, begin['h'], begin.get('c'))
        after = {'h': h, 'c': c} if 'c' in state else {'h': h}
        state = {name: jnp.where(keep[:, None], after[name], state[name]) for name in state}
        return state, jnp.where(keep[:, None], state['h'], 0.0)

    sequences = [jnp.swapaxes(a, 0, 1) for a in (x, mask, fresh)]
    last, outputs = jax.lax.scan(body, carry, tuple(sequences))
    return jnp.swapaxes(outputs, 0, 1), last


def example(cell, seed=0):
    """A layer with parameters none of which is zero, an input and a carry."""
    layer = RecurrentLayer(cell, jnp.float32)
    keys = jax.random.split(jax.random.key(seed), 4)
    x = jax.random.normal(keys[0], (BATCH, LENGTH, INPUT))
    params = meta.unbox(jax.jit(layer.init)(keys[1], x))['params']
    leaves, tree = jax.tree.flatten(params)
    noise = jax.random.split(keys[2], len(leaves))
    shaken = [p + 0.2 * jax.random.normal(k, p.shape) for p, k in zip(leaves, noise, strict=True)]
    carry = {
        name: 0.5 * jax.random.normal(jax.random.fold_in(keys[3], i), leaf.shape)
        for i, (name, leaf) in enumerate(cell.initial_carry(BATCH).items())
    }
    return layer, jax.tree.unflatten(tree, shaken), x, carry


SEGMENTS = jnp.array([[1, 1, 1, 1, 1, 1], [0, 1, 1, 2, 2, 0], [1, 2, 0, 0, 3, 3]])
FRESH = jnp.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0]], bool)


# torch is compared with the others in tests/interop.
@pytest.mark.parametrize(
    'name', ['elman', 'peepholes', 'everything', 'gru_after', 'gru_before', 'factorised', 'grouped']
)
def test_the_equations_and_the_gradient_are_those_of_autodiff_over_the_papers_step(name):
    cell = CELLS[name]
    layer, params, x, carry = example(cell)

    def ours(params, x, carry):
        result = layer.apply({'params': params}, x, segments=SEGMENTS, carry=carry)
        return result.features, result.carry

    def theirs(params, x, carry):
        return by_autodiff(cell, params, x, carry, SEGMENTS > 0, FRESH)

    def value(function):
        def total(*arguments):
            results = function(*arguments)
            leaves = jax.tree.leaves(results)
            return sum(jnp.sum(jnp.sin(leaf + i)) for i, leaf in enumerate(leaves)), results

        return jax.value_and_grad(total, (0, 1, 2), has_aux=True)

    def both(*arguments):
        return value(ours)(*arguments), value(theirs)(*arguments)

    found, expected = jax.jit(both)(params, x, carry)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_boundaries_lie_where_a_later_segment_begins_in_either_direction():
    control = boundaries(SEGMENTS)
    np.testing.assert_array_equal(control.keep.T, SEGMENTS > 0)
    np.testing.assert_array_equal(control.fresh.T, FRESH)
    mirrored = boundaries(SEGMENTS[:, ::-1], reverse=True)
    np.testing.assert_array_equal(mirrored.fresh.T[:, ::-1], FRESH)


def test_the_worked_example_of_the_lecture():
    """h = relu(U x + V h0), o = W h."""
    u = jnp.array([[1, 0], [0, 1], [-1, 0]], jnp.float32)
    v = jnp.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], jnp.float32)
    w = jnp.array([1, 0, -1], jnp.float32)
    layer = RecurrentLayer(Elman(hidden_dim=3, activation='relu', biases=0), jnp.float32)
    params = {'input_kernel': u.T[:, None], 'recurrent_kernel': v.T[:, None]}
    start = {'h': jnp.array([[1.0, 0.0, 0.0]])}
    result = layer.apply({'params': params}, jnp.array([[[1.0, 0.0]]]), carry=start)
    np.testing.assert_array_equal(result.features[0, 0], [1, 0, 0])
    np.testing.assert_array_equal(result.carry['h'], [[1, 0, 0]])
    assert result.features[0, 0] @ w == 1


def test_back_propagation_through_time_by_the_lectures_recursion():
    """dL/dh_t = dL_t/dh_t + V^T diag(1 - h_{t+1}^2) dL/dh_{t+1}, dL/dV = sum of outer products."""
    layer, params, x, carry = example(Elman(hidden_dim=HIDDEN))
    u, v = (
        np.asarray(params[f'{name}_kernel'], np.float64)[:, 0].T for name in ('input', 'recurrent')
    )
    bias, h0 = np.asarray(params['input_bias'], np.float64)[0], np.asarray(carry['h'], np.float64)
    xs, h = np.asarray(x, np.float64), [h0]
    for t in range(LENGTH):
        h.append(np.tanh(xs[:, t] @ u.T + h[-1] @ v.T + bias))
    # L = sum over t and units of h_t^2 / 2
    d_h, d_v, d_u = np.zeros_like(h0), np.zeros_like(v), np.zeros_like(u)
    for t in reversed(range(LENGTH)):
        d_total = (1 - h[t + 1] ** 2) * (h[t + 1] + d_h)
        d_v += d_total.T @ h[t]
        d_u += d_total.T @ xs[:, t]
        d_h = d_total @ v

    def loss(params, carry):
        return jnp.sum(jnp.square(layer.apply({'params': params}, x, carry=carry).features)) / 2

    d_params, d_carry = jax.jit(jax.grad(loss, (0, 1)))(params, carry)
    close = {'rtol': 1e-5, 'atol': 1e-5}
    np.testing.assert_allclose(d_params['recurrent_kernel'][:, 0].T, d_v, **close)
    np.testing.assert_allclose(d_params['input_kernel'][:, 0].T, d_u, **close)
    np.testing.assert_allclose(d_carry['h'], d_h, **close)


@pytest.mark.parametrize('name', ['lstm', 'gru_before', 'grouped', 'factorised'])
def test_no_gradient_of_a_kernel_is_computed_inside_the_loop(name):
    layer, params, x, carry = example(CELLS[name])
    loss = lambda p: jnp.sum(layer.apply({'params': p}, x, carry=carry).features)  # noqa: E731
    inside = []

    def walk(jaxpr, looping):
        for equation in jaxpr.eqns:
            if equation.primitive.name == 'dot_general' and looping:
                inside.append(tuple(equation.outvars[0].aval.shape))
            for value in jax.tree.leaves(
                equation.params, is_leaf=lambda leaf: hasattr(leaf, 'eqns')
            ):
                inner = getattr(value, 'jaxpr', value)
                if hasattr(inner, 'eqns'):
                    walk(inner, looping or equation.primitive.name == 'scan')

    walk(jax.make_jaxpr(jax.grad(loss))(params).jaxpr, False)
    assert inside
    assert all(shape[0] == BATCH or BATCH in shape for shape in inside), inside


@pytest.mark.parametrize(('steps', 'reverse'), [(0, False), (4, True), (5, False)])
def test_pieces_computed_again_change_nothing(steps, reverse):
    _, params, x, carry = example(CELLS['lstm'])

    def run(remat_steps, unroll=None):
        layer = RecurrentLayer(
            CELLS['lstm'], jnp.float32, reverse=reverse, remat_steps=remat_steps, unroll=unroll
        )

        def loss(params, x, carry):
            result = layer.apply({'params': params}, x, segments=SEGMENTS, carry=carry)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(result)), result

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(params, x, carry)

    for a, b in zip(jax.tree.leaves(run(steps)), jax.tree.leaves(run(None, unroll=2)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_pieces_bound_the_memory_of_a_long_sequence():
    cell, length, batch = LSTM(hidden_dim=64), 400, 8

    def temporary(remat_steps):
        layer = RecurrentLayer(cell, jnp.float32, remat_steps=remat_steps)
        x = jax.ShapeDtypeStruct((batch, length, 16), jnp.float32)
        params = jax.eval_shape(layer.init, jax.random.key(0), x)
        loss = lambda p, x: jnp.sum(layer.apply(meta.unbox(p), x).carry['h'])  # noqa: E731
        compiled = jax.jit(jax.grad(loss)).lower(params, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    state = 4 * batch * 64
    everything, pieces = temporary(None), temporary(0)
    assert everything > length * 6 * state  # four gates and the carry of every step
    # Outputs of every step, and 20 carries and 20 steps, not 400.
    assert pieces < everything / 4


def test_products_in_bfloat16_keep_a_float32_carry():
    layer, params, x, carry = example(CELLS['lstm'])
    exact = layer.apply({'params': params}, x, carry=carry)
    rounded = layer.copy(dtype=jnp.bfloat16)

    def loss(params):
        result = rounded.apply({'params': params}, x, carry=carry)
        return jnp.sum(result.features.astype(jnp.float32)), result

    gradient, result = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert result.features.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((result.carry, gradient))} == {jnp.float32.dtype}
    np.testing.assert_allclose(result.carry['c'], exact.carry['c'], atol=0.03)
    exact_gradient = jax.grad(
        lambda p: jnp.sum(layer.apply({'params': p}, x, carry=carry).features)
    )(params)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(exact_gradient), strict=True):
        assert np.linalg.norm(a - b) < 0.03 * np.linalg.norm(b)


def test_one_step_needs_no_loop():
    cell = CELLS['lstm']
    _, params, x, carry = example(cell)
    first = jnp.swapaxes(x, 0, 1)[:1]
    step = lambda x, carry: time_scan(cell, cell.prepare(params, x), carry)  # noqa: E731
    assert 'scan[' not in str(jax.make_jaxpr(step)(first, carry))
    _, last = step(first, carry)
    both, _ = time_scan(cell, cell.prepare(params, jnp.swapaxes(x, 0, 1)[:2]), carry)
    np.testing.assert_allclose(last['h'], both[0], rtol=1e-6)


def test_padding_gives_out_zeros_and_stops_the_gradient():
    cell = CELLS['lstm']
    _, params, x, carry = example(cell)
    mask = length_mask(jnp.array([6, 2, 0]), LENGTH)

    def last(x):
        terms = cell.prepare(params, jnp.swapaxes(x, 0, 1))
        outputs, end = time_scan(cell, terms, carry, Control(mask.T))
        return jnp.sum(end['h']) + jnp.sum(outputs), (outputs, end)

    gradient, (outputs, end) = jax.grad(last, has_aux=True)(x)
    np.testing.assert_array_equal(np.asarray(outputs).swapaxes(0, 1)[~np.asarray(mask)], 0.0)
    np.testing.assert_array_equal(gradient[~mask], 0.0)
    np.testing.assert_array_equal(end['h'][2], carry['h'][2])  # no step at all
