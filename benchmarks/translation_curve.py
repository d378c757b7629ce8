"""Scores a trained translation run over its training time, and records what it takes to redo it.

    python benchmarks/translation_curve.py RUN --name NAME --data-dir D

reads the run folder RUN, scores its snapshots (and their average, and the best checkpoint) on dev
and test, and writes `benchmarks/results/NAME.json` (one result row and the curve) and `NAME.png`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import facts_of_runs
import jax
import program
import rows

from seqzoo.training.averaging import average
from seqzoo.training.checkpoint import Checkpoints
from seqzoo.training.run import Run, load_run
from seqzoo.training.run_folder import SNAPSHOTS


def main() -> None:
    """Scores and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    facts_of_runs.add_options(parser)
    parser.add_argument('--points', type=int, default=10, help='snapshots on the curve')
    parser.add_argument('--average', type=int, default=10, help='snapshots in the final average')
    arguments = parser.parse_args()
    run = load_run(arguments.run, data_dir=arguments.data_dir, splits=('dev', 'test'))
    facts = facts_of_runs.describe(run, **facts_of_runs.given(arguments))  # before what takes time
    clock = facts_of_runs.seconds_by_step(arguments.run)
    has_snapshots = (arguments.run / SNAPSHOTS).is_dir()
    points = list(curve(run, arguments.points, clock)) if has_snapshots else []
    final = final_scores(run, arguments.average if has_snapshots else 0)
    row = rows.finish(facts | {'results': final, 'curve': points})
    rows.write(row)
    if points:
        draw(points, final, row, rows.RESULTS / f'{arguments.name}.png')
    print(json.dumps(final, indent=2))


def score(run: Run, params: Any, split: str, **decoding: Any) -> dict[str, Any]:
    """All metrics of some parameters on a split."""
    from dataclasses import replace

    runtime = run.runtime.with_variables({**run.runtime.variables, 'params': params})
    experiment = run.experiment
    decode = replace(experiment.decode, **decoding)
    return experiment.task.evaluate(runtime, run.prepared, split, experiment.batch, decode)


def curve(run: Run, points: int, clock: dict[int, float]):
    """Dev and test scores of some snapshots, decoded greedily, with the time they were taken."""
    abstract = abstract_params(run)
    with Checkpoints(run.path / SNAPSHOTS, read_only=True) as snapshots:
        steps = snapshots.steps()
        count = min(points, len(steps))
        chosen = [steps[(i + 1) * len(steps) // count - 1] for i in range(count)]
        for step in chosen:
            restored = snapshots.restore_params(abstract, step)
            assert restored is not None, f'step {step} was there'
            scores = {s: score(run, restored.state, s, method='greedy') for s in ('dev', 'test')}
            seconds = max((t for at, t in clock.items() if at <= step), default=0.0)
            yield {
                'step': step,
                'minutes': round(seconds / 60, 2),
                **{
                    f'{split}_{name}': round(value, 4)
                    for split, found in scores.items()
                    for name, value in found.items()
                    if isinstance(value, float)
                },
            }
            print(
                f'step {step}: {scores["dev"]["bleu"]:.2f} dev, {scores["test"]["bleu"]:.2f} test'
            )


def abstract_params(run: Run) -> Any:
    """Shapes, dtypes and shardings of the parameters."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), run.params
    )


def final_scores(run: Run, last: int) -> dict[str, Any]:
    """Test scores of the best checkpoint and of the average, by the search of the experiment."""
    best = {
        'best_checkpoint': {
            'step': run.step,
            'test': score(run, run.params, 'test'),
            'test_ladder': facts_of_runs.ladder(run, run.params, 'test'),
        }
    }
    if not last:
        return best
    averaged = average(run.path / SNAPSHOTS, abstract_params(run), last=last)
    return {
        **best,
        f'average_of_last_{last}': {
            'dev': score(run, averaged, 'dev'),
            'test': score(run, averaged, 'test'),
            'test_greedy': score(run, averaged, 'test', method='greedy'),
            'test_ladder': facts_of_runs.ladder(run, averaged, 'test'),
        },
    }


def draw(points: list[dict[str, Any]], final: dict[str, Any], row: dict[str, Any], path: Path):
    """BLEU over training time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=150, layout='constrained')
    axes = figure.subplots()
    minutes = [p['minutes'] for p in points]
    axes.plot(
        minutes, [p['test_bleu'] for p in points], 'o-', color='#0072b2', label='test, greedy'
    )
    axes.plot(minutes, [p['dev_bleu'] for p in points], 's--', color='#d55e00', label='dev, greedy')
    name, best = next((n, f) for n, f in final.items() if n.startswith('average'))
    value = best['test']['bleu']
    label = f'test, {name.replace("_", " ")}, beam {row["beam"]}: {value:.1f}'
    axes.plot(minutes[-1:], [value], '*', color='#0072b2', markersize=14, label=label)
    axes.set_xlabel('training time (minutes)')
    axes.set_ylabel('sacreBLEU, cased')
    axes.set_ylim(bottom=0)
    where = f'device {rows.said(row, "device")}' if row['device'] is None else row['device']
    axes.set_title(f'{row["data"]}, {row["parameters"]:,} parameters, {where}', loc='left')
    axes.grid(color='#dddddd')
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, loc='lower right')
    figure.savefig(path)


if __name__ == '__main__':
    program.run(main)
