"""One pure step, compiled for a mesh in one of three ways.

`'jit'` fits any mesh: the step is written for the global batch, and the partitioner inserts the
sums over devices. `'shard_map'` and `'pmap'` run the step on every device's own rows, with whole
parameters, and the step adds what it must by `axes.sum_over_shards`. All three take the same state
and give the same loss, the same gradient and the same dropout masks; which one runs is no part of
what a run is, and may change whenever it is taken up again.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
from jax.sharding import Mesh, PartitionSpec

from seqzoo.errors import UserError
from seqzoo.parallel.axes import DEFAULT_RULES, Rules, axis_rules, platform_of
from seqzoo.parallel.mesh import BATCH_AXES, replicated, rows_sharding

Strategy = Literal['jit', 'shard_map', 'pmap']
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


def check_strategy(strategy: Strategy, mesh: Mesh) -> None:
    """Raises `UserError` if `strategy` cannot run on `mesh`, or not in several processes."""
    if strategy == 'jit':
        return
    if strategy == 'pmap' and jax.process_count() > 1:
        raise UserError(
            f'strategy pmap works in one process, and there are {jax.process_count()}; take '
            '--strategy shard_map, which runs the same program on every device.'
        )
    split = [axis for axis, size in mesh.shape.items() if axis != 'data' and size > 1]
    if split:
        sizes = ', '.join(f'{axis} = {mesh.shape[axis]}' for axis in split)
        options = ' '.join(f'--mesh.{axis} 1' for axis in split)
        raise UserError(
            f'strategy {strategy} keeps whole parameters and whole rows on every device, but the '
            f'mesh has {sizes}; set {options} --mesh.data -1, or take --strategy jit.'
        )


def compile_train_step(
    step: Callable[..., Any],
    mesh: Mesh,
    state_shardings: Any,
    rules: Rules = DEFAULT_RULES,
    strategy: Strategy = 'jit',
    deterministic: bool = False,
) -> Callable[..., Any]:
    """`step(state, batch) -> (state, metrics)` compiled for `mesh`; the old state's memory is
    reused.

    A compiled function is not traced again when rules change: make one per mesh and rule set.

    Args:
        step: pure; sums over the batch go through `axes.sum_over_shards`.
        mesh: any for `'jit'`; only `data` larger than 1 for the others.
        state_shardings: one `NamedSharding` per leaf of the state. What is split is split by rows
            of the batch, unless the strategy is `'jit'`.
        rules: which mesh axes named axes are laid over; of no effect where arrays are local.
        strategy: how the step is laid over the devices.
        deterministic: on a GPU take only kernels that add in a fixed order.

    Returns:
        A function of a state as `state_shardings` says and of global arrays `[rows, ...]`, the same
        for every strategy.

    Raises:
        UserError: the strategy cannot run on this mesh.
    """
    check_strategy(strategy, mesh)
    options = compiler_options(mesh.devices.flat[0].platform) if deterministic else None
    if strategy == 'pmap':
        if options:
            raise UserError(
                'train.deterministic cannot be given to pmap; take --strategy shard_map, which '
                'runs the same program on every device.'
            )
        return _pmap(step, mesh, state_shardings)
    run = _with_rules(step, mesh, rules)
    if strategy == 'shard_map':
        state_specs = jax.tree.map(lambda sharding: sharding.spec, state_shardings)
        run = jax.shard_map(
            _with_rules(step, None, rules, manual=BATCH_AXES, platform=platform_of(mesh)),
            mesh=mesh,
            in_specs=(state_specs, PartitionSpec(BATCH_AXES)),
            out_specs=(state_specs, PartitionSpec()),
            # The check would insert a sum over devices into the backward pass, and the step's own
            # would then count every gradient as many times as there are devices.
            check_vma=False,
        )
    return jax.jit(
        run,
        in_shardings=(state_shardings, rows_sharding(mesh)),
        out_shardings=(state_shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=options,
    )


def compiler_options(platform: str) -> dict[str, bool] | None:
    """What makes a program give the same bits in each run; CPUs and TPUs do so by themselves."""
    return {'xla_gpu_deterministic_ops': True} if platform in ('gpu', 'cuda') else None


def compile_for_rows(
    function: Callable[..., Any],
    mesh: Mesh,
    param_shardings: Any,
    rules: Rules = DEFAULT_RULES,
) -> Callable[..., Any]:
    """`function(params, batch)` compiled for `mesh`, batch split by rows, results gathered to every
    device.

    Always by `jit`: the parameters lie on the devices in the same way whatever strategy trains
    them.
    """
    out = replicated(mesh)
    return jax.jit(
        _with_rules(function, mesh, rules),
        in_shardings=(param_shardings, rows_sharding(mesh)),
        out_shardings=out,
    )


def compile_for_carried_rows(
    function: Callable[..., Any],
    mesh: Mesh,
    param_shardings: Any,
    rules: Rules = DEFAULT_RULES,
) -> Callable[..., Any]:
    """`function(params, batch, carry) -> (result, carry)` compiled for `mesh`; see
    `compile_for_rows`.

    The carry is split by rows like the batch, and its old memory is reused.
    """
    rows = rows_sharding(mesh)
    return jax.jit(
        _with_rules(function, mesh, rules),
        in_shardings=(param_shardings, rows, rows),
        out_shardings=(replicated(mesh), rows),
        donate_argnums=2,
    )


def compile_in_place(
    function: Callable[..., Any],
    mesh: Mesh,
    rules: Rules = DEFAULT_RULES,
    *,
    gather: bool = False,
    donate: int | None = None,
) -> Callable[..., Any]:
    """`function` compiled for `mesh`; arrays are taken where they lie.

    Results are left where it suits, or with `gather` on every device, so that what is handed in
    again has always come the same way and compiles nothing anew. The memory of the argument
    numbered `donate` is used again.
    """
    traced = _with_rules(function, mesh, rules)
    if gather:
        return jax.jit(traced, donate_argnums=donate, out_shardings=replicated(mesh))
    return jax.jit(traced, donate_argnums=donate)


def _with_rules(
    function: Callable[..., Any],
    mesh: Mesh | None,
    rules: Rules,
    manual: tuple[str, ...] = (),
    platform: str | None = None,
) -> Callable[..., Any]:
    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        with axis_rules(mesh, rules, manual=manual, platform=platform):
            return function(*args)

    return traced


def _pmap(step: Callable[..., Any], mesh: Mesh, state_shardings: Any) -> Callable[..., Any]:
    """The step by `pmap`, with one state for all devices and not a stack of copies.

    `pmap` wants a leading axis of devices on whatever is split by rows: the batch, and a carry.
    """
    devices = list(mesh.devices.flat)
    is_split = any(any(sharding.spec) for sharding in jax.tree.leaves(state_shardings))
    axes = None
    if is_split:
        axes = jax.tree.map(lambda sharding: 0 if any(sharding.spec) else None, state_shardings)
    run = jax.pmap(
        _with_rules(step, None, DEFAULT_RULES, manual=('data',), platform=platform_of(mesh)),
        axis_name='data',
        in_axes=(axes, 0),
        out_axes=(axes, None),
        devices=devices,
        donate_argnums=0,
    )

    @functools.partial(jax.jit, out_shardings=rows_sharding(mesh))
    def cut(rows: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), rows)

    @functools.partial(jax.jit, out_shardings=rows_sharding(mesh))
    def join(x: jax.Array) -> jax.Array:
        return x.reshape(-1, *x.shape[2:])

    def on_split(change: Callable[[jax.Array], jax.Array], state: Any) -> Any:
        if not is_split:
            return state
        return jax.tree.map(lambda s, x: change(x) if any(s.spec) else x, state_shardings, state)

    @functools.wraps(step)
    def compiled(state: Any, batch: Any) -> Any:
        state, metrics = run(on_split(cut, state), cut(batch))
        # Every array lies where it should, but says so by a mesh of pmap's own; nothing is copied.
        return jax.device_put(on_split(join, state), state_shardings), metrics

    return compiled
