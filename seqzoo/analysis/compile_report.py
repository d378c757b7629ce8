"""What a compiled program tells: memory, collectives, kernels, the roofline, and what to do."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seqzoo.analysis import ahead_of_time
from seqzoo.analysis.ahead_of_time import Compiled
from seqzoo.analysis.chips import GIB
from seqzoo.analysis.collectives import Collective, collectives, traffic
from seqzoo.analysis.compiled_step import step_digest
from seqzoo.analysis.flops import training_flops
from seqzoo.analysis.matrix_unit import Waste, wasted
from seqzoo.analysis.memory_traffic import bytes_moved
from seqzoo.analysis.program_text import Program, parse
from seqzoo.analysis.roofline import FORMULA, Estimate, Scaled, Work, estimate, scaling
from seqzoo.analysis.slices import Slice
from seqzoo.configuration import options
from seqzoo.experiment import Experiment
from seqzoo.models.flops import Flops
from seqzoo.parallel.axes import DEFAULT_RULES
from seqzoo.parallel.mesh import BATCH_AXES

_KERNEL = 'custom_call_target="tpu_custom_call"'
_SPLASH = re.compile(r'splash|flash')


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is known of a compiled program.

    Attributes:
        config: as it was called for.
        experiment: digest of what an update computes; see `step_digest`.
        slice: that it is for.
        compiled: the program.
        collectives: in it.
        kernels: how many kernels written by hand it runs, by what they are.
        waste: sizes that leave the matrix unit idle.
        work: of one device in a step; `None` of a search, or where the program does not fit.
        estimate, scaled: seconds of a step here and on other numbers of chips.
        step_bytes: of a search: moved in each turn of its loop.
        remedy: what to do where it does not fit, one sentence.
    """

    config: str
    experiment: str
    slice: Slice
    compiled: Compiled
    collectives: tuple[Collective, ...] = ()
    kernels: Mapping[str, int]
    waste: Sequence[Waste] = ()
    work: Work | None = None
    estimate: Estimate | None = None
    scaled: Sequence[Scaled] = ()
    step_bytes: int | None = None
    remedy: str | None = None

    @property
    def tokens(self) -> int:
        """Positions in a batch, fillings included."""
        return self.compiled.traced.rows * self.compiled.traced.length


def report(
    config: str, experiment: Experiment, slice_: Slice, compiled: Compiled, chips: Sequence[int]
) -> Report:
    """Reads a compiled program.

    Args:
        config: its name.
        experiment: the program is of.
        slice_: that it is for.
        compiled: from `ahead_of_time`.
        chips: numbers of chips to estimate a step for.
    """
    traced, remedy = compiled.traced, None
    if compiled.text is None or not compiled.memory.fits:
        remedy = what_to_do(experiment, slice_, compiled)
    common: dict[str, Any] = {
        'config': config,
        'experiment': step_digest(experiment),
        'slice': slice_,
        'compiled': compiled,
        'remedy': remedy,
    }
    if compiled.text is None:
        return Report(**common, kernels={})
    program = parse(compiled.text)
    found = tuple(collectives(program))
    is_search = 'search' in traced.what
    mesh = traced.mesh.shape
    kinds = {loop.kind for loops in program.loops.values() for loop in loops}
    waste = wasted(
        traced.model,
        # What the axis fsdp splits is whole again before it is multiplied.
        {name: mesh['tensor'] for name, axes in DEFAULT_RULES if axes == 'tensor'},
        rows=max(traced.rows // ahead_of_time.row_shards(traced.mesh), 1),
        length=traced.length // mesh['sequence'],
        is_recurrent='time_scan' in kinds or is_search,
    )
    common |= {'collectives': found, 'kernels': kernels(program), 'waste': waste}
    if is_search:
        return Report(**common, step_bytes=_bytes_of_a_step(program))
    work = _work(experiment, compiled, program, found, len(slice_.devices))
    scaled = scaling(
        work,
        slice_.chip,
        len(slice_.devices),
        chips,
        data=mesh['data'],
        shards=math.prod(mesh[name] for name in BATCH_AXES),
        rows=traced.rows,
    )
    seconds = estimate(work, slice_.chip, len(slice_.devices))
    return Report(**common, work=work, estimate=seconds, scaled=scaled)


def kernels(program: Program) -> dict[str, int]:
    """Kernels written by hand (Pallas) in a program, by what they do."""
    found: dict[str, int] = {}
    for instructions in program.computations.values():
        for instruction in instructions.values():
            if _KERNEL in instruction.line:
                is_splash = _SPLASH.search(instruction.line) is not None
                name = 'splash attention' if is_splash else instruction.name.rstrip('.0123456789')
                found[name] = found.get(name, 0) + 1
    return found


def what_to_do(experiment: Experiment, slice_: Slice, compiled: Compiled) -> str:
    """What would make a program fit, one sentence."""
    memory, traced = compiled.memory, compiled.traced
    parameters = memory.held['parameters']
    # Gradients take as much as the parameters they are of.
    is_step = traced.what == 'training step'
    fixed = sum(memory.held.values()) + (parameters if is_step else 0)
    grows = max(memory.total - fixed, 1)
    whole = f'{memory.total / GIB:.1f} GiB of memory on each device, which has '
    text = f'this needs {whole}{memory.room / GIB:.2f} GiB'
    ideas = []
    if fixed < memory.room and is_step:
        share = (memory.room - fixed) / grows
        unit = traced.length * ahead_of_time.row_shards(traced.mesh)
        fewer = int(0.95 * share * experiment.batch.tokens) // unit * unit
        if fewer >= unit:
            parts = experiment.train.accumulation * -(-experiment.batch.tokens // fewer)
            ideas += [f'--batch.tokens {fewer}', f'--train.accumulation {parts}']
        ideas += _remat(experiment)
    if not is_step:
        ideas.append(f'--decode.rows {max(experiment.decode.rows // 2, 1)}')
    mesh = traced.mesh.shape
    most = len(slice_.devices) // (mesh['tensor'] * mesh['sequence'])
    if mesh['fsdp'] < most:
        ideas.append(f'--mesh.fsdp {most} --mesh.data 1')
    held = f'({fixed / GIB:.1f} GiB for parameters, gradients and optimizer)' if is_step else ''
    if not ideas:
        ideas = ['a larger slice, over which --mesh.fsdp spreads parameters and optimizer']
    return f'{text} {held}: take {", or ".join(ideas)}.'.replace('  ', ' ').replace(' :', ':')


def _remat(experiment: Experiment) -> list[str]:
    """The options that make the backward pass compute activations again, where they are not set."""
    found = []
    for option in options(experiment):
        flag = '--' + option.path.replace('_', '-')
        if option.path.endswith('.remat') and option.value == 'none':
            found.append(f'{flag} full')
        if option.path.endswith('.remat_steps') and option.value is None:
            found.append(f'{flag} 0')
    return found[:1]


def _work(
    experiment: Experiment,
    compiled: Compiled,
    program: Program,
    found: tuple[Collective, ...],
    devices: int,
) -> Work:
    traced = compiled.traced
    parts = training_flops(traced.model, traced.rows, traced.length)
    if isinstance(parts, Flops):
        again = any(
            option.path.endswith('.remat') and option.value == 'full'
            for option in options(experiment)
        )
        model_flops, flops = parts.training(), parts.training(remat=again)
    else:
        model_flops = flops = parts
    held = compiled.memory.held
    state = held['parameters'] + held.get('optimizer state', 0)
    return Work(
        flops=flops / devices,
        model_flops=model_flops / devices,
        memory_bytes=bytes_moved(program),
        state_bytes=2 * state,  # read and written by the update
        collectives=found,
        gradient_bytes=held['parameters'],
    )


def _bytes_of_a_step(program: Program) -> int:
    """Moved in one turn of the loop that decodes."""
    for computation in list(program.loops):
        for instruction in program.computations.get(computation, {}).values():
            if instruction.opcode == 'while' and program.loop(instruction).kind == 'decode_loop':
                return sum(bytes_moved(program, name) for name, _ in instruction.called)
    return bytes_moved(program)


def as_json(found: Report) -> dict[str, Any]:
    """The report as plain JSON; bytes and seconds."""
    traced, memory = found.compiled.traced, found.compiled.memory
    result: dict[str, Any] = {
        'config': found.config,
        'experiment': found.experiment,
        'topology': found.slice.name,
        'program': traced.what,
        'chips': found.slice.chips,
        'devices': len(found.slice.devices),
        'device_kind': found.slice.devices[0].device_kind,
        'mesh': dict(traced.mesh.shape),
        'batch': {'rows': traced.rows, 'length': traced.length, 'tokens': found.tokens},
        'compile_seconds': round(found.compiled.seconds, 2),
        'fits': memory.fits,
        'remedy': found.remedy,
        'memory': {**memory.parts, 'total': memory.total, 'room': memory.room},
    }
    if found.compiled.text is None:
        return result
    result |= {
        'kernels': dict(found.kernels),
        'collectives': [
            {**vars(total), 'place': place, 'kind': kind}
            for (place, kind), total in by_place(found.collectives).items()
        ],
        'warnings': [waste.sentence for waste in found.waste],
    }
    if found.step_bytes is not None:
        bandwidth = found.slice.chip.hbm_bandwidth / found.slice.chip.devices
        result['bytes_per_decoded_token'] = found.step_bytes
        result['estimated_seconds_per_decoded_token'] = found.step_bytes / bandwidth
    if found.work is not None and found.estimate is not None:
        work, seconds = found.work, found.estimate
        low, high = seconds.utilization
        result['estimate'] = {
            'formula': FORMULA,
            'model_flops': work.model_flops * len(found.slice.devices),
            'flops_per_device': work.flops,
            'bytes_per_device': work.memory_bytes,
            'compute_seconds': seconds.compute,
            'memory_seconds': seconds.memory,
            'link_seconds': seconds.links,
            'bound': seconds.bound,
            'step_seconds': [seconds.best, seconds.worst],
            'tokens_per_second': [found.tokens / seconds.worst, found.tokens / seconds.best],
            'mfu': [low, high],
        }
        result['scaling'] = [_scaled_json(found, one) for one in found.scaled]
    return result


def by_place(found: Sequence[Collective]) -> dict[tuple[str, str], Any]:
    """Traffic by place and kind."""
    places = sorted({collective.place for collective in found})
    return {
        (place, kind): total
        for place in places
        for kind, total in traffic(c for c in found if c.place == place).items()
    }


def _scaled_json(found: Report, one: Scaled) -> dict[str, Any]:
    grown = one.chips / found.slice.chips
    base = found.estimate
    assert base is not None
    alone = max(base.compute, base.memory)
    result: dict[str, Any] = {
        'chips': one.chips,
        'weak': {
            'step_seconds': [one.weak.best, one.weak.worst],
            'tokens_per_second': found.tokens * grown / one.weak.best,
            'efficiency': [(base.compute + base.memory) / one.weak.worst, alone / one.weak.best],
        },
    }
    if one.strong is not None:
        result['strong'] = {
            'step_seconds': [one.strong.best, one.strong.worst],
            'tokens_per_second': found.tokens / one.strong.best,
            'efficiency': [
                (base.compute + base.memory) / grown / one.strong.worst,
                alone / grown / one.strong.best,
            ],
        }
    return result
