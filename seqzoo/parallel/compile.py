"""One pure step, compiled for a mesh.

`jit` with shardings is the strategy for any mesh: the step is written for the global batch, and the
partitioner inserts the sums over devices.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from seqzoo.parallel.axes import DEFAULT_RULES, Rules, axis_rules
from seqzoo.parallel.mesh import replicated, rows_sharding


def compile_train_step(
    step: Callable[..., Any], mesh: Mesh, state_shardings: Any, rules: Rules = DEFAULT_RULES
) -> Callable[..., Any]:
    """`step(state, batch) -> (state, metrics)` compiled for `mesh`; the old state's memory is
    reused.

    A compiled function is not traced again when rules change: make one per mesh and rule set.
    """

    @functools.wraps(step)
    def traced(state: Any, batch: Any) -> Any:
        with axis_rules(mesh, rules):
            return step(state, batch)

    return jax.jit(
        traced,
        in_shardings=(state_shardings, rows_sharding(mesh)),
        out_shardings=(state_shardings, replicated(mesh)),
        donate_argnums=0,
    )


def compile_for_rows(
    function: Callable[..., Any],
    mesh: Mesh,
    param_shardings: Any,
    rules: Rules = DEFAULT_RULES,
) -> Callable[..., Any]:
    """`function(params, batch)` compiled for `mesh`, batch split by rows, results gathered to every
    device.
    """

    @functools.wraps(function)
    def traced(params: Any, batch: Any) -> Any:
        with axis_rules(mesh, rules):
            return function(params, batch)

    out = replicated(mesh)
    return jax.jit(traced, in_shardings=(param_shardings, rows_sharding(mesh)), out_shardings=out)
