"""What may be wrong with a machine or an installation, in words, and what to do about it.

`seqzoo doctor` prints what `diagnose` finds. Every check is a function of its own that returns its
findings and does not fail where the machine cannot answer: a doctor that crashes helps nobody.
"""

import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax

from seqzoo import accelerators, provenance
from seqzoo.errors import UserError
from seqzoo.parallel import processes
from seqzoo.parallel.rendezvous import Hello, MissingProcesses

Status = Literal['ok', 'warning', 'problem']

_GIB = 2**30
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain')
_CUDA_PLUGINS = ('jax-cuda12-plugin', 'jax-cuda13-plugin')
_OLDEST_PYTHON = (3, 11)
_PLATFORM_OF = {'cuda': 'gpu', 'tpu': 'tpu'}  # jax's name for the backend of each kind
_TPU_LOCK = pathlib.Path('/tmp/libtpu_lockfile')


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What was looked at, in one or two words.
        status: `'ok'`; `'warning'`, where training works but not as it could; `'problem'`, where it
            will not.
        text: What was found and, unless all is well, what to do.
    """

    name: str
    status: Status
    text: str


def diagnose(
    folder: pathlib.Path = pathlib.Path(),
    *,
    place: Mapping[str, Any] | None = None,
    wait: float = 60,
) -> list[Finding]:
    """Looks at everything, in the order in which a person would.

    Starts jax's backend, and with it claims the accelerator for this process.

    Args:
        folder: Where runs will be written; its disk is the one that is asked.
        place: `coordinator`, `processes` and `process_id` where several processes work as one and
            the environment does not say so.
        wait: Seconds to wait for the others.
    """
    # The lock first: once our own jax has started, it may be ours.
    lock = check_tpu_lock(_TPU_LOCK)
    workers = check_workers(place or {}, wait)  # before jax starts, which it joins
    return [
        check_python(sys.version_info[:3]),
        check_packages(provenance.versions(_PACKAGES)),
        check_plugins(provenance.versions(('jaxlib', *_CUDA_PLUGINS, 'libtpu')), _libtpu_wanted()),
        *workers,
        *check_devices(accelerators.find(), os.environ),
        check_environment(os.environ),
        lock,
        check_disk(folder),
        check_memory(_available_memory()),
    ]


def check_python(version: tuple[int, ...]) -> Finding:
    """Whether Python is new enough."""
    text = f'{".".join(map(str, version))} on {platform.platform()}'
    if version[:2] < _OLDEST_PYTHON:
        return Finding('python', 'problem', f'{text}: too old; seqzoo needs 3.11 or newer')
    return Finding('python', 'ok', text)


def check_packages(versions: Mapping[str, str | None]) -> Finding:
    """Whether the packages that must move together did.

    Args:
        versions: By package; None where it is not installed.
    """
    text = ', '.join(f'{name} {version or "missing"}' for name, version in versions.items())
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        return Finding('packages', 'problem', f'{text}; run "make install", which brings them')
    if _minor(versions['jax']) != _minor(versions['jaxlib']):
        return Finding(
            'packages',
            'problem',
            f'{text}: jax and jaxlib do not belong together; run "make clean install"',
        )
    return Finding('packages', 'ok', text)


def check_plugins(versions: Mapping[str, str | None], libtpu_wanted: str | None) -> Finding:
    """Whether what drives the accelerator fits jax.

    Args:
        versions: Of jaxlib, the CUDA plugins and libtpu; None where one is not installed.
        libtpu_wanted: The version that this jax asks for, such as `'0.0.42.*'`.
    """
    seen, wrong = [], []
    for name in _CUDA_PLUGINS:
        version = versions.get(name)
        if version is None:
            continue
        seen.append(f'{name} {version}')
        if _minor(version) != _minor(versions.get('jaxlib')):
            wrong.append(f'{name} {version} does not fit jaxlib {versions.get("jaxlib")}')
    libtpu = versions.get('libtpu')
    if libtpu is not None:
        seen.append(f'libtpu {libtpu}')
        if libtpu_wanted and not f'{libtpu}.'.startswith(libtpu_wanted.rstrip('*')):
            wrong.append(f'libtpu {libtpu} is not the {libtpu_wanted} that this jax asks for')
    if wrong:
        remedy = 'run "make clean install", or pip install the version of the same release'
        return Finding('plugins', 'problem', f'{"; ".join(wrong)}: {remedy}')
    return Finding('plugins', 'ok', ', '.join(seen) or 'none installed: jax runs on the CPU')


def check_workers(place: Mapping[str, Any], wait: float) -> list[Finding]:
    """Whether all processes come, and whether they fit together; nothing for a single one.

    Args:
        place: What `processes.start` shall know of this one.
        wait: Seconds to wait for the others.
    """
    try:
        processes.start(**place, wait=wait, preemption=False)
    except MissingProcesses as error:
        found = [Finding('workers', 'problem', str(error))]
        return [*found, compare_workers(error.hellos)] if len(error.hellos) > 1 else found
    except UserError as error:
        return [Finding('workers', 'problem', str(error))]
    hellos = processes.met()
    if not hellos:
        return []
    there = ', '.join(f'process {number} on {said["host"]}' for number, said in hellos.items())
    found = Finding('workers', 'ok', f'all {len(hellos)} are there: {there}')
    return [found, compare_workers(hellos)]


def compare_workers(hellos: Mapping[int, Hello]) -> Finding:
    """Whether all processes have the same versions.

    Args:
        hellos: What they said of themselves, by their numbers.
    """
    different = processes.unlike(hellos)
    if not different:
        return Finding('worker versions', 'ok', f'the same on all {len(hellos)}')
    # Another Python may do; other programs for the devices do not fit together.
    harmless = all(phrase.startswith('python ') for phrase in different)
    status = 'warning' if harmless else 'problem'
    text = f'{"; ".join(different)}: install the same on all'
    return Finding('worker versions', status, text)


def check_devices(found: accelerators.Accelerator, environment: Mapping[str, str]) -> list[Finding]:
    """What jax computes on, against what the machine has.

    Args:
        found: The accelerator that the machine itself shows.
        environment: The environment variables.
    """
    try:
        devices, backend = jax.devices(), jax.default_backend()
    except RuntimeError as error:
        first_line = str(error).strip().splitlines()[0]
        remedy = 'look at the lock, the plugins and JAX_PLATFORMS below, or set JAX_PLATFORMS=cpu'
        return [Finding('devices', 'problem', f'jax finds no device ({first_line}): {remedy}')]
    kinds = sorted({device.device_kind for device in devices})
    text = f'{len(devices)} of kind {", ".join(kinds)}; backend {backend}'
    processes = Finding(
        'processes',
        'ok',
        f'process {jax.process_index()} of {jax.process_count()}, '
        f'with {jax.local_device_count()} of {len(devices)} devices',
    )
    if found.kind == 'cpu' or backend == _PLATFORM_OF[found.kind]:
        return [Finding('devices', 'ok', text), processes]
    platforms = environment.get('JAX_PLATFORMS', '')
    if platforms and not {found.kind, _PLATFORM_OF[found.kind]} & set(platforms.split(',')):
        remedy = f'JAX_PLATFORMS={platforms} forbids it; unset it'
    else:
        remedy = f'run "make install ACCELERATOR={found.kind}", which brings what jax needs for it'
    unused = f'the machine has an accelerator ({found.evidence}) that jax does not use: {remedy}'
    return [Finding('devices', 'warning', f'{text}; {unused}'), processes]


def check_environment(environment: Mapping[str, str]) -> Finding:
    """The variables that change what jax does, to be seen when two machines disagree."""
    seen = [
        f'{name}={value}'
        for name, value in sorted(environment.items())
        if value and re.match(r'JAX_|XLA_|LIBTPU_|TPU_|CUDA_VISIBLE_DEVICES$', name)
    ]
    return Finding('environment', 'ok', ', '.join(seen) or 'nothing that changes jax is set')


def check_tpu_lock(path: pathlib.Path) -> Finding:
    """Whether another process holds the TPU, or one that died left its lock file."""
    name = 'TPU lock'
    try:
        status = path.stat()
    except OSError:
        return Finding(name, 'ok', f'no {path}')
    holders = [pid for pid in _lock_holders(status) if pid != os.getpid()]
    if holders:
        who = ' and '.join(_process_name(pid) for pid in holders)
        return Finding(
            name,
            'warning',
            f'{path} is held by {who}: the TPU serves one process at a time; wait for it or end it',
        )
    if status.st_uid != os.geteuid():
        return Finding(
            name,
            'problem',
            f'{path} was left by another user (uid {status.st_uid}) and no process holds it, '
            f'so that libtpu cannot take it: run "sudo rm {path}"',
        )
    return Finding(name, 'warning', f'{path} was left by a process that has ended: run "rm {path}"')


def check_disk(folder: pathlib.Path) -> Finding:
    """Whether checkpoints will fit; a Transformer base with its optimizer takes 0.8 GB each."""
    free = shutil.disk_usage(folder).free / _GIB
    text = f'{free:.1f} GiB free at {folder.resolve()}'
    if free < 0.5:
        return Finding('disk', 'problem', f'{text}: too little for a checkpoint; make room')
    if free < 10:
        remedy = 'enough for small runs; keep fewer checkpoints or choose another disk with --run'
        return Finding('disk', 'warning', f'{text}: {remedy}')
    return Finding('disk', 'ok', text)


def check_memory(available: int | None) -> Finding:
    """Whether the host has room for a model, its optimizer and a batch.

    Args:
        available: In bytes; None where the system does not say.
    """
    if available is None:
        return Finding('memory', 'ok', 'this system does not say how much is available')
    text = f'{available / _GIB:.1f} GiB available to this process'
    if available < 2 * _GIB:
        remedy = 'a Transformer base needs 2 GiB to train; end other programs'
        return Finding('memory', 'warning', f'{text}: {remedy}')
    return Finding('memory', 'ok', text)


def _minor(version: str | None) -> list[str]:
    """`0.10.2` and `0.10.1` are releases of the same minor version."""
    return (version or '').split('.')[:2]


def _libtpu_wanted() -> str | None:
    """The version of libtpu in the requirements of the installed jax."""
    try:
        requirements = importlib.metadata.requires('jax') or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = re.search(r'^libtpu\s*==\s*([0-9.*]+)', '\n'.join(requirements), re.MULTILINE)
    return found.group(1) if found else None


def _lock_holders(status: os.stat_result) -> list[int]:
    """The processes that hold a lock on a file, as the kernel lists them; 0 for one it hides."""
    device = f'{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}'
    try:
        lines = pathlib.Path('/proc/locks').read_text().splitlines()
    except OSError:
        return []
    # "1: FLOCK  ADVISORY  WRITE 708 00:13:4096 0 EOF"; one that waits has "->" and holds nothing.
    rows = [line.split() for line in lines if '->' not in line]
    return sorted({max(0, int(row[4])) for row in rows if len(row) > 5 and row[5] == device})


def _process_name(pid: int) -> str:
    try:
        command = pathlib.Path(f'/proc/{pid}/comm').read_text().strip()
    except OSError:
        return 'a process that this one cannot see'
    return f'process {pid} ({command})'


def _available_memory() -> int | None:
    """Bytes that are free or can be freed, within the limit of the container if there is one."""
    try:
        meminfo = pathlib.Path('/proc/meminfo').read_text()
    except OSError:
        return None
    found = re.search(r'^MemAvailable:\s+(\d+) kB', meminfo, re.MULTILINE)
    if found is None:
        return None
    available = int(found.group(1)) * 1024
    group = pathlib.Path('/sys/fs/cgroup')
    try:
        limit = (group / 'memory.max').read_text().strip()
        used = int((group / 'memory.current').read_text())
    except (OSError, ValueError):
        return available
    return available if limit == 'max' else min(available, max(0, int(limit) - used))
