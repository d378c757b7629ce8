"""Recurrent layers: one direction or two, stacked, residual, with dropout where the papers have it.

    layer   y = cell(x) over time: `RecurrentLayer`
    stack   x_{l+1} = layer_l(D(x_l)) [+ x_l from `residual_from` on]

A padded step leaves the carry as it is and gives out zeros, on whichever side the padding lies and
in both directions; so a batch gives exactly what each of its sequences gives alone. State goes in
and comes out: truncated back-propagation hands the carry of one call to the next, decoding does so
with one step at a time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates
from seqzoo.errors import ConfigError
from seqzoo.layers.recurrent_cells import Cell, Weight
from seqzoo.layers.recurrent_dropout import drop_connect, drop_features, feature_mask
from seqzoo.layers.time_scan import Carry, Control, boundaries, in_chunks, time_scan
from seqzoo.parallel.axes import named


@flax.struct.dataclass
class Recurrence:
    """What recurrent layers return.

    Attributes:
        features: `[batch, length, hidden]` outputs in the dtype of the computation, zero at
            padding.
        carry: the state after the last step: a dict of float32 `[batch, ...]` for one layer, a pair
            of them (forward, backward) for two directions, a tuple over layers for a stack.
        undropped: of a stack, `features` before the dropout on its output; `None` of a layer, which
            has none.
        layers: of a stack, what each layer gives, from the bottom, before any dropout.
    """

    features: jax.Array
    carry: Any
    undropped: jax.Array | None = None
    layers: tuple[jax.Array, ...] = ()


class RecurrentLayer(nn.Module):
    """A cell run over time in one direction.

    Parameters are float32; products run in `dtype` and add up in float32, and the carry is float32.

    Attributes:
        cell: its equations.
        dtype: dtype of the matrix products and of the outputs.
        reverse: from the last step to the first.
        weight_drop_rate: drop-connect on the recurrent kernel, one mask a step of training.
        recurrent_dropout_rate: variational dropout of `h` before the recurrent products.
        remat_steps: the backward pass computes again in pieces of this many steps and saves only
            the carries between; 0 chooses the square root of the length; `None` saves all.
        unroll: steps per turn of the compiled loop; `None`: what is best on this backend.
    """

    cell: Cell
    dtype: jnp.dtype
    reverse: bool = False
    weight_drop_rate: float = 0.0
    recurrent_dropout_rate: float = 0.0
    remat_steps: int | None = None
    unroll: int | None = None

    def initial_carry(self, batch: int) -> Carry:
        """Zeros."""
        return self.cell.initial_carry(batch)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        segments: jax.Array | None = None,
        mask: jax.Array | None = None,
        carry: Carry | None = None,
        train: bool = False,
    ) -> Recurrence:
        """Runs over `x`.

        Args:
            x: `[batch, length, input]`.
            segments: `[batch, length]` int32, 1, 2, ... with 0 for padding; the state begins anew
                where a segment other than the row's first begins.
            mask: `[batch, length]` bool, True at real steps: enough, and cheaper, where a row holds
                one sequence. Give one of the two, or neither if every step is real.
            carry: the state before the first step; zeros if `None`.
            train: whether to drop.
        """
        params = declare(self, self.cell.weights(x.shape[-1]))
        masks = {}
        if train:
            params = self._drop_weights(params)
            masks = self._recurrent_masks(x.shape[0])
        first = self.cell.initial_carry(x.shape[0]) if carry is None else carry
        first = {name: leaf.astype(jnp.float32) for name, leaf in first.items()}
        control = _control(segments, mask, x.shape[:2], self.reverse)

        def run(part: tuple[jax.Array, Control], carry: Carry) -> tuple[jax.Array, Carry]:
            terms = self.cell.prepare(params, part[0])._replace(masks=masks)
            outputs, last = time_scan(
                self.cell, terms, carry, part[1], reverse=self.reverse, unroll=self.unroll
            )
            return outputs.astype(self.dtype), last

        # [batch, length, ...] -> [length, batch, ...]
        sequences = (jnp.swapaxes(x.astype(self.dtype), 0, 1), control)
        length = x.shape[1]
        steps = length if self.remat_steps is None else self.remat_steps or math.isqrt(length)
        if steps < length:
            outputs, last = in_chunks(run, sequences, first, steps, reverse=self.reverse)
        else:
            outputs, last = run(sequences, first)
        return Recurrence(jnp.swapaxes(outputs, 0, 1), last)

    def _drop_weights(self, params: dict[str, jax.Array]) -> dict[str, jax.Array]:
        if self.weight_drop_rate == 0.0:
            return params
        key = self.make_rng('dropout')
        dropped = {
            name: drop_connect(params[name], self.weight_drop_rate, jax.random.fold_in(key, i))
            for i, name in enumerate(self.cell.recurrent_kernels)
        }
        return {**params, **dropped}

    def _recurrent_masks(self, batch: int) -> dict[str, jax.Array]:
        if self.recurrent_dropout_rate == 0.0:
            return {}
        rate, key = self.recurrent_dropout_rate, self.make_rng('dropout')
        mask = feature_mask(batch, self.cell.output_dim, rate, key)
        return dict.fromkeys(self.cell.recurrent_products, mask)


def declare(module: nn.Module, weights: Mapping[str, Weight]) -> dict[str, jax.Array]:
    """Makes `weights` parameters of `module`, float32, and gives their values."""
    return {
        name: module.param(name, named(weight.init, *weight.names), weight.shape, jnp.float32)
        for name, weight in weights.items()
    }


def _control(
    segments: jax.Array | None, mask: jax.Array | None, shape: tuple[int, ...], reverse: bool
) -> Control:
    if segments is not None and mask is not None:
        raise ValueError('give segments or mask, not both: segments already say what is padding')
    given = segments if segments is not None else mask
    if given is not None and given.shape != shape:
        raise ValueError(f'segments or mask of shape {given.shape} for an input of shape {shape}')
    if segments is not None:
        return boundaries(segments, reverse=reverse)
    return Control(None if mask is None else mask.astype(bool).T)


def length_mask(lengths: jax.Array, length: int) -> jax.Array:
    """`[batch, length]` bool: True at the first `lengths` steps. `lengths`: `[batch]` int32."""
    return jnp.arange(length)[None, :] < lengths[:, None]


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig:
    """A stack of recurrent layers.

    Attributes:
        cell: of every layer.
        num_layers: depth.
        hidden_dims: width of each layer, where they differ (`cell.hidden_dim` of each otherwise).
        directions: one, from the first step or (`'backward'`) from the last, or two whose outputs
            are concatenated or summed.
        bidirectional_layers: how many of the bottom layers have two directions; `None`: all.
        residual_from: layers from this one on (0 is the bottom) add their input to their output, if
            both are equally wide; `None`: none.
        input_dropout_rate: on the input of the bottom layer.
        dropout_rate: between layers.
        output_dropout_rate: on the output of the top layer. Zaremba et al. 2014 drop at all three
            places alike; torch only between layers.
        variational: whether these three drop the same features at every step.
        recurrent_dropout_rate: on `h` before the recurrent products, the same at every step.
        weight_drop_rate: drop-connect on the recurrent kernels.
        remat_steps: see `RecurrentLayer`.
        unroll: see `RecurrentLayer`.
    """

    cell: Cell
    num_layers: int = 1
    hidden_dims: tuple[int, ...] | None = None
    directions: Literal['forward', 'backward', 'concatenated', 'summed'] = 'forward'
    bidirectional_layers: int | None = None
    residual_from: int | None = None
    input_dropout_rate: float = 0.0
    dropout_rate: float = 0.0
    output_dropout_rate: float = 0.0
    variational: bool = False
    recurrent_dropout_rate: float = 0.0
    weight_drop_rate: float = 0.0
    remat_steps: int | None = None
    unroll: int | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.num_layers < 1:
            raise ConfigError(f'num_layers is {self.num_layers}: a stack has at least one layer')
        if self.hidden_dims is not None and len(self.hidden_dims) != self.num_layers:
            raise ConfigError(
                f'hidden_dims has {len(self.hidden_dims)} widths for num_layers {self.num_layers}: '
                'give one for each layer, or None'
            )
        if self.directions not in ('forward', 'backward', 'concatenated', 'summed'):
            raise ConfigError(
                f'directions is {self.directions!r}: choose forward, backward, concatenated or '
                'summed'
            )
        if self.directions in ('forward', 'backward') and self.bidirectional_layers:
            raise ConfigError(
                f'bidirectional_layers is {self.bidirectional_layers} but directions is '
                f'{self.directions}: choose concatenated or summed'
            )
        for name, least, most in (
            ('bidirectional_layers', 0, self.num_layers),
            ('residual_from', 0, self.num_layers - 1),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ConfigError(
                    f'{name} is {value} of num_layers {self.num_layers}: choose {least} to {most}, '
                    'or None'
                )
        check_rates(
            self,
            *('input_dropout_rate', 'dropout_rate', 'output_dropout_rate'),
            *('recurrent_dropout_rate', 'weight_drop_rate'),
        )
        for name in ('remat_steps', 'unroll'):
            value = getattr(self, name)
            if value is not None and value < (name == 'unroll'):
                raise ConfigError(f'{name} is {value}: give a number of steps, or None')

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cell of each layer."""
        widths = self.hidden_dims or (self.cell.hidden_dim,) * self.num_layers
        return tuple(replace(self.cell, hidden_dim=width) for width in widths)

    def is_bidirectional(self, layer: int) -> bool:
        """Whether that layer, counted from 0 at the bottom, has two directions."""
        if self.directions in ('forward', 'backward'):
            return False
        return self.bidirectional_layers is None or layer < self.bidirectional_layers

    @property
    def output_dims(self) -> tuple[int, ...]:
        """How wide the output of each layer is."""
        return tuple(
            cell.output_dim
            * (2 if self.is_bidirectional(i) and self.directions == 'concatenated' else 1)
            for i, cell in enumerate(self.cells)
        )

    def initial_carry(self, batch: int) -> tuple[Any, ...]:
        """Zeros, a tuple over layers."""
        return tuple(
            (cell.initial_carry(batch),) * 2
            if self.is_bidirectional(i)
            else cell.initial_carry(batch)
            for i, cell in enumerate(self.cells)
        )

    def split(self, at: int) -> tuple['RecurrentConfig', 'RecurrentConfig']:
        """The bottom `at` layers and the others: two stacks that, one after the other, do what this
        one does.
        """
        if not 0 < at < self.num_layers:
            raise ConfigError(f'cannot split {self.num_layers} layers behind layer {at}')
        widths, two, residual = self.hidden_dims, self.bidirectional_layers, self.residual_from
        bottom = replace(
            self,
            num_layers=at,
            hidden_dims=widths and widths[:at],
            bidirectional_layers=None if two is None else min(two, at),
            residual_from=None if residual is None or residual >= at else residual,
            output_dropout_rate=self.dropout_rate,
        )
        top = replace(
            self,
            num_layers=self.num_layers - at,
            hidden_dims=widths and widths[at:],
            bidirectional_layers=None if two is None else max(two - at, 0),
            residual_from=None if residual is None else max(residual - at, 0),
            input_dropout_rate=0.0,
        )
        return bottom, top


class RecurrentStack(nn.Module):
    """Recurrent layers on top of each other.

    Layers keep parameters of their own (`layer_0`, with `forward` and `backward` inside where there
    are two directions): the bottom one is nearly always of another shape.

    Attributes:
        config: the stack.
        dtype: dtype of the computation.
    """

    config: RecurrentConfig
    dtype: jnp.dtype

    def setup(self) -> None:
        """Declares the layers."""
        config = self.config
        self.layers = [
            Bidirectional(config, cell, self.dtype, name=f'layer_{i}')
            if config.is_bidirectional(i)
            else _one_way(
                config, cell, self.dtype, config.directions == 'backward', name=f'layer_{i}'
            )
            for i, cell in enumerate(config.cells)
        ]

    def initial_carry(self, batch: int) -> tuple[Any, ...]:
        """Zeros, a tuple over layers."""
        return self.config.initial_carry(batch)

    def __call__(
        self,
        x: jax.Array,
        *,
        segments: jax.Array | None = None,
        mask: jax.Array | None = None,
        carry: tuple[Any, ...] | None = None,
        train: bool = False,
    ) -> Recurrence:
        """Runs over `x`, `[batch, length, input]`; see `RecurrentLayer`."""
        config, last, outputs = self.config, [], []
        control = {'segments': segments, 'mask': mask, 'train': train}
        given = (None,) * config.num_layers if carry is None else carry
        if len(given) != config.num_layers:
            raise ValueError(f'a carry of {len(given)} layers for {config.num_layers}')
        x = self._drop(x.astype(self.dtype), config.input_dropout_rate, train)
        for i, (layer, own) in enumerate(zip(self.layers, given, strict=True)):
            if i:
                x = self._drop(x, config.dropout_rate, train)
            result = layer(x, carry=own, **control)
            last.append(result.carry)
            residual = config.residual_from is not None and i >= config.residual_from
            if residual and x.shape != result.features.shape:
                raise ConfigError(
                    f'residual_from is {config.residual_from}, but layer {i} reads '
                    f'{x.shape[-1]} features and gives {result.features.shape[-1]}: '
                    'make them equal or begin higher'
                )
            x = x + result.features if residual else result.features
            outputs.append(x)
        outputs = tuple(_zero_padding(x, segments, mask) for x in outputs)
        dropped = self._drop(outputs[-1], config.output_dropout_rate, train)
        return Recurrence(dropped, tuple(last), outputs[-1], outputs)

    def _drop(self, x: jax.Array, rate: float, train: bool) -> jax.Array:
        if not train or rate == 0.0:
            return x
        key, variational = self.make_rng('dropout'), self.config.variational
        return drop_features(x, rate, key, variational=variational)


def _zero_padding(x: jax.Array, segments: jax.Array | None, mask: jax.Array | None) -> jax.Array:
    """A residual connection brings along what the input holds at padding."""
    keep = mask if segments is None else segments > 0
    return x if keep is None else jnp.where(keep[..., None], x, 0)


def _one_way(
    config: RecurrentConfig, cell: Cell, dtype: Any, reverse: bool, name: str | None = None
) -> RecurrentLayer:
    return RecurrentLayer(
        cell,
        dtype,
        reverse,
        weight_drop_rate=config.weight_drop_rate,
        recurrent_dropout_rate=config.recurrent_dropout_rate,
        remat_steps=config.remat_steps,
        unroll=config.unroll,
        name=name,
    )


class Bidirectional(nn.Module):
    """The same cell in both directions, with parameters of their own (Schuster and Paliwal 1997).

    Attributes:
        config: says how the directions are joined and what is dropped.
        cell: its equations.
        dtype: dtype of the computation.
    """

    config: RecurrentConfig
    cell: Cell
    dtype: jnp.dtype

    def setup(self) -> None:
        """Declares the two layers."""
        self.forward = _one_way(self.config, self.cell, self.dtype, False)
        self.backward = _one_way(self.config, self.cell, self.dtype, True)

    def __call__(
        self,
        x: jax.Array,
        *,
        segments: jax.Array | None = None,
        mask: jax.Array | None = None,
        carry: tuple[Carry, Carry] | None = None,
        train: bool = False,
    ) -> Recurrence:
        """Runs over `x`; the carry is (forward, backward), where the state of the backward
        direction before its first step stands at the end of the row.
        """
        control = {'segments': segments, 'mask': mask, 'train': train}
        there = self.forward(x, carry=carry and carry[0], **control)
        back = self.backward(x, carry=carry and carry[1], **control)
        if self.config.directions == 'summed':
            features = there.features + back.features
        else:
            features = jnp.concatenate([there.features, back.features], axis=-1)
        return Recurrence(features, (there.carry, back.carry))
