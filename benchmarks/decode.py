"""How fast a Transformer decodes, beside Hugging Face, CTranslate2 and the flax wmt example.

    python benchmarks/decode.py --flax-checkout DIR

Every system runs in a process of its own that stays alive; the processes take turns, so that a
change in the load of the machine meets all of them. Times are those of one whole decoding, encoder
included; the first call, which compiles or warms up, is shown apart. Memory is the largest resident
set of the process, with the libraries that it imports and, for CTranslate2, the weights mapped
from disk.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from decode_systems import SYSTEMS, Shapes
from machine import facts
from turns import Worker, serve, take_turns

HERE = Path(__file__).resolve().parent
PACKAGES = ('jax', 'flax', 'torch', 'transformers', 'ctranslate2', 'numpy')


def main() -> None:
    """Parses the command line and runs the benchmark, or serves as one of its processes."""
    options = parse_options()
    if options.worker:
        system = SYSTEMS[options.worker]
        serve(system(shapes_of(options), options.beams[0], options.cores, options.flax_checkout))
        return
    report: dict[str, Any] = {
        'shapes': dataclasses.asdict(shapes_of(options)),
        'machine': machine(options.cores),
    }
    report['results'] = []
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for beams in options.beams:
        report['results'] += compare(options, beams)
        report['machine']['load_at_the_end'] = os.getloadavg()[0]
        options.output.with_suffix('.json').write_text(json.dumps(report, indent=2) + '\n')
        options.output.with_suffix('.md').write_text(markdown(report))
    print(markdown(report))


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    for field in dataclasses.fields(Shapes):
        name = '--' + field.name.replace('_', '-')
        parser.add_argument(name, type=int, default=field.default)
    parser.add_argument('--systems', nargs='+', choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument('--beams', nargs='+', type=int, default=[4, 1])
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--cores', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--flax-checkout', metavar='DIR', help='has examples/wmt in it')
    parser.add_argument('--output', type=Path, default=HERE / 'results' / 'decode')
    parser.add_argument('--worker', choices=list(SYSTEMS), help=argparse.SUPPRESS)
    return parser.parse_args()


def shapes_of(options: argparse.Namespace) -> Shapes:
    """The shapes among the options."""
    return Shapes(**{x.name: getattr(options, x.name) for x in dataclasses.fields(Shapes)})


def compare(options: argparse.Namespace, beams: int) -> list[dict[str, Any]]:
    """All systems at one beam size, in turns."""
    words = ['--beams', str(beams), '--cores', str(options.cores)]
    for field in dataclasses.fields(Shapes):
        words += ['--' + field.name.replace('_', '-'), str(getattr(options, field.name))]
    if options.flax_checkout:
        words += ['--flax-checkout', options.flax_checkout]
    workers = [Worker(system, 'decode.py', words, options.cores) for system in options.systems]
    turns = take_turns(workers, options.repeats, f'beam {beams}')
    return [
        {'system': x, 'beams': beams, 'failed': turns.failed[x]}
        if x in turns.failed
        else {'system': x, 'beams': beams, 'first_call_seconds': turns.first[x]}
        | summary(turns.repeats[x], options)
        for x in options.systems
    ]


def summary(answers: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """What is reported of the repeats of one system."""
    expected = options.sentences * options.target_length
    if any(answer['tokens'] != expected for answer in answers):
        raise SystemExit(f'{[x["tokens"] for x in answers]} tokens were decoded, not {expected}')
    seconds = [answer['seconds'] for answer in answers]
    lower, median, upper = np.percentile(seconds, [25, 50, 75])
    return {
        'seconds': seconds,
        'median_seconds': median,
        'quartiles_seconds': [lower, upper],
        'sentences_per_second': options.sentences / median,
        'quartiles_sentences_per_second': [options.sentences / upper, options.sentences / lower],
        'best_sentences_per_second': options.sentences / min(seconds),
        'median_cpu_seconds': float(np.median([answer['cpu_seconds'] for answer in answers])),
        'peak_bytes': max(answer['peak_bytes'] for answer in answers),
    }


def machine(cores: int) -> dict[str, Any]:
    """What the times were measured on."""
    found = facts(PACKAGES)
    return {
        **found,
        'cpu': found['processor'],
        'cores': cores,
        'float32_gflops': matrix_rate(),
        'load_at_the_start': os.getloadavg()[0],
    }


def matrix_rate(size: int = 2048, repeats: int = 5) -> float:
    """GFLOP/s of NumPy's float32 matrix product, the best of some."""
    matrix = np.ones((size, size), np.float32)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        np.matmul(matrix, matrix)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times) / 1e9


def markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    shapes, where = report['shapes'], report['machine']
    versions = ', '.join(f'{k} {v}' for k, v in where['versions'].items() if v)
    lines = [
        f'# Decoding {shapes["sentences"]} sentences, {shapes["source_length"]} source tokens, '
        f'{shapes["target_length"]} target tokens each',
        '',
        f'Transformer, {shapes["num_layers"]} + {shapes["num_layers"]} layers of '
        f'{shapes["embed_dim"]}, feed-forward {shapes["mlp_dim"]}, {shapes["num_heads"]} heads, '
        f'vocabulary {shapes["vocab_size"]}, random weights, float32, EOS made impossible.',
        '',
        f'{where["cpu"]}, {where["cores"]} cores, {where["memory_bytes"] / 2**30:.0f} GiB; NumPy '
        f'multiplies float32 matrices at {where["float32_gflops"]:.0f} GFLOP/s; load average '
        f'{where["load_at_the_start"]:.1f} at the start, {where["load_at_the_end"]:.1f} at the end '
        f'(the benchmark itself included). Python {where["python"]}, {versions}.',
        '',
        '| system | beams | sentences/s, median (quartiles) | best | CPU s | first call s '
        '| peak MB |',
        '|---|---|---|---|---|---|---|',
    ]
    for x in report['results']:
        if 'failed' in x:
            lines.append(f'| {x["system"]} | {x["beams"]} | {x["failed"]} | | | | |')
            continue
        low, high = x['quartiles_sentences_per_second']
        lines.append(
            f'| {x["system"]} | {x["beams"]} | {x["sentences_per_second"]:.1f} '
            f'({low:.1f} to {high:.1f}) | {x["best_sentences_per_second"]:.1f} | '
            f'{x["median_cpu_seconds"]:.2f} | {x["first_call_seconds"]:.1f} | '
            f'{x["peak_bytes"] / 1e6:.0f} |'
        )
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    main()
