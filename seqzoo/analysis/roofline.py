"""How long a step takes at least: operations, bytes and link bytes against a chip's peaks.

    compute = operations / peak          memory = bytes / bandwidth        (of one device)
    links   = sum over collectives of the bytes that a device sends, over the links that it uses

`compute`, `memory` and `links` may overlap, and so a step takes between the largest of the three
and their sum. Both ends are estimates of the best case: no kernel reaches the published peaks, and
what the host does is not in them. A ring over one axis of the torus carries a collective, both ways
round at once (one way between two devices); a device then sends

    all-gather      (n - 1) / n of the result            all-reduce           2 (n - 1) / n of it
    reduce-scatter  (n - 1) times its result             all-to-all           (n - 1) / n of it
                                                         collective-permute   the result

Several axes at once, which a large slice allows, would be faster.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from seqzoo.analysis.chips import Chip
from seqzoo.analysis.collectives import Collective

FORMULA = (
    'between max(compute, memory, links) and their sum: compute = operations / peak, memory = '
    'bytes / bandwidth, links = bytes sent in rings / (2 x link bandwidth)'
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one device does in one step.

    Attributes:
        flops: executed, what is computed again included.
        model_flops: what the model needs, nothing twice: the numerator of the utilization.
        memory_bytes: moved between main memory and core.
        state_bytes: of those, what does not depend on the batch.
        collectives: of the program.
        gradient_bytes: what a sum over replicas would add up, where there is none yet.
    """

    flops: float
    model_flops: float
    memory_bytes: float
    state_bytes: float
    collectives: tuple[Collective, ...]
    gradient_bytes: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of one step, and the share of the peak that they leave to the model's operations.

    Attributes:
        compute, memory, links: what each would take by itself.
        model_compute: what the model's own operations would take at the peak.
    """

    compute: float
    memory: float
    links: float
    model_compute: float

    @property
    def best(self) -> float:
        """Everything at the same time."""
        return max(self.compute, self.memory, self.links)

    @property
    def worst(self) -> float:
        """One after the other."""
        return self.compute + self.memory + self.links

    @property
    def bound(self) -> str:
        """What takes longest."""
        parts = {'compute': self.compute, 'memory': self.memory, 'links': self.links}
        return max(parts, key=lambda name: parts[name])

    @property
    def utilization(self) -> tuple[float, float]:
        """Of the peak by the model's operations (MFU), from the worst to the best."""
        return self.model_compute / self.worst, self.model_compute / self.best


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A step on another number of chips, by growing the axis `data`.

    Attributes:
        chips: their number.
        weak: as many rows on each chip as now.
        strong: as many rows in all as now; `None` where that is less than one for each device.
    """

    chips: int
    weak: Estimate
    strong: Estimate | None


def estimate(work: Work, chip: Chip, devices: int) -> Estimate:
    """Of one step on `devices` devices, which share their chips."""
    share = 1 / chip.devices
    return Estimate(
        compute=work.flops / (chip.peak * share),
        memory=work.memory_bytes / (chip.hbm_bandwidth * share),
        links=sum(
            sent(c, devices) * (c.times or 1) / _bandwidth(c, chip, devices)
            for c in work.collectives
        ),
        model_compute=work.model_flops / (chip.peak * share),
    )


def sent(collective: Collective, devices: int) -> float:
    """Bytes that a device sends in one run of a collective."""
    n = collective.group or devices
    size = collective.bytes
    if n <= 1:
        return 0.0
    if collective.kind == 'all-reduce':
        return 2 * (n - 1) / n * size
    if collective.kind == 'reduce-scatter':
        return (n - 1) * size
    if collective.kind == 'collective-permute':
        return size
    return (n - 1) / n * size


def scaling(
    work: Work,
    chip: Chip,
    devices: int,
    chips: Sequence[int],
    *,
    data: int,
    shards: int,
    rows: int,
) -> list[Scaled]:
    """What the same program would take on other numbers of chips.

    Args:
        work: of one device now.
        chip: of the slice.
        devices: now.
        chips: to be told about; multiples or parts of the present number.
        data: devices along the axis `data` now.
        shards: parts into which all axes together cut the batch now.
        rows: of the whole batch now.
    """
    found = []
    for number in chips:
        grown = number * chip.devices
        factor = grown / devices
        if data * factor < 1 or data * factor != int(data * factor):
            continue  # other axes hold more than that
        weak = replace(work, collectives=tuple(_regrouped(work, factor, data, devices)))
        thinned = replace(work, collectives=tuple(_thinned(work, factor, devices, shards)))
        strong = replace(
            work,
            flops=work.flops / factor,
            model_flops=work.model_flops / factor,
            memory_bytes=work.state_bytes + (work.memory_bytes - work.state_bytes) / factor,
            collectives=tuple(_regrouped(thinned, factor, data, devices)),
        )
        found.append(
            Scaled(
                chips=number,
                weak=estimate(weak, chip, grown),
                strong=estimate(strong, chip, grown) if rows >= shards * factor else None,
            )
        )
    return found


def _thinned(work: Work, factor: float, devices: int, shards: int) -> Iterable[Collective]:
    """The collectives when each device has fewer rows: those between devices that share their rows
    move activations, the others parameters and gradients.
    """
    for collective in work.collectives:
        shared = len(_places(collective, devices, shards)) == 1
        yield replace(collective, bytes=round(collective.bytes / factor)) if shared else collective


def _places(collective: Collective, devices: int, parts: int) -> set[int]:
    """In which of so many equal parts of the mesh, cut along its first axes, the members lie."""
    members = collective.members or range(devices)
    return {member // (devices // parts) for member in members}


def _regrouped(work: Work, factor: float, data: int, devices: int) -> Iterable[Collective]:
    """The collectives when `data`, the first axis of the mesh, grows: sums over it have more
    members.
    """
    replicas = False
    for collective in work.collectives:
        summed = len(_places(collective, devices, data)) > 1
        replicas |= summed
        members = len(collective.members) or devices
        size = round(members * factor) if summed else members
        yield replace(collective, members=tuple(range(size)))
    if not replicas and data * factor > 1:
        yield Collective(
            kind='all-reduce',
            bytes=round(work.gradient_bytes),
            members=tuple(range(round(data * factor))),
            in_loop=False,
            times=1,
            place='outside',
            shapes=(),
            name='',
            source='the sum of gradients over replicas',
        )


def _bandwidth(collective: Collective, chip: Chip, devices: int) -> float:
    """Bytes per second that a device sends in a ring."""
    n = collective.group or devices
    ways = 1 if n == 2 or collective.kind == 'collective-permute' else 2
    return ways * chip.link_bandwidth / chip.devices
