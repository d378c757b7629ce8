"""What a model promises: one configuration class, one protocol, one kind of output.

A model knows its mathematics and the names of its axes. It never sees a mesh, an optimizer, a
tokenizer or a batch.
"""

import abc
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import flax.struct
import jax
from flax import linen as nn

from seqzoo.configuration.checks import check_sizes, check_types
from seqzoo.errors import ConfigError as ConfigError  # models raise it; it is offered here too
from seqzoo.models.flops import Flops

Memory = Any  # what an encoder hands to its decoder: a pytree of arrays, the batch leading
Cache = Any  # what incremental decoding carries from step to step: a pytree of arrays


@dataclass(frozen=True, kw_only=True)
class ModelConfig(abc.ABC):
    """Hyperparameters of one architecture. Hashable, so that it can be static under `jit`.

    What a family cannot do it declares, so that nothing is skipped silently:

    Attributes:
        packs: several sentences may share a row, kept apart by segments.
        stacks: equal layers share one stacked set of parameters (`scan_layers` and `remat` say how
            they run).
    """

    packs: ClassVar[bool] = True
    stacks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_types(self)

    @abc.abstractmethod
    def build(self) -> nn.Module:
        """The module; the only factory of the architecture."""

    @classmethod
    @abc.abstractmethod
    def tiny(cls) -> Self:
        """The same architecture at a size for tests."""

    @abc.abstractmethod
    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """Positional arguments that `init` and `apply` accept."""

    def flops(self, batch: int, length: int) -> Flops | None:
        """Operations of a forward pass while training over `batch` rows of `length`, by part.

        `None`: this family has no formula, and whoever asks counts the traced program.
        """
        del batch, length
        return None

    @property
    def backbone(self) -> tuple[str, ...]:
        """Where in the tree of parameters the part stands that fine-tuning takes over from another
        run: the path to what lies below the heads; `()` is all of them. The same path leads to the
        configuration of that part.
        """
        return ()

    @property
    def longest_row(self) -> int | None:
        """Positions that it can tell apart, by default as many as its parts can; `None`: any
        number.
        """
        parts = (getattr(self, field.name) for field in fields(self))
        limits = [part.longest_row for part in parts if isinstance(part, ModelConfig)]
        return min((limit for limit in limits if limit is not None), default=None)


@flax.struct.dataclass
class LMOutput:
    """What a language model or a decoder returns from a full forward pass.

    Attributes:
        features: `[batch, length, embed]` before the output projection; `unembed` turns them into
            logits.
        carry: recurrent state for truncated back-propagation; `()` for most models.
        losses: auxiliary losses by name, weighted as the configuration says, each a scalar averaged
            over the real tokens that the call sees, or made from sums over all shards. An objective
            counts each as many times as there are such tokens, and divides by those of all shards.
    """

    features: jax.Array
    carry: Any = ()
    losses: dict[str, jax.Array] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class EncoderOutput:
    """What an encoder returns.

    Attributes:
        features: `[batch, length, embed]`, one vector a position, zero at padding.
        carry: the state after the last position of a recurrent encoder; `()` for others.
        pooled: `[batch, embed]`, what the encoder itself offers as a summary of a row that holds
            one sequence; `None` where it has none.
    """

    features: jax.Array
    carry: Any = ()
    pooled: jax.Array | None = None


@flax.struct.dataclass
class LabelOutput:
    """What a labeler returns.

    Attributes:
        outputs: float32, `[batch, outputs]` for each sequence or `[batch, length, outputs]` for
            each of its positions (those at padding mean nothing): logits, or numbers to be
            regressed.
        features: `[batch, length, embed]`, what stands below the head; `None` where there is
            nothing of the kind.
    """

    outputs: jax.Array
    features: jax.Array | None = None


@flax.struct.dataclass
class MaskedLMOutput:
    """What a masked language model returns.

    Attributes:
        features: `[batch, length, embed]`, zero at padding; `unembed` turns those of any positions
            into logits.
        next_sentence: `[batch, 2]` float32 logits: the second sentence of a row follows the first
            one in its text (0), or is another (1); `None` where the model has no such head.
    """

    features: jax.Array
    next_sentence: jax.Array | None = None


@runtime_checkable
class CausalLM(Protocol):
    """A language model: what it says at a position depends on nothing that comes later.

    `tokens` is what the model reads: the task has shifted it already.
    """

    def __call__(
        self,
        tokens: jax.Array,  # [batch, length] int32
        *,
        # [batch, length], 1, 2, ... and 0 for padding; booleans if no row holds several texts
        segments: jax.Array | None = None,
        positions: jax.Array | None = None,
        carry: Any = (),  # the state that an earlier call returned; `()` begins anew
        train: bool = False,
    ) -> LMOutput: ...

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., embed]` -> `[..., vocab]` float32 logits."""
        ...

    def initial_carry(self, batch: int) -> Any:
        """The state before the first token, every leaf `[batch, ...]`; `()` without recurrence.

        It follows from the configuration: a module is asked for it without its parameters.
        """
        ...

    def init_cache(self, batch: int, max_length: int) -> Cache:
        """An empty cache for `max_length` tokens, prompts included."""
        ...

    def extend(
        self, tokens: jax.Array, lengths: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Reads the first `lengths` `[batch]` of `tokens` `[batch, n]` after what the cache holds.

        Returns float32 logits `[batch, n, vocab]`; those of places that were not read mean nothing.
        """
        ...


@runtime_checkable
class Encoder(Protocol):
    """One vector for each position of an input that is known as a whole.

    What the input is (ids `[batch, length]`, numbers `[batch, length, features]`) the model says.
    """

    def __call__(
        self, inputs: Any, *, segments: jax.Array | None = None, train: bool = False
    ) -> EncoderOutput: ...


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(ModelConfig):
    """Configuration of an `Encoder`: what a head may stand on.

    Attributes:
        dtype: dtype of activations; parameters and states are float32 in any case.
    """

    dtype: Literal['float32', 'bfloat16'] = 'float32'

    @property
    @abc.abstractmethod
    def features_dim(self) -> int:
        """How wide the features are."""

    @property
    def causal(self) -> bool:
        """Whether the features of a position depend on nothing that comes later."""
        return False

    @property
    def reads_token_types(self) -> bool:
        """Whether its inputs may be `layers.inputs.TypedTokens`, not ids alone."""
        return False


class MaskedLM(Protocol):
    """Guesses tokens from those on both sides of them.

    `inputs` are ids `[batch, length]`, or `layers.inputs.TypedTokens`.
    """

    def __call__(
        self, inputs: Any, *, segments: jax.Array | None = None, train: bool = False
    ) -> MaskedLMOutput: ...

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., embed]` features of any positions -> `[..., vocab]` float32 logits."""
        ...


@dataclass(frozen=True, kw_only=True)
class MaskedLMConfig(ModelConfig):
    """Configuration of a `MaskedLM`."""

    @property
    @abc.abstractmethod
    def has_next_sentence(self) -> bool:
        """Whether it says if two sentences follow each other."""


class Labeler(Protocol):
    """One output vector for a whole input, or for each of its positions."""

    def __call__(
        self, inputs: Any, *, segments: jax.Array | None = None, train: bool = False
    ) -> LabelOutput: ...


@dataclass(frozen=True, kw_only=True)
class LabelingConfig(ModelConfig):
    """Configuration of a `Labeler`.

    Attributes:
        num_outputs: classes, or numbers to be regressed; `None` is filled in from the data.
        per: what is labeled, the `'sequence'` or every `'step'` of it.
    """

    packs = False

    num_outputs: int | None = None
    per: Literal['sequence', 'step'] = 'sequence'

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, 'num_outputs')

    @property
    def causal(self) -> bool:
        """Whether the output of a step depends on nothing that comes later."""
        return False

    def known_outputs(self) -> int:
        """`num_outputs`. Raises `ConfigError` while it is open."""
        if self.num_outputs is None:
            raise ConfigError('num_outputs is open: set it, or prepare the data, which says it')
        return self.num_outputs


@runtime_checkable
class Seq2Seq(Protocol):
    """An encoder-decoder. Segments are 1, 2, ... with 0 for padding, or booleans, which say that no
    row holds several sentences; without them every position is real.

    `target` is what the decoder reads: the task has shifted it already.
    """

    def __call__(
        self,
        source: jax.Array,  # [batch, source_length] int32
        target: jax.Array,  # [batch, target_length] int32
        *,
        source_segments: jax.Array | None = None,
        target_segments: jax.Array | None = None,
        source_positions: jax.Array | None = None,
        target_positions: jax.Array | None = None,
        train: bool = False,
    ) -> LMOutput: ...

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., embed]` -> `[..., vocab]` float32 logits."""
        ...

    def encode(self, source: jax.Array, *, source_segments: jax.Array | None = None) -> Memory:
        """Encodes once; the memory has no beam axis and is shared by all beams."""
        ...

    def init_cache(self, memory: Memory, max_length: int) -> Cache:
        """An empty cache for `max_length` decoded tokens."""
        ...

    def extend(self, tokens: jax.Array, memory: Memory, cache: Cache) -> tuple[jax.Array, Cache]:
        """Reads `tokens` `[batch, n]` after what the cache holds; returns float32 logits `[batch,
        n, vocab]`.
        """
        ...


class BidirectionalLM(Protocol):
    """Two language models over the same words, one in each direction, with one softmax.

    `features` of its output are `[batch, length, 2 embed]`: what the forward direction knows behind
    a word, and what the backward one knows before it.
    """

    def __call__(
        self, inputs: Any, *, segments: jax.Array | None = None, train: bool = False
    ) -> LMOutput: ...

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., 2 embed]` -> `[..., 2, vocab]` float32 logits: of the next word, and of the one
        before.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class BidirectionalLMConfig(ModelConfig):
    """Configuration of a `BidirectionalLM`.

    Attributes:
        vocab_size: words that it predicts; `None` is filled in from the data.
    """

    vocab_size: int | None = None
