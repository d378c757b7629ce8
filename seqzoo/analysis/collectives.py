"""What the devices of a mesh say to each other: the collectives of a compiled program.

They are read from the text of the optimised program, `jax.jit(f).lower(...).compile().as_text()`,
of any backend. Communication is judged on the program of the machine it is meant for: XLA on CPU
writes an all-reduce and a slice where a TPU does a reduce-scatter.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqzoo.analysis.program_text import Array, Instruction, Loop, Program, parse, runs

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'collective-permute', 'all-to-all')

_RARE = ('ragged-all-to-all', 'collective-broadcast')
_GROUPS_LISTED = re.compile(r'replica_groups=\{\{([\d,]+)\}')
_GROUPS_COUNTED = re.compile(
    r'replica_groups=\[\d+,(?P<size>\d+)\]<=(?P<order>\[[\d,]+\](?:T\([\d,]+\))?)'
)
_GROUPS_OF_MESH = re.compile(
    r'replica_groups=mesh\[(?P<mesh>[^\]]*)\]'
    r'(?:, device_ids=\((?P<order>[^{]*)\))? \{(?P<axes>[^}]*)\}'
)
_PAIRS = re.compile(r'source_target_pairs=\{\{.*?\}\}')
# A TPU writes a collective that runs beside a product once where it begins (-1), and again in each
# fusion that it runs beside.
_PART_OF_ANOTHER = re.compile(r'"async_collective_fusion_config":\{"flag_start":"(?!-1)')


@dataclass(frozen=True)
class Collective:
    """One instruction that moves data between devices.

    Attributes:
        kind: one of `KINDS` (or a rarer one of XLA's), asynchronous or not.
        bytes: of the result on one device.
        members: the devices that take part together (the first group, or round the first ring), by
            their numbers in the program, which go through the mesh in its order; empty if the
            program does not say: all of them.
        in_loop: inside a loop, such as that over layers.
        times: how often it runs in one run of the program; `None` if a loop around it does not say.
        place: what the innermost loop around it that has a name runs over, one of
            `parallel.loops.KINDS`; `'loop'` in loops without one, `'outside'` of all.
        shapes: the shapes of the results, as XLA writes them.
        name: of the instruction.
        source: what in the traced program it came from; empty if not known.
    """

    kind: str
    bytes: int
    members: tuple[int, ...]
    in_loop: bool
    times: int | None
    place: str
    shapes: tuple[str, ...]
    name: str
    source: str

    @property
    def group(self) -> int:
        """How many devices take part together; 0 if the program does not say: all of them."""
        return len(self.members)


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


def collectives(program: str | Program) -> list[Collective]:
    """The collectives in the text of an optimised program, in its order."""
    read = parse(program) if isinstance(program, str) else program
    callers = _fusions(read)
    found = []
    for computation, instructions in read.computations.items():
        loops = read.loops.get(computation, ())
        for instruction in instructions.values():
            kind = instruction.opcode.removesuffix('-start')
            if kind not in KINDS + _RARE or _PART_OF_ANOTHER.search(instruction.line):
                continue
            fusion = callers.get(computation)
            arrays = _result(instruction, kind)
            if kind == 'all-reduce' and (part := _scattered(instruction, instructions)):
                kind, arrays = 'reduce-scatter', part
            source = instruction.source or (fusion.source if fusion is not None else '')
            found.append(
                Collective(
                    kind=kind,
                    bytes=sum(array.bytes for array in arrays),
                    members=_members(instruction.line),
                    in_loop=bool(loops),
                    times=runs(loops),
                    place=place_of(loops),
                    shapes=tuple(array.text for array in arrays),
                    name=instruction.name,
                    source=source,
                )
            )
    return found


def place_of(loops: Iterable[Loop]) -> str:
    """What the innermost of these loops that has a name runs over; see `Collective.place`."""
    kinds = [loop.kind for loop in loops]
    named = [kind for kind in kinds if kind != 'loop']
    return named[-1] if named else 'loop' if kinds else 'outside'


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


def _fusions(program: Program) -> dict[str, Instruction]:
    """The instruction that runs each computation of a fusion."""
    return {
        name: instruction
        for instructions in program.computations.values()
        for instruction in instructions.values()
        for name, how in instruction.called
        if how == 'calls'
    }


def _scattered(
    instruction: Instruction, computation: Mapping[str, Instruction]
) -> tuple[Array, ...]:
    """What is kept of a sum that a TPU scatters, which it writes as an all-reduce whose result is
    cut at once, in the same fusion. Nothing for any other sum.
    """
    (root,) = [other for other in computation.values() if other.is_root] or [instruction]
    if root.opcode == 'dynamic-slice' and root.operands[0] == instruction.name:
        return root.arrays
    return ()


def _result(instruction: Instruction, kind: str) -> tuple[Array, ...]:
    """The arrays that come out; the first half of an asynchronous one also holds its operands."""
    arrays = instruction.arrays
    is_asynchronous = instruction.opcode.endswith('-start')
    if not is_asynchronous or kind == 'all-reduce' or not instruction.shape.startswith('('):
        return arrays
    if kind == 'collective-permute':  # (operand, result, context, ...)
        return arrays[1:2]
    return arrays[len(arrays) // 2 :]  # (operands, results)


def _members(line: str) -> tuple[int, ...]:
    """The devices of the first group, by their numbers in the program; none if it does not say."""
    if match := _GROUPS_LISTED.search(line):
        return tuple(int(n) for n in match[1].split(','))
    if match := _GROUPS_COUNTED.search(line):
        return tuple(_order(match['order']).reshape(-1, int(match['size']))[0].tolist())
    if match := _GROUPS_OF_MESH.search(line):
        return _along_axes(match['mesh'], match['order'], match['axes'])
    if match := _PAIRS.search(line):
        following = {int(a): int(b) for a, b in re.findall(r'(\d+),(\d+)', match[0])}
        ring = [next(iter(following))]
        while (device := following.get(ring[-1])) is not None and device not in ring:
            ring.append(device)
        return tuple(ring)
    return ()


def _order(text: str) -> np.ndarray:
    """Devices as `[4,2]T(1,0)` lays them out: counted through, the axes then exchanged."""
    sizes, _, axes = text.partition('T')
    shape = [int(n) for n in re.findall(r'\d+', sizes)]
    devices = np.arange(math.prod(shape)).reshape(shape)
    return devices.transpose([int(n) for n in re.findall(r'\d+', axes)]) if axes else devices


def _along_axes(mesh: str, order: str | None, axes: str) -> tuple[int, ...]:
    """The first devices along some axes of a mesh `'a'=4,'b'=2`.

    An axis is named, or a part of it: of `'a':(2)4` the devices are 4 of those along `'a'`, which
    differ in what is left of their number when it is divided into 2 parts.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", mesh)}
    shape = list(sizes.values())
    devices = (_order(order) if order else np.arange(math.prod(shape))).reshape(shape)
    taken: list[Any] = [0] * len(shape)
    for name, before, part in re.findall(r"'([^']*)'(?::\((\d+)\)(\d+))?", axes):
        number, size = list(sizes).index(name), sizes[name]
        stride = size // (int(before) * int(part)) if part else 1
        places = np.arange(int(part) if part else size) * stride
        taken[number] = np.unique(np.add.outer(np.atleast_1d(taken[number]), places))
    return tuple(devices[np.ix_(*(np.atleast_1d(t) for t in taken))].reshape(-1).tolist())
