"""Times one more token early and late in a text: what convolutions keep of the past is constant.

    python benchmarks/cached_generation.py

Every family generates by its cache, as `seqzoo predict` does. One copy of the cache stands after
`--early` tokens, another after `--late`; steps from both are timed in turns, so that a change in
the load of the machine meets both, and compared by their medians. Written are
`benchmarks/results/cached_generation.json` and `.md`; the status is 1 where a late step takes more
than `--limit` times an early one.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import program
from flax.core import meta
from machine import facts, ran_on

from seqzoo.analysis.parameters import count_parameters
from seqzoo.commands.command import at_least
from seqzoo.layers.dilated_blocks import DilatedConfig
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.base import ModelConfig, Seq2Seq
from seqzoo.models.bytenet import ByteNetConfig, ByteNetLMConfig
from seqzoo.models.conv_seq2seq import ConvS2SConfig
from seqzoo.models.recurrent_lm import RecurrentLMConfig
from seqzoo.models.tcn import TCNConfig, TCNLayers
from seqzoo.models.wavenet import WaveNetConfig

RESULTS = Path(__file__).resolve().parent / 'results'
SOURCE = 32  # tokens of what is translated

Step = Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]]


def families(late: int, *, tiny: bool = False) -> dict[str, ModelConfig]:
    """What is timed, an LSTM beside it."""
    if tiny:
        kinds = {'TCN': TCNConfig, 'ByteNet decoder': ByteNetLMConfig, 'WaveNet': WaveNetConfig}
        kinds |= {'ConvS2S': ConvS2SConfig, 'ByteNet': ByteNetConfig, 'LSTM': RecurrentLMConfig}
        found: dict[str, ModelConfig] = {name: kind.tiny() for name, kind in kinds.items()}
        found['ConvS2S'] = ConvS2SConfig(
            vocab_size=16, embed_dim=8, widths=(8,), windows=(3,), max_length=2 * late + SOURCE
        )
        return found
    small = DilatedConfig(hidden_dim=96, dilations=(1, 2, 4, 8), num_sets=2)
    return {
        'TCN': TCNConfig(
            vocab_size=10_000,
            embed_dim=300,
            layers=TCNLayers(num_layers=8, hidden_dim=300, window=3),
        ),
        'ByteNet decoder': ByteNetLMConfig(
            vocab_size=205, layers=DilatedConfig(hidden_dim=128, unit='multiplicative')
        ),
        'WaveNet': WaveNetConfig(),
        'ConvS2S': ConvS2SConfig(
            vocab_size=4000,
            embed_dim=128,
            widths=(128,) * 4,
            windows=(3,) * 4,
            max_length=2 * late + SOURCE,
        ),
        'ByteNet': ByteNetConfig(vocab_size=4000, encoder=small, decoder=small),
        'LSTM': RecurrentLMConfig(
            vocab_size=10_000,
            embed_dim=300,
            layers=RecurrentConfig(cell=LSTM(hidden_dim=600), num_layers=2),
        ),
    }


@dataclass(frozen=True)
class Timing:
    """Microseconds of a step, medians.

    Attributes:
        early: after few tokens.
        late: after many.
    """

    early: float
    late: float

    @property
    def ratio(self) -> float:
        """How many times an early step a late one takes."""
        return self.late / self.early


def main(argv: list[str] | None = None) -> int:
    """Times all families and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument(
        '--early', type=at_least(1), default=100, help='tokens before an early step'
    )
    parser.add_argument('--late', type=at_least(1), default=4000, help='tokens before a late step')
    parser.add_argument('--pairs', type=at_least(1), default=300, help='steps of each kind')
    parser.add_argument('--batch', type=at_least(1), default=1, help='texts at a time')
    parser.add_argument('--limit', type=float, default=1.1, help='a late step over an early one')
    parser.add_argument('--families', nargs='+', help='some of them')
    parser.add_argument('--tiny', action='store_true', help='networks of the size of tests')
    parser.add_argument('--output', type=Path, default=RESULTS / 'cached_generation')
    options = parser.parse_args(argv)
    chosen = families(options.late, tiny=options.tiny)
    if unknown := set(options.families or ()) - chosen.keys():
        parser.error(f'no family is called {min(unknown)}; choose from {", ".join(chosen)}')
    before, rows = os.getloadavg(), []
    for name, config in chosen.items():
        if options.families and name not in options.families:
            continue
        print(f'{name} ...', file=sys.stderr, flush=True)
        timing = measure(config, options.early, options.late, options.pairs, options.batch)
        rows.append(
            {
                'family': name,
                'parameters': count_parameters(config),
                'early_microseconds': round(timing.early, 1),
                'late_microseconds': round(timing.late, 1),
                'ratio': round(timing.ratio, 3),
            }
        )
    found = {
        'early': options.early,
        'late': options.late,
        'batch': options.batch,
        'pairs': options.pairs,
        'machine': facts(['jax', 'flax', 'numpy']),
        'load_average': {'before': before, 'after': os.getloadavg()},
        'families': rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix('.json').write_text(json.dumps(found, indent=1) + '\n')
    options.output.with_suffix('.md').write_text(render(found))
    print(render(found))
    return int(any(row['ratio'] > options.limit for row in rows))


def measure(config: ModelConfig, early: int, late: int, pairs: int, batch: int) -> Timing:
    """Times steps of one family in turns."""
    step, variables, cache = generation(config, batch, late + pairs + 4)
    places = {}
    for name, count in (('early', early), ('late', late)):
        state = (jnp.ones(batch, jnp.int32), cache)
        places[name] = jax.block_until_ready(after(step, count)(variables, state))
    one = jax.jit(step)
    seconds: dict[str, list[float]] = {name: [] for name in places}
    for turn in range(pairs + 3):  # the first ones compile and warm up
        for name, (tokens, cache) in places.items():
            began = time.perf_counter()
            places[name] = jax.block_until_ready(one(variables, tokens, cache))
            if turn >= 3:
                seconds[name].append(time.perf_counter() - began)
    found = {name: 1e6 * statistics.median(values) for name, values in seconds.items()}
    return Timing(**found)


def after(step: Step, count: int) -> Callable[[Any, Any], Any]:
    """A compiled function that takes `count` steps."""

    def run(variables: Any, state: Any) -> Any:
        return jax.lax.fori_loop(0, count, lambda _, now: step(variables, now[0], now[1]), state)

    return jax.jit(run)


def generation(config: ModelConfig, batch: int, max_length: int) -> tuple[Step, Any, Any]:
    """A step that reads one token and gives the likeliest next, its variables, an empty cache."""
    model: Any = config.build()
    inputs = config.example_inputs(batch, SOURCE)
    variables = meta.unbox(jax.jit(model.init)(jax.random.key(0), *inputs))
    memory: Any = None
    if isinstance(config.build(), Seq2Seq):
        memory = model.apply(variables, inputs[0], method='encode')
        cache = model.apply(variables, memory, max_length, method='init_cache')
    else:
        cache = model.apply(variables, batch, max_length, method='init_cache')

    def step(variables: Any, tokens: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        given = (jnp.ones_like(tokens), cache) if memory is None else (memory, cache)
        logits, cache = model.apply(variables, tokens[:, None], *given, method='extend')
        return jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32), cache

    return step, variables, cache


def render(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    early, late = (f'step {found[name]:,} (µs)' for name in ('early', 'late'))
    lines = [
        '# One more token, early and late',
        '',
        f'Medians of {found["pairs"]} steps each, taken in turns, batch {found["batch"]}, greedy.',
        ran_on(found),
        '',
        f'| family | parameters | {early} | {late} | late / early |',
        '|---|---:|---:|---:|---:|',
    ]
    for row in found['families']:
        lines.append(
            f'| {row["family"]} | {row["parameters"]:,} | {row["early_microseconds"]:,.0f} | '
            f'{row["late_microseconds"]:,.0f} | {row["ratio"]:.2f} |'
        )
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    program.run(main)
