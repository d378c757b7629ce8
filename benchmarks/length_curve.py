"""Scores trained translations by the length of the source: what attention is for.

    python benchmarks/length_curve.py RUN RUN --labels LSTM '+ attention' --name NAME --data-dir D

translates one split with every run, sorts its sentences by the words of their source into buckets
of about equally many, and writes the BLEU of each bucket as `benchmarks/results/NAME.json`,
`NAME.md` and `NAME.png`. All runs must translate the same text.
"""

import argparse
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import numpy as np
import program

from seqzoo.analysis import drawing
from seqzoo.analysis.parameters import count_parameters
from seqzoo.errors import UserError
from seqzoo.scoring.bleu import bleu
from seqzoo.tasks.translation import PreparedTranslation, Translation
from seqzoo.training.run import Run, load_run

RESULTS = Path(__file__).parent / 'results'


def main(argv: list[str] | None = None) -> None:
    """Translates, scores and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('runs', type=Path, nargs='+')
    parser.add_argument('--labels', nargs='+', required=True, help='of the runs, in their order')
    parser.add_argument('--name', required=True, help='of the files in benchmarks/results')
    parser.add_argument('--data-dir', type=Path)
    parser.add_argument('--split', default='test')
    parser.add_argument('--buckets', type=int, default=5, help='groups of sentences')
    parser.add_argument('--average', type=int, default=1, help='newest snapshots, averaged')
    parser.add_argument('--note', default='', help='what a reader has to know about the runs')
    arguments = parser.parse_args(argv)
    if len(arguments.labels) != len(arguments.runs):
        parser.error('give one label for each run')
    if arguments.buckets < 2:
        parser.error('a curve needs at least two buckets')
    before, models, seen = os.getloadavg(), [], None
    for path, label in zip(arguments.runs, arguments.labels, strict=True):
        run = load_run(
            path,
            data_dir=arguments.data_dir,
            splits=(arguments.split,),
            average_last=arguments.average,
        )
        sources, references = text_of(run, arguments.split)
        if seen not in (None, (sources, references)):
            raise UserError(f'{path} translates another text than the first run')
        seen = sources, references
        models.append(
            describe(run, label) | score(run, sources, references, buckets=arguments.buckets)
        )
    found = {
        'split': arguments.split,
        'note': arguments.note,
        'machine': machine.facts(['jax', 'flax', 'optax', 'numpy', 'sacrebleu']),
        'load_average': {'before': before, 'after': os.getloadavg()},
        'models': models,
    }
    text = json.dumps(found, indent=1, ensure_ascii=False) + '\n'
    (RESULTS / f'{arguments.name}.json').write_text(text, encoding='utf-8')
    (RESULTS / f'{arguments.name}.md').write_text(render(found), encoding='utf-8')
    draw(found, RESULTS / f'{arguments.name}.png')
    print(render(found))


def text_of(run: Run, split: str) -> tuple[list[str], list[str]]:
    """Sources and references of a split.

    Raises:
        UserError: the run does not translate.
    """
    if not isinstance(run.prepared, PreparedTranslation):
        raise UserError(f'{run.path} is no translation')
    text = run.prepared.texts[split]
    return list(text.source), list(text.target)


def describe(run: Run, label: str) -> dict[str, Any]:
    """What the run is."""
    experiment = run.experiment
    decode, task = experiment.decode, experiment.task
    return {
        'label': label,
        'what': experiment.description,
        'data': task.data_name,
        'seed': experiment.seed,
        'parameters': count_parameters(task.resolve(experiment.model, run.prepared)),
        'step': run.step,
        'decode': f'{decode.method} {decode.beams}, alpha {decode.length_penalty}',
    }


def score(
    run: Run, sources: Sequence[str], references: Sequence[str], *, buckets: int
) -> dict[str, Any]:
    """Translates, and scores everything together and by length."""
    task = run.experiment.task
    assert isinstance(task, Translation)
    outputs = [prediction.text for prediction in run.predict(sources)]
    whole = bleu(outputs, references, tokenize=task.bleu_tokenizer)
    return {
        'bleu': round(whole.value, 2),
        'signature': whole.signature,
        'by_length': by_length(
            sources, outputs, references, buckets=buckets, tokenize=task.bleu_tokenizer
        ),
    }


def by_length(
    sources: Sequence[str],
    outputs: Sequence[str],
    references: Sequence[str],
    *,
    buckets: int,
    tokenize: str = '13a',
) -> list[dict[str, Any]]:
    """BLEU of the sentences whose sources are about equally long, shortest first.

    Args:
        sources: lines; their length is counted in words between spaces.
        outputs: as many lines.
        references: as many lines.
        buckets: how many groups; fewer come out where many lines have one length.
        tokenize: sacreBLEU's tokenizer.
    """
    words = np.array([len(line.split()) for line in sources])
    last = upper_bounds(words, buckets)
    bucket, rows = np.searchsorted(last, words), []
    for number, longest in enumerate(last):
        inside = bucket == number
        pair = [list(itertools.compress(lines, inside)) for lines in (outputs, references)]
        found = bleu(*pair, tokenize=tokenize)
        rows.append(
            {
                'shortest': int(words[inside].min()),
                'longest': int(longest),
                'mean': round(float(words[inside].mean()), 2),
                'sentences': int(inside.sum()),
                'bleu': round(found.value, 2),
                'brevity_penalty': round(found.details['brevity_penalty'], 3),
            }
        )
    return rows


def upper_bounds(lengths: np.ndarray, buckets: int) -> np.ndarray:
    """`[buckets]` or fewer: the longest length of each of about equally many, ascending."""
    shares = np.arange(1, buckets + 1) / buckets
    return np.unique(np.quantile(lengths, shares, method='higher'))


def render(found: dict[str, Any]) -> str:
    """The table, and what it was measured on."""
    first = found['models'][0]
    groups = [f'{row["shortest"]}-{row["longest"]}' for row in first['by_length']]
    lines = [
        f'BLEU by words of the source, {first["data"]}, {found["split"]}:',
        '',
        f'| | parameters | all | {" | ".join(groups)} |',
        f'|---|--:|--:|{"--:|" * len(groups)}',
        f'| sentences | | {sum(row["sentences"] for row in first["by_length"]):,} '
        f'| {" | ".join(str(row["sentences"]) for row in first["by_length"])} |',
    ]
    for model in found['models']:
        values = ' | '.join(f'{row["bleu"]:.1f}' for row in model['by_length'])
        lines.append(
            f'| {model["label"]} | {model["parameters"] / 1e6:.1f}M | {model["bleu"]:.1f} '
            f'| {values} |'
        )
    decoded = '; '.join(
        f'{model["label"]}: {model["what"]}, seed {model["seed"]}, step {model["step"]:,}, '
        f'{model["decode"]}'
        for model in found['models']
    )
    lines += [
        '',
        f'{first["signature"]}. {decoded}. {found["note"]}'.strip(),
        '',
        machine.ran_on(found),
    ]
    return '\n'.join(lines) + '\n'


def draw(found: dict[str, Any], path: Path) -> None:
    """One curve for each run."""
    figure = drawing.new_figure(8, 4.5)
    axes = figure.subplots()
    for number, model in enumerate(found['models']):
        rows = model['by_length']
        axes.plot(
            [row['mean'] for row in rows],
            [row['bleu'] for row in rows],
            marker='o',
            color=drawing.COLORS[number % len(drawing.COLORS)],
            linestyle=drawing.LINE_STYLES[number % len(drawing.LINE_STYLES)],
            label=f'{model["label"]} (all: {model["bleu"]:.1f})',
        )
    drawing.style_curves(axes, 'words of the source (mean of each bucket)', 'sacreBLEU')
    axes.set_ylim(bottom=0)
    axes.set_title(
        f'{found["models"][0]["data"]}, {found["split"]}: BLEU by length of the source',
        loc='left',
        fontsize=drawing.TITLE_SIZE,
    )
    axes.legend(frameon=False, fontsize=drawing.TICK_SIZE)
    drawing.save(figure, path)


if __name__ == '__main__':
    program.run(main)
