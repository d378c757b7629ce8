"""Times one full training step of the Transformer: ours, torch's, and the flax wmt example's.

Every system lives in a process of its own, and the processes take turns: the parent tells one at a
time to run a step, so that whatever else the machine does falls on all of them alike. A step is
loss (label smoothing 0.1, dropout 0.1), gradient and Adam update, on random tokens without padding.

    python benchmarks/train_step.py                             # seqzoo and torch
    python benchmarks/train_step.py --flax-checkout DIR         # DIR holds the example's models.py
    python benchmarks/train_step.py --layers 1 --embed-dim 16 --mlp-dim 32 --heads 2 --vocab 64 \
        --batch 2 --length 8 --repeats 2                        # does it run at all

Dropout stands in different places: the paper, and `seqzoo`, have it on the output of each sublayer
and on the embeddings; torch and flax also drop attention weights and hidden feed-forward units, and
so does `seqzoo-all-dropout`. `products` is what no step can beat: as many floating-point operations
as its matrix products have, in products of large square matrices.

Peak memory is the process's largest resident set (`ru_maxrss`) from its start to the step: Python,
libraries, compilation, parameters, moments and activations, nothing subtracted. Compilation is
tracing and compiling ahead of time; for torch, how much longer its first step takes than a later
one.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from machine import facts, quartiles, ran_on
from train_step_systems import DROPOUT, ROOT, SMOOTHING, Shape

RESULTS = ROOT / 'benchmarks' / 'results'
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'torch', 'numpy')


class Child:
    """A system in its own process."""

    def __init__(self, name: str, shape: Shape, checkout: str) -> None:
        program = pathlib.Path(__file__).with_name('train_step_systems.py')
        command = [sys.executable, program, name, json.dumps(asdict(shape)), checkout]
        environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'TF_CPP_MIN_LOG_LEVEL': '2'}
        environment.pop('JAX_COMPILATION_CACHE_DIR', None)  # compilation is measured
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.facts = self._hear(name)
        self.name, self.runs = name, []

    def _hear(self, name: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f'train_step: the process of {name} ended; its error stands above.')
        return json.loads(line)

    def step(self) -> dict[str, Any]:
        """Lets the system run one step while all others wait."""
        assert self.process.stdin is not None
        self.process.stdin.write('step\n')
        self.process.stdin.flush()
        return self._hear(self.name)

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(names: list[str], shape: Shape, checkout: str, repeats: int) -> dict[str, Any]:
    """Steps in turn; the first round, in which caches fill, is not counted."""
    children = []
    for name in names:
        print(f'preparing {name}', file=sys.stderr)
        children.append(Child(name, shape, checkout))
    before = os.getloadavg()
    for number in range(repeats + 1):
        for one in children:
            run = one.step()
            if number:
                one.runs.append(run)
        print(f'round {number} of {repeats}', file=sys.stderr)
    for one in children:
        one.close()
    return {
        'shape': asdict(shape),
        'product_flops': shape.product_flops,
        'repeats': repeats,
        'machine': facts(PACKAGES),
        'load_average': {'before': before, 'after': os.getloadavg()},
        'systems': [_summary(one, children) for one in children],
    }


def _summary(one: Child, children: list[Child]) -> dict[str, Any]:
    seconds = [run['seconds'] for run in one.runs]
    reference = next((c for c in children if c.name == 'flax-wmt'), children[0])
    # The two steps of a round ran right after each other, under the same load.
    ratios = [r['seconds'] / s for r, s in zip(reference.runs, seconds, strict=True)]
    low, median, high = quartiles(seconds)
    return {
        'name': one.name,
        **one.facts,
        'seconds': {'median': median, 'quartiles': [low, high], 'least': min(seconds)},
        'processor_seconds': statistics.median(run['processor_seconds'] for run in one.runs),
        'times_as_fast': {'as': reference.name, 'median': statistics.median(ratios)},
        'peak_bytes': max(run['peak_bytes'] for run in one.runs),
        'last_loss': one.runs[-1]['loss'],
        'all_seconds': seconds,
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    shape = result['shape']
    reference = result['systems'][0]['times_as_fast']['as']
    lines = [
        '# One training step of the Transformer',
        '',
        f'{shape["layers"]}+{shape["layers"]} layers, width {shape["embed_dim"]}, feed-forward '
        f'{shape["mlp_dim"]}, {shape["heads"]} heads, vocabulary {shape["vocab"]:,} (tied); batch '
        f'{shape["batch"]} x ({shape["length"]} + {shape["length"]}) tokens; dropout {DROPOUT}, '
        f'label smoothing {SMOOTHING}, Adam; float32 where not said otherwise.',
        '',
        f'{ran_on(result)} {result["repeats"]} interleaved rounds.',
        '',
        f'| system | s per step: median (quartiles) | least | processor s | times as fast as '
        f'{reference} | compile s | peak memory GB | parameters |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for one in result['systems']:
        s = one['seconds']
        low, high = s['quartiles']
        lines.append(
            f'| {one["name"]} | {s["median"]:.3f} ({low:.3f} to {high:.3f}) | {s["least"]:.3f} '
            f'| {one["processor_seconds"]:.2f} | {one["times_as_fast"]["median"]:.2f} '
            f'| {one["compile_seconds"]:.1f} | {one["peak_bytes"] / 1e9:.2f} '
            f'| {one["parameters"]:,} |'
        )
    notes = (__doc__ or '').split('\n\n')
    return '\n'.join([*lines, '', notes[3], '', notes[4].strip(), ''])


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or '').split('\n')[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for option, value in asdict(Shape()).items():
        parser.add_argument(f'--{option.replace("_", "-")}', type=int, default=value)
    parser.add_argument('--repeats', type=int, default=15, help='counted rounds')
    parser.add_argument('--systems', nargs='+', default=None, help='only these')
    parser.add_argument('--flax-checkout', default='', help="folder of the wmt example's models.py")
    parser.add_argument('--output', type=pathlib.Path, default=RESULTS, help='folder for results')
    parser.add_argument('--name', default='train_step', help='name of the two files of results')
    return parser.parse_args(argv)


def main() -> None:
    """Measures, and writes what was found as JSON and Markdown."""
    given = arguments()
    shape = Shape(**{name: getattr(given, name) for name in asdict(Shape())})
    names = given.systems or ['seqzoo', 'seqzoo-all-dropout', 'torch', 'torch-bf16', 'products']
    if given.flax_checkout and not given.systems:
        names.insert(2, 'flax-wmt')
    result = measure(names, shape, given.flax_checkout, given.repeats)
    given.output.mkdir(parents=True, exist_ok=True)
    text = table(result)
    (given.output / f'{given.name}.json').write_text(json.dumps(result, indent=1) + '\n')
    (given.output / f'{given.name}.md').write_text(text)
    print(text)


if __name__ == '__main__':
    main()
