"""Recurrent decoders: a stack of cells, and where in it attention stands.

With `x_t` the embedded token that is read, `h^l_t` the output of layer l = 1 ... L, `c_t` the
context that attention finds and D dropout:

    StackedDecoder   h_t as `RecurrentStack`; then, if it attends,          Sutskever et al. 2014
                     c_t = attend(h^L_t), out_t = tanh(W_c [c_t; h^L_t])    Luong et al. 2015
    FeedingDecoder   the same, but layer 1 reads [x_t; out_{t-1}]           Luong et al. 2015, 3.3
    ContextDecoder   c_t = attend(h^1_{t-1}), and every layer reads         Bahdanau et al. 2014,
                     [h^{l-1}_t; c_t]                                       Wu et al. 2016

Where the attention of a step needs the step before, the layers that it runs through go step by step
together, in one `time_scan`: all of `FeedingDecoder`, the bottom layer of `ContextDecoder`. All
else runs over the whole target at once, the products with `x` too.
"""

from dataclasses import dataclass, replace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.layers.attentive_steps import ContextStep, FeedingStep, OpenCell
from seqzoo.layers.dropout import dropout
from seqzoo.layers.linear import Linear
from seqzoo.layers.linear import product as dense_product
from seqzoo.layers.recurrent import RecurrentConfig, RecurrentLayer, RecurrentStack, declare
from seqzoo.layers.recurrent_attention import Attended, Attention, CrossAttention
from seqzoo.layers.recurrent_cells import Cell, Weight
from seqzoo.layers.recurrent_initializers import per_gate_glorot
from seqzoo.layers.time_scan import Arrays, Carry, Control, Terms, time_scan


@flax.struct.dataclass
class DecoderState:
    """What a decoder carries from step to step.

    Attributes:
        layers: the carry of each layer, float32 `[batch, hidden]` arrays.
        fed: `[batch, width]` float32, what `FeedingDecoder` feeds to its next step.
    """

    layers: tuple[Carry, ...]
    fed: jax.Array | None = None


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What the decoders have in common.

    Attributes:
        layers: the cells and the dropout around them.
        embed_dim: width of what is read.
        attention: `None`: the encoder's state says everything.
        maxout_dim: width of Bahdanau's output layer (`ContextDecoder` with one layer); `None`: the
            top layer is the output.
        dtype: dtype of the computation.
    """

    layers: RecurrentConfig
    embed_dim: int
    attention: Attention | None
    maxout_dim: int | None
    dtype: Any


class CellParameters(nn.Module):
    """The parameters of a cell that somebody else runs.

    Attributes:
        cell: its equations.
        input_dim: width of its input.
    """

    cell: Cell
    input_dim: int

    @nn.compact
    def __call__(self) -> Arrays:
        """By name."""
        return declare(self, self.cell.weights(self.input_dim))


class Decoder(nn.Module):
    """What all decoders do.

    Attributes:
        config: see `DecoderConfig`.
    """

    config: DecoderConfig

    def project(self, memory: jax.Array, mask: jax.Array) -> Attended | None:
        """The source, made ready to be attended to; `None` if nothing attends."""
        return None if self.config.attention is None else self.cross_attention.project(memory, mask)

    def _times(
        self, position: jax.Array, length: int, batch: int, mask: jax.Array | None
    ) -> Arrays:
        """The input that local-m attention reads beside the others, `[length, batch, 1]`."""
        attention = self.config.attention
        if attention is None or attention.span != 'local-m':
            return {}
        numbers = step_numbers(position, length, mask)
        return {'time': jnp.broadcast_to(numbers, (length, batch, 1))}

    def _drop(self, x: jax.Array, train: bool) -> jax.Array:
        rate = self.config.layers.dropout_rate
        return dropout(x, rate, self.make_rng('dropout')) if train and rate else x

    def _attentional(self) -> Arrays:
        """`W_c`: from context and state to the output."""
        attention, width = self.config.attention, self.config.layers.cells[-1].output_dim
        assert attention is not None
        shape, names = (attention.memory_dim + width, width), ('embed', 'hidden')
        return declare(self, {'attentional_kernel': Weight(shape, names, per_gate_glorot)})


class StackedDecoder(Decoder):
    """Layers over the whole target, one after the other; attention, if any, behind the last."""

    def setup(self) -> None:
        """Declares the layers."""
        c = self.config
        layers = replace(c.layers, input_dropout_rate=c.layers.dropout_rate)
        self.stack = RecurrentStack(layers, c.dtype)
        if c.attention is not None:
            self.cross_attention = CrossAttention(c.attention)
            self.output = self._attentional()

    def __call__(
        self,
        x: jax.Array,
        source: Attended | None,
        state: DecoderState,
        *,
        position: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, DecoderState]:
        """Reads `x`.

        Args:
            x: `[batch, length, embed]`.
            source: from `project`.
            state: before the first step.
            position: int32 scalar, the number of the first step.
            mask: `[batch, length]` bool, True at real steps; `None`: all.
            train: whether to drop.

        Returns:
            `[batch, length, width]` in the dtype of the computation, and the state behind `x`.
        """
        result = self.stack(x, mask=mask, carry=state.layers, train=train)
        features = result.features
        if source is not None:
            times = step_numbers(position, x.shape[1], mask)
            contexts = self.cross_attention(features, source, times)
            both = jnp.concatenate([contexts, features], axis=-1)
            kernel = self.output['attentional_kernel'].astype(both.dtype)
            features = jnp.tanh(dense_product(both, kernel, 1))
        return features, DecoderState(result.carry)


class FeedingDecoder(Decoder):
    """All layers and attention step by step, each step reading the output of the one before."""

    def setup(self) -> None:
        """Declares the layers."""
        c = self.config
        assert c.attention is not None
        cells, width = c.layers.cells, c.layers.cells[-1].output_dim
        # The bottom layer reads `[x; fed]`, the others what the layer below gives out.
        inner = (width, *(cell.output_dim for cell in cells[:-1]))
        self.cells = tuple(
            OpenCell(cell, dim, f'{i}.')
            for i, (cell, dim) in enumerate(zip(cells, inner, strict=True))
        )
        self.layer = [
            CellParameters(cell.cell, cell.inner_dim + (0 if i else c.embed_dim))
            for i, cell in enumerate(self.cells)
        ]
        self.cross_attention = CrossAttention(c.attention)
        self.output = self._attentional()

    def __call__(
        self,
        x: jax.Array,
        source: Attended | None,
        state: DecoderState,
        *,
        position: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, DecoderState]:
        """Reads `x`; see `StackedDecoder`."""
        c = self.config
        assert c.attention is not None
        assert source is not None
        assert state.fed is not None
        (batch, length, _), width = x.shape, state.fed.shape[-1]
        known = self._drop(x, train).swapaxes(0, 1)
        kernels, vectors = self.cross_attention.terms(source)
        kernels['attentional'] = self.output['attentional_kernel'].astype(c.dtype)
        inputs, first = self._times(position, length, batch, mask), {}
        for i, (cell, layer, own) in enumerate(
            zip(self.cells, self.layer, state.layers, strict=True)
        ):
            terms = cell.terms(layer(), known if i == 0 else None, c.dtype)
            kernels, vectors = kernels | terms.kernels, vectors | terms.vectors
            inputs |= terms.inputs
            first |= {f'{cell.name}{key}': value for key, value in own.items()}
            if i and train and c.layers.dropout_rate:
                ones = jnp.ones((batch, length, cell.inner_dim), c.dtype)
                inputs[f'keep_{i}'] = self._drop(ones, train).swapaxes(0, 1)
        publish = self.is_mutable_collection('intermediates')
        step = FeedingStep(self.cells, c.attention, width, c.layers.residual_from, publish)
        first['h'] = widened(state.fed, source.mask.shape[1] if publish else 0)
        outputs, last = time_scan(
            step, Terms(kernels, vectors, inputs, {}), first, control_of(mask)
        )
        # [length, batch, width] -> [batch, length, width]
        outputs = outputs.swapaxes(0, 1)
        if publish:
            self.cross_attention.publish(outputs[..., width:])
        layers = tuple(
            {key: last[f'{cell.name}{key}'] for key in own}
            for cell, own in zip(self.cells, state.layers, strict=True)
        )
        return outputs[..., :width].astype(c.dtype), DecoderState(layers, last['h'][:, :width])


class ContextDecoder(Decoder):
    """Attention from the previous state of the bottom layer; all layers read its context."""

    def setup(self) -> None:
        """Declares the layers."""
        c = self.config
        assert c.attention is not None
        bottom, *upper = c.layers.cells
        self.bottom = OpenCell(bottom, c.attention.memory_dim)
        self.layer_0 = CellParameters(bottom, c.embed_dim + c.attention.memory_dim)
        self.upper = [
            RecurrentLayer(cell, c.dtype, name=f'layer_{i}') for i, cell in enumerate(upper, 1)
        ]
        self.cross_attention = CrossAttention(c.attention)
        if c.maxout_dim is not None:
            self.maxout = Linear((c.maxout_dim, 2), ('embed',), ('hidden', 'gates'), False, c.dtype)

    def __call__(
        self,
        x: jax.Array,
        source: Attended | None,
        state: DecoderState,
        *,
        position: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, DecoderState]:
        """Reads `x`; see `StackedDecoder`."""
        c = self.config
        assert source is not None
        x = self._drop(x, train)
        before = state.layers[0]['h']
        states, contexts, last = self._attend(x, source, state.layers[0], position, mask)
        layers, features = [last], states
        for i, (layer, carry) in enumerate(zip(self.upper, state.layers[1:], strict=True), 1):
            below = self._drop(features, train)
            result = layer(
                jnp.concatenate([below, contexts], axis=-1), mask=mask, carry=carry, train=train
            )
            layers.append(result.carry)
            residual = c.layers.residual_from is not None and i >= c.layers.residual_from
            features = below + result.features if residual else result.features
        if c.maxout_dim is not None:
            # The state that attention began from, not the one that it led to (section A.2.2).
            earlier = states_before(before.astype(c.dtype), states, mask)
            pieces = self.maxout(jnp.concatenate([earlier, x, contexts], axis=-1))
            features = jnp.max(pieces, axis=-1)
        return features, DecoderState(tuple(layers))

    def _attend(
        self,
        x: jax.Array,
        source: Attended,
        state: Carry,
        position: jax.Array,
        mask: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array, Carry]:
        """The bottom layer: states and contexts `[batch, length, ...]`, and its last carry."""
        c = self.config
        assert c.attention is not None
        (batch, length, _), width = x.shape, state['h'].shape[-1]
        end = width + c.attention.memory_dim
        publish = self.is_mutable_collection('intermediates')
        kernels, vectors = self.cross_attention.terms(source)
        terms = self.bottom.terms(self.layer_0(), x.swapaxes(0, 1), c.dtype)
        inputs = {**terms.inputs, **self._times(position, length, batch, mask)}
        outputs, last = time_scan(
            ContextStep(self.bottom, c.attention, publish),
            Terms(kernels | terms.kernels, vectors | terms.vectors, inputs, {}),
            {**state, 'h': widened(state['h'], end - width + publish * source.mask.shape[1])},
            control_of(mask),
        )
        # [length, batch, width] -> [batch, length, width]
        outputs = outputs.swapaxes(0, 1)
        if publish:
            self.cross_attention.publish(outputs[..., end:])
        found = outputs[..., :end].astype(c.dtype)
        last = {**last, 'h': last['h'][:, :width]}
        return found[..., :width], found[..., width:], last


def step_numbers(position: jax.Array, length: int, mask: jax.Array | None) -> jax.Array:
    """`[length, batch or 1, 1]` float32: the number of each of the steps from `position` on.

    Padding is no step: a target has the same numbers wherever in the row it stands.
    """
    passed = jnp.arange(length)[:, None] if mask is None else jnp.cumsum(mask.T, axis=0) - 1
    return (position + jnp.maximum(passed, 0)).astype(jnp.float32)[..., None]


def states_before(first: jax.Array, states: jax.Array, mask: jax.Array | None) -> jax.Array:
    """`[batch, length, width]`: what the step before each one left, padding being no step.

    Args:
        first: `[batch, width]`, the state before all steps.
        states: `[batch, length, width]`, what each step gives, zero at padding.
        mask: `[batch, length]` bool, True at real steps; `None`: all.
    """
    every = jnp.concatenate([first[:, None], states], axis=1)
    if mask is None:
        return every[:, :-1]
    # The place in `every` of the last real step up to each one; 0 is `first`.
    places = jax.lax.cummax(jnp.where(mask, jnp.arange(1, mask.shape[1] + 1), 0), axis=1)
    places = jnp.pad(places, ((0, 0), (1, 0)))[:, :-1]
    return jnp.take_along_axis(every, places[..., None], axis=1)


def widened(x: jax.Array, more: int) -> jax.Array:
    """`[batch, width]` -> `[batch, width + more]`, filled with zeros."""
    return jnp.pad(x, ((0, 0), (0, more)))


def control_of(mask: jax.Array | None) -> Control:
    """Which steps count, of a `[batch, length]` mask."""
    return Control(None if mask is None else mask.T)
