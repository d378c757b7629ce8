"""How fast a Transformer decodes, beside Hugging Face, CTranslate2 and the flax wmt example.

    python benchmarks/decode.py --flax-checkout DIR

Every system runs in a process of its own that stays alive; the processes take turns, so that a
change in the load of the machine meets all of them. Times are those of one whole decoding, encoder
included; the first call, which compiles or warms up, is shown apart. Memory is the largest resident
set of the process, with the libraries that it imports and, for CTranslate2, the weights mapped
from disk.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from decode_systems import SYSTEMS, Shapes
from machine import facts

HERE = Path(__file__).resolve().parent
PACKAGES = ('jax', 'flax', 'torch', 'transformers', 'ctranslate2', 'numpy')


def main() -> None:
    """Parses the command line and runs the benchmark, or serves as one of its processes."""
    options = parse_options()
    if options.worker:
        serve(options)
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


def serve(options: argparse.Namespace) -> None:
    """One system in this process: decodes once for every line of standard input."""
    run = SYSTEMS[options.worker](
        shapes_of(options), options.beams[0], options.cores, options.flax_checkout
    )
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = run()
        answer = {
            'seconds': time.perf_counter() - wall,
            'cpu_seconds': time.process_time() - cpu,
            'tokens': tokens,
            'peak_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        print(json.dumps(answer), flush=True)


class Worker:
    """A process with one system in it."""

    def __init__(self, system: str, beams: int, options: argparse.Namespace) -> None:
        command = [sys.executable, str(HERE / 'decode.py'), '--worker', system]
        for field in dataclasses.fields(Shapes):
            command += ['--' + field.name.replace('_', '-'), str(getattr(options, field.name))]
        command += ['--beams', str(beams), '--cores', str(options.cores)]
        if options.flax_checkout:
            command += ['--flax-checkout', options.flax_checkout]
        environment = {
            'JAX_PLATFORMS': 'cpu',
            'HF_HUB_OFFLINE': '1',
            'OMP_NUM_THREADS': str(options.cores),
            'PYTHONPATH': str(HERE.parent),
        }
        self.system = system
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    def decode(self) -> dict[str, Any]:
        """One decoding. Raises `RuntimeError` where the system is not there or fails."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        # Where it ended before it could read, its standard error says why.
        with contextlib.suppress(BrokenPipeError):
            print(flush=True, file=self.process.stdin)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f'{self.system} ended with status {self.process.wait()}')
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def compare(options: argparse.Namespace, beams: int) -> list[dict[str, Any]]:
    """All systems at one beam size, in turns."""
    workers = [Worker(system, beams, options) for system in options.systems]
    first, repeats, failed = {}, {worker.system: [] for worker in workers}, {}
    try:
        for turn in range(options.repeats + 1):
            # Every system follows every other equally often.
            start = turn % len(workers)
            for worker in workers[start:] + workers[:start]:
                if worker.system in failed:
                    continue
                try:
                    answer = worker.decode()
                except RuntimeError as error:
                    failed[worker.system] = str(error)
                    continue
                print(f'  {worker.system}: {answer["seconds"]:.2f} s', file=sys.stderr)
                if turn == 0:
                    first[worker.system] = answer['seconds']
                else:
                    repeats[worker.system].append(answer)
            print(f'beam {beams}: turn {turn} of {options.repeats}', file=sys.stderr, flush=True)
    finally:
        for worker in workers:
            worker.close()
    return [
        {'system': x, 'beams': beams, 'failed': failed[x]}
        if x in failed
        else {'system': x, 'beams': beams, 'first_call_seconds': first[x]}
        | summary(repeats[x], options)
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
