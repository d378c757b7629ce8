"""What a result row says besides its numbers: everything that it takes to get them again."""

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
from machine import processor

from seqzoo.analysis.parameters import count_parameters
from seqzoo.training.events import read_events
from seqzoo.training.run import Run

RESULTS = Path(__file__).parent / 'results'


def describe(run: Run, *, name: str, command: str, note: str = '') -> dict[str, Any]:
    """The facts of a trained run.

    Args:
        run: from `seqzoo.load_run`.
        name: of the row and its file.
        command: what trained it.
        note: what a reader has to know about it.
    """
    experiment = run.experiment
    clock = seconds_by_step(run.path)
    return {
        'name': name,
        'what': experiment.description,
        'command': command,
        'note': note,
        'seed': experiment.seed,
        'data': experiment.task.data_name,
        'identity': run.prepared.identity,
        'parameters': count_parameters(experiment.model),
        'steps': max(clock),
        'minutes': round(max(clock.values()) / 60, 2),
        'published': f'{paper.paper}: {paper.result}'
        if (paper := experiment.published).paper
        else None,
        'machine': f'{os.cpu_count()} cores {processor()}, {jax.default_backend()}',
        'versions': f'Python {platform.python_version()}, jax {jax.__version__}',
        'recorded_at_commit': commit(),
        'date': time.strftime('%Y-%m-%d'),
    }


def search_of(run: Run) -> str:
    """How outputs are searched for, in a few words."""
    decode = run.experiment.decode
    width = f' {decode.beams}, alpha {decode.length_penalty}' if decode.method == 'beam' else ''
    return f'{decode.method}{width}'


def seconds_by_step(run: Path) -> dict[int, float]:
    """How long a run had trained when it logged each step."""
    return {e['step']: e['seconds'] for e in read_events(run) if 'seconds' in e}


def commit() -> str:
    """The commit of the checkout."""
    found = subprocess.run(
        ['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def write(row: dict[str, Any]) -> Path:
    """Writes a row to its file in `benchmarks/results`."""
    file = RESULTS / f'{row["name"]}.json'
    file.write_text(json.dumps(row, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
    return file
