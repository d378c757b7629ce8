"""Ring attention (Liu, Zaharia and Abbeel 2023, arXiv:2310.01889): a length split over devices.

Every device holds one block of queries, and one block of keys and values. The blocks of keys and
values go round the ring of devices; each device folds the block at hand into a running softmax
(Milakov and Gimelshein 2018) of its own queries:

    m' = max(m, max_k s_k),   l' = e^(m - m') l + sum_k e^(s_k - m'),
    o' = e^(m - m') o + sum_k e^(s_k - m') v_k,   and in the end o / l.

No device ever holds more than one block of scores, `[length / n, length / n]`, nor more than two
blocks of keys and values. The backward pass goes round once more, computes the weights again from
`m` and `l`, and lets the gradients of keys and values travel with their block.

Deviation: the blocks of a causal ring stand in the order of time, so that the first device masks
most of what it computes; the published remedy permutes the tokens.
"""

import functools
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from seqzoo.layers.dropout import keep_at
from seqzoo.layers.masks import MASKED
from seqzoo.parallel import prng
from seqzoo.parallel.loops import loop_over
from seqzoo.parallel.shards import Place, per_device


@dataclass(frozen=True, eq=False)
class _Ring:
    """What is known when the program is compiled; equal only to itself: made for one call.

    Attributes:
        place: the axes that length and heads are split over.
        causal: query `i` sees the keys `0..i`.
        dropout_rate: of attention weights.
    """

    place: Place
    causal: bool
    dropout_rate: float

    @property
    def devices(self) -> int:
        return self.place.ways['length']

    def source(self, turn: jax.Array | int) -> jax.Array:
        """Whose block a device holds after so many turns."""
        own = jax.lax.axis_index(self.place.mesh_axes['length'])
        return jax.lax.rem(own - turn + self.devices, self.devices)

    def turn(self, block: Any) -> Any:
        """Hands a block to the next device."""
        pairs = [(i, (i + 1) % self.devices) for i in range(self.devices)]
        axis = self.place.mesh_axes['length']
        return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, pairs), block)


@flax.struct.dataclass
class _Queries:
    """What stays on a device; all but `query` only says which weights are zero.

    Attributes:
        query: `[batch, queries, heads, key_dim]`, scaled already.
        segments: `[batch, queries]`.
        mask: `[batch or 1, heads or 1, queries or 1, all keys or 1]`.
        row_keys: `[batch, 2]`, of dropout.
    """

    query: jax.Array
    segments: jax.Array | None
    mask: jax.Array | None
    row_keys: jax.Array | None


@flax.struct.dataclass
class _Block:
    """What goes round.

    Attributes:
        key: `[batch, keys, heads, key_dim]`.
        value: `[batch, keys, heads, value_dim]`.
        segments: `[batch, keys]`.
    """

    key: jax.Array
    value: jax.Array
    segments: jax.Array | None


def ring_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    query_segments: jax.Array | None = None,
    key_segments: jax.Array | None = None,
    causal: bool = False,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """`dot_product_attention` on a mesh that splits the length; arguments and result as there.

    The layout must split `'length'`, and every length must divide by it.
    """
    rate = 0.0 if dropout_key is None else dropout_rate
    row_keys = None
    if rate > 0.0 and dropout_key is not None:
        row_keys = prng.row_keys(dropout_key, query.shape[0])
    heads = ('batch', 'length', 'heads', None)

    def local(
        place: Place,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        mask: jax.Array | None = None,
        query_segments: jax.Array | None = None,
        key_segments: jax.Array | None = None,
        row_keys: jax.Array | None = None,
    ) -> jax.Array:
        ring = _Ring(place, causal, rate)
        queries = _Queries(query, query_segments, mask, row_keys)
        return _attend(ring, queries, _Block(key, value, key_segments))

    return per_device(
        local,
        {
            'query': query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype),
            'key': key,
            'value': value,
            'mask': mask,
            'query_segments': query_segments,
            'key_segments': key_segments,
            'row_keys': row_keys,
        },
        {
            'query': heads,
            'key': heads,
            'value': heads,
            'mask': ('batch', 'heads', 'length', None),
            'query_segments': ('batch', 'length'),
            'key_segments': ('batch', 'length'),
            'row_keys': ('batch', None),
        },
        heads,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(ring: _Ring, queries: _Queries, block: _Block) -> jax.Array:
    return _forward(ring, queries, block)[0]


def _forward(ring: _Ring, queries: _Queries, block: _Block) -> tuple[jax.Array, Any]:
    batch, length, heads, _ = queries.query.shape
    rows = (batch, heads, length)
    state = (
        jnp.full(rows, -jnp.inf, jnp.float32),
        jnp.zeros(rows, jnp.float32),
        jnp.zeros((batch, length, heads, block.value.shape[-1]), jnp.float32),
    )

    def fold(state: Any, block: _Block, source: jax.Array) -> Any:
        peak, total, mixture = state
        scores, _ = _scores(ring, queries, block, source)
        new_peak = jnp.maximum(peak, jnp.max(scores, axis=-1))
        shrink = jnp.exp(peak - new_peak)
        weights = jnp.exp(scores - new_peak[..., None])
        total = total * shrink + jnp.sum(weights, axis=-1)
        weights = _drop(ring, queries, block, source, weights)
        mixture = mixture * _by_query(shrink) + jnp.einsum(
            'bhqk,bkhd->bqhd',
            weights.astype(block.value.dtype),
            block.value,
            preferred_element_type=jnp.float32,
        )
        return new_peak, total, mixture

    def body(carry: Any, turn: jax.Array) -> tuple[Any, None]:
        state, block = carry
        following = ring.turn(block)  # on its way while this one is being folded in
        return (fold(state, block, ring.source(turn)), following), None

    turns = ring.devices - 1
    with loop_over('ring_loop'):
        (state, last), _ = jax.lax.scan(body, (state, block), jnp.arange(turns))
    peak, total, mixture = fold(state, last, ring.source(turns))
    result = (mixture / _by_query(total)).astype(block.value.dtype)
    return result, (queries, block, peak, total, result)


def _backward(ring: _Ring, saved: Any, gradient: jax.Array) -> tuple[_Queries, _Block]:
    queries, block, peak, total, result = saved
    inner = jnp.sum(gradient.astype(jnp.float32) * result.astype(jnp.float32), axis=-1)
    inner = inner.swapaxes(1, 2)[..., None]  # [batch, heads, queries, 1]: sum of weight x gradient

    def add(grads: Any, block: _Block, source: jax.Array) -> Any:
        d_query, d_key, d_value = grads
        key, value = block.key, block.value
        scores, visible = _scores(ring, queries, block, source)
        weights = jnp.exp(scores - peak[..., None]) / total[..., None]
        dropped = _drop(ring, queries, block, source, weights).astype(value.dtype)
        d_value += _sum('bhqk,bqhd->bkhd', dropped, gradient)
        d_weights = _sum('bqhd,bkhd->bhqk', gradient, value)
        d_weights = _drop(ring, queries, block, source, d_weights)
        d_scores = weights * (d_weights - inner)
        if visible is not None:
            d_scores = jnp.where(visible, d_scores, 0.0)
        d_scores = d_scores.astype(key.dtype)
        d_query += _sum('bhqk,bkhd->bqhd', d_scores, key)
        d_key += _sum('bhqk,bqhd->bkhd', d_scores, queries.query)
        return d_query, d_key, d_value

    def body(carry: Any, turn: jax.Array) -> tuple[Any, None]:
        grads, block = carry
        following = ring.turn(block)
        d_query, d_key, d_value = add(grads, block, ring.source(turn))
        # The gradients of a block travel with it, one step behind.
        return ((d_query, *ring.turn((d_key, d_value))), following), None

    turns = ring.devices - 1
    grads = [jnp.zeros(x.shape, jnp.float32) for x in (queries.query, block.key, block.value)]
    with loop_over('ring_loop'):
        (grads, last), _ = jax.lax.scan(body, (tuple(grads), block), jnp.arange(turns))
    d_query, d_key, d_value = add(grads, last, ring.source(turns))
    d_key, d_value = ring.turn((d_key, d_value))  # home again
    return (
        _Queries(d_query.astype(queries.query.dtype), None, None, None),
        _Block(d_key.astype(block.key.dtype), d_value.astype(block.value.dtype), None),
    )


_attend.defvjp(_forward, _backward)


def _scores(
    ring: _Ring, queries: _Queries, block: _Block, source: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """Masked scores `[batch, heads, queries, keys]` float32, and what of them is visible."""
    scores = _sum('bqhd,bkhd->bhqk', queries.query, block.key)
    visible = _visible(ring, queries, block, source)
    return (scores if visible is None else jnp.where(visible, scores, MASKED)), visible


def _visible(ring: _Ring, queries: _Queries, block: _Block, source: jax.Array) -> jax.Array | None:
    parts = []
    if ring.causal:
        rows, columns = _positions(ring, queries, block, source)
        parts.append((columns <= rows)[None, None])
    if queries.segments is not None and block.segments is not None:
        parts.append((queries.segments[:, :, None] == block.segments[:, None, :])[:, None])
    if queries.mask is not None:
        keys, mask = block.key.shape[1], queries.mask
        if mask.shape[-1] > 1:
            mask = jax.lax.dynamic_slice_in_dim(mask, source * keys, keys, axis=-1)
        parts.append(mask)
    return functools.reduce(jnp.logical_and, parts) if parts else None


def _drop(
    ring: _Ring, queries: _Queries, block: _Block, source: jax.Array, weights: jax.Array
) -> jax.Array:
    """Drops the very weights of this block that are dropped where the length is not split."""
    if queries.row_keys is None:
        return weights
    rows, columns = _positions(ring, queries, block, source)
    heads = queries.query.shape[2]
    head = ring.place.offset('heads', heads) + jnp.arange(heads, dtype=jnp.int32)
    every_query, every_key = (x.shape[1] * ring.devices for x in (queries.query, block.key))
    # The flat index in [heads, queries, keys]; it wraps around as that of `dropout` does.
    head, rows, columns = (x.astype(jnp.uint32) for x in (head, rows, columns))
    position = (head[:, None, None] * jnp.uint32(every_query) + rows) * jnp.uint32(every_key)
    keep = keep_at(queries.row_keys, (position + columns)[None], ring.dropout_rate)
    return jnp.where(keep, weights * (1.0 / (1.0 - ring.dropout_rate)), 0.0)


def _positions(
    ring: _Ring, queries: _Queries, block: _Block, source: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Where the queries `[queries, 1]` and the keys `[1, keys]` stand in the whole length."""
    length, keys = queries.query.shape[1], block.key.shape[1]
    rows = ring.place.offset('length', length) + jnp.arange(length, dtype=jnp.int32)
    columns = source * keys + jnp.arange(keys, dtype=jnp.int32)
    return rows[:, None], columns[None, :]


def _sum(formula: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(formula, a, b, preferred_element_type=jnp.float32)


def _by_query(x: jax.Array) -> jax.Array:
    """`[batch, heads, queries]` -> `[batch, queries, heads, 1]`."""
    return x.swapaxes(1, 2)[..., None]
