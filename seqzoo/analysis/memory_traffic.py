"""Bytes that a program moves between a device's main memory and its core, counted in its text.

Every instruction reads its operands and writes its result; a fusion reads and writes once whatever
happens inside of it. Of an operand that is only looked up in (a slice of a stack of layers, rows of
a table) what is taken counts, and of a result that is written in place what is new. What lies in
the chip's own fast memory costs nothing. Bodies of loops count as often as they run.

XLA's own `cost_analysis()['bytes accessed']` counts the body of a loop once.
"""

from collections.abc import Mapping

from seqzoo.analysis.program_text import ENTRY, Array, Instruction, Program

# They name or arrange what is there already.
_FREE = frozenset(
    {
        *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all'),
        *('partition-id', 'replica-id', 'opt-barrier', 'domain', 'copy-done', 'slice-done'),
        *('async-done', 'async-update', 'all-gather-done', 'all-reduce-done'),
        *('collective-permute-done', 'send-done', 'recv-done', 'dynamic-slice-done'),
    }
)
_TAKING = ('dynamic-slice', 'gather', 'slice')


def bytes_moved(program: Program, computation: str = ENTRY, *, unknown_trips: int = 1) -> int:
    """Bytes read and written in one run of a computation and of all that it runs.

    Args:
        program: read by `program_text.parse`.
        computation: by name; the whole program by default.
        unknown_trips: how often a loop runs that does not say.
    """
    return _Counter(program, unknown_trips).of(computation)


class _Counter:
    """Adds up computations, each once."""

    def __init__(self, program: Program, unknown_trips: int):
        self._program, self._unknown_trips = program, unknown_trips
        self._known: dict[str, int] = {}

    def of(self, computation: str) -> int:
        if computation not in self._known:
            instructions = self._program.computations.get(computation, {})
            self._known[computation] = sum(
                self._one(instruction, instructions) for instruction in instructions.values()
            )
        return self._known[computation]

    def _one(self, instruction: Instruction, around: Mapping[str, Instruction]) -> int:
        if instruction.opcode in _FREE:
            return 0
        inside = [self.of(name) for name, how in instruction.called if how != 'to_apply']
        if instruction.opcode == 'while':
            trips = self._program.loop(instruction).trips
            return sum(inside) * (self._unknown_trips if trips is None else trips)
        if instruction.opcode == 'conditional':
            return max(inside, default=0)
        if instruction.opcode in ('call', 'async-start'):
            return sum(inside)
        operands = [around[name] for name in instruction.operands if name in around]
        if instruction.opcode == 'fusion':
            return _of_fusion(self._program, instruction, operands)
        return _of_plain(instruction, operands)


def _of_plain(instruction: Instruction, operands: list[Instruction]) -> int:
    """Of an instruction that stands by itself."""
    if instruction.opcode in _TAKING:
        return 2 * _in_memory(instruction.arrays)
    if instruction.opcode == 'dynamic-update-slice':
        return 2 * _in_memory(operands[1].arrays)
    if instruction.opcode == 'scatter':
        return 2 * _in_memory(operands[-1].arrays)
    results = instruction.arrays
    if instruction.opcode.endswith('-start'):  # (result, operand, context), or the other way round
        return _in_memory(results[:2])
    return _in_memory(results) + sum(_in_memory(operand.arrays) for operand in operands)


def _of_fusion(program: Program, fusion: Instruction, operands: list[Instruction]) -> int:
    """Of a fusion: what it takes of each operand, and what it writes."""
    body = _body(program, fusion)
    total = 0
    for number, parameter in _parameters(body).items():
        where = operands[number].arrays if number < len(operands) else parameter.arrays
        if not any(array.on_chip for array in where):
            total += _taken(program, parameter, body)
    root = next(i for i in body.values() if i.is_root)
    results = [body[n] for n in root.operands] if root.opcode == 'tuple' else [root]
    return total + sum(_written(result, body) for result in results)


def _body(program: Program, fusion: Instruction) -> Mapping[str, Instruction]:
    (name,) = [name for name, how in fusion.called if how == 'calls']
    return program.computations[name]


def _parameters(body: Mapping[str, Instruction]) -> dict[int, Instruction]:
    """By their numbers."""
    return {
        int(i.line.split('parameter(')[1].split(')')[0]): i
        for i in body.values()
        if i.opcode == 'parameter'
    }


def _taken(program: Program, parameter: Instruction, body: Mapping[str, Instruction]) -> int:
    """Bytes that a fusion reads of one of its parameters, at most all of them."""
    total = 0
    for user in (i for i in body.values() if parameter.name in i.operands):
        is_looked_up_in = user.operands[0] == parameter.name
        if user.opcode == 'bitcast':
            total += _taken(program, user, body)
        elif user.opcode == 'fusion':
            inner = _body(program, user)
            for number, own in _parameters(inner).items():
                if user.operands[number] == parameter.name:
                    total += _taken(program, own, inner)
        elif user.opcode in _TAKING and is_looked_up_in:
            total += sum(array.stored_bytes for array in user.arrays)
        elif user.opcode == 'dynamic-update-slice' and is_looked_up_in:
            continue  # written in place: what is not replaced is not touched
        elif user.opcode != 'tuple':  # a tuple hands it through
            return parameter.arrays[0].stored_bytes
    return min(total, parameter.arrays[0].stored_bytes)


def _written(result: Instruction, body: Mapping[str, Instruction]) -> int:
    while result.opcode == 'bitcast' and result.operands[0] in body:
        result = body[result.operands[0]]
    if result.opcode == 'parameter':  # handed through
        return 0
    if any(array.on_chip for array in result.arrays):
        return 0
    if result.opcode == 'dynamic-update-slice':
        return sum(array.stored_bytes for array in body[result.operands[1]].arrays)
    return _in_memory(result.arrays)


def _in_memory(arrays: tuple[Array, ...]) -> int:
    return sum(array.stored_bytes for array in arrays if not array.on_chip)
