"""Ten minutes on a real slice: what is there, and first measured figures beside their estimates.

`python -m tpu smoke NAME` runs it on every host. It refuses a slice that has not the devices it
should have, measures matrix products, memory, the sum over all devices, one training step and a
checkpoint, and prints each figure with its estimate and the formula behind that. On a processor it
runs at toy size, to be tested; what it measures then says nothing.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tpu.slices import parse

CONFIG = 'transformer_base_wmt14_ende'
REPEATS = 5


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
        name: what it is.
        unit: of both numbers.
        measured: the median.
        estimate: what the formula gives; None where nobody published what it needs.
        formula: of the estimate.
        more_is_better: whether a higher number is the better one.
    """

    name: str
    unit: str
    measured: float
    estimate: float | None
    formula: str
    more_is_better: bool = True

    @property
    def reached(self) -> float | None:
        """The share of the estimate that was reached, 1 for all of it."""
        if not self.estimate or not self.measured:
            return None
        ratio = self.measured / self.estimate
        return ratio if self.more_is_better else 1 / ratio


def facts() -> dict[str, Any]:
    """What JAX sees here."""
    import importlib.metadata

    import jax

    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    return {
        'platform': device.platform,
        'device_kind': device.device_kind,
        'devices': jax.device_count(),
        'devices_of_this_host': jax.local_device_count(),
        'hosts': jax.process_count(),
        'slices': len({getattr(d, 'slice_index', 0) for d in jax.devices()}),
        'memory_bytes_of_a_device': stats.get('bytes_limit'),
        'cores_of_a_host': os.cpu_count(),
        'coordinates': [list(getattr(d, 'coords', ())) for d in jax.devices()[:8]],
        'versions': {name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'flax')},
        'python': sys.version.split()[0],
    }


def check(found: dict[str, Any], expected: str, slices: int) -> None:
    """Refuses a slice that has not what it should have.

    Raises:
        UserError: fewer or other devices.
    """
    from seqzoo.errors import UserError

    kind = parse(expected)
    wanted, hosts = kind.chips * slices, kind.hosts * slices
    if found['platform'] != 'tpu':
        raise UserError(
            f'JAX runs on {found["platform"]} here and not on a TPU: something else may hold it '
            '(`sudo lsof /dev/accel* /dev/vfio/*`), or libtpu is missing (`make install`).'
        )
    # Some chips show up as two devices.
    if found['devices'] not in (wanted, 2 * wanted) or found['hosts'] != hosts:
        raise UserError(
            f'{slices} x {kind} has {wanted} chips on {hosts} hosts, but JAX sees '
            f'{found["devices"]} devices on {found["hosts"]}: was the command started on all hosts?'
        )


def measure(config: str, overrides: Sequence[str], estimated: Sequence[float]) -> list[Figure]:
    """All figures; every process takes part in each.

    Args:
        config: whose training step is timed.
        overrides: of the configuration.
        estimated: seconds of that step, from best to worst, of `seqzoo compile`; may be empty.
    """
    import jax

    from seqzoo.analysis.chips import CHIPS

    kind = jax.devices()[0].device_kind
    # `TPU v5 lite` is no `TPU v5`.
    named = sorted((c for c in CHIPS if c.kind in kind), key=lambda c: -len(c.kind))
    chip = named[0] if named else None
    found = [_products(chip), _memory(chip)]
    if jax.device_count() > 1:
        found.append(_sum_over_devices(chip))
    return [*found, *_training_step(config, overrides, estimated), *_checkpoint()]


def _seconds(work: Callable[[], Any]) -> float:
    """The median of some calls, the first of which compiles and is left out."""
    import jax

    taken = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        jax.block_until_ready(work())
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def _on_tpu(large: int, small: int) -> int:
    import jax

    return large if jax.default_backend() == 'tpu' else small


def _products(chip: Any) -> Figure:
    import jax
    import jax.numpy as jnp

    side, times = _on_tpu(8192, 256), _on_tpu(20, 2)

    @jax.jit
    def chain(a: Any) -> Any:
        return jax.lax.fori_loop(0, times, lambda _, x: (x @ a).astype(a.dtype), a)

    a = jax.device_put(jnp.eye(side, dtype=jnp.bfloat16), jax.local_devices()[0])
    rate = times * 2 * side**3 / _seconds(lambda: chain(a))
    peak = chip and chip.peak / chip.devices / 1e12
    formula = "the data sheet's dense bfloat16 peak of one device"
    return Figure('matrix products', 'TFLOP/s', rate / 1e12, peak, formula)


def _memory(chip: Any) -> Figure:
    import jax
    import jax.numpy as jnp

    size = _on_tpu(1 << 29, 1 << 20)
    x = jax.device_put(jnp.zeros(size, jnp.bfloat16), jax.local_devices()[0])
    add = jax.jit(lambda x: x + 1)
    rate = 2 * x.nbytes / _seconds(lambda: add(x))
    peak = chip and chip.hbm_bandwidth / chip.devices / 1e9
    formula = "the data sheet's memory bandwidth of one device; a sum reads and writes"
    return Figure('memory', 'GB/s', rate / 1e9, peak, formula)


def _sum_over_devices(chip: Any) -> Figure:
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from seqzoo.parallel.mesh import MeshConfig, build_mesh

    count, size = jax.device_count(), _on_tpu(1 << 26, 1 << 14)
    mesh = build_mesh(MeshConfig())
    split = NamedSharding(mesh, PartitionSpec('data'))
    make = jax.jit(lambda: jnp.ones((count, size), jnp.float32), out_shardings=split)
    add = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, PartitionSpec()))
    x = make()
    rate = 2 * (count - 1) / count * 4 * size / _seconds(lambda: add(x))
    links = chip and (1 if count == 2 else 2) * chip.link_bandwidth / chip.devices / 1e9
    formula = 'a ring both ways over one axis: 2 (n - 1) / n of the bytes, 2 x link bandwidth'
    return Figure('sum over all devices', 'GB/s', rate / 1e9, links, formula)


def _training_step(
    config: str, overrides: Sequence[str], estimated: Sequence[float]
) -> list[Figure]:
    from seqzoo.analysis.scaling import measurements
    from seqzoo.analysis.throughput import Bench, Settings, Source
    from seqzoo.configuration import load_config

    bench = Bench(
        load_config(config, list(overrides)),
        *(None, Settings(steps=_on_tpu(5, 2)), Source(None, 'synthetic')),
    )
    ready = bench.prepare()
    (one,) = measurements(ready, [bench.round() for _ in range(REPEATS)])
    seconds, formula = one['seconds_per_step']['median'], 'operations / (devices x peak)'
    peak = one['peak_flops_per_device']
    least = peak and one['flops_per_round'] / one['steps_per_round'] / (peak * one['devices'])
    if estimated:
        least, formula = estimated[0], 'the roofline of `seqzoo compile`, everything overlapping'
    step = Figure(f'a step of {config}', 's', seconds, least, formula, more_is_better=False)
    rate = one['tokens_per_second']['median']
    found = [step, Figure('its tokens', 'tokens/s', rate, None, 'target tokens')]
    if len(estimated) > 1:
        worst = 'the roofline of `seqzoo compile`, one after the other'
        found.append(replace(step, name='the same step', estimate=estimated[1], formula=worst))
    if one['mfu'] is not None:
        found.append(Figure('its MFU', 'of 1', one['mfu'], None, 'see seqzoo bench'))
    return [*found, Figure('its compilation', 's', one['compile_seconds'], None, 'nobody knows')]


def _checkpoint() -> list[Figure]:
    import jax
    import jax.numpy as jnp

    from seqzoo.parallel import agreement
    from seqzoo.training.checkpoint import Checkpoints

    if agreement.several():
        return []  # hosts have no disk in common; the run in the bucket shows it
    state = {'x': jnp.zeros(_on_tpu(1 << 27, 1 << 16), jnp.float32)}
    size = state['x'].nbytes / 1e9
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:  # type: ignore[arg-type]
        started = time.perf_counter()
        checkpoints.save(1, state, {})
        checkpoints.wait()
        written = time.perf_counter() - started
        started = time.perf_counter()
        jax.block_until_ready(checkpoints.restore(state).state)  # type: ignore[union-attr]
        read = time.perf_counter() - started
    return [
        Figure('a checkpoint written to the disk', 'GB/s', size / written, None, 'no claim'),
        Figure('read back and checked', 'GB/s', size / read, None, 'no claim'),
    ]


def table(figures: Sequence[Figure]) -> str:
    """The figures beside their estimates, as Markdown."""
    lines = ['| figure | measured | estimate | reached | estimate by |', '|---|---|---|---|---|']
    for one in figures:
        estimate = '' if one.estimate is None else f'{one.estimate:,.4g} {one.unit}'
        reached = '' if one.reached is None else f'{one.reached:.0%}'
        formula = one.formula if one.estimate is not None else ''
        measured = f'{one.measured:,.4g} {one.unit}'
        lines.append(f'| {one.name} | {measured} | {estimate} | {reached} | {formula} |')
    return '\n'.join(lines)


def run(arguments: argparse.Namespace) -> int:
    """Measures on all hosts; the first one prints and writes."""
    from seqzoo.errors import UserError
    from seqzoo.parallel import agreement, processes

    try:
        processes.start(preemption=False)
        found = facts()
        if arguments.expect:
            check(found, arguments.expect, arguments.slices)
        figures = measure(arguments.config, arguments.overrides, arguments.estimated)
        if agreement.is_first():
            result = {'facts': found, 'figures': [asdict(one) for one in figures]}
            if arguments.output:
                _write(arguments.output, json.dumps(result, indent=1) + '\n')
            print(json.dumps(found, indent=1))
            print(table(figures))
    except UserError as error:
        print(f'smoke: {error}', file=sys.stderr)
        processes.finish(2, str(error))
        return 2
    processes.finish(0)
    return 0


def _write(target: str, text: str) -> None:
    from pathlib import Path

    from seqzoo import buckets

    if buckets.is_address(target):
        with buckets.failures_named(target):
            buckets.split_address(target)
            buckets.path_of(target).write_text(text)
    else:
        Path(target).write_text(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the options, which `python -m tpu smoke` gives; the others change the configuration."""
    parser = argparse.ArgumentParser('python -m tpu.smoke', description=(__doc__ or '').strip())
    parser.add_argument('--expect', metavar='SLICE', help='refuse any other, such as v5e:2x4')
    parser.add_argument('--slices', type=int, default=1)
    parser.add_argument('--config', default=CONFIG)
    parser.add_argument('--estimated', type=float, nargs='*', default=[], metavar='S')
    parser.add_argument('--output', metavar='F', help='also write it there, as JSON')
    arguments, arguments.overrides = parser.parse_known_args(argv)
    return run(arguments)


if __name__ == '__main__':
    sys.exit(main())
