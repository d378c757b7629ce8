"""What an encoder-decoder Transformer keeps while it decodes token by token."""

from typing import Any

import flax.struct
import jax

from seqzoo.layers.multi_head_attention import KeysValues


@flax.struct.dataclass
class TransformerMemory:
    """An encoded source, made ready once for all decoding steps and all beams.

    Attributes:
        layers: keys and values for each decoder layer.
        params: the parameters of each decoder layer, taken from the stack and cast to `dtype`.
        segments: `[batch, source_length]`, or `None`: every position is real.
    """

    layers: tuple[KeysValues, ...]
    params: tuple[Any, ...]
    segments: jax.Array | None


@flax.struct.dataclass
class TransformerCache:
    """What the decoder has read so far.

    Attributes:
        layers: keys and values of each decoder layer; `max_length` slots, or `max_length * beams`.
        position: int32 scalar, the number of time steps read.
        ancestry: `None` without beams; else `[batch, beams, max_length]` int32: in which beam's
            slot each hypothesis stood at each time step. Slots never move: reordering the beams
            only permutes this table.
    """

    layers: tuple[KeysValues, ...]
    position: jax.Array
    ancestry: jax.Array | None = None
