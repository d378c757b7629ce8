"""What the numbers of a benchmark were measured on, and how a series of them is summed up."""

import importlib.metadata
import os
import pathlib
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def facts(packages: Sequence[str]) -> dict[str, Any]:
    """The machine and the versions of the packages, None for one that is not there."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        'cores': cores(),
        'processor': processor(),
        'memory_bytes': os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'),
        'system': platform.system(),
        'python': platform.python_version(),
        'versions': versions,
    }


def ran_on(result: Mapping[str, Any]) -> str:
    """The sentences under which a table stands: `machine` (of `facts`) and `load_average`."""
    where, load = result['machine'], result['load_average']
    versions = ', '.join(f'{k} {v}' for k, v in where['versions'].items() if v)
    return (
        f'{where["cores"]} cores of {where["processor"]}, {where["system"]}, Python '
        f'{where["python"]}, {versions}. Load average {load["before"][0]:.1f} before, '
        f'{load["after"][0]:.1f} after.'
    )


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """The processor's name with family and model."""
    cpuinfo = pathlib.Path('/proc/cpuinfo')
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    lines = cpuinfo.read_text(encoding='utf-8').splitlines()
    found = dict(line.replace('\t', '').split(': ', 1) for line in lines if ': ' in line)
    name, family, model = (found.get(x, '?') for x in ('model name', 'cpu family', 'model'))
    return f'{name} (family {family}, model {model})'


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method='inclusive')
    return low, median, high
