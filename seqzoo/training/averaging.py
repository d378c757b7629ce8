"""The mean of a run's last parameters, from parameter-only snapshots beside its checkpoints.

Vaswani et al. 2017, section 6.1, average the last 5 (base) or 20 (big) checkpoints. Resume
checkpoints hold the optimizer's state as well and only the newest few survive, so the snapshots are
their own folder with their own count.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from seqzoo.errors import UserError
from seqzoo.training.checkpoint import Checkpoints, committed_steps

PyTree = Any


class Snapshots:
    """Writes the parameters alone, and keeps the newest `keep` of them."""

    def __init__(self, folder: Any, *, keep: int) -> None:
        self._checkpoints = Checkpoints(folder, keep=keep)

    def __enter__(self) -> 'Snapshots':
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def save(self, step: int, params: PyTree) -> None:
        """Starts to write, as `Checkpoints.save` does; returns when the arrays may be donated."""
        self._checkpoints.save(step, {'params': params}, {})

    def steps(self) -> list[int]:
        """The steps of the committed snapshots, oldest first."""
        return self._checkpoints.steps()

    def wait(self) -> None:
        """Returns when the save in progress is committed."""
        self._checkpoints.wait()

    def close(self) -> None:
        """Waits for the save in progress and stops the threads behind it."""
        self._checkpoints.close()


def newest(folder: Any, last: int, up_to: int | None = None) -> list[int]:
    """The steps of the newest `last` snapshots, oldest first.

    Args:
        folder: What `Snapshots` or `Checkpoints` wrote.
        last: How many.
        up_to: Leave out snapshots of later steps, such as those after the best checkpoint.

    Raises:
        UserError: there are fewer.
    """
    if last < 1:
        raise UserError(f'the number of snapshots to average must be at least 1, not {last}')
    usable = [step for step in committed_steps(folder) if up_to is None or step <= up_to]
    if len(usable) < last:
        before = '' if up_to is None else f' of step {up_to} or earlier'
        raise UserError(
            f'{last} snapshots were to be averaged, but {folder} holds {len(usable)}{before}; '
            'average fewer, or train longer with more snapshots kept'
        )
    return usable[-last:]


def average(
    folder: Any,
    abstract_params: PyTree,
    *,
    last: int | None = None,
    steps: Sequence[int] | None = None,
) -> PyTree:
    """The mean of several snapshots (or of resume checkpoints: the same files serve).

    Adds them up one after the other in float32 (float64 for float64 parameters), so that two copies
    of the parameters are in memory at a time, however many are averaged; every device adds its own
    shard.

    Args:
        folder: What `Snapshots` or `Checkpoints` wrote.
        abstract_params: The parameters as `jax.ShapeDtypeStruct`s with the shardings that the
            result shall have.
        last: Average the newest so many.
        steps: Or average exactly these.

    Raises:
        UserError: there are fewer than asked for, or one of them is damaged.
    """
    if (last is None) == (steps is None):
        raise TypeError('give either last or steps')
    with Checkpoints(folder, read_only=True) as checkpoints:
        chosen = _there(folder, steps) if last is None else newest(folder, last)
        total = None
        for step in chosen:
            restored = checkpoints.restore_params(abstract_params, step)
            assert restored is not None
            total = _start(restored.state) if total is None else _add(total, restored.state)
    dtypes = jax.tree.map(lambda leaf: jnp.dtype(leaf.dtype), abstract_params)
    leaves, structure = jax.tree.flatten(total)
    means = _divide(leaves, len(chosen), tuple(jax.tree.leaves(dtypes)))
    return jax.tree.unflatten(structure, means)


def _there(folder: Any, steps: Sequence[int] | None) -> list[int]:
    there = committed_steps(folder)
    if missing := sorted(set(steps or ()) - set(there)):
        raise UserError(f'{folder} has no snapshot of steps {missing}; there are {there or "none"}')
    return list(steps or ())


def _wide(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


@jax.jit
def _start(params: PyTree) -> PyTree:
    return jax.tree.map(_wide, params)


@partial(jax.jit, donate_argnums=0)
def _add(total: PyTree, params: PyTree) -> PyTree:
    return jax.tree.map(lambda sum_, leaf: sum_ + _wide(leaf), total, params)


@partial(jax.jit, static_argnums=(1, 2))
def _divide(leaves: list[jax.Array], count: int, dtypes: tuple[Any, ...]) -> list[jax.Array]:
    return [(leaf / count).astype(dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
