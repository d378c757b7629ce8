"""What pre-training is worth: a small BERT fine-tuned, beside the same model from scratch, and a
network that reads a small ELMo, beside the same network without.

    python benchmarks/fine_tuning.py --data-dir D --runs RUNS
    python benchmarks/fine_tuning.py --data-dir D --runs RUNS --of elmo

pre-trains `bert_small_wikitext` once into RUNS/pretrained, or `elmo_small_wikitext:war_and_peace`
into RUNS/pretrained-elmo; for each task and seed it trains twice, with `--pretrained` and without,
and evaluates the best checkpoint of each. What is there already is not done again: stopped, it goes
on where it was. All of it is the ordinary commands. Each run becomes a row of `benchmarks/results`,
whose tables have the mean and the deviation over the seeds; here they are printed too.

Options behind `--` are given to every training, `--` included: a trial at toy size is

    python benchmarks/fine_tuning.py --data-dir D --runs /tmp/toy --seeds 1 --results /tmp/toy \\
        -- --train.steps 4 --model.encoder.num-layers 1
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import facts_of_runs
import program
import record_run
import rows

from seqzoo.training.run import load_run

WAYS = ('pretrained', 'scratch')


@dataclass(frozen=True)
class Problem:
    """A task that is fine-tuned for.

    Attributes:
        config: the configuration that begins with what was pre-trained.
        scratch: the one that does not; `None`: the same, all of it drawn.
        measure: the metric that the table shows.
    """

    config: str
    scratch: str | None = None
    measure: str = 'accuracy'

    def trained(self, way: str) -> str:
        """The configuration of a way."""
        return self.scratch or self.config if way == 'scratch' else self.config


@dataclass(frozen=True)
class Pretraining:
    """What is trained first, and what it is good for.

    Attributes:
        config: its configuration.
        folder: of its run, among the others.
        problems: the tasks that begin with it.
    """

    config: str
    folder: str
    problems: tuple[Problem, ...]


PRETRAININGS = {
    'bert': Pretraining(
        'bert_small_wikitext',
        'pretrained',
        (Problem('bert_small_rt_polarity'), Problem('bert_small_tagger_ud_ewt')),
    ),
    'elmo': Pretraining(
        'elmo_small_wikitext:war_and_peace',
        'pretrained-elmo',
        (
            Problem('bilstm_rt_polarity:elmo', scratch='bilstm_rt_polarity'),
            Problem('bilstm_tagger_ud_ewt:elmo', scratch='bilstm_tagger_ud_ewt'),
        ),
    ),
}


def main(argv: list[str] | None = None) -> None:
    """Trains what is not trained yet, evaluates, and records."""
    argv = sys.argv[1:] if argv is None else argv
    own, _, overrides = split_off(argv)
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--data-dir', type=Path, required=True)
    parser.add_argument('--runs', type=Path, required=True, help='where the runs are kept')
    parser.add_argument('--of', choices=PRETRAININGS, default='bert', help='what is pre-trained')
    parser.add_argument('--seeds', type=int, default=3, help='how many; 0, 1, ...')
    parser.add_argument('--results', type=Path, default=rows.RESULTS, help='where rows are written')
    arguments = parser.parse_args(own)
    first = PRETRAININGS[arguments.of]
    pretrained = arguments.runs / first.folder
    train(first.config, pretrained, arguments.data_dir, overrides)
    before = {**evaluated(pretrained, arguments.data_dir), 'config': first.config}
    print(f'{first.config}, test: {figures(before)}', flush=True)
    table = []
    for problem in first.problems:
        for way in WAYS:
            config = problem.trained(way)
            found, options = [], ['--pretrained', str(pretrained)] if way == 'pretrained' else []
            name = f'{plain(problem.config)}-{way}'
            runs = [arguments.runs / f'{name}-{seed}' for seed in range(arguments.seeds)]
            for seed, run in enumerate(runs):
                more = [*options, *overrides, '--seed', str(seed)]
                train(config, run, arguments.data_dir, more)
                found.append(evaluated(run, arguments.data_dir))
                words = ['--pretrained', 'P'] if options else []
                command = shlex.join([*words, *overrides, '--seed', str(seed)])
                row = row_of(
                    f'{plain(problem.config)}_{way}_seed{seed}',
                    f'seqzoo train {config} --run R --data-dir D {command}',
                    run,
                    before if options else None,
                ) | record_run.measured(run, found[-1], problem.measure, 'test')
                rows.write(row, arguments.results)
            table.append((problem.config, way, over_seeds(found)[problem.measure]))
            print(as_line(*table[-1]), flush=True)
    print('\n' + '\n'.join(as_line(*entry) for entry in table))


def split_off(argv: list[str]) -> tuple[list[str], str, list[str]]:
    """What stands before and behind `--`."""
    if '--' not in argv:
        return argv, '', []
    place = argv.index('--')
    return argv[:place], '--', argv[place + 1 :]


def train(config: str, run: Path, data_dir: Path, options: list[str]) -> None:
    """Trains, or goes on; a finished run is left as it is."""
    done = run / 'done'
    if done.exists():
        return
    words = ['train', config, '--run', str(run), '--data-dir', str(data_dir), *options]
    print(f'seqzoo {" ".join(words)}', flush=True)
    subprocess.run([sys.executable, '-m', 'seqzoo', *words], check=True)
    done.touch()


def evaluated(run: Path, data_dir: Path) -> dict[str, Any]:
    """The metrics of the best checkpoint on the test split, kept beside the run."""
    file = run / 'test.json'
    if not file.exists():
        words = ['evaluate', str(run), '--data-dir', str(data_dir), '--split', 'test', '--json']
        found = subprocess.run(
            [sys.executable, '-m', 'seqzoo', *words], check=True, stdout=subprocess.PIPE, text=True
        )
        file.write_text(found.stdout, encoding='utf-8')
    return json.loads(file.read_text(encoding='utf-8'))


def over_seeds(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and sample deviation of every number, and the number of each seed."""
    names = [name for name, value in found[0]['metrics'].items() if isinstance(value, (int, float))]
    summary = {}
    for name in names:
        values = [one['metrics'][name] for one in found]
        summary[name] = {
            'mean': round(statistics.fmean(values), 4),
            'deviation': round(statistics.stdev(values), 4) if len(values) > 1 else None,
            'each': [round(value, 4) for value in values],
        }
    return summary


def row_of(name: str, command: str, run: Path, before: dict[str, Any] | None) -> dict[str, Any]:
    """The facts of a run; `before`: how well what it began with had been pre-trained."""
    if before is None:
        return facts_of_runs.describe(load_run(run), name=name, command=command)
    first, metrics = before['config'], before['metrics']
    return facts_of_runs.describe(
        load_run(run),
        name=name,
        command=command,
        note=f'P is `seqzoo train {first} --run P --data-dir D`, of {before["step"]:,} updates',
    ) | {
        'pretrained': {
            'config': first,
            'data': before['data'],
            'step': before['step'],
            'test': metrics,
        }
    }


def plain(config: str) -> str:
    """A configuration's name as that of a file."""
    return config.replace(':', '_')


def figures(found: dict[str, Any]) -> str:
    """All numbers of an evaluation in a line."""
    return ', '.join(
        f'{name} {value:.4g}'
        for name, value in found['metrics'].items()
        if isinstance(value, (int, float))
    )


def as_line(config: str, way: str, measured: dict[str, Any]) -> str:
    """One way to train for one task."""
    deviation = measured['deviation']
    spread = '' if deviation is None else f' +- {deviation:.2f}'
    each = ', '.join(f'{value:.2f}' for value in measured['each'])
    return f'{config:26} {way:11} {measured["mean"]:6.2f}{spread}  ({each})'


if __name__ == '__main__':
    program.run(main)
