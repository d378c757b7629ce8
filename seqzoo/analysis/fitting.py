"""The largest batch whose program fits into a chip's memory, found with few compilations.

What a step needs grows about linearly with the batch: what fits says where the limit lies, and the
next compilations make it sure. What does not fit says little, since a compiler that lacks memory
computes things again to save some, and reports what was left in the end.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from jax.sharding import Mesh

from seqzoo.analysis.ahead_of_time import Compiled, Traced, compile_traced, trace_step
from seqzoo.errors import UserError
from seqzoo.experiment import Experiment
from seqzoo.parallel.mesh import row_shards


@dataclass(frozen=True)
class Fit:
    """What was found.

    Attributes:
        units: the largest number of units that is known to fit; 0 if not even one does.
        is_largest: whether one unit more is known not to fit (or not to be wanted).
        measured: bytes needed, by the numbers of units that were tried.
    """

    units: int
    is_largest: bool
    measured: dict[int, int] = field(default_factory=dict)


def largest_fit(
    needs: Callable[[int], int],
    room: int,
    *,
    fixed: int,
    start: int = 1,
    most: int = 1 << 24,
    tries: int = 8,
) -> Fit:
    """Searches for the largest number of units of which `needs(units) <= room`.

    Args:
        needs: bytes; compiles, and is therefore called at most `tries` times, never twice for the
            same.
        room: bytes there are.
        fixed: bytes that are needed whatever the batch: where the line begins.
        start: a number to begin with.
        most: more are not wanted.
        tries: how often to measure at most.
    """
    measured: dict[int, int] = {0: fixed}
    low, high = 0, most + 1
    units = min(max(start, 1), most)
    while low + 1 < high and len(measured) <= tries:
        measured[units] = needs(units)
        before = high - low
        if measured[units] <= room:
            low = units
        else:
            high = units
        if 2 * (high - low) <= before or high > most:
            units = _guess(measured, room, low, high)
        else:  # the line did not halve what is open
            units = (low + high) // 2
    del measured[0]
    return Fit(low, low + 1 == high, measured)


def _guess(measured: dict[int, int], room: int, low: int, high: int) -> int:
    """Where the line through the last two that fit reaches the limit, inside of what is open."""
    fitting = [n for n in sorted(measured) if n <= low][-2:]
    if len(fitting) < 2:
        return (low + high) // 2
    first, second = fitting
    slope = (measured[second] - measured[first]) / (second - first)
    guess = high - 1 if slope <= 0 else int(second + (room - measured[second]) / slope)
    # One step of more than sixteenfold is further than a line can be trusted.
    return max(low + 1, min(guess, high - 1, 16 * low))


def fit_batch(
    experiment: Experiment,
    mesh: Mesh,
    room: int,
    *,
    tries: int = 8,
    say: Callable[[str], None] = lambda text: None,
    trace: Callable[[Experiment, Mesh], Traced] = trace_step,
    compile_: Callable[[Traced, int], Compiled] = compile_traced,
) -> tuple[Experiment, Fit, Compiled]:
    """The experiment with the most tokens in a batch that fit, in whole rows for every device.

    Args:
        experiment: its batch is where the search begins.
        mesh: of the devices.
        room: bytes of memory on one.
        tries: compilations at most.
        say: told about each.
        trace, compile_: how a program is made.

    Returns:
        The experiment, what was measured by rows for each device, and the program.

    Raises:
        UserError: not even one row for each device fits.
    """
    first = trace(experiment, mesh)
    length = first.length
    unit = row_shards(mesh) * experiment.train.accumulation * length
    fixed = sum(first.held.values()) + first.held['parameters']
    compiled: dict[int, Compiled] = {}

    def with_units(units: int) -> Experiment:
        batch = replace(experiment.batch, tokens=units * unit)
        return replace(experiment, batch=batch)

    def needs(units: int) -> int:
        compiled[units] = compile_(trace(with_units(units), mesh), room)
        total = compiled[units].memory.total
        say(f'{units * unit:,} tokens: {total / 2**30:.2f} of {room / 2**30:.2f} GiB')
        return total

    start = max(round(experiment.batch.tokens / unit), 1)
    found = largest_fit(needs, room, fixed=min(fixed, room), start=start, tries=tries)
    if not found.units:
        raise UserError(
            f'not even one row of {length} tokens for each device fits into {room / 2**30:.2f} GiB '
            'of memory: take more chips and a larger --mesh.fsdp or --mesh.tensor, or shorter rows '
            '(--batch.max-length).'
        )
    return with_units(found.units), found, compiled[found.units]
