"""LSTMs with fewer parameters in the map to the gates (Kuchaiev and Ginsburg 2017).

The ordinary LSTM maps `[x; h]`, `i + p` wide, to four gates with one dense matrix. Here

    F-LSTM   [x; h] W1 W2 + b, with W1 `[i + p, rank]` and W2 `[rank, 4 hidden]`      (section 3.1)
    G-LSTM   x and h, and the units of the cell, fall into k groups; group j of the gates sees only
             group j of x and of h: k matrices `[(i + p) / k, 4 hidden / k]`          (section 3.2)

The projection of the output is dense in both; it is what lets the groups of one step mix in the
next.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from seqzoo.errors import ConfigError
from seqzoo.layers.linear import product as dense_product
from seqzoo.layers.recurrent_cells import LSTM, Weight, flat
from seqzoo.layers.time_scan import Arrays, Product, Terms, multiply


@dataclass(frozen=True, kw_only=True)
class FactorisedLSTM(LSTM):
    """F-LSTM: `rank (i + p + 4 h) + 4 h biases + h p` parameters.

    Attributes:
        rank: width of the bottleneck before the gates.
    """

    rank: int

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        _refuse_layer_norm(self)
        if self.rank < 1:
            raise ConfigError(f'rank is {self.rank}: the bottleneck needs at least one column')

    @property
    def recurrent_products(self) -> tuple[str, ...]:
        return ('reduce',)

    @property
    def reads_inside(self) -> bool:
        return False  # the input does not reach the gates by one matrix

    def gate_weights(self, input_dim: int) -> dict[str, Weight]:
        return {
            'input_kernel': self.kernel((input_dim, self.rank), ('embed', 'hidden')),
            'recurrent_kernel': self.kernel((self.output_dim, self.rank), ('hidden', 'hidden')),
            'gate_kernel': self.kernel(
                (self.rank, 4, self.hidden_dim), ('hidden', 'gates', 'hidden')
            ),
        }

    def prepare(self, params: Arrays, x: jax.Array) -> Terms:
        kernels = {
            'reduce': params['recurrent_kernel'].astype(x.dtype),
            'gates': flat(params['gate_kernel'], x.dtype),
        }
        inputs: Arrays = {'reduce': dense_product(x, params['input_kernel'].astype(x.dtype), 1)}
        vectors = self.vectors(params) | _biases(params)
        return Terms(kernels | self.projection(params, x.dtype), vectors, inputs, {})

    def gates(
        self, vectors: Arrays, inputs: Arrays, h: jax.Array, product: Product
    ) -> tuple[jax.Array, ...]:
        total = product('gates', product('reduce', h))
        return tuple(jnp.split(_add_bias(total, vectors), 4, axis=-1))


@dataclass(frozen=True, kw_only=True)
class GroupedLSTM(LSTM):
    """G-LSTM: `4 h (i + p) / groups + 4 h biases + h p` parameters.

    Attributes:
        groups: k; divides the widths of the input, the cell and the output.
    """

    groups: int

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        _refuse_layer_norm(self)
        for name in ('hidden_dim', 'output_dim'):
            self._check_divides(name, getattr(self, name))

    def _check_divides(self, name: str, value: int) -> None:
        if self.groups < 1 or value % self.groups:
            raise ConfigError(f'groups is {self.groups}, which does not divide {name} {value}')

    @property
    def reads_inside(self) -> bool:
        return False  # the input does not reach the gates by one matrix

    def gate_weights(self, input_dim: int) -> dict[str, Weight]:
        self._check_divides('the input width', input_dim)
        k, shape = self.groups, (4, self.hidden_dim // self.groups)
        names = ('gates', 'hidden')
        return {
            'input_kernel': self.kernel((input_dim // k, k, *shape), ('embed', None, *names)),
            'recurrent_kernel': self.kernel(
                (self.output_dim // k, k, *shape), ('hidden', None, *names)
            ),
        }

    def prepare(self, params: Arrays, x: jax.Array) -> Terms:
        kernels = {'gates': self._by_group(params['recurrent_kernel'], x)}
        inputs = {'gates': multiply(x, self._by_group(params['input_kernel'], x)).astype(x.dtype)}
        vectors = self.vectors(params) | _biases(params)
        return Terms(kernels | self.projection(params, x.dtype), vectors, inputs, {})

    def _by_group(self, kernel: jax.Array, x: jax.Array) -> jax.Array:
        # [in, groups, gates, hidden] -> [groups, in, gates * hidden]
        return jnp.swapaxes(kernel.reshape(*kernel.shape[:2], -1), 0, 1).astype(x.dtype)

    def gates(
        self, vectors: Arrays, inputs: Arrays, h: jax.Array, product: Product
    ) -> tuple[jax.Array, ...]:
        total = product('gates', h)
        # [batch, groups * gates * hidden] -> [batch, gates * groups * hidden]
        total = total.reshape(total.shape[0], self.groups, 4, -1).swapaxes(1, 2)
        total = _add_bias(total.reshape(total.shape[0], -1), vectors)
        return tuple(jnp.split(total, 4, axis=-1))


def _refuse_layer_norm(cell: LSTM) -> None:
    if cell.layer_norm:
        raise ConfigError(f'layer_norm is not defined for {type(cell).__name__}: set it to False')


def _biases(params: Arrays) -> Arrays:
    """The sum of the bias sets, which the step adds behind the last product."""
    names = [name for name in ('input_bias', 'recurrent_bias') if name in params]
    return {'bias': sum(params[name] for name in names)} if names else {}  # pyright: ignore


def _add_bias(total: jax.Array, vectors: Arrays) -> jax.Array:
    return total + vectors['bias'].reshape(-1) if 'bias' in vectors else total
