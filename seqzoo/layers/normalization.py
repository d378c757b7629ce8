"""Layer normalisation (Ba, Kiros and Hinton 2016), in float32, with a short backward pass."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.parallel.axes import named


class LayerNorm(nn.Module):
    """`scale * (x - mean) / sqrt(variance + epsilon) + bias` over the last axis.

    Attributes:
        epsilon: added to the variance.
        use_bias: whether `bias` exists.
    """

    epsilon: float = 1e-6
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`x`: `[..., embed]`; the result has its dtype."""
        size = (x.shape[-1],)
        scale = self.param('scale', named(nn.initializers.ones, 'embed'), size, jnp.float32)
        bias = jnp.zeros(size)
        if self.use_bias:
            bias = self.param('bias', named(nn.initializers.zeros, 'embed'), size, jnp.float32)
        return layer_norm(x, scale, bias, self.epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Normalises the last axis of `x`; statistics in float32, the result in the dtype of `x`."""
    normal, _ = _normalise(x, epsilon)
    return (normal * scale + bias).astype(x.dtype)


def _normalise(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """Float32 `x` with mean 0 and variance 1, and what it was multiplied with."""
    x = x.astype(jnp.float32)
    # Mean and mean square in one pass over x. Rounding may push their difference below zero.
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True) - jnp.square(mean)
    inverse = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + epsilon)
    return (x - mean) * inverse, inverse


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return layer_norm(x, scale, bias, epsilon), (x, scale)


def _backward(
    epsilon: float, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale = residuals
    normal, inverse = _normalise(x, epsilon)
    gradient = gradient.astype(jnp.float32)
    rows = tuple(range(x.ndim - 1))
    d_scale, d_bias = jnp.sum(gradient * normal, axis=rows), jnp.sum(gradient, axis=rows)
    # The gradient loses what mean and variance take: its mean, and its projection on the normalised
    # x.
    scaled = gradient * scale
    shift = jnp.mean(scaled, axis=-1, keepdims=True)
    slope = jnp.mean(scaled * normal, axis=-1, keepdims=True)
    d_x = inverse * (scaled - shift - normal * slope)
    return d_x.astype(x.dtype), d_scale, d_bias


layer_norm.defvjp(_forward, _backward)
