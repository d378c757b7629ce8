"""What a network reads at each position, and how that becomes a vector.

    Tokens      ids in a table of vectors                          `[batch, length]` int32
    Ids         each id as the number that it is                   `[batch, length]` int32
    Spelling    ids, and each word's characters through a network of its own; both vectors side by
                side: a bidirectional LSTM over the characters, last states (Ling et al. 2015), or a
                convolution over them, largest value of each filter (Kim et al. 2016; Ma and Hovy
                2016)                                              `SpelledWords`
    ByteSpelling (`layers.spelling`)   words by their bytes, without a table
    Numbers     measurements, as they are or through a matrix      `[batch, length, features]`

Padding comes out as zeros, whatever stands there.
"""

import abc
from dataclasses import dataclass
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates, check_sizes
from seqzoo.errors import ConfigError
from seqzoo.layers.convolution import Convolution
from seqzoo.layers.embedding import Embedding
from seqzoo.layers.linear import Linear
from seqzoo.layers.recurrent import RecurrentConfig, RecurrentStack
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.layers.recurrent_dropout import embedding_dropout


@flax.struct.dataclass
class SpelledWords:
    """Words by their numbers in a vocabulary and by their spelling.

    Attributes:
        tokens: `[batch, length]` int32.
        characters: `[batch, length, width]` int32; 0 stands where a word has no more characters.
    """

    tokens: jax.Array
    characters: jax.Array


@flax.struct.dataclass
class TypedTokens:
    """Tokens of one sentence or of two, which stand in one row.

    Attributes:
        tokens: `[batch, length]` int32.
        token_types: `[batch, length]` int32, 0 in the first sentence and 1 in the second.
    """

    tokens: jax.Array
    token_types: jax.Array


@dataclass(frozen=True, kw_only=True)
class Inputs(abc.ABC):
    """How the input enters a network. Sizes that are `None` the data fills in."""

    @property
    @abc.abstractmethod
    def output_dim(self) -> int:
        """Width of the vectors that come out."""

    @abc.abstractmethod
    def build(self, dtype: Any) -> nn.Module:
        """The module: `(inputs, train) -> [batch, length, embed]`."""

    @abc.abstractmethod
    def example(self, batch: int, length: int) -> Any:
        """An input that the module accepts."""


def embed(module: nn.Module, inputs: Any, segments: jax.Array | None, train: bool) -> jax.Array:
    """What the module of an `Inputs` makes of `inputs`, with zeros at padding."""
    x: Any = module(inputs, train)
    return x if segments is None else jnp.where(segments[..., None] > 0, x, 0)


@dataclass(frozen=True, kw_only=True)
class Tokens(Inputs):
    """A table of one vector for each token.

    Attributes:
        vocab_size: rows; `None` is filled in from the data.
        vocab_multiple: the table is stored padded to a multiple of this.
        embed_dim: columns.
        token_dropout_rate: while training, drops tokens wherever they occur in a batch.
    """

    vocab_size: int | None = None
    vocab_multiple: int = 1
    embed_dim: int = 128
    token_dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values."""
        check_sizes(self, 'vocab_size', 'vocab_multiple', 'embed_dim')
        check_rates(self, 'token_dropout_rate')

    @property
    def output_dim(self) -> int:
        return self.embed_dim

    def build(self, dtype: Any) -> nn.Module:
        refuse_open(self, 'vocab_size')
        return TokenLayer(self, dtype)

    def example(self, batch: int, length: int) -> Any:
        return jnp.arange(batch * length).reshape(batch, length) * 7 % (self.vocab_size or 2)


def refuse_open(config: Any, *names: str) -> None:
    """Raises `ConfigError` if one of these fields is `None`, which the data fills in."""
    for name in names:
        if getattr(config, name) is None:
            raise ConfigError(f'{name} is open: set it, or prepare the data, which has one')


class TokenLayer(nn.Module):
    """The table.

    Attributes:
        config: sizes.
        dtype: of what comes out.
    """

    config: Tokens
    dtype: Any

    def setup(self) -> None:
        """Declares the table."""
        c = self.config
        assert c.vocab_size is not None
        self.table = Embedding(c.vocab_size, c.embed_dim, False, self.dtype, c.vocab_multiple)

    def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
        """`[batch, length]` ids -> `[batch, length, embed]`."""
        c, x = self.config, self.table(tokens)
        if train and c.token_dropout_rate:
            every = jnp.ones((c.vocab_size or 0, 1), x.dtype)
            x *= embedding_dropout(every, c.token_dropout_rate, self.make_rng('dropout'))[tokens]
        return x


@dataclass(frozen=True, kw_only=True)
class Ids(Inputs):
    """Ids as single numbers, without a table: for symbols whose order means something, or little.

    Attributes:
        vocab_size: how many there are; `None` is filled in from the data.
    """

    vocab_size: int | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        check_sizes(self, 'vocab_size')

    @property
    def output_dim(self) -> int:
        return 1

    def build(self, dtype: Any) -> nn.Module:
        return IdLayer(dtype)

    def example(self, batch: int, length: int) -> Any:
        return jnp.arange(batch * length).reshape(batch, length) * 7 % (self.vocab_size or 2)


class IdLayer(nn.Module):
    """Nothing to learn.

    Attributes:
        dtype: of what comes out.
    """

    dtype: Any

    def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
        """`[batch, length]` ids -> `[batch, length, 1]`."""
        del train
        return tokens[..., None].astype(self.dtype)


@dataclass(frozen=True, kw_only=True)
class Spelling(Tokens):
    """A table of words, and beside it what a network reads out of each word's characters.

    Attributes:
        num_characters: how many there are, the 0 of no character included; `None` is filled in.
        max_characters: of a word, as many as it brings along; `None` is filled in.
        character_dim: width of a character's vector.
        network: `'lstm'` (both directions, `features` split between them) or `'convolution'`.
        features: width of what the network gives.
        window: characters under a filter of the convolution.
    """

    num_characters: int | None = None
    max_characters: int | None = None
    character_dim: int = 32
    network: Literal['lstm', 'convolution'] = 'convolution'
    features: int = 64
    window: int = 3

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_sizes(self, 'num_characters', 'max_characters', 'character_dim')
        check_sizes(self, 'features', 'window')
        if self.network not in ('lstm', 'convolution'):
            raise ConfigError(f'network is {self.network!r}: choose lstm or convolution')
        if self.network == 'lstm' and self.features % 2:
            raise ConfigError(f'features is {self.features}: two directions share an even number')

    @property
    def output_dim(self) -> int:
        return self.embed_dim + self.features

    @property
    def layers(self) -> RecurrentConfig:
        """Those over the characters, if `network` is `'lstm'`."""
        return RecurrentConfig(cell=LSTM(hidden_dim=self.features // 2), directions='concatenated')

    def build(self, dtype: Any) -> nn.Module:
        refuse_open(self, 'vocab_size', 'num_characters', 'max_characters')
        return SpellingLayer(self, dtype)

    def example(self, batch: int, length: int) -> Any:
        width, count = self.max_characters or 1, self.num_characters or 2
        characters = jnp.arange(batch * length * width).reshape(batch, length, width) * 3 % count
        # Words of one character and more.
        ends = 1 + jnp.arange(batch * length).reshape(batch, length, 1) % width
        characters = jnp.where(jnp.arange(width) < ends, jnp.maximum(characters, 1), 0)
        return SpelledWords(super().example(batch, length), characters)


class SpellingLayer(nn.Module):
    """The table and the network over characters.

    Attributes:
        config: sizes.
        dtype: of what comes out.
    """

    config: Spelling
    dtype: Any

    def setup(self) -> None:
        """Declares both."""
        c = self.config
        assert c.num_characters is not None
        self.words = TokenLayer(c, self.dtype)
        self.characters = Embedding(c.num_characters, c.character_dim, False, self.dtype)
        self.network: Any
        if c.network == 'lstm':
            self.network = RecurrentStack(c.layers, self.dtype)
        else:
            self.network = Convolution(c.features, (c.window,), 1, self.dtype)

    def __call__(self, words: SpelledWords, train: bool) -> jax.Array:
        """`[batch, length]` words -> `[batch, length, embed + features]`."""
        batch, length, width = words.characters.shape
        ids = words.characters.reshape(batch * length, width)
        real = ids > 0
        x = jnp.where(real[..., None], self.characters(ids), 0)
        read = self._last_states if self.config.network == 'lstm' else self._largest
        spelled = read(x, real).reshape(batch, length, -1)
        return jnp.concatenate([self.words(words.tokens, train), spelled], axis=-1)

    def _last_states(self, x: jax.Array, real: jax.Array) -> jax.Array:
        """`[words, width, character]` -> `[words, features]`."""
        result = self.network(x, mask=real)
        return jnp.concatenate([way['h'] for way in result.carry[-1]], axis=-1).astype(self.dtype)

    def _largest(self, x: jax.Array, real: jax.Array) -> jax.Array:
        """The same; zeros stand before and behind a word."""
        filters = self.network(x)
        least = jnp.finfo(self.dtype).min
        largest = jnp.max(jnp.where(real[..., None], filters, least), axis=1)
        return jnp.where(jnp.any(real, axis=1)[:, None], jnp.tanh(largest), 0)


@dataclass(frozen=True, kw_only=True)
class Numbers(Inputs):
    """Measurements.

    Attributes:
        input_dim: how many there are at each position; `None` is filled in from the data.
        embed_dim: width of the vectors into which a matrix turns them; `None`: they stay as they
            are.
    """

    input_dim: int | None = None
    embed_dim: int | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        check_sizes(self, 'input_dim', 'embed_dim')

    @property
    def output_dim(self) -> int:
        return self.embed_dim or self.input_dim or 1

    def build(self, dtype: Any) -> nn.Module:
        refuse_open(self, 'input_dim')
        return NumberLayer(self, dtype)

    def example(self, batch: int, length: int) -> jax.Array:
        shape = (batch, length, self.input_dim or 1)
        return jnp.sin(jnp.arange(batch * length * shape[-1], dtype=jnp.float32)).reshape(shape)


class NumberLayer(nn.Module):
    """The matrix, if there is one.

    Attributes:
        config: sizes.
        dtype: of what comes out.
    """

    config: Numbers
    dtype: Any

    @nn.compact
    def __call__(self, numbers: jax.Array, train: bool) -> jax.Array:
        """`[batch, length, features]` -> `[batch, length, embed]`."""
        del train
        c = self.config
        if numbers.shape[-1] != c.input_dim:
            raise ConfigError(
                f'input_dim is {c.input_dim}, but the input has {numbers.shape[-1]} numbers at '
                'each position'
            )
        if c.embed_dim is None:
            return numbers.astype(self.dtype)
        return Linear((c.embed_dim,), ('channels_in',), ('embed',), True, self.dtype)(numbers)
