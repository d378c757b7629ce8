"""What the processes of a run tell each other: who failed, what the first one read, when to go on.

Works in any process in which `jax.distributed` was started, by whomever, and does nothing where
there is only one. It goes through JAX's coordination service and not through collectives of arrays:
that needs no devices, compiles nothing, and waits as long as one process has work.

All processes make the same calls in the same order.
"""

import itertools
import json
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from seqzoo.errors import UserError

T = TypeVar('T')

_PIECE = 1 << 20  # characters of a message to the coordination service
_POLL_MILLISECONDS = 5000

_turn = itertools.count()


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether there are other processes."""
    return jax.process_count() > 1


def gather(text: str) -> list[str]:
    """Everybody's text, by process; all processes call it, in the same order of calls."""
    if jax.process_count() == 1:
        return [text]
    turn = next(_turn)
    _tell(f'seqzoo/{turn}/{jax.process_index()}', text)
    return [_ask(f'seqzoo/{turn}/{number}') for number in range(jax.process_count())]


def from_first(text: str) -> str:
    """The first process's text, on all of them."""
    if jax.process_count() == 1:
        return text
    turn = next(_turn)
    if is_first():
        _tell(f'seqzoo/{turn}/0', text)
        return text
    return _ask(f'seqzoo/{turn}/0')


def first_does(function: Callable[[], T]) -> T | None:
    """Calls `function` on the first process while the others wait; its result there, None here.

    Raises:
        UserError: on all, if it failed.
    """
    result, failure = _tried(function) if is_first() else (None, None)
    _raise_anywhere(failure)
    return result


def together(function: Callable[[], T]) -> T:
    """Calls `function` on all processes.

    Raises:
        UserError: on all, if it failed on one.
    """
    result, failure = _tried(function)
    _raise_anywhere(failure)
    return result  # type: ignore[return-value]


def once_a_host(function: Callable[[], T]) -> T:
    """Calls `function` on all processes, on one of each host first: what it caches, is made once.

    Raises:
        UserError: on all, if it failed on one.
    """
    hosts = gather(socket.gethostname())
    me = jax.process_index()
    leads = hosts.index(hosts[me]) == me
    result, failure = _tried(function) if leads else (None, None)
    _raise_anywhere(failure)
    if not leads:
        result, failure = _tried(function)
    if len(set(hosts)) < len(hosts):
        _raise_anywhere(failure)
    return result  # type: ignore[return-value]


def same_everywhere(value: str, complaint: str) -> None:
    """Raises `UserError` on all processes if `value` is not the same on all of them.

    Args:
        value: Compared as it is.
        complaint: What is wrong then and what to do; `{other}` stands for the process that differs.
    """
    for number, other in enumerate(values := gather(value)):
        if other != values[0]:
            raise UserError(complaint.format(other=f'process {number}'))


def connect(mesh: Mesh) -> None:
    """Lets the devices of all processes connect, while all of these have nothing else to do.

    Gloo, which carries collectives between CPUs, connects a group of devices when it is first
    needed, and gives up after half a minute; compiling may keep a process busy for longer.
    """
    if not several() or jax.default_backend() != 'cpu':
        return
    gather('')
    names = [name for name in mesh.axis_names if mesh.shape[name] > 1]
    for size in range(1, len(names) + 1):
        for axes in itertools.combinations(names, size):
            jax.block_until_ready(_sum_over(mesh, axes)())


def _sum_over(mesh: Mesh, axes: tuple[str, ...]) -> Callable[[], jax.Array]:
    def count() -> jax.Array:
        return jax.lax.psum(jnp.ones(()), axes)

    everywhere = PartitionSpec()
    return jax.jit(
        jax.shard_map(count, mesh=mesh, in_specs=(), out_specs=everywhere, check_vma=False)
    )


def _tried(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return function(), None
    except Exception as error:
        return None, error


def _raise_anywhere(failure: Exception | None) -> None:
    """Raises a failure of this process here, or in other words that of another one."""
    if jax.process_count() > 1:
        text = '' if failure is None else str(failure) or type(failure).__name__
        failures = gather(text)
        if failure is None:
            for number, other in enumerate(failures):
                if other:
                    raise UserError(f'process {number} stopped: {other}')
    if failure is not None:
        raise failure


def _client() -> Any:
    from jax._src import distributed  # what `jax.distributed` itself goes through; Orbax does too

    return distributed.global_state.client


def _tell(key: str, text: str) -> None:
    encoded = json.dumps(text)  # ASCII
    pieces = [encoded[i : i + _PIECE] for i in range(0, len(encoded), _PIECE)]
    for number, piece in enumerate(pieces):
        _client().key_value_set(f'{key}/{number}', piece)
    _client().key_value_set(key, str(len(pieces)))


def _ask(key: str) -> str:
    count = int(_wait_for(key))
    return json.loads(''.join(_wait_for(f'{key}/{number}') for number in range(count)))


def _wait_for(key: str) -> str:
    """Waits without end: the living may have work for hours, and for the dead there is a watch."""
    while True:
        try:
            return _client().blocking_key_value_get(key, _POLL_MILLISECONDS)
        except Exception as error:
            if 'DEADLINE_EXCEEDED' not in str(error):
                raise
