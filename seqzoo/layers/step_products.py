"""Products of a step inside of a loop over time, forward and backward.

Going back, a product is not computed again: its total is known, and what its gradient needs of the
kernel is put off until all steps are done, in one large product.
"""

from typing import Any

import jax
import jax.numpy as jnp

Arrays = dict[str, jax.Array]


def multiply(value: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[..., in] -> [..., out]` float32; a kernel of rank 3 maps each group of columns by itself,
    one of rank 4 those of each example.
    """
    value = value.astype(kernel.dtype)
    if kernel.ndim == 2:
        return jnp.matmul(value, kernel, preferred_element_type=jnp.float32)
    groups = value.reshape(*value.shape[:-1], kernel.shape[-3], -1)
    # [..., groups, in] -> [..., groups, out]
    out = jnp.einsum('...ki,...kio->...ko', groups, kernel, preferred_element_type=jnp.float32)
    return out.reshape(*value.shape[:-1], -1)


def kernel_gradient(values: jax.Array, gradients: jax.Array, kernel: jax.Array) -> jax.Array:
    """`sum over time and batch of value^T gradient`, in the shape of the kernel."""
    gradients = gradients.astype(kernel.dtype)
    if kernel.ndim == 2:
        over = (((0, 1), (0, 1)), ((), ()))
        result = jax.lax.dot_general(values, gradients, over, preferred_element_type=jnp.float32)
        return result.astype(kernel.dtype)
    split = (kernel.shape[-3], -1)
    result = jnp.einsum(
        'tbki,tbko->kio' if kernel.ndim == 3 else 'tbki,tbko->bkio',
        values.reshape(*values.shape[:2], *split),
        gradients.reshape(*gradients.shape[:2], *split),
        preferred_element_type=jnp.float32,
    )
    return result.astype(kernel.dtype)


class Compute:
    """`product` of the forward pass: computes, and remembers the totals."""

    def __init__(self, kernels: Arrays, inputs: Arrays, masks: Arrays) -> None:
        self.kernels, self.inputs, self.masks = kernels, inputs, masks
        self.totals: Arrays = {}

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        total = multiply(_masked(value, self.masks.get(name)), self.kernels[name])
        if name in self.inputs:
            added = self.inputs[name].astype(jnp.float32)
            missing = total.shape[-1] - added.shape[-1]
            total += jnp.pad(added, ((0, 0), (0, missing))) if missing else added
        assert name not in self.totals, f'a step uses the product {name!r} twice'
        self.totals[name] = total.astype(self.kernels[name].dtype)
        return total


class Recall:
    """`product` of the backward pass: the saved totals, whose gradients come out at the taps."""

    def __init__(self, transposed: Arrays, totals: Arrays, taps: Arrays, masks: Arrays) -> None:
        self.transposed, self.totals, self.taps, self.masks = transposed, totals, taps, masks
        self.values: Arrays = {}

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        value = _masked(value, self.masks.get(name))
        self.values[name] = value.astype(self.transposed[name].dtype)
        total = self.totals[name].astype(jnp.float32)
        return _recall(value, self.taps[name], total, self.transposed[name])


def _masked(value: jax.Array, mask: jax.Array | None) -> jax.Array:
    return value if mask is None else value * mask


@jax.custom_vjp
def _recall(value: jax.Array, tap: jax.Array, total: jax.Array, transposed: jax.Array) -> jax.Array:
    """The known value of `tap + value @ transposed.T`."""
    return total


def _recall_forward(
    value: jax.Array, tap: jax.Array, total: jax.Array, transposed: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return total, transposed


def _recall_backward(transposed: jax.Array, gradient: jax.Array) -> tuple[Any, ...]:
    return multiply(gradient, transposed), gradient, None, None


_recall.defvjp(_recall_forward, _recall_backward)
