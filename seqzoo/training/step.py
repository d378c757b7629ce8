"""The one training step: a pure function of (state, batch), written for any model and any task."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from seqzoo.optimization.schedules import ScheduleFunction
from seqzoo.parallel.prng import example_rows, step_key
from seqzoo.tasks.base import Batch, Sums, Task
from seqzoo.training.state import TrainState

Step = Callable[..., tuple[TrainState, dict[str, Any]]]


def make_train_step(
    task: Task,
    model: nn.Module,
    transformation: optax.GradientTransformation,
    schedule: ScheduleFunction,
    accumulation: int = 1,
) -> Step:
    """Builds `step(state, batch) -> (state, metrics)`.

    The objective is the sum over loss terms of (sum over the global batch) / (weight of the global
    batch). Weights are known before the backward pass, so parts of a batch, on other devices or
    accumulated, simply add their gradients, and the result does not depend on how the batch was
    cut.

    `metrics` holds `Sums` by name, and the scalars `gradient_norm`, `learning_rate` and `finite`.
    A step whose loss or gradient is not finite changes nothing but the step number.
    """

    def gradient(state: TrainState, part: Batch, weights: dict[str, jax.Array]) -> tuple[Any, Any]:
        def objective(params: Any) -> tuple[jax.Array, Any]:
            variables = {**state.variables, 'params': params}
            with example_rows(part['rows']):
                key = step_key(state.key, state.step)
                losses, carry = task.loss(model, variables, part, state.carry, key=key)
            total = sum(losses.terms[name] / weights[name] for name in losses.terms)
            return jnp.asarray(total), (losses.metrics, carry)

        (_, extra), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        return grads, extra

    def accumulated(state: TrainState, batch: Batch, weights: Any) -> tuple[Any, Any]:
        if accumulation == 1:
            return gradient(state, batch, weights)
        parts = jax.tree.map(_interleave(accumulation), batch)
        first, rest = jax.tree.map(lambda x: x[0], parts), jax.tree.map(lambda x: x[1:], parts)

        def add(total: Any, part: Batch) -> tuple[Any, None]:
            grads, (metrics, _) = gradient(state, part, weights)
            return jax.tree.map(jnp.add, total, (grads, metrics)), None

        grads, (metrics, _) = gradient(state, first, weights)
        (grads, metrics), _ = jax.lax.scan(add, (grads, metrics), rest)
        return grads, (metrics, state.carry)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        weights = {k: jnp.maximum(w, 1e-9) for k, w in task.weights(batch).items()}
        grads, (metrics, carry) = accumulated(state, batch, weights)
        norm = optax.global_norm(grads)
        losses: dict[str, Sums] = metrics
        finite = jnp.isfinite(norm) & jnp.all(
            jnp.asarray([jnp.isfinite(s.total) for s in losses.values()])
        )
        rate = schedule(state.step) * state.learning_rate_scale

        def update() -> tuple[Any, Any, Any]:
            updates, opt = transformation.update(grads, state.opt_state, state.params)
            params = jax.tree.map(
                lambda p, u: p - (rate * u).astype(p.dtype), state.params, updates
            )
            return params, opt, carry

        # A branch: with a choice leaf by leaf an update in place would need the old leaf as well.
        params, opt_state, new_carry = jax.lax.cond(
            finite, update, lambda: (state.params, state.opt_state, state.carry)
        )
        new = replace(
            state, step=state.step + 1, params=params, opt_state=opt_state, carry=new_carry
        )
        scalars = {'gradient_norm': norm, 'learning_rate': rate, 'finite': finite}
        return new, {**metrics, **scalars}

    return step


def _interleave(parts: int) -> Callable[[jax.Array], jax.Array]:
    """`[rows, ...]` -> `[parts, rows / parts, ...]`, taking every `parts`-th row.

    Rows that live together on a device stay there: the split is over the inner of the two new axes.
    """

    def split(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    return split
