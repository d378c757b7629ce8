"""TPU slices that are not here: what their compiler, libtpu, knows of them.

libtpu compiles for any slice on a plain machine. It looks for a TPU's surroundings when it is
loaded, and says much while it does; what it asks for is set here before.
"""

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from seqzoo.analysis.chips import CHIPS, Chip
from seqzoo.configuration import nearest
from seqzoo.errors import UserError

_SURROUNDINGS = {
    'TPU_SKIP_MDS_QUERY': '1',  # nobody answers outside Google Cloud
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',  # of the host, which has none; the slice may be any
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_WORKER_ID': '0',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # no device is taken, so several processes may compile
    'TPU_LOG_DIR': 'disabled',
    'TPU_MIN_LOG_LEVEL': '3',
    'TPU_STDERR_LOG_LEVEL': '3',
    'TF_CPP_MIN_LOG_LEVEL': '3',
}
_SHAPE = re.compile(r'\d+(x\d+)*')
_USUAL = {2: '1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16 or 16x16', 3: '2x2x1, 2x2x2, 2x2x4, 4x4x4, 4x4x8'}


@dataclass(frozen=True)
class Slice:
    """A slice of chips.

    Attributes:
        name: `v5e:4x4`.
        chip: what each can do.
        chips: their number.
        devices: as JAX shows them, `chip.devices` for each chip.
    """

    name: str
    chip: Chip
    chips: int
    devices: tuple[Any, ...]

    @property
    def room(self) -> int:
        """Bytes of memory that a program may use on one device."""
        return int(self.chip.hbm / self.chip.devices)


def has_compiler() -> bool:
    """Whether libtpu is installed."""
    spec = importlib.util.find_spec('libtpu')
    return spec is not None and spec.origin is not None


def find_slice(name: str) -> Slice:
    """The slice called `name`, a kind of chip and how many stand along each axis.

    Raises:
        UserError: there is no such chip or slice, or no compiler for it.
    """
    chip, shape = parse_topology(name)
    if not has_compiler():
        raise UserError(
            'compiling for a TPU needs its compiler, libtpu, which is not installed; '
            "`pip install 'seqzoo[tpu]'` brings it, also to a machine without a TPU."
        )
    for variable, value in _SURROUNDINGS.items():
        os.environ.setdefault(variable, value)
    import jax
    from jax.experimental import topologies

    kind = 'tpu7x' if chip.name == '7x' else chip.name
    chips = math.prod(shape)
    options: dict[str, Any] = {'chips_per_host_bounds': (1, 1, 1)} if chips == 1 else {}
    if chip.compiled_as:
        options['chip_config_name'] = chip.compiled_as
    text = 'x'.join(map(str, shape))
    try:
        found = topologies.get_topology_desc(f'{kind}:{text}', platform='tpu', **options)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f'--topology {name}: there is no {chip.name} slice of {text} chips ('
            f'{str(error).split(": ", 1)[-1].rstrip(".")}); take such as {_USUAL[chip.axes]}.'
        ) from error
    return Slice(f'{chip.name}:{text}', chip, chips, tuple(found.devices))


def parse_topology(name: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip and the shape that `v5e:4x4` names.

    Raises:
        UserError: it names none.
    """
    kind, colon, text = name.lower().partition(':')
    chips = {chip.name: chip for chip in CHIPS} | {'tpu7x': CHIPS[-1], 'v7x': CHIPS[-1]}
    known = [chip.name for chip in CHIPS]
    if kind not in chips:
        close = nearest(kind, known) or f'; there are {", ".join(known)}'
        raise UserError(f'--topology {name}: there is no TPU called {kind!r}{close}')
    chip = chips[kind]
    if not colon or not _SHAPE.fullmatch(text) or text.count('x') + 1 != chip.axes:
        raise UserError(
            f'--topology {name}: a slice of {chip.name} is written with {chip.axes} numbers, such '
            f'as {", ".join(f"{chip.name}:{s}" for s in _USUAL[chip.axes].split(", ")[:3])}.'
        )
    shape = tuple(int(n) for n in text.split('x'))
    if 0 in shape:
        raise UserError(f'--topology {name}: there is no slice of no chips; count them from 1 on.')
    if math.prod(shape) > chip.most:
        raise UserError(
            f'--topology {name}: the largest slice of {chip.name} has {chip.most:,} chips, not '
            f'{math.prod(shape):,}; take such as {_USUAL[chip.axes]}.'
        )
    return chip, shape


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
    """What is compiled inside is not looked for in JAX's cache on disk: a program for devices that
    are not here can be stored, but not be loaded again.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    enabled = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()  # it remembers whether it is in use
    try:
        yield
    finally:
        jax.config.update('jax_enable_compilation_cache', enabled)
        compilation_cache.reset_cache()
