"""What each choice is worth: the tiny Transformer on Multi30k with one thing changed at a time.

    python benchmarks/ablation.py --folder RUNS --data-dir D

trains every change with three seeds, for as many updates as fifteen minutes on two cores allow
(`--steps`, `--minutes`), scores the test set, and writes a row for each run, and the table and the
picture of what each change is worth, to `benchmarks/results/ablation`. Interrupted, the same
command goes on: runs that have a row are done, the others go on from their checkpoints. What is
said of averaging, beam and length penalty is measured on the runs without a change, which are
trained once. Other options, such as `--train.log-every 10`, are given to every run.

A difference is taken seed by seed: both runs have the same seed, data and order of examples.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import facts_of_runs
import program
import rows

from seqzoo.commands.command import at_least
from seqzoo.commands.train import STATUS
from seqzoo.configuration import load_config
from seqzoo.errors import UserError

CONFIG = 'transformer_tiny_multi30k_ende:twenty_minutes'
BASE = 'base'
AVERAGE = 10  # snapshots
STOPPED = tuple(status for status in STATUS.values() if status)  # by somebody, and saved

# What is trained anew: name, what it is called, what it changes.
CHANGES: dict[str, tuple[str, dict[str, str]]] = {
    BASE: ('pre-norm, tied, sinusoids, 4,000 pieces, dropout and smoothing 0.1', {}),
    'post_norm': ('post-norm', {'model.norm': 'post'}),
    'no_smoothing': ('no label smoothing', {'task.label-smoothing': '0.0'}),
    'tie_decoder': ("only the decoder's two tables tied", {'model.tie': 'decoder'}),
    'untied': ('nothing tied', {'model.tie': 'none'}),
    'unscaled': ('embeddings not scaled', {'model.scale-embeddings': 'False'}),
    'learned': ('learned positions', {'model.positions': 'learned', 'model.max-length': '256'}),
    'vocabulary_1000': ('1,000 pieces', {'task.tokenizer.vocab-size': '1000'}),
    'vocabulary_8000': ('8,000 pieces', {'task.tokenizer.vocab-size': '8000'}),
    'dropout_0': ('no dropout', {'model.dropout-rate': '0.0'}),
    'dropout_3': ('dropout 0.3', {'model.dropout-rate': '0.3'}),
}

# What is only evaluated anew, with the runs of the base: name, what it is called, what it changes.
SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    'greedy': ('greedy', {'method': 'greedy'}),
    'beam_2': ('beam 2', {'beams': 2}),
    'beam_10': ('beam 10', {'beams': 10}),
    'alpha_0': ('no length penalty', {'length_penalty': 0.0}),
    'alpha_06': ('length penalty 0.6', {'length_penalty': 0.6}),
    'alpha_14': ('length penalty 1.4', {'length_penalty': 1.4}),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is missing, then writes rows, table and picture; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--folder', type=Path, required=True, help='of the runs')
    parser.add_argument('--data-dir', type=Path, required=True)
    parser.add_argument('--cache-dir', type=Path, help='of tokenizers and encoded text')
    parser.add_argument('--results', type=Path, default=rows.RESULTS / 'ablation')
    parser.add_argument('--config', default=CONFIG)
    parser.add_argument('--only', default=','.join(CHANGES), help='names of changes, with commas')
    parser.add_argument('--seeds', type=at_least(1), default=3)
    parser.add_argument('--steps', type=at_least(1), default=3000, help='updates of every run')
    parser.add_argument('--minutes', type=float, default=15.0, help='at most, of every run; 0: any')
    arguments, options = parser.parse_known_args(argv)
    names = [name.strip() for name in arguments.only.split(',')]
    if unknown := [name for name in names if name not in CHANGES]:
        parser.error(f'there is no change {unknown[0]!r}; choose from {", ".join(CHANGES)}')
    load_config(arguments.config)  # none of the runs could be trained without it
    arguments.results.mkdir(parents=True, exist_ok=True)
    failures = []
    for seed in range(arguments.seeds):  # all changes of a seed first: a part is a table too
        for name in names:
            file = arguments.results / f'ablation_{name}_seed{seed}.json'
            if file.exists():
                refuse_other(file, recorded(name, seed, arguments, options))
            else:
                print(f'{name}, seed {seed}', file=sys.stderr, flush=True)
                try:
                    row = one_run(name, seed, arguments, options)
                    rows.write(row, arguments.results)
                except UserError as error:  # of one alone; the others go on
                    failures.append(f'{name}, seed {seed}: {error}')
    found = rows.sound_rows(arguments.results)
    table = worth(found)
    text = render(table, found)
    (arguments.results / 'ablation.md').write_text(text, encoding='utf-8')
    draw(table, arguments.results / 'ablation.png')
    print(text)
    return program.status_of(failures)


def one_run(
    name: str, seed: int, arguments: argparse.Namespace, options: Sequence[str]
) -> dict[str, Any]:
    """Trains one run to its end, or to the end of its budget, and measures it.

    Raises:
        UserError: it cannot be trained or measured.
        SystemExit: somebody stopped it; it is saved.
    """
    run = arguments.folder / f'{name}_seed{seed}'
    words = command(name, seed, arguments, options)
    left = remaining(run, arguments.minutes)
    if left is None or left > 0:
        budget = [] if left is None else ['--train.max-minutes', f'{left:.2f}']
        place = ['--run', str(run), '--data-dir', str(arguments.data_dir)]
        if arguments.cache_dir is not None:
            place += ['--cache-dir', str(arguments.cache_dir)]
        trained = subprocess.run([sys.executable, '-m', *words, *budget, *place], check=False)
        if trained.returncode in STOPPED:
            sys.exit(trained.returncode)
        if trained.returncode:
            raise UserError(f'its training left with status {trained.returncode}; it says why')
    return measure(run, name, seed, recorded(name, seed, arguments, options), arguments)


def recorded(name: str, seed: int, arguments: argparse.Namespace, options: Sequence[str]) -> str:
    """The command as a row has it: what a reader gives to train the same."""
    words = command(name, seed, arguments, options)
    if arguments.minutes:
        words += ['--train.max-minutes', f'{arguments.minutes:g}']
    return ' '.join(map(shlex.quote, [*words, '--run', 'R']))


def refuse_other(file: Path, wanted: str) -> None:
    """Raises `UserError` where a row is of another command: rows of unlike runs make no table."""
    there = json.loads(file.read_text(encoding='utf-8'))['command']
    if there != wanted:
        raise UserError(
            f'{file} is of another command ({there}, not {wanted}); give the options of then, or '
            'another --results and --folder.'
        )


def command(
    name: str, seed: int, arguments: argparse.Namespace, options: Sequence[str]
) -> list[str]:
    """What trains a run, but for where it and the data lie."""
    changes = [word for path, value in CHANGES[name][1].items() for word in (f'--{path}', value)]
    # Not every schedule has an end.
    decays = hasattr(load_config(arguments.config).schedule, 'decay_steps')
    return [
        *('seqzoo', 'train', arguments.config, '--seed', str(seed)),
        *('--train.steps', str(arguments.steps)),
        *(('--schedule.decay-steps', str(arguments.steps)) if decays else ()),
        *options,
        *changes,
    ]


def remaining(run: Path, minutes: float) -> float | None:
    """Minutes that a run may still train; `None`: as long as it takes."""
    if not minutes:
        return None
    if not (run / 'metrics.jsonl').exists():
        return minutes
    return minutes - max(facts_of_runs.seconds_by_step(run).values(), default=0.0) / 60


def measure(
    run_dir: Path, name: str, seed: int, words: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """The row of a trained run."""
    from translation_curve import abstract_params, score

    from seqzoo.training.averaging import average
    from seqzoo.training.run import load_run
    from seqzoo.training.run_folder import SNAPSHOTS

    run = load_run(run_dir, data_dir=arguments.data_dir, splits=('test',))
    averaged = average(run_dir / SNAPSHOTS, abstract_params(run), last=AVERAGE)
    row = facts_of_runs.describe(
        run,
        name=f'ablation_{name}_seed{seed}',
        command=words,
        note=f'One thing changed: {CHANGES[name][0]}.' if CHANGES[name][1] else '',
    )
    if row['steps'] < arguments.steps:
        row['note'] += f' Stopped by its budget after {row["steps"]:,} updates.'
    final = {
        'test': score(run, averaged, 'test'),
        'test_ladder': facts_of_runs.ladder(run, averaged, 'test'),
    }
    if name == BASE:
        for search, (_, changes) in SEARCHES.items():
            final[f'test_{search}'] = score(run, averaged, 'test', **changes)
    best = {'step': run.step, 'test': score(run, run.params, 'test')}
    return row | {'results': {'best_checkpoint': best, f'average_of_last_{AVERAGE}': final}}


def worth(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each change its scores, and its differences from the base of the same seed."""
    by_name: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in found:
        name = rows.group(row['name']).removeprefix('ablation_')
        by_name.setdefault(name, {})[row['seed']] = row
    base = by_name.get(BASE, {})
    reference = {seed: _bleu(row, 'test') for seed, row in base.items()}
    table = []
    for name, (what, _) in CHANGES.items():
        if name in by_name:
            scores = {seed: _bleu(row, 'test') for seed, row in by_name[name].items()}
            table.append(_line(name, what, scores, reference, list(by_name[name].values())))
    single = {seed: row['results']['best_checkpoint']['test']['bleu'] for seed, row in base.items()}
    if single:
        table.append(_line('single', 'best checkpoint, no averaging', single, reference, []))
    for name, (what, _) in SEARCHES.items():
        scores = {seed: _bleu(row, f'test_{name}') for seed, row in base.items()}
        if scores:
            table.append(_line(name, what, scores, reference, []))
    return table


def _bleu(row: Mapping[str, Any], split: str) -> float:
    return row['results'][f'average_of_last_{AVERAGE}'][split]['bleu']


def _line(
    name: str,
    what: str,
    scores: Mapping[int, float],
    reference: Mapping[int, float],
    trained: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    differences = [scores[seed] - reference[seed] for seed in scores if seed in reference]
    return {
        'name': name,
        'what': what,
        'scores': [scores[seed] for seed in sorted(scores)],
        'differences': [] if name == BASE else differences,
        'parameters': trained[0]['parameters'] if trained else None,
        'minutes': statistics.fmean(row['minutes'] for row in trained) if trained else None,
    }


def render(table: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown, and on what it was measured."""
    lines = [
        '| one thing changed | BLEU | worth | seeds | parameters | minutes |',
        '|---|--:|--:|--:|--:|--:|',
    ]
    for line in table:
        parameters = '' if line['parameters'] is None else f'{line["parameters"]:,}'
        minutes = '' if line['minutes'] is None else f'{line["minutes"]:.0f}'
        lines.append(
            f'| {line["what"]} | {_spread(line["scores"], "{:.2f}")} '
            f'| {_spread(line["differences"], "{:+.2f}")} | {len(line["scores"])} '
            f'| {parameters} | {minutes} |'
        )
    if found:
        row = found[0]
        device, versions = (row[field] or rows.NOT_RECORDED for field in ('device', 'versions'))
        lines += [
            '',
            f'Multi30k English-German, test_2016_flickr, sacreBLEU cased (`{row["signature"]}`);',
            f'average of the last {AVERAGE} snapshots, beam {row["beam"]}, alpha {row["alpha"]}, '
            'where the line does not say otherwise. Mean and standard deviation over seeds,',
            f'differences taken seed by seed. {device}; {versions}. Every run has a',
            'row beside this file, with its command.',
        ]
    return '\n'.join(lines) + '\n'


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return ''
    mean = form.format(statistics.fmean(values))
    return mean if len(values) < 2 else f'{mean} ± {statistics.stdev(values):.2f}'


def draw(table: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What each change is worth, with the seeds as points."""
    from seqzoo.analysis.drawing import COLORS, GREY, new_figure, save

    lines = [line for line in table if line['differences']][::-1]
    if not lines:
        return
    figure = new_figure(8, 1.2 + 0.32 * len(lines))
    axes = figure.subplots()
    for place, line in enumerate(lines):
        mean = statistics.fmean(line['differences'])
        spread = statistics.stdev(line['differences']) if len(line['differences']) > 1 else 0.0
        axes.barh(place, mean, xerr=spread, color=COLORS[0 if mean >= 0 else 1], ecolor=GREY)
        axes.plot(line['differences'], [place] * len(line['differences']), '.', color='black')
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(lines)), [line['what'] for line in lines])
    axes.set_xlabel('BLEU more or less than without the change (mean, deviation and single seeds)')
    axes.spines[['top', 'right']].set_visible(False)
    save(figure, path)


if __name__ == '__main__':
    program.run(main)
