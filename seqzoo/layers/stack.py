"""Equal layers on top of each other: parameters stacked over depth, one compiled body."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta

from seqzoo.parallel.loops import loop_over

Remat = Literal['none', 'full', 'dots']

_POLICIES = {
    'full': None,  # keep nothing but the input of each layer
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Stack(nn.Module):
    """`num_layers` copies of `layer`, applied one after the other.

    Every parameter has a leading axis `layers`, whether the layers run in a loop or unrolled: that
    is only a way to run, not another tree.

    Attributes:
        layer: a module with `__call__(x, context) -> x`, or what `thread` asks for.
        num_layers: depth.
        scan: run as a loop (compiles once) or unrolled (compiles `num_layers` bodies, may run
            faster).
        remat: what the backward pass computes again: nothing, everything, or all but the matrix
            products.
    """

    layer: nn.Module
    num_layers: int
    scan: bool = True
    remat: Remat = 'none'

    def __call__(self, x: jax.Array, context: Any) -> jax.Array:
        """`x` is carried from layer to layer; `context`, any pytree, is the same for all."""

        def body(layer: Any, x: jax.Array, context: Any, state: None) -> tuple[jax.Array, None]:
            return layer(x, context), state

        return self._over_depth(body, x, context, None)[0]

    def thread(self, x: Any, context: Any, states: Any) -> tuple[Any, Any]:
        """The same for layers that have a state of their own: `layer(x, context, state) -> (x,
        state)`.

        Args:
            x: any pytree.
            context: the same for all.
            states: a pytree whose leaves hold the state of layer i in `[:, i]`; `None`: none has.
        """

        def body(layer: Any, x: Any, context: Any, state: Any) -> tuple[Any, Any]:
            return layer(x, context, state)

        return self._over_depth(body, x, context, states)

    def _over_depth(self, body: Any, x: Any, context: Any, states: Any) -> tuple[Any, Any]:
        if self.remat != 'none':
            # Inside a loop nothing can be merged with the forward pass, and the barrier against it
            # would cost.
            body = nn.remat(body, prevent_cse=not self.scan, policy=_POLICIES[self.remat])
        run = nn.scan(
            body,
            variable_axes={'params': 0, 'intermediates': 0},
            split_rngs={'params': True, 'dropout': True},
            in_axes=(nn.broadcast, 1),  # pyright: ignore[reportArgumentType]
            out_axes=1,
            length=self.num_layers,
            unroll=1 if self.scan else self.num_layers,
            metadata_params={nn.PARTITION_NAME: 'layers'},
        )
        with loop_over('layer_scan'):
            return run(self.layer, x, context, states)

    def unstack(self, dtype: jnp.dtype) -> tuple[Any, ...]:
        """The parameters of each layer by itself, cast to `dtype`.

        Decoding takes the stack apart once, before its loop over time: a loop over depth would copy
        every cache at every step, and slicing inside the loop over time every parameter.
        """
        params = meta.unbox(self.layer.variables['params'])
        return tuple(
            jax.tree.map(lambda p, i=i: p[i].astype(dtype), params) for i in range(self.num_layers)
        )

    def bind_layers(self, params: tuple[Any, ...]) -> list[Any]:
        """The layers as modules that hold `params`, from `unstack`: call any of their methods."""
        mutable = ['intermediates'] if self.is_mutable_collection('intermediates') else False
        return [
            self.layer.clone(parent=None).bind({'params': own}, mutable=mutable) for own in params
        ]

    def collect(self, layers: list[Any]) -> None:
        """Publishes what bound layers have sown, stacked over depth as `__call__` would."""
        if self.is_mutable_collection('intermediates'):
            sown = [layer.variables['intermediates'] for layer in layers]
            for name, value in jax.tree.map(lambda *x: jnp.stack(x), *sown).items():
                self.layer.put_variable('intermediates', name, value)
