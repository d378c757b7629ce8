"""Kinds of slices: how Cloud TPU, Compute Engine and GKE call them, and how many hosts they have.

From the vendor's pages on TPU versions, TPU machine types and GKE node pools. What a name counts
differs: `v5e-8` and `v6e-8` have 8 chips, but `v4-8` and `v5p-8` have 8 cores, which are 4 chips;
the form `v5p:2x2x1` is the topology, in chips, and means the same everywhere.
"""

import difflib
import math
import re
from dataclasses import dataclass

from tpu.shell import Refusal


@dataclass(frozen=True)
class Generation:
    """A version of the TPU.

    Attributes:
        api: how accelerator types of the Cloud TPU API begin; empty if it does not serve them.
        cores: of a chip, where names count cores; 1 where they count chips.
        runtime: the software version of the Cloud TPU API.
        gke: the node label of GKE; empty if it has none.
        machine: how machine types begin; empty if Compute Engine does not serve them.
        image: family of images for Compute Engine; empty if that does not serve them.
        axes: of a topology.
        whole: the largest slices on a single host, in chips; larger ones have 4 chips a host.
    """

    api: str
    cores: int
    runtime: str
    gke: str
    machine: str
    image: str
    axes: int
    whole: tuple[int, ...]


_ALL = 'ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e'
GENERATIONS = {
    'v2': Generation('v2', 2, 'tpu-ubuntu2204-base', '', '', '', 2, (4,)),
    'v3': Generation('v3', 2, 'tpu-ubuntu2204-base', '', '', '', 2, (4,)),
    'v4': Generation(
        'v4', 2, 'tpu-ubuntu2204-base', 'tpu-v4-podslice', 'ct4p-hightpu', '', 3, (4,)
    ),
    'v5e': Generation(
        *('v5litepod', 1, 'v2-alpha-tpuv5-lite', 'tpu-v5-lite-podslice', 'ct5lp-hightpu', ''),
        *(2, (1, 4, 8)),
    ),
    'v5p': Generation('v5p', 2, 'v2-alpha-tpuv5', 'tpu-v5p-slice', 'ct5p-hightpu', _ALL, 3, (4,)),
    'v6e': Generation(
        'v6e', 1, 'v2-alpha-tpuv6e', 'tpu-v6e-slice', 'ct6e-standard', _ALL, 2, (1, 4, 8)
    ),
    '7x': Generation(
        *('', 2, '', 'tpu7x', 'tpu7x-standard', 'ubuntu-accel-2404-amd64-tpu-tpu7x', 3, (4,))
    ),
}
_ALIASES = {'v5litepod': 'v5e', 'v5lite': 'v5e', 'tpu7x': '7x', 'v7x': '7x', 'tpuv7x': '7x'}
_EXAMPLES = 'v5e-8, v6e-16, v5p-8, v5p:2x2x4 or 7x:2x2x1'


@dataclass(frozen=True)
class Slice:
    """Chips that are wired to each other.

    Attributes:
        generation: key of `GENERATIONS`.
        topology: chips along each axis.
    """

    generation: str
    topology: tuple[int, ...]

    @property
    def facts(self) -> Generation:
        """What is the same for all slices of its generation."""
        return GENERATIONS[self.generation]

    @property
    def chips(self) -> int:
        """How many chips it has."""
        return math.prod(self.topology)

    @property
    def hosts(self) -> int:
        """How many machines it has, each of which runs one process."""
        return 1 if self.chips in self.facts.whole else self.chips // 4

    @property
    def shape(self) -> str:
        """The topology as others write it: `2x4`."""
        return 'x'.join(map(str, self.topology))

    @property
    def accelerator_type(self) -> str:
        """Its name in the Cloud TPU API: `v5litepod-8`."""
        return f'{self.facts.api}-{self.chips * self.facts.cores}'

    @property
    def usual(self) -> bool:
        """Whether it has the shape that its name in the Cloud TPU API stands for."""
        try:
            usual = _topology(self.chips * self.facts.cores, self.facts, str(self))
        except Refusal:
            return False
        return usual == self.topology

    @property
    def machine_type(self) -> str:
        """A host's machine type in Compute Engine and GKE: `ct6e-standard-8t`."""
        return f'{self.facts.machine}-{self.chips // self.hosts}t'

    def __str__(self) -> str:
        """Its name in `seqzoo compile --topology`."""
        return f'{self.generation}:{self.shape}'


def parse(text: str) -> Slice:
    """A slice by its name or topology.

    Raises:
        Refusal: there is no such slice.
    """
    match = re.fullmatch(r'(\w+?)(?:-(\d+)|:(\d+(?:x\d+){1,2}))', text.strip())
    if match is None:
        raise Refusal(f'--slice {text!r} is not the name of a slice, such as {_EXAMPLES}')
    name = _ALIASES.get(match[1], match[1])
    if name not in GENERATIONS:
        close = difflib.get_close_matches(name, GENERATIONS, n=1, cutoff=0.5)
        hint = f'did you mean {close[0]}?' if close else f'there are {", ".join(GENERATIONS)}'
        raise Refusal(f'--slice {text!r}: there is no TPU {match[1]}; {hint}')
    facts = GENERATIONS[name]
    if match[3]:
        topology = tuple(map(int, match[3].split('x')))
    elif not facts.api:
        raise Refusal(
            f'--slice {text!r}: what the number counts is not settled for TPU {name}; give the '
            f'topology in chips, such as {name}:2x2x1'
        )
    else:
        topology = _topology(int(match[2]), facts, text)
    found = Slice(name, topology)
    good = len(topology) == facts.axes and all(n in (1, 2) or n % 4 == 0 < n for n in topology)
    if not good or not (found.chips in facts.whole or found.chips % 4 == 0):
        raise Refusal(
            f'--slice {text!r}: TPU {name} has {facts.axes} axes of 1, 2 or multiples of 4 chips, '
            f'as in {_EXAMPLES}'
        )
    return found


def _topology(count: int, facts: Generation, text: str) -> tuple[int, ...]:
    """The usual shape of so many chips: every axis the one before, or twice that."""
    chips = count // facts.cores
    exponent = chips.bit_length() - 1
    if count % facts.cores or chips == 0 or chips != 1 << exponent or exponent == 1:
        raise Refusal(
            f'--slice {text!r}: no usual slice has that size; give a power of 2, or its topology '
            f'in chips, such as {"4x4" if facts.axes == 2 else "2x2x4"} behind a colon'
        )
    if chips < facts.whole[0]:
        raise Refusal(
            f'--slice {text!r}: the smallest slice is {facts.api}-{facts.whole[0] * facts.cores}'
        )
    if facts.axes == 3 and chips == 4:
        return (2, 2, 1)
    each, extra = divmod(exponent, facts.axes)
    return tuple(1 << (each + (axis >= facts.axes - extra)) for axis in range(facts.axes))
