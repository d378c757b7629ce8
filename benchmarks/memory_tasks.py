"""Trains every family on every problem of memory, and shows who remembers how far.

    python benchmarks/memory_tasks.py --runs D                 # an hour on two cores
    python benchmarks/memory_tasks.py --runs D --tasks adding copy --families lstm tcn
    python benchmarks/memory_tasks.py --runs D --tasks mnist permuted --data-dir DATA --minutes 600
    python benchmarks/memory_tasks.py --runs D --sizes published --minutes 6000   # an accelerator

The minutes are shared out evenly among the cells of the grid; a cell that learns its task to the
end leaves its rest to the others. On a CPU the cells are trained side by side, each on a core of
its own, since programs this small gain little from a second one; what a cell says while it trains
is in `log.txt` of its folder. What has been trained stays in the folder D: the same command goes on
where it stopped, and prints the table of all that is there.

`small` sizes are the shorter of those that Bai et al. 2018 have (adding over 200 steps, copying
after 500) and ListOps of 20 to 100 tokens; `published` ones those of their tables (600 and 1,000
steps) and of the Long Range Arena (ListOps of 500 to 2,000 tokens). MNIST pixel by pixel, in order
and permuted, has one size, and takes more than an hour a cell on two cores: name it.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import machine
import rows

import seqzoo
from seqzoo.analysis import drawing
from seqzoo.analysis.parameters import count_parameters
from seqzoo.experiment import Experiment
from seqzoo.training.events import read_events
from seqzoo.training.run import evaluate, load_experiment_of

RESULTS = Path(__file__).parent / 'results'
FAMILIES = ('elman', 'lstm', 'gru', 'tcn', 'transformer')
DEFAULT_TASKS = ('adding', 'copy', 'listops')
_SPAWN = multiprocessing.get_context('spawn')
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


@dataclass
class Budget:
    """Minutes, shared out evenly among the cells that have not begun.

    Attributes:
        left: minutes that nobody has.
        cells: how many have not begun.
    """

    left: float
    cells: int

    def take(self) -> float:
        """The share of the next cell."""
        share = max(self.left, 0.0) / self.cells
        self.left, self.cells = self.left - share, self.cells - 1
        return share

    def give_back(self, minutes: float) -> None:
        """What a cell left over; less than nothing if it overran."""
        self.left += minutes


def train_missing(
    cells: Sequence[Cell],
    runs: Path,
    sizes: str,
    minutes: float,
    workers: int,
    data_dir: Path | None,
) -> list[dict[str, Any]]:
    """The row of every cell; trains those without one, `workers` at a time.

    Args:
        cells: in the order in which they begin.
        runs: folder of their runs.
        sizes: part of a run's name.
        minutes: of all cells together, on the clock.
        workers: processes, each on a core of its own if there are several.
        data_dir: where data sets lie.
    """
    notes = [runs / f'{c.task}_{sizes}_{c.family}' / 'memory_tasks_row.json' for c in cells]
    done = [json.loads(note.read_text(encoding='utf-8')) for note in notes if note.exists()]
    waiting = [(c, note) for c, note in zip(cells, notes, strict=True) if not note.exists()]
    spent = sum(row['minutes'] for row in done)
    budget = Budget(max(minutes * workers - spent, 0.0), len(waiting))
    places: list[int | None] = [None]
    if workers > 1:
        places = [*sorted(os.sched_getaffinity(0))[:workers]]
    running: dict[concurrent.futures.Future[None], tuple[Path, float, int | None]] = {}
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=_SPAWN, max_tasks_per_child=1
    ) as pool:
        while waiting or running:
            while waiting and places:
                (cell, note), share, core = waiting.pop(0), budget.take(), places.pop()
                print(f'{cell.task}, {cell.family}: at most {share:.1f} minutes', file=sys.stderr)
                future = pool.submit(_train_into, note, core, cell, share, data_dir)
                running[future] = (note, share, core)
            ended, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in ended:
                note, share, core = running.pop(future)
                future.result()  # raises what was raised there
                row = json.loads(note.read_text(encoding='utf-8'))
                print(f'{note.parent.name}: {measured(row)}', file=sys.stderr)
                budget.give_back(share - row['minutes'])
                places.append(core)
    return [json.loads(note.read_text(encoding='utf-8')) for note in notes]


def _train_into(
    note: Path, core: int | None, cell: Cell, minutes: float, data_dir: Path | None
) -> None:
    """Trains a cell in a process of its own, and writes its row."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    note.parent.mkdir(parents=True, exist_ok=True)
    with open(note.with_name('log.txt'), 'a', encoding='utf-8') as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
        row = train(cell, note.parent, minutes, data_dir)
    partial = note.with_suffix('.partial')
    partial.write_text(json.dumps(row, indent=1) + '\n', encoding='utf-8')
    partial.replace(note)


def train(cell: Cell, folder: Path, minutes: float, data_dir: Path | None) -> dict[str, Any]:
    """Trains a cell for so long at most, and measures it; a row."""
    experiment = seqzoo.load_experiment(
        cell.config, {**cell.overrides, 'train.max_minutes': max(minutes, 0.02)}
    )
    before = os.getloadavg()
    seqzoo.train(experiment, folder, data_dir=data_dir)
    found = evaluate(folder, split='test', data_dir=data_dir)
    clock = rows.seconds_by_step(folder)
    resolved = load_experiment_of(folder).model
    return {
        'task': cell.task,
        'family': cell.family,
        'what': experiment.description,
        'command': command_of(cell),
        'data': experiment.task.data_name,
        'seed': experiment.seed,
        'parameters': count_parameters(resolved),
        'steps': max(clock),
        'of_steps': experiment.train.steps,
        'minutes': round(max(clock.values()) / 60, 2),
        'cores': machine.cores(),
        'checkpoint': found['step'],
        'test': found['metrics'],
        'published': cell.published,
        'curve': curve(folder),
        'load_average': {'before': before, 'after': os.getloadavg()},
        'recorded_at_commit': rows.commit(),
        'date': time.strftime('%Y-%m-%d'),
    }


def _cells_at_a_time() -> int:
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=_SPAWN) as pool:
        # Asked elsewhere: the process that asks holds the accelerator's memory from then on.
        backend = pool.submit(jax.default_backend).result()
    return machine.cores() if backend == 'cpu' else 1


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
        'their own models of about as many parameters, at the sizes named and trained to the end. '
        'What stopped before its last update had used up its share of the minutes'
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


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what is missing, and writes what is there."""
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
    if not given.minutes > 0:
        parser.error(f'--minutes {given.minutes}: give a time above 0')
    if given.workers is not None and not 1 <= given.workers <= machine.cores():
        parser.error(f'--workers {given.workers}: give 1 to {machine.cores()}')
    cells, before = grid(given.tasks, given.families, given.sizes), os.getloadavg()
    workers = given.workers or _cells_at_a_time()
    made = train_missing(cells, given.runs, given.sizes, given.minutes, workers, given.data_dir)
    found = {
        'sizes': given.sizes,
        'minutes': given.minutes,
        'workers': workers,
        'machine': machine.facts(['jax', 'flax', 'optax', 'numpy']),
        'load_average': {'before': before, 'after': os.getloadavg()},
        'rows': made,
    }
    name = 'memory_tasks' if given.sizes == 'small' else 'memory_tasks_published'
    if set(given.tasks) & {'mnist', 'permuted'}:
        name += '_mnist'
    given.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False) + '\n'
    (given.output / f'{name}.json').write_text(text, encoding='utf-8')
    (given.output / f'{name}.md').write_text(render(found), encoding='utf-8')
    draw(found, given.output / f'{name}.png')
    print(render(found))


if __name__ == '__main__':
    main()
