"""What a decoder-only Transformer keeps while it decodes, and what new tokens see of it."""

import flax.struct
import jax
import jax.numpy as jnp

from seqzoo.layers.masks import ancestry_mask
from seqzoo.layers.multi_head_attention import KeysValues


@flax.struct.dataclass
class GPTCache:
    """What has been read so far.

    Without beams the token at position `p` of a row has slot `p`. With beams the first slots are
    the prompt's, which all hypotheses of a row share; behind them, beam `j` of time step `t` has
    slot `t * beams + j`.

    Attributes:
        layers: keys and values of each layer; with beams, those of a single row lack its axis.
        positions: `[batch]` int32, how many tokens of each row were read; with beams, before these
            began.
        time: with beams, an int32 scalar: how many time steps they have.
        ancestry: with beams, `[batch, beams, room]` int32: in which beam's slot each hypothesis
            stood at each time step. Slots never move: reordering only permutes this table.
    """

    layers: tuple[KeysValues, ...]
    positions: jax.Array
    time: jax.Array | None = None
    ancestry: jax.Array | None = None

    def mask(self, positions: jax.Array, band: int | None) -> jax.Array:
        """What tokens at `positions` `[batch, n]` see, `[batch, 1, n, slots]`; without beams."""
        slots, now = jnp.arange(self.layers[0].keys.shape[2]), positions[:, None, :, None]
        visible = slots <= now
        return visible if band is None else visible & (slots > now - band)

    def for_beams(self, room: int, beams: int) -> 'GPTCache':
        """This cache with room for `room` time steps of `beams` hypotheses of each row."""
        more = ((0, 0), (0, 0), (0, room * beams), (0, 0))
        layers = tuple(
            KeysValues(jnp.pad(layer.keys, more), jnp.pad(layer.values, more))
            for layer in self.layers
        )
        if len(self.positions) == 1:
            layers = tuple(layer.without_row() for layer in layers)
        ancestry = jnp.zeros((*self.positions.shape, beams, room), jnp.int32)
        return GPTCache(layers, self.positions, jnp.zeros((), jnp.int32), ancestry)

    def following(self, parents: jax.Array) -> 'GPTCache':
        """This cache once hypothesis `k` of a row goes on from `parents[row, k]`, in slot `k`."""
        assert self.ancestry is not None
        assert self.time is not None
        beams = parents.shape[1]
        if beams == 1:
            return self
        ancestry = jnp.take_along_axis(self.ancestry, parents[..., None], axis=1)
        here = jnp.arange(beams, dtype=jnp.int32)[:, None]
        here = jnp.broadcast_to(here, (*parents.shape, 1))
        ancestry = jax.lax.dynamic_update_slice(ancestry, here, (0, 0, self.time))
        return self.replace(ancestry=ancestry)  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def next_slot(self) -> jax.Array:
        """Where the first beam of this time step has its slot."""
        assert self.ancestry is not None
        assert self.time is not None
        beams, room = self.ancestry.shape[1:]
        return self.layers[0].keys.shape[-2] + (self.time - room) * beams

    def beam_mask(self, band: int | None) -> jax.Array:
        """What the hypotheses see at this time step, `[batch, 1, beams, slots]`."""
        assert self.ancestry is not None
        assert self.time is not None
        batch, beams, room = self.ancestry.shape
        slots = jnp.arange(self.layers[0].keys.shape[-2] - room * beams)
        read = self.positions[:, None, None, None]
        before, after = slots < read, ancestry_mask(self.ancestry, self.time)
        if band is not None:
            before &= slots > read + self.time - band
            after &= jnp.repeat(jnp.arange(room), beams) > self.time - band
        before = jnp.broadcast_to(before, (batch, 1, beams, len(slots)))
        return jnp.concatenate([before, after], axis=-1)
