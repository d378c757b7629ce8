"""What a recurrent encoder-decoder keeps while it decodes token by token."""

import flax.struct
import jax

from seqzoo.layers.recurrent_attention import Attended
from seqzoo.layers.recurrent_decoders import DecoderState


@flax.struct.dataclass
class RecurrentMemory:
    """An encoded source.

    Attributes:
        attended: what attention reads; `None` without.
        state: the decoder's before its first step.
    """

    attended: Attended | None
    state: DecoderState


@flax.struct.dataclass
class RecurrentCache:
    """What the decoder has read so far.

    Attributes:
        state: after the last token.
        position: int32 scalar, the number of tokens read.
    """

    state: DecoderState
    position: jax.Array
