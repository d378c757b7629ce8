"""What a layer costs as sequences grow, and how far it sees: recurrence, convolution, attention.

    python benchmarks/path_lengths.py
    python benchmarks/path_lengths.py --lengths 16 32 --width 8 --repeats 2 --output D   # quick

Time and memory of one layer forward, and of a training step (mean of squares, gradient) of a stack,
at equal widths: an LSTM, a convolution over windows of 3 (two in a residual block, as in the TCN)
and causal self-attention with its feed-forward layer, one row of numbers each, float32. All run in
one process and take turns; memory is what XLA's plan of the program says, temporaries and results.

Reach is how many layers it takes until the last output depends on the first input. A recurrent
layer does it alone, but in as many steps one after the other as the sequence is long; windows of 3
grow by 4 positions a block, or double them where each block has twice the dilation of the one
below; attention looks everywhere at once. Up to 256 positions the program asks the gradient whether
that is so.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import program
from flax.core import meta
from machine import facts, quartiles, ran_on

from seqzoo.analysis import drawing
from seqzoo.commands.command import at_least
from seqzoo.layers.inputs import Numbers
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.base import EncoderConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.models.tcn import TCNEncoderConfig, TCNLayers
from seqzoo.models.transformer_encoder import TransformerEncoderConfig

RESULTS = Path(__file__).parent / 'results'
PACKAGES = ('jax', 'jaxlib', 'flax', 'numpy')
FAMILIES = ('recurrent', 'convolution', 'attention')
WINDOW, HEADS = 3, 4
CHECKED = 256  # positions up to which the gradient is asked


def encoder(family: str, width: int, layers: int) -> EncoderConfig:
    """So many layers of a family, reading numbers of that width, forward."""
    inputs = Numbers(input_dim=width)
    if family == 'recurrent':
        stack = RecurrentConfig(cell=LSTM(hidden_dim=width), num_layers=layers)
        return RecurrentEncoderConfig(inputs=inputs, layers=stack)
    if family == 'convolution':
        blocks = TCNLayers(window=WINDOW, num_layers=layers, hidden_dim=width)
        return TCNEncoderConfig(inputs=inputs, layers=blocks)
    return TransformerEncoderConfig(
        inputs=inputs,
        direction='forward',
        num_layers=layers,
        embed_dim=width,
        num_heads=HEADS,
        dropout_rate=0.0,
    )


def parameters_of(config: EncoderConfig) -> Any:
    """Those that a training would begin with."""
    inputs = config.example_inputs(1, 4)
    return meta.unbox(jax.jit(config.build().init)(jax.random.key(0), *inputs))


def layers_to_meet(length: int) -> dict[str, int]:
    """Layers until the last of `length` outputs depends on the first input, by kind of layer."""
    gain = 2 * (WINDOW - 1)  # positions that a block without dilation adds
    return {
        'recurrent': 1,
        'convolution': max(1, math.ceil((length - 1) / gain)),
        'dilated convolution': max(1, math.ceil(math.log2((length - 1) / gain + 1))),
        'attention': 1,
    }


def depends(config: EncoderConfig, length: int) -> bool:
    """Whether the last output depends on the first input, by the gradient."""
    module, params = config.build(), parameters_of(config)
    width = config.features_dim
    x = jax.random.normal(jax.random.key(1), (1, length, width))

    def last(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(module.apply(params, x).features[:, -1]))  # type: ignore[union-attr]

    return bool(np.abs(np.asarray(jax.grad(last)(x)[0, 0])).max() > 0)


@dataclass
class System:
    """A compiled program that takes turns with others.

    Attributes:
        family, what, length: what it is.
        run: to its end.
        bytes: XLA's plan: temporaries and results.
        seconds: of every run.
    """

    family: str
    what: str
    length: int
    run: Callable[[], None]
    bytes: int
    seconds: list[float]


def prepare(family: str, what: str, length: int, width: int, layers: int) -> System:
    """Compiles; `what` is `'layer'`, forward, or `'training step'` of a stack."""
    config = encoder(family, width, 1 if what == 'layer' else layers)
    module, params = config.build(), parameters_of(config)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, length, width)), jnp.float32)

    def forward(params: Any, x: jax.Array) -> jax.Array:
        return module.apply(params, x).features  # type: ignore[union-attr]

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(forward(params, x)))

    function = forward if what == 'layer' else jax.grad(loss)
    compiled = jax.jit(function).lower(params, x).compile()
    plan: Any = compiled.memory_analysis()

    def run() -> None:
        jax.block_until_ready(compiled(params, x))

    size = plan.temp_size_in_bytes + plan.output_size_in_bytes
    return System(family, what, length, run, size, [])


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Everything in turn."""
    before, systems = os.getloadavg(), []
    for length in given.lengths:
        for what in ('layer', 'training step'):
            for family in FAMILIES:
                print(f'preparing {family}, {what}, {length}', file=sys.stderr)
                systems.append(prepare(family, what, length, given.width, given.layers))
    # Of the others the plan is known, and they would not fit.
    timed = [system for system in systems if system.bytes <= given.most_gigabytes * 1e9]
    for system in timed:
        system.run()
    for _ in range(given.repeats):
        for system in timed:
            started = time.perf_counter()
            system.run()
            system.seconds.append(time.perf_counter() - started)
    asked = [length for length in given.lengths if length <= CHECKED]
    return {
        'width': given.width,
        'layers': given.layers,
        'repeats': given.repeats,
        'machine': facts(PACKAGES),
        'load_average': {'before': before, 'after': os.getloadavg()},
        'systems': [summary(system) for system in systems],
        'reach': {length: layers_to_meet(length) for length in given.lengths},
        'reach_by_gradient': {length: by_gradient(length) for length in asked},
    }


def by_gradient(length: int, width: int = 8) -> dict[str, bool]:
    """Whether as many layers as `layers_to_meet` says are enough, and one less is not."""
    wanted, found = layers_to_meet(length), {}
    for family, name in (('recurrent', 'recurrent'), ('attention', 'attention')):
        found[name] = depends(encoder(family, width, wanted[name]), length)
    layers = wanted['dilated convolution']
    enough = depends(encoder('convolution', width, layers), length)
    fewer = layers > 1 and depends(encoder('convolution', width, layers - 1), length)
    return {**found, 'dilated convolution': enough and not fewer}


def summary(system: System) -> dict[str, Any]:
    """A row."""
    row = {name: getattr(system, name) for name in ('family', 'what', 'length', 'bytes')}
    if system.seconds:
        low, median, high = quartiles(system.seconds)
        row['seconds'] = {'median': median, 'quartiles': [low, high], 'all': system.seconds}
    return row


def render(found: dict[str, Any]) -> str:
    """The tables as Markdown."""
    lines = [
        '# Time, memory and reach against length',
        '',
        f'Width {found["width"]}, one row, float32; training steps of {found["layers"]} layers. '
        f'{ran_on(found)} {found["repeats"]} interleaved rounds; medians with quartiles.',
    ]
    for what in ('layer', 'training step'):
        columns = [f'{family} {unit}' for unit in ('ms', 'MB') for family in FAMILIES]
        title = 'One layer, forward' if what == 'layer' else 'Training step'
        lines += ['', f'## {title}', '', f'| length | {" | ".join(columns)} |']
        lines += ['|---' * (1 + len(columns)) + '|']
        for length in found['reach']:
            rows = [r for r in found['systems'] if (r['what'], r['length']) == (what, int(length))]
            times = [shown_time(row) for row in rows]
            sizes = [f'{row["bytes"] / 1e6:,.1f}' for row in rows]
            lines.append(f'| {int(length):,} | {" | ".join([*times, *sizes])} |')
    kinds = list(next(iter(found['reach'].values())))
    lines += ['', '## Layers until the ends meet', '', f'| length | {" | ".join(kinds)} |']
    lines += ['|---' * (1 + len(kinds)) + '|']
    for length, layers in found['reach'].items():
        cells = [str(layers[kind]) for kind in kinds]
        cells[0] += f' ({int(length):,} steps)'
        lines.append(f'| {int(length):,} | {" | ".join(cells)} |')
    asked = ', '.join(str(length) for length in found['reach_by_gradient'])
    right = all(all(kinds.values()) for kinds in found['reach_by_gradient'].values())
    lines += ['', f'At {asked or "no length"} the gradient {"agrees" if right else "DISAGREES"}.']
    lines += ['', *(__doc__ or '').strip().split('\n\n')[2].split('\n'), '']
    return '\n'.join(lines)


def shown_time(row: dict[str, Any]) -> str:
    """Milliseconds, or that it was not run."""
    if 'seconds' not in row:
        return 'not run'
    low, high = (1e3 * x for x in row['seconds']['quartiles'])
    return f'{1e3 * row["seconds"]["median"]:.1f} ({low:.1f} to {high:.1f})'


def draw(found: dict[str, Any], path: Path) -> None:
    """Time, memory and reach, each against the length."""
    figure = drawing.new_figure(13, 4.4)
    time_panel, memory_panel, reach_panel = figure.subplots(1, 3)
    for index, family in enumerate(FAMILIES):
        color = drawing.COLORS[index]
        for what, style in (('layer', '-'), ('training step', '--')):
            rows = [r for r in found['systems'] if (r['family'], r['what']) == (family, what)]
            timed = [r for r in rows if 'seconds' in r]
            label = f'{family}, {what}'
            time_panel.plot(
                [r['length'] for r in timed],
                [1e3 * r['seconds']['median'] for r in timed],
                **{'color': color, 'linestyle': style, 'label': label},
            )
            sizes = [r['bytes'] / 1e6 for r in rows]
            memory_panel.plot([r['length'] for r in rows], sizes, color=color, linestyle=style)
    lengths = [int(length) for length in found['reach']]
    for kind in next(iter(found['reach'].values())):
        # The colour of its family; dilation is a kind of its own.
        index = FAMILIES.index(kind) if kind in FAMILIES else len(FAMILIES)
        layers = [kinds[kind] for kinds in found['reach'].values()]
        style = '--' if kind == 'recurrent' else '-'
        color = drawing.COLORS[index]
        reach_panel.plot(lengths, layers, marker='o', color=color, linestyle=style, label=kind)
    for panel, title in (
        (time_panel, 'milliseconds'),
        (memory_panel, 'megabytes (temporaries, results)'),
        (reach_panel, 'layers until the ends meet'),
    ):
        panel.set_xscale('log', base=2)
        panel.set_yscale('log')
        drawing.style_curves(panel, 'length', title)
    time_panel.legend(frameon=False, fontsize=8)
    reach_panel.legend(frameon=False, fontsize=8)
    drawing.save(figure, path)


def main(argv: list[str] | None = None) -> None:
    """Measures, and writes what was found as JSON, Markdown and a picture."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or '').split('\n')[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    powers = [2**n for n in range(7, 14)]
    parser.add_argument('--lengths', type=at_least(1), nargs='+', default=powers)
    parser.add_argument('--width', type=at_least(1), default=256)
    parser.add_argument('--layers', type=at_least(1), default=2, help='of the training step')
    parser.add_argument('--repeats', type=at_least(1), default=7, help='rounds')
    parser.add_argument('--most-gigabytes', type=float, default=8.0, help='larger ones are not run')
    parser.add_argument('--output', type=Path, default=RESULTS, help='folder for results')
    given = parser.parse_args(argv)
    found = measure(given)
    given.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1) + '\n'
    (given.output / 'path_lengths.json').write_text(text, encoding='utf-8')
    (given.output / 'path_lengths.md').write_text(render(found), encoding='utf-8')
    draw(found, given.output / 'path_lengths.png')
    print(render(found))


if __name__ == '__main__':
    program.run(main)
