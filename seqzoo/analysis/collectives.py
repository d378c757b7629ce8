"""What the devices of a mesh say to each other: the collectives of a compiled program.

They are read from the text of the optimised program, `jax.jit(f).lower(...).compile().as_text()`,
of any backend. Communication is judged on the program of the machine it is meant for: XLA on CPU
writes an all-reduce and a slice where a TPU does a reduce-scatter.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'collective-permute', 'all-to-all')

# `  %name = f32[8,16]{1,0} all-reduce(...), replica_groups=...` and its asynchronous first half.
_INSTRUCTION = re.compile(
    r'^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>\(.*?\)|\S+) '
    rf'(?P<kind>{"|".join(KINDS)}|ragged-all-to-all|collective-broadcast)(?P<start>-start)?\('
)
_COMPUTATION = re.compile(r'^(?:ENTRY )?%?(?P<name>[\w.-]+) (?:\(.*\) -> .* )?\{$')
_CALLED = re.compile(
    r'(?P<how>body|condition|to_apply|calls|true_computation|false_computation)=%?(?P<name>[\w.-]+)'
)
_BRANCHES = re.compile(r'(?:branch_computations|called_computations)=\{(?P<names>[^}]*)\}')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r'(?P<type>[a-z]+\d*\w*)\[(?P<sizes>[\d,]*)\]')
_BITS = re.compile(r'\d+')
_GROUPS_LISTED = re.compile(r'replica_groups=\{\{([\d,]+)\}')
_GROUPS_COUNTED = re.compile(r'replica_groups=\[\d+,(\d+)\]<=')
_GROUPS_OF_MESH = re.compile(r'replica_groups=mesh\[(?P<mesh>[^\]]*)\] \{(?P<axes>[^}]*)\}')
_PAIRS = re.compile(r'source_target_pairs=\{\{.*?\}\}')


@dataclass(frozen=True)
class Collective:
    """One instruction that moves data between devices.

    Attributes:
        kind: one of `KINDS` (or a rarer one of XLA's), asynchronous or not.
        bytes: of the result on one device.
        group: devices that take part together (in the first group, or round the first ring); 0 if
            the program does not say: all of them.
        in_loop: inside a loop, such as that over layers.
        times: how often it runs in one run of the program; `None` if a loop around it does not say.
        shapes: the shapes of the results, as XLA writes them.
        name: of the instruction.
        source: what in the traced program it came from; empty if not known.
    """

    kind: str
    bytes: int
    group: int
    in_loop: bool
    times: int | None
    shapes: tuple[str, ...]
    name: str
    source: str


@dataclass(frozen=True)
class Traffic:
    """All collectives of one kind.

    Attributes:
        count: instructions, whatever the number of their runs.
        in_loops: those of them inside loops.
        bytes: of results on one device in one run of the program; loops that do not say how often
            they run count once.
    """

    count: int
    in_loops: int
    bytes: int


def collectives(program: str) -> list[Collective]:
    """The collectives in the text of an optimised program, in its order."""
    computations = _computations(program)
    times = _times(computations)
    found = []
    for computation, lines in computations.items():
        for line in lines:
            if match := _INSTRUCTION.match(line):
                in_loop, runs = times.get(computation, (False, 1))
                shapes = _result(match['shape'], match['kind'], match['start'] is not None)
                source = re.search(r'op_name="([^"]*)"', line)
                found.append(
                    Collective(
                        kind=match['kind'],
                        bytes=sum(map(_bytes, shapes)),
                        group=_group(line),
                        in_loop=in_loop,
                        times=runs,
                        shapes=shapes,
                        name=match['name'],
                        source=source[1] if source else '',
                    )
                )
    return found


def traffic(found: Iterable[Collective]) -> dict[str, Traffic]:
    """Counts and bytes by kind; a kind that does not occur has no entry."""
    kinds: dict[str, list[Collective]] = {}
    for collective in found:
        kinds.setdefault(collective.kind, []).append(collective)
    return {
        kind: Traffic(
            len(members),
            sum(c.in_loop for c in members),
            sum(c.bytes * (c.times or 1) for c in members),
        )
        for kind, members in kinds.items()
    }


def _computations(program: str) -> dict[str, list[str]]:
    """The lines of each computation; the one where the program begins is called `''`."""
    found: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in program.splitlines():
        if lines is None:
            if match := _COMPUTATION.match(line):
                lines = found['' if line.startswith('ENTRY') else match['name']] = []
        elif line.startswith('}'):
            lines = None
        else:
            lines.append(line)
    return found


def _times(computations: dict[str, list[str]]) -> dict[str, tuple[bool, int | None]]:
    """For every computation that is reached: whether a loop is around it, and how often it runs."""
    reached: dict[str, tuple[bool, int | None]] = {'': (False, 1)}
    waiting = ['']
    while waiting:
        computation = waiting.pop()
        in_loop, runs = reached[computation]
        for line in computations.get(computation, ()):
            called = [(m['name'], m['how']) for m in _CALLED.finditer(line)]
            for branches in _BRANCHES.finditer(line):
                called += [(name.strip(' %'), 'branch') for name in branches['names'].split(',')]
            for name, how in called:
                now = in_loop, runs
                if how in ('body', 'condition'):
                    trips = _TRIPS.search(line)
                    product = int(trips[1]) * runs if trips and runs is not None else None
                    now = True, product
                if name not in reached:
                    reached[name] = now
                    waiting.append(name)
    return reached


def _result(shape: str, kind: str, asynchronous: bool) -> tuple[str, ...]:
    """The shapes that come out; the first half of an asynchronous one also holds its operands."""
    shapes = tuple(match[0] for match in _ARRAY.finditer(shape))
    if not asynchronous or kind == 'all-reduce' or not shape.startswith('('):
        return shapes
    if kind == 'collective-permute':  # (operand, result, context, ...)
        return shapes[1:2]
    return shapes[len(shapes) // 2 :]  # (operands, results)


def _bytes(shape: str) -> int:
    match = _ARRAY.match(shape)
    assert match is not None
    bits = _BITS.search(match['type'])
    size = math.prod(int(n) for n in match['sizes'].split(',') if n)
    return size * (int(bits[0]) if bits else 8) // 8  # pred takes a byte


def _group(line: str) -> int:
    if match := _GROUPS_LISTED.search(line):
        return len(match[1].split(','))
    if match := _GROUPS_COUNTED.search(line):
        return int(match[1])
    if match := _GROUPS_OF_MESH.search(line):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", match['mesh'])}
        # An axis by its name, or a part of one: `'axis_0':(2)4` are 4 of its devices.
        axes = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", match['axes'])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    if match := _PAIRS.search(line):
        following = {int(a): int(b) for a, b in re.findall(r'(\d+),(\d+)', match[0])}
        ring = [next(iter(following))]
        while (device := following.get(ring[-1])) is not None and device not in ring:
            ring.append(device)
        return len(ring)
    return 0
