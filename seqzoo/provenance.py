"""On what, and by which source, something runs: facts without which a number says little.

Nothing here fails where the machine cannot answer: a training must not end for want of a note.
"""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterable
from typing import Any

from seqzoo import __version__

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
_GIT_SECONDS = 10.0  # a checkout on a slow file system; a training waits for it once


def facts(devices: Iterable[Any]) -> dict[str, Any]:
    """What the event `start` notes of a process.

    Args:
        devices: jax devices that compute.

    Returns:
        `device` in words, `versions` by package, and the `commit` of the source, or `None`.
    """
    known = {'python': platform.python_version(), **versions(_PACKAGES), 'seqzoo': __version__}
    return {'device': device(devices), 'versions': known, 'commit': commit()}


def device(devices: Iterable[Any]) -> str:
    """Devices in words: `2 cores AMD EPYC (family 25, model 17), cpu`, or `4 x NVIDIA H200`."""
    found = list(devices)
    if found[0].platform != 'cpu':
        return f'{len(found)} x {found[0].device_kind}'
    processes = len({one.process_index for one in found})
    several = f'{processes} processes with ' if processes > 1 else ''
    number = cores()
    return f'{several}{number} core{"s" if number > 1 else ""} {processor()}, cpu'


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """The versions of packages, `None` for one that is not there."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name with family and model."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    found = dict(line.replace('\t', '').split(': ', 1) for line in lines if ': ' in line)
    if 'model name' not in found:
        return platform.processor() or platform.machine()
    name, family, model = (found.get(x, '?') for x in ('model name', 'cpu family', 'model'))
    return f'{name} (family {family}, model {model})'


def commit(checkout: pathlib.Path | None = None) -> str | None:
    """The commit of the checkout from which seqzoo runs, with `-dirty` where tracked files differ.

    Args:
        checkout: another one, in tests.

    Returns:
        `None` if it does not run from a checkout, or git does not answer.
    """
    folder = checkout or pathlib.Path(__file__).resolve().parent.parent
    # Not a folder above: an installed package may lie inside the checkout of something else.
    if not (folder / '.git').exists():
        return None
    # Set by a git that started us, these would name its own repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith('GIT_')}
    try:
        found = subprocess.run(
            ['git', 'describe', '--always', '--dirty', '--exclude', '*'],
            cwd=folder,
            env={**environment, 'GIT_OPTIONAL_LOCKS': '0'},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return (found.stdout.strip() or None) if found.returncode == 0 else None
