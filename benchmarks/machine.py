"""What the numbers of a benchmark were measured on, and how a series of them is summed up."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from seqzoo.provenance import cores, processor, versions

__all__ = ['cores', 'facts', 'processor', 'quartiles', 'ran_on']


def facts(packages: Sequence[str]) -> dict[str, Any]:
    """The machine and the versions of the packages, None for one that is not there."""
    return {
        'cores': cores(),
        'processor': processor(),
        'memory_bytes': os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'),
        'system': platform.system(),
        'python': platform.python_version(),
        'versions': versions(packages),
    }


def ran_on(result: Mapping[str, Any]) -> str:
    """The sentences under which a table stands: `machine` (of `facts`) and `load_average`."""
    where, load = result['machine'], result['load_average']
    known = ', '.join(f'{k} {v}' for k, v in where['versions'].items() if v)
    return (
        f'{where["cores"]} cores of {where["processor"]}, {where["system"]}, Python '
        f'{where["python"]}, {known}. Load average {load["before"][0]:.1f} before, '
        f'{load["after"][0]:.1f} after.'
    )


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method='inclusive')
    return low, median, high
