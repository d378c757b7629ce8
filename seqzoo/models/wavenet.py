"""WaveNet (van den Oord et al. 2016, arXiv:1609.03499): sound, one sample after the other.

Samples are classes, 256 levels of the mu-law (`data.audio`), and each is predicted from those
before it. On a stream x of residual channels, with a convolution of width 2 and dilation d,

    z = tanh(W_f *_d x + V_f h + U_f y) * sigmoid(W_g *_d x + V_g h + U_g y)
    x <- x + W_r z + b_r                    the stream of the next layer
    s <- s + W_s z + b_s                    the sum of all layers
    p = softmax(W_2 relu(W_1 relu(s) + b_1) + b_2)

h is one vector for the whole sound (a speaker, a kind of tone: global conditioning), y a series as
long as the sound (pitch, phones: local conditioning, section 2.5), of which y_t is known when x_t
is to be predicted. Dilations are doubled up to a limit and begin again, `1, 2, ..., 512, 1, ...`;
the stream starts as one causal convolution over one-hot samples.

The paper names no widths. The defaults are those of ibab's tensorflow-wavenet: 50 layers, 32 and
512 channels, 1,515,968 parameters, 5,117 samples in sight. Without the first convolution's window
(`first_window=1`) one cycle to 512 sees 1,024.

Deviations. `W_r` of the topmost layer, which nothing reads, exists as in that code, so that cycles
are equal and can be stacked. Local conditions are of the sampling rate of the sound: what is slower
must be repeated or interpolated before.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates, check_sizes
from seqzoo.layers.convolution import (
    Rows,
    SequenceConvolution,
    gated_tanh,
    history,
    loops_cost_nothing,
    rows_of,
)
from seqzoo.layers.dropout import Dropout
from seqzoo.layers.embedding import Embedding
from seqzoo.layers.linear import Linear
from seqzoo.layers.recurrent import length_mask
from seqzoo.layers.stack import Remat, Stack
from seqzoo.models.base import ConfigError, LMOutput, ModelConfig
from seqzoo.models.flops import Flops, matmul_flops
from seqzoo.parallel.axes import constrain


@dataclass(frozen=True, kw_only=True)
class WaveNetConfig(ModelConfig):
    """Hyperparameters of WaveNet.

    Attributes:
        vocab_size: levels of a sample.
        dilations: of the layers of one cycle.
        num_cycles: cycles.
        window: taps of each layer.
        first_window: taps of the first convolution, over one-hot samples.
        residual_dim: channels of the stream.
        gate_dim: channels of z.
        skip_dim: channels of the sum, and of the layer above it.
        num_classes: kinds of sound, for global conditioning; `None`: none, or filled in from the
            data.
        class_dim: width of the vector of a kind; `None`: no global conditioning.
        local_dim: width of a series that goes along; `None`: no local conditioning.
        dropout_rate: of what each layer reads; the paper has none.
        dtype: dtype of activations; parameters and logits are float32 in any case.
        scan_layers: run the cycles as a loop (compiles one) or, as always on a CPU, unrolled; the
            parameters are the same.
        remat: what the backward pass computes again to save memory: nothing, everything in a cycle,
            or all but its matrix products (`'dots'`).
    """

    vocab_size: int = 256
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    num_cycles: int = 5
    window: int = 2
    first_window: int = 2
    residual_dim: int = 32
    gate_dim: int = 32
    skip_dim: int = 512
    num_classes: int | None = None
    class_dim: int | None = None
    local_dim: int | None = None
    dropout_rate: float = 0.0
    dtype: Literal['float32', 'bfloat16'] = 'float32'
    scan_layers: bool = True
    remat: Remat = 'none'

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        widths = ('residual_dim', 'gate_dim', 'skip_dim')
        check_sizes(self, 'vocab_size', 'num_cycles', 'first_window', *widths)
        check_sizes(self, 'num_classes', 'class_dim', 'local_dim')
        if self.vocab_size < 2:
            raise ConfigError(f'vocab_size is {self.vocab_size}: a sound has two levels at least')
        if self.window < 2:
            raise ConfigError(f'window is {self.window}: a layer that looks back has at least 2')
        if not self.dilations or min(self.dilations) < 1:
            raise ConfigError(f'dilations are {self.dilations}: give one or more, of at least 1')
        check_rates(self, 'dropout_rate')

    @property
    def receptive_field(self) -> int:
        """How many samples a prediction depends on."""
        layers = (self.window - 1) * sum(self.dilations) * self.num_cycles
        return layers + self.first_window

    def build(self) -> 'WaveNet':
        """The module. Raises `ConfigError` while `num_classes` is open."""
        if self.class_dim is not None and self.num_classes is None:
            raise ConfigError('num_classes is open: set it, or prepare the data, which says it')
        return WaveNet(self)

    @classmethod
    def tiny(cls) -> Self:
        """Two cycles of one layer, 6 wide, 16 levels."""
        return cls(
            vocab_size=16,
            dilations=(1,),
            num_cycles=2,
            window=3,
            residual_dim=6,
            gate_dim=6,
            skip_dim=8,
            dropout_rate=0.1,
        )

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """Samples."""
        tokens = jnp.arange(batch * length, dtype=jnp.int32).reshape(batch, length)
        return (tokens * 7 % self.vocab_size,)

    def initial_carry(self, batch: int) -> 'WaveNetHistories':
        """The past before the first sample."""
        dtype = jnp.dtype(self.dtype)
        kept = [history(batch, self.window, d, self.residual_dim, dtype) for d in self.dilations]
        layers = tuple(jnp.stack([past] * self.num_cycles, axis=1) for past in kept)
        return WaveNetHistories(
            history(batch, self.first_window, 1, self.vocab_size, dtype), layers
        )

    def silent_condition(self, batch: int, length: int) -> 'Condition':
        """Zeros wherever the network is conditioned."""
        classes = None if self.class_dim is None else jnp.zeros(batch, jnp.int32)
        local = None if self.local_dim is None else jnp.zeros((batch, length, self.local_dim))
        return Condition(classes, local)

    def flops(self, batch: int, length: int) -> Flops:
        """The first convolution, all layers without conditions, and the logits."""
        tokens, gates = batch * length, 2 * self.gate_dim
        first = matmul_flops(tokens, self.residual_dim, self.first_window * self.vocab_size)
        layer = matmul_flops(tokens, gates, self.window * self.residual_dim)
        layer += matmul_flops(tokens, self.residual_dim + self.skip_dim, self.gate_dim)
        layers = len(self.dilations) * self.num_cycles * layer
        above = matmul_flops(tokens, self.skip_dim, self.skip_dim)
        logits = matmul_flops(tokens, self.vocab_size, self.skip_dim)
        return Flops(convolution=first + layers, feed_forward=above, logits=logits)


@flax.struct.dataclass
class Condition:
    """What a sound is to be.

    Attributes:
        classes: `[batch]` int32; `None` without global conditioning.
        local: `[batch, length, local]`, of every sample that will be predicted, in time; `None`
            without local conditioning.
    """

    classes: jax.Array | None = None
    local: jax.Array | None = None


@flax.struct.dataclass
class WaveNetHistories:
    """What the convolutions have seen last.

    Attributes:
        first: `[batch, first_window - 1, vocab]`.
        layers: of each layer of a cycle, `[batch, cycles, reach, residual]`.
    """

    first: jax.Array
    layers: tuple[jax.Array, ...]


@flax.struct.dataclass
class WaveNetCache:
    """What generation goes on from.

    Attributes:
        histories: what the convolutions have seen last.
        condition: of the whole sound.
        position: `[batch]` int32, samples read.
    """

    histories: WaveNetHistories
    condition: Condition
    position: jax.Array


@flax.struct.dataclass
class LayerContext:
    """What every layer is given.

    Attributes:
        rows: what is real; `None`: all.
        whole: `[batch, 1, class]`, the vector of the kind; `None` without.
        local: `[batch, length, local]`; `None` without.
        train: whether dropout is on.
    """

    rows: Rows | None
    whole: jax.Array | None
    local: jax.Array | None
    train: bool = flax.struct.field(pytree_node=False, default=False)


class GatedLayer(nn.Module):
    """One dilated layer with its two ways out.

    Attributes:
        config: sizes.
        dilation: of the convolution.
    """

    config: WaveNetConfig
    dilation: int

    @nn.compact
    def __call__(
        self, stream: tuple[jax.Array, jax.Array], context: LayerContext, before: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array | None]:
        """`(x [batch, length, residual], s [batch, length, skip])` to the same shapes."""
        c, dtype, (x, skip) = self.config, jnp.dtype(self.config.dtype), stream
        convolution = SequenceConvolution(
            2 * c.gate_dim,
            c.window,
            dtype,
            dilation=self.dilation,
            kernel_init=nn.initializers.glorot_uniform(in_axis=(0, 1), out_axis=2),
            names=('embed', 'channels_out'),
            name='gates',
        )
        read = Dropout(c.dropout_rate)(x, context.train)
        gates, after = convolution(read, context.rows, before)
        for name, given in (('whole', context.whole), ('local', context.local)):
            if given is not None:
                names, out = ('channels_in',), ('channels_out',)
                gates += Linear((2 * c.gate_dim,), names, out, False, dtype, name=name)(given)
        z = gated_tanh(gates)

        def way_out(features: int, name: str, axis: str) -> jax.Array:
            return Linear((features,), ('channels_in',), (axis,), True, dtype, name=name)(z)

        x = x + way_out(c.residual_dim, 'residual', 'embed')
        return (x, skip + way_out(c.skip_dim, 'skip', 'mlp')), after


class Cycle(nn.Module):
    """One layer for each dilation, a layer for `Stack.thread`.

    Attributes:
        config: sizes.
    """

    config: WaveNetConfig

    def setup(self) -> None:
        """Declares the layers."""
        self.layers = [GatedLayer(self.config, dilation) for dilation in self.config.dilations]

    def __call__(
        self,
        stream: tuple[jax.Array, jax.Array],
        context: LayerContext,
        before: tuple[jax.Array, ...],
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
        """Stream and sum after one cycle, and the histories."""
        after = []
        for layer, past in zip(self.layers, before, strict=True):
            stream, latest = layer(stream, context, past)
            after.append(latest)
        return stream, tuple(after)


class WaveNet(nn.Module):
    """The network, a `models.base.CausalLM`. `WaveNetConfig(...).build()` makes it.

    Its carry are the histories of its convolutions; its cache has the condition too.
    """

    config: WaveNetConfig

    def setup(self) -> None:
        """Declares the layers."""
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.first = SequenceConvolution(
            c.residual_dim,
            c.first_window,
            dtype,
            use_bias=False,
            kernel_init=nn.initializers.glorot_uniform(in_axis=(0, 1), out_axis=2),
            names=('vocab', 'embed'),
        )
        in_a_loop = c.scan_layers and loops_cost_nothing()
        self.cycles = Stack(Cycle(c), c.num_cycles, in_a_loop, c.remat)
        if c.class_dim is not None and c.num_classes is not None:
            self.class_embedding = Embedding(c.num_classes, c.class_dim, False, dtype)
        self.above = Linear((c.skip_dim,), ('mlp',), ('embed',), True, dtype)
        self.output = Linear((c.vocab_size,), ('embed',), ('vocab',), True, dtype)

    def __call__(
        self,
        tokens: jax.Array,
        *,
        segments: jax.Array | None = None,
        positions: jax.Array | None = None,
        condition: Condition | None = None,
        carry: Any = (),
        train: bool = False,
    ) -> LMOutput:
        """Features of every position at once.

        Args:
            tokens: `[batch, length]` int32 levels, shifted already.
            segments: `[batch, length]`: 1, 2, ... for packed sounds, 0 for padding; `None`: all
                real. A segment at the first place of a row goes on from the carry.
            positions: of no effect.
            condition: what the sounds are to be, if the network is conditioned; `local` has
                `[batch, length]`, one vector for each sample that is predicted.
            carry: the histories that an earlier call returned; `()` begins anew.
            train: whether dropout is on (it draws from the `'dropout'` stream).
        """
        del positions
        before = carry or self.initial_carry(tokens.shape[0])
        given = condition or Condition()
        features, after = self._run(tokens, rows_of(segments), given, before, train)
        if self.is_initializing():
            self.unembed(features)  # creates the parameters that only the logits use
        return LMOutput(features, after)

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., skip]` features -> `[..., vocab]` float32 logits."""
        logits = self.output(features).astype(jnp.float32)
        return constrain(logits, 'batch', 'length', 'vocab') if logits.ndim == 3 else logits

    def initial_carry(self, batch: int) -> WaveNetHistories:
        """Histories of zeros, every leaf `[batch, ...]`."""
        return self.config.initial_carry(batch)

    def init_cache(
        self, batch: int, max_length: int, condition: Condition | None = None
    ) -> WaveNetCache:
        """The past before the first sample; it does not grow with `max_length`.

        Args:
            batch: sounds.
            max_length: samples of each, of which there are local conditions, if any.
            condition: what they are to be.
        """
        del max_length
        position = jnp.zeros(batch, jnp.int32)
        return WaveNetCache(self.initial_carry(batch), condition or Condition(), position)

    def extend(
        self, tokens: jax.Array, lengths: jax.Array, cache: WaveNetCache
    ) -> tuple[jax.Array, WaveNetCache]:
        """Reads the first `lengths` `[batch]` of `tokens` `[batch, n]`; logits `[batch, n,
        vocab]`.
        """
        given = cache.condition
        if given.local is not None:
            places = cache.position[:, None] + jnp.arange(tokens.shape[1])
            places = jnp.minimum(places, given.local.shape[1] - 1)
            own = jnp.take_along_axis(given.local, places[..., None], axis=1)
            given = given.replace(local=own)  # pyright: ignore[reportAttributeAccessIssue]
        rows = Rows(length_mask(lengths, tokens.shape[1]).astype(jnp.int32))
        features, after = self._run(tokens, rows, given, cache.histories, train=False)
        cache = WaveNetCache(after, cache.condition, cache.position + lengths)
        return self.unembed(features), cache

    def _run(
        self,
        tokens: jax.Array,
        rows: Rows | None,
        condition: Condition,
        before: WaveNetHistories,
        train: bool,
    ) -> tuple[jax.Array, WaveNetHistories]:
        """Features `[batch, length, skip]`, and the histories."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        samples = jax.nn.one_hot(tokens, c.vocab_size, dtype=dtype)
        x, first = self.first(samples, rows, before.first)
        x = constrain(x, 'batch', 'length', 'embed')
        if self.is_initializing() and condition.classes is None and condition.local is None:
            condition = c.silent_condition(*tokens.shape)  # their parameters have to be made
        whole, local = self._conditions(condition)
        context = LayerContext(rows, whole, local, train)
        skip = jnp.zeros((*tokens.shape, c.skip_dim), dtype)
        (_, skip), layers = self.cycles.thread((x, skip), context, before.layers)
        features = nn.relu(self.above(nn.relu(skip)))
        assert first is not None
        return features, WaveNetHistories(first, layers)

    def _conditions(self, given: Condition) -> tuple[jax.Array | None, jax.Array | None]:
        """Vectors of the kinds, and the series, as the configuration asks for them."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        for name, width, value in (
            ('classes', c.class_dim, given.classes),
            ('local', c.local_dim, given.local),
        ):
            if (width is None) != (value is None):
                what = 'needs' if width is not None else 'knows no'
                raise ConfigError(
                    f'this network {what} condition.{name}: give it to networks with '
                    f'{"class_dim" if name == "classes" else "local_dim"} alone, and to all those'
                )
        whole = None
        if given.classes is not None:
            whole = self.class_embedding(given.classes)[:, None]
        return whole, None if given.local is None else given.local.astype(dtype)
