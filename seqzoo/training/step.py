"""The one training step: a pure function of (state, batch), written for any model and any task."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from seqzoo.layers.convolution import is_slow_in_loops
from seqzoo.optimization.schedules import ScheduleFunction
from seqzoo.parallel.axes import sum_over_shards
from seqzoo.parallel.loops import loop_over
from seqzoo.parallel.prng import example_rows, step_key
from seqzoo.tasks.base import Batch, Sums, Task
from seqzoo.training.state import TrainState

_MOST_UNROLLED = 8  # parts of a batch: each is compiled by itself

Step = Callable[..., tuple[TrainState, dict[str, Any]]]


def make_train_step(
    task: Task,
    model: nn.Module,
    transformation: optax.GradientTransformation,
    schedule: ScheduleFunction,
    accumulation: int = 1,
    max_gradient_norm: float | None = None,
) -> Step:
    """Builds `step(state, batch) -> (state, metrics)`.

    The objective is the sum over loss terms of (sum over the global batch) / (weight of the global
    batch). Weights are known before the backward pass, so parts of a batch, on other devices or
    accumulated, simply add their gradients, and the result does not depend on how the batch was
    cut. Where devices see only their own rows (`shard_map`, `pmap`), `sum_over_shards` adds them;
    which axes that are, `parallel.compile` says.

    `metrics` holds `Sums` by name, and the scalars `gradient_norm`, `learning_rate`, `finite` and
    `applied`. A step whose loss or gradient is not finite, or whose gradient has a norm above
    `max_gradient_norm`, is not applied: it changes nothing but the step number.
    """

    def gradient(
        state: TrainState, part: Batch, carry: Any, weights: dict[str, jax.Array]
    ) -> tuple[Any, dict[str, Sums], Any]:
        def objective(params: Any) -> tuple[jax.Array, Any]:
            variables = {**state.variables, 'params': params}
            with example_rows(part['rows']):
                key = step_key(state.key, state.step)
                losses, new_carry = task.loss(model, variables, part, carry, key=key)
            total = sum(losses.terms[name] / weights[name] for name in losses.terms)
            return jnp.asarray(total), (losses.metrics, new_carry)

        grads, (metrics, new_carry) = jax.grad(objective, has_aux=True)(state.params)
        return grads, metrics, new_carry

    def accumulated(
        state: TrainState, batch: Batch, weights: Any
    ) -> tuple[Any, dict[str, Sums], Any]:
        if accumulation == 1:
            return gradient(state, batch, state.carry, weights)
        parts = jax.tree.map(_interleave(accumulation), (batch, state.carry))
        first, rest = jax.tree.map(lambda x: x[0], parts), jax.tree.map(lambda x: x[1:], parts)

        def add(total: Any, part: Any) -> tuple[Any, Any]:
            rows, carry = part
            grads, metrics, carry = gradient(state, rows, carry, weights)
            return jax.tree.map(jnp.add, total, (grads, metrics)), carry

        grads, metrics, carry = gradient(state, first[0], first[1], weights)
        slow = accumulation <= _MOST_UNROLLED and is_slow_in_loops(add, (grads, metrics), first)
        with loop_over('accumulation_scan'):
            (grads, metrics), carries = jax.lax.scan(add, (grads, metrics), rest, unroll=slow)
        join = lambda one, others: _join(jnp.concatenate([one[None], others]))  # noqa: E731
        return grads, metrics, jax.tree.map(join, carry, carries)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        whole = sum_over_shards(task.weights(batch))
        weights = {k: jnp.maximum(w, 1e-9) for k, w in whole.items()}
        grads, losses, carry = accumulated(state, batch, weights)
        grads, losses = sum_over_shards((grads, losses))
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(norm) & jnp.all(
            jnp.asarray([jnp.isfinite(s.total) for s in losses.values()])
        )
        applied = finite if max_gradient_norm is None else finite & (norm <= max_gradient_norm)
        rate = schedule(state.step) * state.learning_rate_scale

        def update() -> tuple[Any, Any, Any]:
            updates, opt = transformation.update(grads, state.opt_state, state.params)
            params = jax.tree.map(
                lambda p, u: p - (rate * u).astype(p.dtype), state.params, updates
            )
            return params, opt, carry

        # A branch: with a choice leaf by leaf an update in place would need the old leaf as well.
        # Every device takes the same one, for the sums above are the same on all.
        params, opt_state, new_carry = jax.lax.cond(
            applied, update, lambda: (state.params, state.opt_state, state.carry)
        )
        new = replace(
            state, step=state.step + 1, params=params, opt_state=opt_state, carry=new_carry
        )
        scalars = {'gradient_norm': norm, 'learning_rate': rate}
        return new, {**losses, **scalars, 'finite': finite, 'applied': applied}

    return step


def _interleave(parts: int) -> Callable[[jax.Array], jax.Array]:
    """`[rows, ...]` -> `[parts, rows / parts, ...]`, taking every `parts`-th row.

    Rows that live together on a device stay there: the split is over the inner of the two new axes.
    """

    def split(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    return split


def _join(x: jax.Array) -> jax.Array:
    """`[parts, rows / parts, ...]` -> `[rows, ...]`, the inverse of `_interleave`."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
