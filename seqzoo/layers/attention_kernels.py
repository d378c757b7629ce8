"""Fused attention: splash attention (Pallas) on TPU, cuDNN on GPU; called by `attention.py`.

They never write the `[query_length, key_length]` weights to memory, and so can neither drop nor
return them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from seqzoo.parallel.axes import target_platform
from seqzoo.parallel.shards import Place, per_device

_BLOCK = 128  # the lane width of a TPU: lengths are padded to a multiple
_LARGEST_BLOCK = 512
_PADDING_SEGMENT = -1  # real segments are 0 (padding of the batch), 1, 2, ...

# On a mesh every device runs the kernel on its own rows and heads, and on its own queries.
_QUERY = ('batch', 'length', 'heads', None)
_NAMES = {
    'query': _QUERY,
    'key': ('batch', None, 'heads', None),
    'value': ('batch', None, 'heads', None),
    'query_segments': ('batch', 'length'),
    'key_segments': ('batch', None),
    'mask': ('batch', 'heads', 'length', None),
}


def splash_obstacle(mask: jax.Array | None, dropout_rate: float) -> str | None:
    """Why splash attention cannot do this, as the end of a sentence; `None` if it can."""
    if dropout_rate > 0.0:
        return 'has no dropout of attention weights'
    if mask is not None:
        return 'takes segments and causal, not an arbitrary mask'
    return None


def cudnn_obstacle(
    query: jax.Array, key: jax.Array, value: jax.Array, dropout_rate: float
) -> str | None:
    """Why cuDNN attention cannot do this, as the end of a sentence; `None` if it can."""
    if dropout_rate > 0.0:
        return 'has no dropout of attention weights that ignores the mesh'
    if any(x.dtype not in (jnp.bfloat16, jnp.float16) for x in (query, key, value)):
        return 'takes 16-bit numbers only (dtype bfloat16)'
    if query.shape[-1] != value.shape[-1] or query.shape[-1] % 8 or query.shape[-1] > 128:
        return 'needs key_dim = value_dim, a multiple of 8 up to 128'
    return None


def platform_obstacle(implementation: str) -> str | None:
    """Why a kernel cannot run on these devices, as the end of a sentence; `None` if it can."""
    platform = target_platform()
    if implementation == 'splash' and platform != 'tpu' and not _interprets():
        return f'needs a TPU, and JAX runs on {platform} here'
    if implementation == 'cudnn' and platform != 'gpu':
        return f'needs a GPU, and JAX runs on {platform} here'
    return None


def _interprets() -> bool:
    """Whether this is inside `force_tpu_interpret_mode()`; `True` where JAX does not tell."""
    from jax._src import config  # there is no public way to ask

    mode = getattr(config, 'pallas_tpu_interpret_mode_context_manager', None)
    return mode is None or mode.value is not None


def cudnn_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, causal: bool
) -> jax.Array:
    """`dot_product_attention` by cuDNN's fused kernel; shapes as there."""

    def local(
        place: Place,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        del place
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, is_causal=causal, implementation='cudnn'
        )

    arrays = {'query': query, 'key': key, 'value': value, 'mask': mask}
    return per_device(local, arrays, _NAMES, _QUERY)


def splash_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    causal: bool,
    band: int | None = None,
) -> jax.Array:
    """`dot_product_attention` by the Pallas kernel of TPUs; shapes as there.

    On CPU it runs only inside `jax.experimental.pallas.tpu.force_tpu_interpret_mode()`.
    """
    if query_segments is None or key_segments is None:
        query_segments = jnp.ones(query.shape[:2], jnp.int32)
        key_segments = jnp.ones(key.shape[:2], jnp.int32)

    def local(place: Place, **arrays: jax.Array) -> jax.Array:
        del place
        return _splash_on_one_device(**arrays, causal=causal, band=band)

    arrays = {
        'query': query,
        'key': key,
        'value': value,
        'query_segments': query_segments,
        'key_segments': key_segments,
    }
    return per_device(local, arrays, _NAMES, _QUERY)


def _splash_on_one_device(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
    causal: bool,
    band: int | None,
) -> jax.Array:
    # Imported here: Pallas takes a while, and most processes never need it.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    query_length, heads = query.shape[1:3]
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)  # the kernel does not scale
    # [batch, length, heads, kv] -> [batch, heads, padded length, kv]
    q, k, v = (_pad(x, 1).swapaxes(1, 2) for x in (query, key, value))
    segments = kernels.SegmentIds(
        q=_pad(query_segments.astype(jnp.int32), 1, _PADDING_SEGMENT),
        kv=_pad(key_segments.astype(jnp.int32), 1, _PADDING_SEGMENT),
    )
    shape = (q.shape[2], k.shape[2])
    if band is not None:
        one_head = masks.LocalMask(shape, (band - 1, 0), 0)
    else:
        one_head = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    kernel = kernels.make_splash_mha_single_device(
        mask=masks.MultiHeadMask([one_head] * heads), block_sizes=_block_sizes(*shape)
    )
    result: Any = jax.vmap(kernel)(q, k, v, segments)
    return result[:, :, :query_length].swapaxes(1, 2).astype(value.dtype)


def _block_sizes(query_length: int, key_length: int) -> Any:
    """The largest block up to 512 that divides each padded length."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )

    def block(length: int) -> int:
        size = _LARGEST_BLOCK
        while length % size:
            size //= 2
        return size

    q, kv = block(query_length), block(key_length)
    return kernels.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_kv_compute=kv,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_kv_dkv_compute=kv,
        block_q_dq=q,
        block_kv_dq=kv,
    )


def _pad(x: jax.Array, axis: int, value: int = 0) -> jax.Array:
    """Lengthens `axis` to the next multiple of the block."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % _BLOCK)
    return jnp.pad(x, widths, constant_values=value)
