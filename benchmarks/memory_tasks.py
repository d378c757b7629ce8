"""Trains every family on every problem of memory, and shows who remembers how far.

    python benchmarks/memory_tasks.py --runs D                 # an hour on two cores
    python benchmarks/memory_tasks.py --runs D --tasks adding copy --families lstm tcn
    python benchmarks/memory_tasks.py --runs D --tasks mnist permuted --data-dir DATA --minutes 600
    python benchmarks/memory_tasks.py --runs D --sizes published --minutes 6000   # an accelerator

The minutes are shared out evenly among the cells of the grid; a cell that learns its task to the
end leaves its rest to the others. On a CPU the cells are trained side by side, each on a core of
its own, since programs this small gain little from a second one; what a cell says while it trains
is in `log.txt` of its folder. What has been trained stays in the folder D: the same command goes on
where it stopped, one with more minutes trains on what had used up its share, and the table is of
all that is there.

`small` sizes are the shorter of those that Bai et al. 2018 have (adding over 200 steps, copying
after 500) and ListOps of 20 to 100 tokens; `published` ones those of their tables (600 and 1,000
steps) and of the Long Range Arena (ListOps of 500 to 2,000 tokens). MNIST pixel by pixel, in order
and permuted, has one size, and takes more than an hour a cell on two cores: name it.
"""

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import program
import side_by_side

import seqzoo
from seqzoo.analysis import drawing
from seqzoo.analysis.parameters import count_parameters
from seqzoo.experiment import Experiment
from seqzoo.provenance import commit
from seqzoo.training.events import read_events
from seqzoo.training.run import evaluate
from seqzoo.training.run_folder import load_experiment_of

RESULTS = Path(__file__).parent / 'results'
FAMILIES = ('elman', 'lstm', 'gru', 'tcn', 'transformer')
DEFAULT_TASKS = ('adding', 'copy', 'listops')
COLUMNS = (
    *('problem', 'family', 'parameters', 'result', 'without memory', 'published'),
    *('updates', 'minutes'),
)
MEASURES = {'adding': 'loss', 'copy': 'loss'}  # of the others it is the accuracy


@dataclass(frozen=True)
class Cell:
    """One family on one problem.

    Attributes:
        task, family: its place in the grid.
        config: name of the configuration.
        overrides: what is changed in it.
        published: the figure of a paper, as printed, with its conditions.
    """

    task: str
    family: str
    config: str
    overrides: dict[str, Any] = field(default_factory=dict)
    published: str = ''

    def experiment(self) -> Experiment:
        """What is trained."""
        return seqzoo.load_experiment(self.config, self.overrides)


# Bai, Kolter, Koltun 2018, table 1; ListOps: Tay et al. 2021, table 1.
PUBLISHED = {
    'adding': {'elman': '0.177', 'lstm': '0.164', 'gru': '5.3e-5', 'tcn': '5.8e-5'},
    'copy': {'elman': '0.0202', 'lstm': '0.0204', 'gru': '0.0197', 'tcn': '3.5e-5'},
    'mnist': {'elman': '21.5 %', 'lstm': '87.2 %', 'gru': '96.2 %', 'tcn': '99.0 %'},
    'permuted': {'elman': '25.3 %', 'lstm': '85.7 %', 'gru': '87.3 %', 'tcn': '97.2 %'},
    'listops': {'transformer': '36.4 %'},
}
PUBLISHED_SIZES = {'adding': 'T = 600', 'copy': 'T = 1000', 'listops': '500 to 2,000 tokens'}


def grid(tasks: Iterable[str], families: Iterable[str], sizes: str) -> list[Cell]:
    """The cells in the order in which they are trained."""
    return [cell_of(task, family, sizes) for task in tasks for family in families]


def cell_of(task: str, family: str, sizes: str) -> Cell:
    """The configuration of a family for a problem."""
    variant = '' if family == 'lstm' else f':{family}'
    published = PUBLISHED[task].get(family, '')
    if published and task in PUBLISHED_SIZES:
        published = f'{published} ({PUBLISHED_SIZES[task]})'
    if task == 'adding':
        length = 600 if sizes == 'published' else 200
        if family == 'tcn':
            name = 'tcn_adding' if sizes == 'published' else 'tcn_adding:t200'
            return Cell(task, family, name, published=published)
        changes = {
            'task.corpus.length': length,
            'batch.max_length': length,
            'batch.tokens': 50 * length,
        }
        return Cell(task, family, f'lstm_adding{variant}', changes, published)
    if task == 'copy':
        pause = 1000 if sizes == 'published' else 500
        if family == 'tcn':
            name = 'tcn_copy_memory' if sizes == 'published' else 'tcn_copy_memory:adam'
            return Cell(task, family, name, published=published)
        changes = {
            'task.corpus.length': pause,
            'batch.max_length': pause + 20,
            'batch.tokens': 32 * (pause + 20),
        }
        return Cell(task, family, f'lstm_copy_memory{variant}', changes, published)
    if task == 'listops':
        variant = '' if family == 'transformer' else f':{family}'
        if sizes == 'small':
            return Cell(task, family, f'transformer_listops{variant}', published=published)
        if family == 'transformer':
            return Cell(task, family, 'transformer_listops:lra', published=published)
        changes = {
            'task.corpus.min_length': 500,
            'task.corpus.max_length': 2000,
            'batch.max_length': 2000,
            'batch.tokens': 32 * 2000,
            'batch.buckets': (2000,),
        }
        return Cell(task, family, f'transformer_listops{variant}', changes, published)
    changes = {'task.corpus.permutation_seed': 0} if task == 'permuted' else {}
    name = 'tcn_sequential_mnist' if family == 'tcn' else f'lstm_sequential_mnist{variant}'
    return Cell(task, family, name, changes, published)


def train(cell: Cell, folder: Path, minutes: float, *, data_dir: Path | None) -> dict[str, Any]:
    """Trains a cell until it has had so many minutes at most, and measures it; a row.

    Raises:
        side_by_side.Interrupted: somebody stopped it; it is saved.
    """
    left = max(minutes - side_by_side.trained_minutes(folder), 0.02)
    experiment = seqzoo.load_experiment(cell.config, {**cell.overrides, 'train.max_minutes': left})
    before = os.getloadavg()
    result = seqzoo.train(experiment, folder, data_dir=data_dir)
    if result.status != 'done':
        raise side_by_side.Interrupted(f'{folder.name} was stopped after {result.step:,} updates')
    found = evaluate(folder, split='test', data_dir=data_dir)
    resolved = load_experiment_of(folder).model
    return {
        'task': cell.task,
        'family': cell.family,
        'command': command_of(cell),
        'data': experiment.task.data_name,
        'seed': experiment.seed,
        'parameters': count_parameters(resolved),
        'steps': result.step,
        'of_steps': experiment.train.steps,
        'minutes': round(side_by_side.trained_minutes(folder), 2),
        'share': round(minutes, 2),
        'cores': machine.cores(),
        'checkpoint': found['step'],
        'test': found['metrics'],
        'published': cell.published,
        'curve': curve(folder),
        'load_average': {'before': before, 'after': os.getloadavg()},
        'recorded_at_commit': commit(),
        'date': time.strftime('%Y-%m-%d'),
    }


def command_of(cell: Cell) -> str:
    """How a reader trains the same."""
    words = [f'seqzoo train {cell.config} --run R']
    for name, value in cell.overrides.items():
        shown = ','.join(map(str, value)) if isinstance(value, tuple) else value
        words.append(f'--{name.replace("_", "-")} {shown}')
    return ' '.join(words)


def curve(folder: Path) -> list[list[float]]:
    """Step and development loss of every evaluation."""
    events = read_events(folder, 'evaluation')
    return [[event['step'], float(event['loss'])] for event in events]


def measured(row: dict[str, Any]) -> str:
    """What the table shows of a row."""
    if MEASURES.get(row['task'], 'accuracy') == 'loss':
        return f'{row["test"]["loss"]:.2g}'
    return f'{row["test"]["accuracy"]:.1f} %'


def baseline(row: dict[str, Any]) -> str:
    """What is reached without memory, or by always saying the same."""
    test = row['test']
    if 'baseline' in test:
        return f'{test["baseline"]:.3g}'
    return f'{test["majority_accuracy"]:.1f} %'


def render(found: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        '# Problems of memory',
        '',
        'Mean square error (adding), nats a step (copying), or accuracy on the test split, at the '
        'checkpoint that was best on the development split. '
        f'{machine.ran_on(found)}',
        '',
        f'| {" | ".join(COLUMNS)} |',
        '|---' * len(COLUMNS) + '|',
    ]
    for row in found['rows']:
        cut = '' if row['steps'] >= row['of_steps'] else f' of {row["of_steps"]:,}'
        lines.append(
            f'| {row["data"]} | {row["family"]} | {row["parameters"]:,} | {measured(row)} '
            f'| {baseline(row)} | {row["published"] or ""} | {row["steps"]:,}{cut} '
            f'| {row["minutes"]:.1f} |'
        )
    lines += [
        '',
        'Published: Bai, Kolter and Koltun 2018, table 1, and for ListOps Tay et al. 2021, with '
        'their own models, at the sizes named and trained to the end. What stopped before its last '
        'update had used up its share of the minutes, or (MNIST) no longer improved'
        + (', each cell on one core.' if {r.get('cores') for r in found['rows']} == {1} else '.'),
        '',
    ]
    return '\n'.join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """Loss against the update, a panel for each problem."""
    tasks = list(dict.fromkeys(row['task'] for row in found['rows']))
    figure = drawing.new_figure(4.2 * len(tasks) + 0.6, 4.4)
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for panel, task in zip(panels, tasks, strict=True):
        members = [row for row in found['rows'] if row['task'] == task]
        for row in members:
            index = FAMILIES.index(row['family'])
            steps, losses = zip(*row['curve'], strict=True) if row['curve'] else ((), ())
            style = {'color': drawing.COLORS[index], 'marker': 'o', 'markersize': 3}
            panel.plot(steps, losses, label=row['family'], **style)
        level = next((m['test']['baseline'] for m in members if 'baseline' in m['test']), None)
        if level is not None:
            panel.axhline(level, color='0.4', linestyle='--', linewidth=1, label='without memory')
        panel.set_yscale('log')
        panel.set_title(members[0]['data'])
        drawing.style_curves(panel, 'update', 'development loss')
        panel.legend(frameon=False)
    drawing.save(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is missing, and writes what is there; the exit status."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or '').split('\n')[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--runs', type=Path, required=True, help='folder of the trained cells')
    parser.add_argument('--tasks', nargs='+', choices=tuple(PUBLISHED), default=DEFAULT_TASKS)
    parser.add_argument('--families', nargs='+', choices=FAMILIES, default=FAMILIES)
    parser.add_argument('--sizes', choices=('small', 'published'), default='small')
    parser.add_argument('--minutes', type=float, default=60.0, help='for all cells together')
    parser.add_argument(
        '--workers', type=int, help='cells at a time; by default a core each, one on accelerators'
    )
    parser.add_argument('--data-dir', type=Path, help='where MNIST lies')
    parser.add_argument('--output', type=Path, default=RESULTS, help='folder of the results')
    given = parser.parse_args(argv)
    if not 0 < given.minutes < float('inf'):
        parser.error(f'--minutes {given.minutes}: give a time above 0')
    if given.workers is not None and not 1 <= given.workers <= machine.cores():
        parser.error(f'--workers {given.workers}: give 1 to {machine.cores()}')
    before = os.getloadavg()
    jobs = {}
    for cell in grid(dict.fromkeys(given.tasks), dict.fromkeys(given.families), given.sizes):
        note = note_of(cell, given.runs, given.sizes)
        jobs[note] = functools.partial(train, cell, note.parent, data_dir=given.data_dir)
    workers = given.workers or side_by_side.default_workers()
    turns = side_by_side.SideBySide(jobs, given.minutes, workers, measured)
    try:
        turns.train()
    except (side_by_side.Interrupted, KeyboardInterrupt) as stopped:
        print(f'{stopped or "stopped"}; the same command goes on', file=sys.stderr)
        return 130
    there = [note_of(c, given.runs, given.sizes) for c in grid(PUBLISHED, FAMILIES, given.sizes)]
    made = [side_by_side.read_row(note) for note in there if note.exists()]
    if made:
        found = {
            'sizes': given.sizes,
            'minutes': given.minutes,
            'workers': workers,
            'machine': machine.facts(['jax', 'flax', 'optax', 'numpy']),
            'load_average': {'before': before, 'after': os.getloadavg()},
            'rows': made,
        }
        write(found, given.output)
        print(render(found))
    return program.status_of(turns.failures)


def note_of(cell: Cell, runs: Path, sizes: str) -> Path:
    """Where the row of a cell is kept, in the folder of its run."""
    return runs / f'{cell.task}_{sizes}_{cell.family}' / 'memory_tasks_row.json'


def write(found: dict[str, Any], folder: Path) -> None:
    """Everything, the table and the picture."""
    name = 'memory_tasks' if found['sizes'] == 'small' else 'memory_tasks_published'
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False) + '\n'
    (folder / f'{name}.json').write_text(text, encoding='utf-8')
    (folder / f'{name}.md').write_text(render(found), encoding='utf-8')
    draw(found, folder / f'{name}.png')


if __name__ == '__main__':
    program.run(main)
