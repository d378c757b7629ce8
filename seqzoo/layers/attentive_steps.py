"""Single steps that attend, for `time_scan`: a cell, or several, around an `Attention`.

An ordinary cell knows all its input before the loop begins. Here a part of it arises in the loop:
the context, what the step before gave out, or what the layer below gives out. With
`[W_x; W_y]` the input kernel for `[x; y]`, x known beforehand and y not,

    x W_x + b             for all steps at once, before the loop
    [y; h] [W_y; U]       one product a step
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from seqzoo.errors import ConfigError
from seqzoo.layers.recurrent_attention import Attention
from seqzoo.layers.recurrent_cells import GRU, Cell
from seqzoo.layers.time_scan import Arrays, Carry, Product, Terms


@dataclass(frozen=True)
class OpenCell:
    """A cell part of whose input is known only inside the loop over time.

    Attributes:
        cell: its equations.
        inner_dim: width of that part, the last columns of the input.
        name: put in front of the names of its arrays, where several cells share a step.
    """

    cell: Cell
    inner_dim: int
    name: str = ''

    def __post_init__(self) -> None:
        """Refuses cells whose input does not simply add to the products of the step."""
        cell = self.cell
        if isinstance(cell, GRU) and cell.reset == 'after':
            raise ConfigError(
                "a GRU with reset 'after' cannot read what attention finds in the same step: set "
                "cell.reset to 'before', as Cho et al. and Bahdanau et al. 2014 have it"
            )
        if not cell.reads_inside:
            raise ConfigError(
                f'{type(cell).__name__} cannot read what attention finds in the same step: take '
                'an Elman, GRU or LSTM cell without layer_norm'
            )

    def terms(self, params: Mapping[str, jax.Array], known: jax.Array | None, dtype: Any) -> Terms:
        """What the scan needs.

        Args:
            params: of the cell, for an input `[known; inner]`.
            known: `[length, batch, width]`, the part that is known beforehand, if there is one.
            dtype: of the products.
        """
        kernel = params['input_kernel']
        outer = kernel.shape[0] - self.inner_dim
        # No steps at all, where nothing is known, still tell the products and their widths.
        x = jnp.zeros((0, 1, kernel.shape[0])) if known is None else known
        own = self.cell.prepare({**params, 'input_kernel': kernel[: x.shape[-1]]}, x.astype(dtype))
        # [inner, gates, hidden] -> [inner, columns of each product], stacked upon those of h
        columns = kernel[outer:].reshape(self.inner_dim, -1).astype(dtype)
        names = [name for name in ('input_bias', 'recurrent_bias') if name in params]
        biases = jnp.zeros(columns.shape[1:]) + sum(params[name].reshape(-1) for name in names)
        kernels, vectors, start = dict(own.kernels), dict(own.vectors), 0
        for product, value in own.inputs.items():
            part = slice(start, start + value.shape[-1])
            kernels[product] = jnp.concatenate([columns[:, part], kernels[product]])
            if known is None and names:
                vectors[f'{product}_bias'] = biases[part]
            start = part.stop
        inputs = {} if known is None else own.inputs
        return Terms(*(self._named(part) for part in (kernels, vectors, inputs)), masks={})

    def step(self, vectors: Arrays, carry: Carry, inner: jax.Array, product: Product) -> Carry:
        """One step of the cell, which reads `inner` `[batch, inner_dim]` beside what is known."""

        def joined(name: str, value: jax.Array) -> jax.Array:
            if name in self.cell.recurrent_products:
                value = jnp.concatenate([inner, value], axis=-1)
            total = product(f'{self.name}{name}', value)
            bias = vectors.get(f'{self.name}{name}_bias')
            return total if bias is None else total + bias

        own = {k.removeprefix(self.name): v for k, v in vectors.items() if k.startswith(self.name)}
        return self.cell.step(own, {}, carry, joined)

    def _named(self, arrays: Arrays) -> Arrays:
        return {f'{self.name}{key}': value for key, value in arrays.items()}


@dataclass(frozen=True)
class ContextStep:
    """A step that attends from its previous state and reads the context; gives `[h; c]`.

    Attributes:
        cell: the layer.
        attention: where it looks.
        publish: give the weights too: `[h; c; weights]`.
    """

    cell: OpenCell
    attention: Attention
    publish: bool

    def step(self, vectors: Arrays, inputs: Arrays, carry: Carry, product: Product) -> Carry:
        """One step; see `time_scan.StepCell`."""
        before = {**carry, 'h': carry['h'][:, : self.cell.cell.output_dim]}
        context, weights = self.attention.step(vectors, inputs.get('time'), before['h'], product)
        after = self.cell.step(vectors, before, context, product)
        given = [after['h'], context, *([weights] if self.publish else [])]
        return {**after, 'h': jnp.concatenate(given, axis=-1)}


@dataclass(frozen=True)
class FeedingStep:
    """A step through all layers that reads its own previous output; gives `tanh(W_c [c; h])`.

    Attributes:
        cells: the layers, from the bottom.
        attention: where the top one looks.
        output_dim: width of what it gives and reads.
        residual_from: see `RecurrentConfig`.
        publish: give the weights behind the output.
    """

    cells: tuple[OpenCell, ...]
    attention: Attention
    output_dim: int
    residual_from: int | None
    publish: bool

    def step(self, vectors: Arrays, inputs: Arrays, carry: Carry, product: Product) -> Carry:
        """One step; see `time_scan.StepCell`."""
        x, after = carry['h'][:, : self.output_dim], {}
        for i, cell in enumerate(self.cells):
            if f'keep_{i}' in inputs:
                x = x * inputs[f'keep_{i}']
            before = {key: carry[f'{cell.name}{key}'] for key in cell.cell.initial_carry(0)}
            own = cell.step(vectors, before, x, product)
            after |= {f'{cell.name}{key}': value for key, value in own.items()}
            residual = self.residual_from is not None and i >= self.residual_from
            x = x + own['h'] if residual else own['h']
        context, weights = self.attention.step(vectors, inputs.get('time'), x, product)
        output = jnp.tanh(product('attentional', jnp.concatenate([context, x], axis=-1)))
        given = jnp.concatenate([output, weights], axis=-1) if self.publish else output
        return {**after, 'h': given}
