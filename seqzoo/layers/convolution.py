"""Convolutions over one axis or several, channels last.

`Convolution` looks at images and at the letters of a word. `SequenceConvolution` is the layer of
the sequence models: over time, dilated, causal or not, blind to padding and to the other segments
of a packed row, and resumable: what a causal one needs of the past are its last
`dilation x (window - 1)` inputs, its *history*. A full pass begins with zeros or with the history
that an earlier one left; a single new step is one small matrix product, whatever came before.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.layers.linear import product
from seqzoo.parallel.axes import named, target_platform

_SPATIAL = 'DHW'  # what XLA calls the axes, of no meaning here


class Convolution(nn.Module):
    """`y[p] = sum over the window of x[stride p + w] W[w] + b`.

    Parameters are float32 and start as in He et al. 2015, for a ReLU behind them; the computation
    runs in `dtype`.

    Attributes:
        features: channels that come out.
        window: extent of the window along each axis.
        stride: from one place to the next, the same along each axis.
        dtype: dtype of the computation and of the result.
        padding: `'SAME'`: zeros around the input; `'VALID'`: only where the whole window lies in
            it.
    """

    features: int
    window: tuple[int, ...]
    stride: int
    dtype: jnp.dtype
    padding: Literal['SAME', 'VALID'] = 'SAME'

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, *axes, channels]` -> `[batch, *axes / stride, features]`, or a little less."""
        names = (*('window',) * len(self.window), 'channels_in', 'channels_out')
        start = nn.initializers.he_normal(in_axis=-2, out_axis=-1)
        shape = (*self.window, x.shape[-1], self.features)
        kernel = self.param('kernel', named(start, *names), shape, jnp.float32)
        zeros = named(nn.initializers.zeros, 'channels_out')
        bias = self.param('bias', zeros, (self.features,), jnp.float32)
        axes = _SPATIAL[-len(self.window) :]
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride,) * len(self.window),
            padding=self.padding,
            dimension_numbers=(f'N{axes}C', f'{axes}IO', f'N{axes}C'),
        )
        return y + bias.astype(self.dtype)


@flax.struct.dataclass
class Rows:
    """What the convolutions of a network must know about the rows that they read.

    Attributes:
        segments: `[batch, length]`: 1, 2, ... and 0 for padding.
        packed: whether a row may hold several segments. Known before the program runs: no branch
            of `jax.lax.cond` may hold a convolution, see `loops_cost_nothing`.
    """

    segments: jax.Array
    packed: bool = flax.struct.field(pytree_node=False, default=False)

    @property
    def read(self) -> jax.Array:
        """`[batch]` int32: the place behind the last one that is real; 0 without any."""
        places = jnp.arange(1, self.segments.shape[1] + 1, dtype=jnp.int32)
        return jnp.max(jnp.where(self.segments > 0, places, 0), axis=1)

    def clear(self, x: jax.Array) -> jax.Array:
        """`[batch, length, channels]` with zeros at padding."""
        return jnp.where(self.segments[..., None] > 0, x, 0)


def rows_of(segments: jax.Array | None) -> Rows | None:
    """What `segments` say; `None`: every place is real, and of one segment.

    Booleans (`[[True, True, False]]`) tell what is real and that no row holds several segments: the
    convolutions are then plain ones. Under numbers (`[[1, 1, 2]]`) they are products with what each
    place sees, which takes the memory of a window for each place.
    """
    return None if segments is None else Rows(segments, segments.dtype != jnp.bool_)


def loops_cost_nothing() -> bool:
    """Whether a convolution in a compiled loop or branch is as fast as outside.

    XLA's CPU backend leaves such ones to a kernel of its own: a training step of a small ByteNet
    takes eight times as long with its sets in a loop.
    """
    return target_platform() != 'cpu'


def is_slow_in_loops(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a function holds convolutions, and loops over it would cost something."""
    if loops_cost_nothing():
        return False
    return 'conv_general_dilated' in str(jax.make_jaxpr(function)(*arguments))


def glu(x: jax.Array) -> jax.Array:
    """`a * sigmoid(b)` of the halves `[a; b]` of the channels (Dauphin et al. 2016)."""
    a, b = jnp.split(x, 2, axis=-1)
    return a * nn.sigmoid(b)


def gated_tanh(x: jax.Array) -> jax.Array:
    """`tanh(a) * sigmoid(b)` of the halves `[a; b]` of the channels (van den Oord et al. 2016)."""
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.tanh(a) * nn.sigmoid(b)


def history(batch: int, window: int, dilation: int, channels: int, dtype: jnp.dtype) -> jax.Array:
    """What a causal convolution knows before its first input: `[batch, reach, channels]` zeros."""
    return jnp.zeros((batch, dilation * (window - 1), channels), dtype)


class SequenceConvolution(nn.Module):
    """`y_t = sum_w x_{t + d (w - o)} W_w + b` over time, zeros around each segment.

    The offset o is `window - 1` if causal, so that nothing later than t is seen, else such that the
    taps reach equally far to both sides, and one place further ahead where that cannot be.
    With weight normalisation (Salimans and Kingma 2016) `W = g V / |V|`, the norm being that of
    each output channel, and g starts as |V|.

    Attributes:
        features: channels that come out.
        window: taps.
        dtype: dtype of the computation and of the result.
        dilation: places from tap to tap (d).
        causal: whether later places stay out of sight.
        use_bias: whether `b` exists.
        weight_norm: whether kernels have a direction V and a length g.
        kernel_init: how `V` or `W` starts, `[window, channels_in, channels_out]`; by default as in
            He et al. 2015.
        names: axis names of the channels that enter and that come out.
    """

    features: int
    window: int
    dtype: jnp.dtype
    dilation: int = 1
    causal: bool = True
    use_bias: bool = True
    weight_norm: bool = False
    kernel_init: nn.initializers.Initializer | None = None
    names: tuple[str, str] = ('channels_in', 'channels_out')

    @nn.compact
    def __call__(
        self, x: jax.Array, rows: Rows | None = None, before: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Every place at once, or those after a history.

        Args:
            x: `[batch, length, channels]`.
            rows: what is real; `None`: all, and of one segment.
            before: the history of a causal convolution, `[batch, reach, channels]`; the segment at
                the first place of a row goes on from it. `None` begins with zeros.

        Returns:
            `[batch, length, features]`, of no meaning at padding, and the history behind the last
            real place of each row, which holds nothing of other segments; `None` if none was given.
        """
        kernel, x = self._kernel(x.shape[-1]), x.astype(self.dtype)
        x = x if rows is None else rows.clear(x)
        after = None if before is None else _after(before, x, rows)
        reach = self.dilation * (self.window - 1)
        y: Any
        if reach == 0:
            y = product(x, kernel[0], 1)
        elif x.shape[1] == 1 and before is not None:
            whole = jnp.concatenate([before.astype(self.dtype), x], axis=1)
            y = _windows(whole, 1, self.dilation, None) @ kernel.reshape(-1, self.features)
        else:
            y = self._convolve(x, kernel, rows, before)
        if self.use_bias:
            zeros = named(nn.initializers.zeros, self.names[1])
            y += self.param('bias', zeros, (self.features,), jnp.float32).astype(self.dtype)
        return y, after

    def _kernel(self, channels: int) -> jax.Array:
        """`[window, channels, features]`."""
        start = self.kernel_init or nn.initializers.he_normal(in_axis=(0, 1), out_axis=2)
        shape = (self.window, channels, self.features)
        kernel = self.param('kernel', named(start, 'window', *self.names), shape, jnp.float32)
        if self.weight_norm:
            length = jnp.sqrt(jnp.sum(jnp.square(kernel), axis=(0, 1)))
            scale = self.param('scale', named(lambda *_: length, self.names[1]), length.shape)
            kernel = kernel * (scale / length)
        return kernel.astype(self.dtype)

    def _convolve(
        self, x: jax.Array, kernel: jax.Array, rows: Rows | None, before: jax.Array | None
    ) -> jax.Array:
        reach, length = self.dilation * (self.window - 1), x.shape[1]
        left = reach if self.causal else reach // 2
        around = (left, reach - left)
        if before is not None:
            past = before.astype(self.dtype)
            if rows is not None:  # what begins with padding goes on from nothing
                past = jnp.where(rows.segments[:, :1, None] > 0, past, 0)
            x, around = jnp.concatenate([past, x], axis=1), (0, 0)

        if rows is None or not rows.packed:
            return jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(1,),
                padding=(around,),
                rhs_dilation=(self.dilation,),
                dimension_numbers=('NWC', 'WIO', 'NWC'),
            )
        # Which taps are seen depends on both ends, which no convolution knows.
        segments, known = rows.segments, rows.segments
        if before is not None:
            known = jnp.concatenate([jnp.repeat(known[:, :1], reach, axis=1), known], axis=1)
        places = jnp.pad(known, ((0, 0), around))
        taps = range(0, reach + 1, self.dilation)
        own = [places[:, tap : tap + length] == segments for tap in taps]
        whole = jnp.pad(x, ((0, 0), around, (0, 0)))
        windows = _windows(whole, length, self.dilation, jnp.stack(own, axis=2))
        return windows @ kernel.reshape(-1, self.features)


def _windows(x: jax.Array, length: int, dilation: int, seen: jax.Array | None) -> jax.Array:
    """`[batch, length, window x channels]`: what stands under the taps at each place.

    Args:
        x: `[batch, length + reach, channels]`.
        length: places.
        dilation: from tap to tap.
        seen: `[batch, length, window]`; zeros stand under the taps that are not.
    """
    taps = range(0, x.shape[1] - length + 1, dilation)
    under = [x[:, tap : tap + length] for tap in taps]
    if seen is not None:
        under = [jnp.where(seen[:, :, i, None], part, 0) for i, part in enumerate(under)]
    return jnp.concatenate(under, axis=-1)


def _after(before: jax.Array, x: jax.Array, rows: Rows | None) -> jax.Array:
    """The history behind the last real place of each row: what a next one of its segment sees.

    `x` is clear of padding. A row without a real place keeps its history.
    """
    if rows is not None and x.shape[1] > 1:
        segments = rows.segments.astype(jnp.int32)
        last = jnp.take_along_axis(segments, jnp.maximum(rows.read - 1, 0)[:, None], axis=1)
        if rows.packed:
            x = jnp.where((segments == last)[..., None], x, 0)
        # The first place goes on from `before`; so does the next one, if it is of that segment.
        before = jnp.where((segments[:, :1] == last)[..., None], before, 0)
    whole, reach = jnp.concatenate([before, x.astype(before.dtype)], axis=1), before.shape[1]
    if rows is None:
        return whole[:, whole.shape[1] - reach :]
    if x.shape[1] == 1:
        return jnp.where(rows.segments[..., None] > 0, whole[:, 1:], before)
    return jax.vmap(lambda row, n: jax.lax.dynamic_slice_in_dim(row, n, reach))(whole, rows.read)
