"""Recurrent cells: their equations, their parameters, and nothing about time or batches.

Weights are stored as `[in, gates, hidden]`; `x` is the input of a step, `h` its output, `(.)` the
elementwise product, `s` the logistic function.

    Elman   h = a(x W + h U + b), a = tanh or ReLU                              (Elman 1990)

    LSTM    i = s(x W_i + h U_i + b_i)       f = s(x W_f + h U_f + b_f)
            g = tanh(x W_g + h U_g + b_g)    o = s(x W_o + h U_o + b_o)
            c' = f (.) c + i (.) g           h' = o (.) tanh(c')     (Hochreiter and Schmidhuber
                                             1997; forget gate: Gers, Schmidhuber, Cummins 2000)
      peepholes      i and f also see p (.) c, o sees p (.) c'       (Gers, Schraudolph,
                                                                     Schmidhuber 2002)
      projection     h' = (o (.) tanh(c')) P                         (Sak, Senior, Beaufays 2014)
      clipping       c' and h' P are moved into plus and minus a bound (as Sak et al.; Peters et al.
                                                                     2018)
      layer_norm     LN(x W) + LN(h U) + b for the gates together; h' = o (.) tanh(LN(c'))
                                                                     (Ba, Kiros, Hinton 2016)

    GRU     r = s(x W_r + h U_r + b_r)       z = s(x W_z + h U_z + b_z)
            n = tanh(x W_n + (r (.) h) U_n + b_n)         reset before the product
                                             (Cho et al. 2014, first version; Bahdanau et al. 2014)
            n = tanh(x W_n + b_n + r (.) (h U_n + b'_n))  reset after it (Cho et al., third version;
                                             cuDNN, torch, Keras)
            h' = (1 - z) (.) n + z (.) h     z *keeps* the old state, as in Cho et al. and in every
                                             library. Chung et al. 2014 and Bahdanau et al. write
                                             z for 1 - z: the same family, the gate turned

Two bias sets (x W + b + h U + b') give the same functions as one, but other counts and, with a
learning rate for both, other updates: torch and cuDNN have two, the papers one.
"""

import abc
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.errors import ConfigError
from seqzoo.layers.linear import product
from seqzoo.layers.recurrent_initializers import (
    Initializer,
    per_gate_glorot,
    per_gate_orthogonal,
    uniform,
)
from seqzoo.layers.time_scan import Arrays, Carry, Product, Terms


@dataclass(frozen=True)
class Weight:
    """One parameter of a cell: its shape, the names of its axes, and how it starts."""

    shape: tuple[int, ...]
    names: tuple[str | None, ...]
    init: Initializer


@dataclass(frozen=True, kw_only=True)
class Cell(abc.ABC):
    """Hyperparameters of one recurrent layer, and its step.

    Attributes:
        hidden_dim: width of the state.
        biases: bias sets, 0, 1 or 2.
        init_scale: kernels start uniform within plus and minus this. `None`: input kernels Glorot
            uniform, recurrent kernels orthogonal per gate (Saxe et al. 2014). Biases start at 0.
    """

    hidden_dim: int
    biases: Literal[0, 1, 2] = 1
    init_scale: float | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.hidden_dim < 1:
            raise ConfigError(f'hidden_dim is {self.hidden_dim}: a state needs at least one unit')
        if self.biases not in (0, 1, 2):
            raise ConfigError(f'biases is {self.biases}: a cell has 0, 1 or 2 bias sets')

    @property
    def output_dim(self) -> int:
        """Width of `h`."""
        return self.hidden_dim

    @property
    def recurrent_products(self) -> tuple[str, ...]:
        """The products that read `h`, for variational dropout on the recurrent connection."""
        return ('gates',)

    @property
    def reads_inside(self) -> bool:
        """Whether a part of the input may become known in the step itself: `x W` of an
        `input_kernel` `[in, gates, hidden]` is then added, column by column, to the products that
        read `h`, and is used nowhere else.
        """
        return False

    @property
    def recurrent_kernels(self) -> tuple[str, ...]:
        """The parameters that drop-connect acts on."""
        return ('recurrent_kernel',)

    def initial_carry(self, batch: int) -> Carry:
        """Zeros."""
        return {'h': jnp.zeros((batch, self.output_dim), jnp.float32)}

    @abc.abstractmethod
    def weights(self, input_dim: int) -> dict[str, Weight]:
        """The parameters, by name."""

    @abc.abstractmethod
    def prepare(self, params: Arrays, x: jax.Array) -> Terms:
        """Projects the input of all steps at once; `x`: `[length, batch, input]`, whose dtype is
        that of the products.
        """

    @abc.abstractmethod
    def step(self, vectors: Arrays, inputs: Arrays, carry: Carry, product: Product) -> Carry:
        """One step; see `layers.time_scan.StepCell`."""

    def kernel(self, shape: tuple[int, ...], names: tuple[str | None, ...]) -> Weight:
        """`[in, gates, hidden]` or `[in, out]`, starting as the configuration says."""
        if self.init_scale is not None:
            return Weight(shape, names, uniform(self.init_scale))
        return Weight(
            shape, names, per_gate_orthogonal if names[0] == 'hidden' else per_gate_glorot
        )


def bias_weights(biases: int, gates: int, hidden: int, init: Initializer) -> dict[str, Weight]:
    """`input_bias`, and with two sets `recurrent_bias`, `[gates, hidden]`; `init` is that of the
    first.
    """
    shape, names = (gates, hidden), ('gates', 'hidden')
    result = {}
    if biases:
        result['input_bias'] = Weight(shape, names, init)
    if biases == 2:
        result['recurrent_bias'] = Weight(shape, names, nn.initializers.zeros)
    return result


def project(x: jax.Array, kernel: jax.Array, *biases: jax.Array | None) -> jax.Array:
    """`x W + b + ...`: `[..., in]` -> `[..., gates * hidden]` in the dtype of `x`."""
    out = product(x, flat(kernel, x.dtype), 1)
    present = [bias.reshape(-1) for bias in biases if bias is not None]
    return out + sum(present).astype(x.dtype) if present else out  # pyright: ignore


def flat(kernel: jax.Array, dtype: Any) -> jax.Array:
    """`[in, gates, hidden]` -> `[in, gates * hidden]`."""
    return kernel.reshape(kernel.shape[0], -1).astype(dtype)


@dataclass(frozen=True, kw_only=True)
class Elman(Cell):
    """The simple recurrent network. `h (i + h + biases)` parameters.

    Attributes:
        activation: `'tanh'` or `'relu'`.
    """

    activation: Literal['tanh', 'relu'] = 'tanh'

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        if self.activation not in ('tanh', 'relu'):
            raise ConfigError(f'activation is {self.activation!r}: choose tanh or relu')

    @property
    def reads_inside(self) -> bool:
        return True

    def weights(self, input_dim: int) -> dict[str, Weight]:
        hidden = self.hidden_dim
        return {
            'input_kernel': self.kernel((input_dim, 1, hidden), ('embed', 'gates', 'hidden')),
            'recurrent_kernel': self.kernel((hidden, 1, hidden), ('hidden', 'gates', 'hidden')),
            **bias_weights(self.biases, 1, hidden, nn.initializers.zeros),
        }

    def prepare(self, params: Arrays, x: jax.Array) -> Terms:
        biases = (params.get('input_bias'), params.get('recurrent_bias'))
        return Terms(
            kernels={'gates': flat(params['recurrent_kernel'], x.dtype)},
            vectors={},
            inputs={'gates': project(x, params['input_kernel'], *biases)},
            masks={},
        )

    def step(self, vectors: Arrays, inputs: Arrays, carry: Carry, product: Product) -> Carry:
        activation = jnp.tanh if self.activation == 'tanh' else nn.relu
        return {'h': activation(product('gates', carry['h']))}


@dataclass(frozen=True, kw_only=True)
class LSTM(Cell):
    """Long short-term memory with a forget gate. `4 h (i + h + biases)` parameters; gates i, f, g,
    o.

    Attributes:
        forget_bias: where the forget gate's bias starts (Jozefowicz et al. 2015 advise 1).
        peepholes: gates see the cell, `3 h` parameters more.
        projection_dim: width of the projected output; `None`: none. `4 h (i + p + biases) + h p`.
        cell_clip: c' is moved into plus and minus this, and handed on so; `None`: it is not.
        projection_clip: the same for the projected output.
        layer_norm: `10 h` parameters more: gains of the two sums, gain and shift of the cell.
        layer_norm_epsilon: added to the variance.
    """

    forget_bias: float = 1.0
    peepholes: bool = False
    projection_dim: int | None = None
    cell_clip: float | None = None
    projection_clip: float | None = None
    layer_norm: bool = False
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        if not self.biases and self.forget_bias:
            raise ConfigError(f'forget_bias is {self.forget_bias} but biases is 0: set it to 0 too')
        if self.projection_dim is not None and self.projection_dim < 1:
            raise ConfigError(f'projection_dim is {self.projection_dim}: give a width or None')
        for name in ('cell_clip', 'projection_clip'):
            bound = getattr(self, name)
            if bound is not None and not bound > 0:
                raise ConfigError(f'{name} is {bound}: give a bound above 0, or None')
        if self.projection_clip is not None and self.projection_dim is None:
            raise ConfigError(
                f'projection_clip is {self.projection_clip} but projection_dim is None: there is '
                'nothing to clip'
            )

    @property
    def output_dim(self) -> int:
        """Width of `h`."""
        return self.projection_dim or self.hidden_dim

    @property
    def reads_inside(self) -> bool:
        return not self.layer_norm

    def initial_carry(self, batch: int) -> Carry:
        cell = jnp.zeros((batch, self.hidden_dim), jnp.float32)
        return {**super().initial_carry(batch), 'c': cell}

    def weights(self, input_dim: int) -> dict[str, Weight]:
        return {**self.gate_weights(input_dim), **self.other_weights()}

    def gate_weights(self, input_dim: int) -> dict[str, Weight]:
        """The two kernels of the gates."""
        shape, names = (4, self.hidden_dim), ('gates', 'hidden')
        return {
            'input_kernel': self.kernel((input_dim, *shape), ('embed', *names)),
            'recurrent_kernel': self.kernel((self.output_dim, *shape), ('hidden', *names)),
        }

    def other_weights(self) -> dict[str, Weight]:
        """All but the kernels of the gates."""
        hidden, names = self.hidden_dim, ('gates', 'hidden')
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        result = bias_weights(self.biases, 4, hidden, self._start_biases)
        if self.peepholes:
            result['peepholes'] = Weight((3, hidden), names, zeros)
        if self.projection_dim:
            result['projection_kernel'] = self.kernel(
                (hidden, self.projection_dim), ('hidden', 'hidden')
            )
        if self.layer_norm:
            result['input_norm_scale'] = Weight((4, hidden), names, ones)
            result['recurrent_norm_scale'] = Weight((4, hidden), names, ones)
            result['cell_norm_scale'] = Weight((hidden,), ('hidden',), ones)
            result['cell_norm_bias'] = Weight((hidden,), ('hidden',), zeros)
        return result

    def _start_biases(
        self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
    ) -> jax.Array:
        return jnp.zeros(shape, dtype).at[1].set(self.forget_bias)

    def prepare(self, params: Arrays, x: jax.Array) -> Terms:
        biases = (params.get('input_bias'), params.get('recurrent_bias'))
        kernels = {'gates': flat(params['recurrent_kernel'], x.dtype)}
        if not self.layer_norm:
            inputs = {'gates': project(x, params['input_kernel'], *biases)}
        else:
            scale = params['input_norm_scale'].reshape(-1)
            inputs = {'normalised': self._normal(project(x, params['input_kernel'])) * scale}
            for bias in biases:
                inputs['normalised'] += 0.0 if bias is None else bias.reshape(-1)
        return Terms(kernels | self.projection(params, x.dtype), self.vectors(params), inputs, {})

    def projection(self, params: Arrays, dtype: Any) -> Arrays:
        """The kernel of the projection, if there is one."""
        if not self.projection_dim:
            return {}
        return {'projection': params['projection_kernel'].astype(dtype)}

    def vectors(self, params: Arrays) -> Arrays:
        """What the step uses elementwise."""
        names = ('peepholes', 'recurrent_norm_scale', 'cell_norm_scale', 'cell_norm_bias')
        return {name: params[name] for name in names if name in params}

    def gates(
        self, vectors: Arrays, inputs: Arrays, h: jax.Array, product: Product
    ) -> tuple[jax.Array, ...]:
        """i, f, g, o before their activations, each `[batch, hidden]`."""
        total = product('gates', h)
        if self.layer_norm:
            scale = vectors['recurrent_norm_scale'].reshape(-1)
            total = self._normal(total) * scale + inputs['normalised']
        return tuple(jnp.split(total, 4, axis=-1))

    def step(self, vectors: Arrays, inputs: Arrays, carry: Carry, product: Product) -> Carry:
        c = carry['c']
        i, f, g, o = self.gates(vectors, inputs, carry['h'], product)
        if self.peepholes:
            i, f = i + vectors['peepholes'][0] * c, f + vectors['peepholes'][1] * c
        c = _clipped(nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g), self.cell_clip)
        if self.peepholes:
            o = o + vectors['peepholes'][2] * c
        seen = c
        if self.layer_norm:
            seen = self._normal(c) * vectors['cell_norm_scale'] + vectors['cell_norm_bias']
        h = nn.sigmoid(o) * jnp.tanh(seen)
        if self.projection_dim:
            h = _clipped(product('projection', h), self.projection_clip)
        return {'h': h, 'c': c}

    def _normal(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(variance + self.layer_norm_epsilon)


def _clipped(x: jax.Array, bound: float | None) -> jax.Array:
    return x if bound is None else jnp.clip(x, -bound, bound)


@dataclass(frozen=True, kw_only=True)
class GRU(Cell):
    """Gated recurrent unit; gates r, z, n.

    Reset before: `3 h (i + h + biases)` parameters. Reset after: with two bias sets the same, as
    torch and Keras have it; with one, the candidate still has a bias of its own on either side of
    the reset gate, `3 h (i + h) + 4 h`, as flax has it.

    Attributes:
        reset: whether the reset gate acts on `h` before or after the product with `U_n`.
    """

    reset: Literal['before', 'after'] = 'after'

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        if self.reset not in ('before', 'after'):
            raise ConfigError(f'reset is {self.reset!r}: choose before or after')

    @property
    def recurrent_products(self) -> tuple[str, ...]:
        return ('gates',) if self.reset == 'after' else ('gates', 'candidate')

    @property
    def reads_inside(self) -> bool:
        return self.reset == 'before'

    def weights(self, input_dim: int) -> dict[str, Weight]:
        hidden, names, zeros = self.hidden_dim, ('gates', 'hidden'), nn.initializers.zeros
        result = {
            'input_kernel': self.kernel((input_dim, 3, hidden), ('embed', *names)),
            'recurrent_kernel': self.kernel((hidden, 3, hidden), ('hidden', *names)),
            **bias_weights(self.biases, 3, hidden, zeros),
        }
        if self.reset == 'after' and self.biases == 1:
            result['candidate_bias'] = Weight((hidden,), ('hidden',), zeros)
        return result

    def prepare(self, params: Arrays, x: jax.Array) -> Terms:
        kernel, recurrent = params['input_kernel'], params['recurrent_kernel']
        own, other = params.get('input_bias'), params.get('recurrent_bias')
        two = [None if b is None else b[:2] for b in (own, other)]
        gates = project(x, kernel[:, :2], *two)
        candidates = [None if b is None else b[2] for b in (own, other)]
        if self.reset == 'before':
            kernels = {
                'gates': flat(recurrent[:, :2], x.dtype),
                'candidate': flat(recurrent[:, 2], x.dtype),
            }
            return Terms(
                kernels,
                {},
                {'gates': gates, 'candidate': project(x, kernel[:, 2], *candidates)},
                {},
            )
        # The candidate's two halves stay apart: the product adds only the inputs of r and z.
        inner = params.get('candidate_bias', candidates[1])
        return Terms(
            kernels={'gates': flat(recurrent, x.dtype)},
            vectors={} if inner is None else {'candidate_bias': inner},
            inputs={'gates': gates, 'outer': project(x, kernel[:, 2], candidates[0])},
            masks={},
        )

    def step(self, vectors: Arrays, inputs: Arrays, carry: Carry, product: Product) -> Carry:
        h = carry['h']
        if self.reset == 'before':
            r, z = jnp.split(product('gates', h), 2, axis=-1)
            n = jnp.tanh(product('candidate', nn.sigmoid(r) * h))
        else:
            r, z, inner = jnp.split(product('gates', h), 3, axis=-1)
            if 'candidate_bias' in vectors:
                inner = inner + vectors['candidate_bias']
            n = jnp.tanh(inputs['outer'].astype(jnp.float32) + nn.sigmoid(r) * inner)
        z = nn.sigmoid(z)
        return {'h': (1.0 - z) * n + z * h}
