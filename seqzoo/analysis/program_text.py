"""The text of an optimised program, read: computations, their instructions, and the loops around.

`jax.jit(f).lower(...).compile().as_text()` of any backend. XLA writes one instruction a line,

    %name = shape{layout} opcode(%operand, ...), attribute=value, ..., metadata={op_name="..."}

inside of computations, of which the entry is one, the bodies of loops are others, and so is what a
fusion does. Sizes are those that the device sees: its own part of an array.
"""

import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from seqzoo.parallel.loops import KINDS

ENTRY = ''  # the name of the computation where a program begins

_HEAD = re.compile(r'^(?:ENTRY )?%?(?P<name>[\w.-]+) (?:\(.*\) -> .* )?\{$')
_NAME = re.compile(r'^\s*(?P<root>ROOT )?%?(?P<name>[\w.-]+) = ')
_OPCODE = re.compile(r'\s*(?P<opcode>[\w-]+)\(')
_OPERAND = re.compile(r'%([\w.-]+)')
_CALLED = re.compile(
    r'(?P<how>body|condition|to_apply|calls|true_computation|false_computation)=%?(?P<name>[\w.-]+)'
)
_BRANCHES = re.compile(r'(?:branch_computations|called_computations)=\{(?P<names>[^}]*)\}')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NUMBER = re.compile(r'constant\((-?\d+)\)')
_SOURCE = re.compile(r'op_name="([^"]*)"')
_ARRAY = re.compile(r'(?P<type>[a-z]+\d*\w*)\[(?P<sizes>[\d,]*)\](?:\{(?P<layout>[^}]*)\})?')
_BITS = re.compile(r'\d+')
_TILE = re.compile(r'T\(([\d,]+)\)')
_SPACE = re.compile(r'S\((\d+)\)')


@dataclass(frozen=True)
class Array:
    """One array of a shape.

    Attributes:
        text: type and sizes as XLA writes them, without the layout.
        bytes: of its elements.
        stored_bytes: of the memory that it takes, where a layout in tiles fills up the last sizes.
        on_chip: whether it lies in the fast memory of the chip's core, not in the main memory.
    """

    text: str
    bytes: int
    stored_bytes: int
    on_chip: bool


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name, opcode, shape: as XLA writes them.
        operands: names of instructions of the same computation.
        called: computations that it runs, each with how: 'body', 'condition', 'calls', 'branch'.
        is_root: whether it is the result of its computation.
        line: the whole text.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    called: tuple[tuple[str, str], ...]
    is_root: bool
    line: str

    @property
    def source(self) -> str:
        """What in the traced program it came from; empty if not known."""
        found = _SOURCE.search(self.line)
        return found[1] if found else ''

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """Of the result; several where it is a tuple."""
        return arrays_of(self.shape)


@dataclass(frozen=True)
class Loop:
    """A loop of the program.

    Attributes:
        kind: one of `parallel.loops.KINDS`; `'loop'` for others, such as those that XLA makes.
        trips: how often its body runs; `None` if the program does not say.
        source: what in the traced program it came from.
    """

    kind: str
    trips: int | None
    source: str


@dataclass(frozen=True)
class Program:
    """All computations by name, each with its instructions by name, in their order.

    The one where the program begins is called `ENTRY`.
    """

    computations: Mapping[str, Mapping[str, Instruction]]

    @functools.cached_property
    def loops(self) -> dict[str, tuple[Loop, ...]]:
        """The loops around each computation that is reached, from the outermost to its own."""
        reached: dict[str, tuple[Loop, ...]] = {ENTRY: ()}
        waiting = [ENTRY]
        while waiting:
            computation = waiting.pop()
            for instruction in self.computations.get(computation, {}).values():
                inside = reached[computation]
                if instruction.opcode == 'while':
                    inside = (*inside, self.loop(instruction))
                for name, how in instruction.called:
                    if name not in reached:
                        is_looped = how in ('body', 'condition')
                        reached[name] = inside if is_looped else reached[computation]
                        waiting.append(name)
        return reached

    def loop(self, instruction: Instruction) -> Loop:
        """What is known of a `while`."""
        kinds = [kind for kind in KINDS if kind in instruction.source]
        # Of names inside each other the last is that of this loop.
        kind = max(kinds, key=instruction.source.rindex, default='loop')
        found = _TRIPS.search(instruction.line)
        trips = int(found[1]) if found else self._counted(instruction)
        return Loop(kind, trips, instruction.source)

    def _counted(self, instruction: Instruction) -> int | None:
        """Trips of a loop that runs while its counter, from 0 in steps of 1, is below a constant.

        A TPU's programs do not say it otherwise. A condition of any other form tells nothing.
        """
        called = {how: name for name, how in instruction.called}
        condition = self.computations.get(called['condition'])
        if not condition:
            return None
        root = next(i for i in condition.values() if i.is_root)
        if root.opcode != 'compare' or 'direction=LT' not in root.line or len(root.operands) != 2:
            return None
        limit = condition.get(root.operands[1])
        found = _NUMBER.search(limit.line) if limit is not None else None
        return int(found[1]) if found else None


def parse(text: str) -> Program:
    """Reads the text of a program."""
    computations: dict[str, dict[str, Instruction]] = {}
    inside: dict[str, Instruction] | None = None
    for line in text.splitlines():
        if inside is None:
            if match := _HEAD.match(line):
                inside = computations[ENTRY if line.startswith('ENTRY') else match['name']] = {}
        elif line.startswith('}'):
            inside = None
        elif (instruction := _instruction(line)) is not None:
            inside[instruction.name] = instruction
    return Program(computations)


def runs(loops: Iterable[Loop]) -> int | None:
    """How often what is inside of these loops runs; `None` if one of them does not say."""
    trips = [loop.trips for loop in loops]
    return None if None in trips else math.prod(n for n in trips if n is not None)


def arrays_of(shape: str) -> tuple[Array, ...]:
    """The arrays of a shape: one, or those of a tuple."""
    return tuple(_array(match) for match in _ARRAY.finditer(shape))


def _instruction(line: str) -> Instruction | None:
    head = _NAME.match(line)
    if head is None:
        return None
    end = _end_of_shape(line, head.end())
    opcode = _OPCODE.match(line, end)
    if opcode is None:
        return None
    close = _closing(line, opcode.end() - 1)
    called = [(m['name'], m['how']) for m in _CALLED.finditer(line, close)]
    for branches in _BRANCHES.finditer(line, close):
        called += [(name.strip(' %'), 'branch') for name in branches['names'].split(',')]
    return Instruction(
        name=head['name'],
        opcode=opcode['opcode'],
        shape=line[head.end() : end],
        operands=tuple(_OPERAND.findall(line, opcode.end(), close)),
        called=tuple(called),
        is_root=head['root'] is not None,
        line=line,
    )


def _end_of_shape(line: str, start: int) -> int:
    if line.startswith('(', start):
        return _closing(line, start) + 1
    end = line.find(' ', start)
    return len(line) if end < 0 else end


def _closing(line: str, start: int) -> int:
    """Where the parenthesis at `start` is closed; the end of the line if it never is."""
    depth = 0
    for match in re.finditer(r'[()]', line[start:]):
        depth += 1 if match[0] == '(' else -1
        if depth == 0:
            return start + match.start()
    return len(line)


def _array(match: re.Match[str]) -> Array:
    bits = _BITS.search(match['type'])
    width = int(bits[0]) if bits else 8  # pred takes a byte
    sizes = [int(n) for n in match['sizes'].split(',') if n]
    layout = match['layout'] or ''
    space = _SPACE.search(layout)
    return Array(
        text=f'{match["type"]}[{match["sizes"]}]',
        bytes=math.prod(sizes) * width // 8,
        stored_bytes=math.prod(_filled(sizes, layout)) * width // 8,
        on_chip=space is not None and space[1] != '0',
    )


def _filled(sizes: list[int], layout: str) -> list[int]:
    """The sizes in the order of the memory, the last ones filled up to whole tiles."""
    tile = _TILE.search(layout)
    if tile is None:
        return sizes
    order = [int(n) for n in layout.split(':')[0].split(',') if n]
    stored = [sizes[axis] for axis in reversed(order)]  # the last one runs fastest
    of_tile = [int(n) for n in tile[1].split(',')]
    stored = [1] * (len(of_tile) - len(stored)) + stored
    for place, size in enumerate(of_tile, len(stored) - len(of_tile)):
        stored[place] = -(-stored[place] // size) * size
    return stored
