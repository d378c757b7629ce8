"""Records a trained run of any task: its metrics on a split, and its dev curve.

    python benchmarks/record_run.py RUN --name NAME --measure accuracy --command "..." --data-dir D

evaluates the best checkpoint of the run folder RUN and writes `benchmarks/results/NAME.json`, one
row. Translations have a program of their own, which also averages: `translation_curve.py`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import facts_of_runs
import program
import rows

from seqzoo.errors import UserError
from seqzoo.training.events import read_events
from seqzoo.training.run import evaluate, load_run

_BESIDE = ('kind', 'step', 'time', 'seconds')  # what an event says besides metrics


def main(argv: list[str] | None = None) -> None:
    """Evaluates and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    facts_of_runs.add_options(parser)
    parser.add_argument('--measure', required=True, help='the metric that the table shows')
    parser.add_argument('--split', default='test')
    arguments = parser.parse_args(argv)
    run = load_run(arguments.run, data_dir=arguments.data_dir, splits=(arguments.split,))
    facts = facts_of_runs.describe(run, **facts_of_runs.given(arguments))  # before what takes time
    found = evaluate(arguments.run, split=arguments.split, data_dir=arguments.data_dir)
    row = facts | measured(arguments.run, found, arguments.measure, arguments.split)
    if row['direction']:
        kind = row['results']['best_checkpoint']
        kind[f'{arguments.split}_ladder'] = facts_of_runs.ladder(run, run.params, arguments.split)
    print(rows.write(row))
    print(json.dumps(row['results'], indent=2))


def measured(run: Path, found: dict[str, Any], measure: str, split: str) -> dict[str, Any]:
    """What a row says of an evaluation of the best checkpoint.

    Args:
        run: the folder of the run.
        found: what `evaluate` returned, or printed as JSON.
        measure: the metric that the tables show.
        split: that was evaluated.
    """
    metrics = found['metrics']
    if measure not in metrics:
        raise UserError(f'there is no {measure}; the run has {", ".join(metrics)}')
    if found.get('signature'):
        metrics = {**metrics, 'signature': found['signature']}
    return {
        'measure': measure,
        'split': split,
        'results': {'best_checkpoint': {'step': found['step'], split: metrics}},
        'curve': dev_curve(run),
    }


def dev_curve(run: Path) -> list[dict[str, Any]]:
    """What every evaluation during training said."""
    return [
        {
            'step': event['step'],
            'minutes': round(event['seconds'] / 60, 2),
            **{
                name: round(value, 5)
                for name, value in event.items()
                if isinstance(value, float) and name not in _BESIDE
            },
        }
        for event in read_events(run, 'evaluation')
    ]


if __name__ == '__main__':
    program.run(main)
