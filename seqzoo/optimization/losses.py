"""Losses of tokens, whose gradients need no second pass over the vocabulary, and of numbers."""

import functools
import math

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def smoothed_cross_entropy(
    logits: jax.Array, targets: jax.Array, smoothing: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Label-smoothed cross-entropy and plain negative log-likelihood, in nats, per token.

    The target distribution is (1 - e) on the target plus e / V on every class (Szegedy et al. 2016;
    Vaswani et al. 2017, section 5.4): loss = lse(z) - (1 - e) z_target - (e / V) sum(z).

    Args:
        logits: `[..., vocab]` float32.
        targets: `[...]` int32.
        smoothing: e.

    Returns:
        `(loss, nll)`, each `[...]` float32. No gradient flows through `nll`: it is the number to
        report.
    """
    return _forward(logits, targets, smoothing)[0]


def _forward(
    logits: jax.Array, targets: jax.Array, smoothing: float
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]:
    vocab = logits.shape[-1]
    lse = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nll = lse - chosen
    loss = nll
    if smoothing:
        loss = lse - (1.0 - smoothing) * chosen - (smoothing / vocab) * jnp.sum(logits, axis=-1)
    return (loss, nll), (logits, targets, lse)


def _backward(
    smoothing: float,
    saved: tuple[jax.Array, jax.Array, jax.Array],
    grads: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, None]:
    logits, targets, lse = saved
    vocab = logits.shape[-1]
    probabilities = jnp.exp(logits - lse[..., None])
    classes = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    wanted = jnp.where(classes == targets[..., None], 1.0 - smoothing, 0.0) + smoothing / vocab
    return (probabilities - wanted) * grads[0][..., None], None


smoothed_cross_entropy.defvjp(_forward, _backward)


def gaussian_nll(mean: jax.Array, log_scale: jax.Array, targets: jax.Array) -> jax.Array:
    """Negative log-density of a normal distribution, in nats, elementwise.

    Args:
        mean: `[...]` float32.
        log_scale: `[...]` logarithm of the standard deviation.
        targets: `[...]` what came true.
    """
    z = (targets - mean) * jnp.exp(-log_scale)
    return 0.5 * jnp.square(z) + log_scale + 0.5 * math.log(2 * math.pi)
