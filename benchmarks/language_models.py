"""Sets trained language models beside each other: perplexity, size, operations, time, experts.

    python benchmarks/language_models.py RUN [RUN ...] --name NAME --data-dir D

evaluates the best checkpoint of every run on its development text and writes
`benchmarks/results/NAME.json` and `NAME.md`.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import machine
import numpy as np
import program

from seqzoo.analysis.experts import expert_shares
from seqzoo.analysis.parameters import count_parameters
from seqzoo.tasks.language_modeling import PreparedText
from seqzoo.training.events import read_events
from seqzoo.training.run import Run, load_run

RESULTS = Path(__file__).parent / 'results'
WINDOW, WINDOWS = 256, 16  # tokens and rows, where the experts are counted


def main() -> None:
    """Evaluates and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('runs', type=Path, nargs='+')
    parser.add_argument('--name', required=True, help='of the files in benchmarks/results')
    parser.add_argument('--commands', nargs='+', required=True, help='that trained the runs')
    parser.add_argument('--data-dir', type=Path)
    parser.add_argument('--note', default='', help='what a reader has to know about the runs')
    arguments = parser.parse_args()
    if len(arguments.commands) != len(arguments.runs):
        parser.error('give one command for each run')
    found = {
        'machine': machine.facts(['jax', 'flax', 'optax', 'numpy']),
        'note': arguments.note,
        'models': [
            describe(load_run(path, data_dir=arguments.data_dir, splits=('dev',)), command)
            for path, command in zip(arguments.runs, arguments.commands, strict=True)
        ],
    }
    text = json.dumps(found, indent=1, ensure_ascii=False) + '\n'
    (RESULTS / f'{arguments.name}.json').write_text(text, encoding='utf-8')
    (RESULTS / f'{arguments.name}.md').write_text(render(found), encoding='utf-8')
    print(render(found))


def describe(run: Run, command: str) -> dict[str, Any]:
    """One run in numbers."""
    experiment, model = run.experiment, run.runtime.model
    batch, config = experiment.batch, experiment.task.resolve(experiment.model, run.prepared)
    seconds = [e['seconds'] for e in read_events(run.path) if 'seconds' in e]
    operations = config.flops(1, batch.max_length)
    assert operations is not None, f'{type(config).__name__} has no formula of operations'
    row = {
        'description': experiment.description,
        'command': command,
        'seed': experiment.seed,
        'parameters': count_parameters(config),
        'multiplications_per_token': {
            'layers': operations.layers // 2 // batch.max_length,
            'logits': operations.logits // 2 // batch.max_length,
        },
        'steps': run.step,
        'tokens': run.step * batch.tokens,
        'minutes': round(max(seconds, default=0.0) / 60, 2),
        'dev': experiment.task.evaluate(run.runtime, run.prepared, 'dev', batch, None),
        'curve': [
            {'step': e['step'], 'perplexity': round(e['perplexity'], 2)}
            for e in read_events(run.path, 'evaluation')
        ],
    }
    if getattr(config, 'mixture', None) is not None:
        shares = expert_shares(model, run.runtime.variables, windows(run))
        row['expert_shares'] = [round(float(share), 4) for share in shares]
    return row


def windows(run: Run) -> Iterator[np.ndarray]:
    """The development text in rows that begin anew."""
    assert isinstance(run.prepared, PreparedText)
    ids = run.prepared.splits['dev'].ids
    rows = np.asarray(ids[: len(ids) // WINDOW * WINDOW]).reshape(-1, WINDOW)
    for first in range(0, len(rows), WINDOWS):
        yield rows[first : first + WINDOWS]


def render(found: dict[str, Any]) -> str:
    """The table, and what it was measured on."""
    lines = [
        '| model | parameters | multiplications a token (+ softmax) | dev perplexity | tokens '
        '| minutes |',
        '|---|--:|--:|--:|--:|--:|',
    ]
    for row in found['models']:
        layers, logits = row['multiplications_per_token'].values()
        lines.append(
            f'| {row["description"]} | {row["parameters"]:,} | {layers / 1e6:.2f}M '
            f'(+ {logits / 1e6:.2f}M) | {row["dev"]["perplexity"]:.1f} '
            f'| {row["tokens"] / 1e6:.1f}M | {row["minutes"]:.0f} |'
        )
    for row in found['models']:
        if 'expert_shares' in row:
            shares = row['expert_shares']
            each = ', '.join(f'{100 * share:.1f}' for share in sorted(shares, reverse=True))
            lines += [
                '',
                f'Share of the choices that each of the {len(shares)} experts gets, in %: {each} '
                f'(evenly: {100 / len(shares):.1f}).',
            ]
    lines += ['', *(f'    {row["command"]}' for row in found['models']), '']
    where = found['machine']
    versions = ', '.join(f'{k} {v}' for k, v in where['versions'].items() if v)
    lines.append(
        f'{found["note"]} {where["cores"]} cores of {where["processor"]}, Python '
        f'{where["python"]}, {versions}.'.strip()
    )
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    program.run(main)
