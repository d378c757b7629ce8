"""Several processes as one run, for programs: found, started, watched over, and left together.

`start` finds out whether there are several processes, waits for all of them (`rendezvous`), starts
`jax.distributed` and watches over the others (`watch`); `finish` is a program's last call. Where a
person has called `jax.distributed.initialize` all of this stays out of the way. What processes tell
each other on the way is in `agreement`.
"""

import contextlib
import glob
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from seqzoo import __version__
from seqzoo.errors import UserError
from seqzoo.parallel.coordinator import (
    HEARTBEAT_SECONDS,
    SHUTDOWN_SECONDS,
    Coordinator,
    bind_address,
    idle_address,
)
from seqzoo.parallel.rendezvous import Hello, Place, meet
from seqzoo.parallel.watch import Verdict, Watch

WAIT_SECONDS = 300.0
ADDRESS, COUNT, NUMBER = 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'
_PACKAGES = ('jax', 'jaxlib', 'libtpu')

_watch: Watch | None = None
_coordinator: Coordinator | None = None


# Finding out


@dataclass(frozen=True)
class Found:
    """That there are several processes, and how that is known.

    Attributes:
        place: Of this process.
        by_cluster: Whether a cluster said so, which then also says which devices are whose.
    """

    place: Place
    by_cluster: bool = False


def find(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    wait: float = WAIT_SECONDS,
) -> Found | None:
    """Whether this is one of several processes: by what was said, the environment, or the cluster.

    Returns:
        None for a process of its own.

    Raises:
        UserError: only a part is known.
    """
    stated: dict[str, Any] = {
        '--coordinator': coordinator or environment.get(ADDRESS),
        '--processes': processes or _number(environment, COUNT),
        '--process-id': process_id if process_id is not None else _number(environment, NUMBER),
    }
    missing = [name for name, value in stated.items() if value is None]
    if len(missing) < len(stated):
        if stated['--processes'] == 1:
            return None
        if missing:
            raise UserError(
                f'{" and ".join(missing)} {"is" if len(missing) == 1 else "are"} missing; several '
                f'processes need --coordinator, --processes and --process-id (or {ADDRESS}, '
                f'{COUNT} and {NUMBER})'
            )
        return Found(Place(*stated.values()))
    return _by_cluster(environment, wait)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise UserError(f'{name} is {text!r}, not a whole number; correct it or unset it')
    return int(text)


def _by_cluster(environment: Mapping[str, str], wait: float) -> Found | None:
    # Only where there are several processes for sure: asking the metadata of a cloud that is not
    # there takes long, and a batch script is not a step of its job.
    steps = int(environment.get('SLURM_STEP_NUM_TASKS') or 1)
    ranks = int(environment.get('OMPI_COMM_WORLD_SIZE') or 1)
    if steps == 1 and ranks == 1 and not _on_a_tpu(environment):
        return None
    from jax._src import clusters

    address, count, number, _ = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, int(wait)
    )
    if address is None or count is None or number is None or count == 1:
        return None
    return Found(Place(address, count, number), by_cluster=True)


def _on_a_tpu(environment: Mapping[str, str]) -> bool:
    platforms = environment.get('JAX_PLATFORMS', '')
    allowed = not platforms or 'tpu' in platforms
    return allowed and bool(glob.glob('/dev/accel[0-9]*') or glob.glob('/dev/vfio/[0-9]*'))


# Starting and leaving


def hello() -> Hello:
    """What this process tells the others of itself: its versions."""
    versions = {'python': platform.python_version(), 'seqzoo': __version__}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {'versions': versions}


def unlike(hellos: Mapping[int, Hello]) -> list[str]:
    """What is not of the same version everywhere, one phrase for each package."""
    phrases = []
    names = {name for said in hellos.values() for name in said['versions']}
    for name in sorted(names):
        versions: dict[str, list[str]] = {}
        for number, said in sorted(hellos.items()):
            version = said['versions'].get(name, 'missing')
            versions.setdefault(version, []).append(f'process {number} on {said["host"]}')
        if len(versions) > 1:
            told = (f'{version} in {", ".join(who)}' for version, who in versions.items())
            phrases.append(f'{name} is {" but ".join(told)}')
    return phrases


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    *,
    wait: float = WAIT_SECONDS,
    preemption: bool = True,
) -> None:
    """Joins the other processes of this run, if there are any; for programs, once, before JAX runs.

    Standard output then belongs to Python; what libraries print there is dropped.

    Args:
        coordinator: `HOST:PORT` of the first process; by default what the environment or the
            cluster says.
        processes: How many there are.
        process_id: This one's number, from 0.
        wait: Seconds to wait for the others.
        preemption: Whether SIGTERM shall be noted, for `training.signals`, and not end the process.

    Raises:
        UserError: somebody did not come, or has other versions.
    """
    if jax.distributed.is_initialized():
        return
    found = find(coordinator, processes, process_id, wait=wait)
    if found is None:
        return
    _keep_standard_output()
    _join(found, wait, preemption)


def _join(found: Found, wait: float, preemption: bool) -> None:
    global _watch, _coordinator
    place = found.place
    if place.process_id == 0:
        _coordinator = Coordinator(bind_address(place.coordinator), place.processes)
    try:
        circle = meet(
            place,
            hello(),
            timeout=wait,
            before_go=_coordinator.serve if _coordinator else lambda: None,
        )
        different = unlike(
            {n: {**h, 'versions': _essential(h)} for n, h in enumerate(circle.hellos)}
        )
        if different:
            raise UserError(f'{"; ".join(different)}: install the same versions on all')
    except BaseException:
        _stop_coordinator()
        raise
    _watch = Watch(circle, _end)
    _watch.start()
    jax.config.update('jax_enable_preemption_service', preemption)
    jax.distributed.initialize(
        place.coordinator,
        place.processes,
        place.process_id,
        cluster_detection_method=None if found.by_cluster else 'deactivate',
        # JAX's own service in the first process, which nobody talks to.
        coordinator_bind_address=idle_address() if place.process_id == 0 else None,
        initialization_timeout=max(60, int(wait)),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )


def _essential(said: Hello) -> dict[str, str]:
    """Versions that must be equal: programs compiled by others do not fit together."""
    return {name: v for name, v in said['versions'].items() if name != 'python'}


def met() -> dict[int, Hello]:
    """What all processes said of themselves, by number; empty if `start` found only this one."""
    return {} if _watch is None else dict(enumerate(_watch.hellos))


def trouble(wait: float = 1.0) -> Verdict | None:
    """Why all processes have to end, if another one died or gave up; for explaining an exception.

    Args:
        wait: Seconds for the news to come.
    """
    return _watch.verdict(wait) if _watch is not None else None


def finish(status: int, message: str = '') -> None:
    """The last call of a program that called `start`; with one process it does nothing.

    After a failure it does not return: it tells the others, which end too, and ends this process.

    Args:
        status: Of the exit.
        message: A failure, in one sentence; empty if all is well.
    """
    global _watch
    if _watch is None:
        return
    if message:
        _watch.leave(status, f'process {jax.process_index()} stopped: {message}')
        _end(status)
    jax.distributed.shutdown()  # waits for the others, under the eyes of the watch
    _watch.leave(status)
    _watch = None
    _stop_coordinator()


def _end(status: int) -> None:
    """Ends this process at once: JAX would wait for those that are gone."""
    if _coordinator is not None:
        _coordinator.dismiss()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def _stop_coordinator() -> None:
    global _coordinator
    if _coordinator is not None:
        _coordinator.close()
        _coordinator = None


def _keep_standard_output() -> None:
    """Gloo prints on file descriptor 1; results there must stay results."""
    try:
        if sys.stdout.fileno() != 1:
            return
    except (OSError, ValueError):  # not a file: in tests
        return
    sys.stdout.flush()
    ours = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    sys.stdout = os.fdopen(ours, 'w', encoding='utf-8', errors='backslashreplace')
