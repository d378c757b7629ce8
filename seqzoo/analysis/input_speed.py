"""How fast the data pipeline alone makes batches, and how many chips that can feed."""

import itertools
import time
from typing import Any

from seqzoo.analysis.scaling import spread
from seqzoo.analysis.throughput import Source
from seqzoo.errors import UserError
from seqzoo.experiment import Experiment


def measure_input(
    experiment: Experiment,
    source: Source,
    *,
    steps: int,
    repeats: int,
    step_seconds: float | None = None,
    chips: int = 1,
) -> dict[str, Any]:
    """Times batches from the plan to arrays of the host; no device takes part.

    Args:
        experiment: whose training batches are made.
        source: its data.
        steps: batches of a repeat.
        repeats: how many.
        step_seconds: of a training step on `chips` chips; from `seqzoo bench`, or an estimate.
        chips: on how many a step takes `step_seconds`.

    Raises:
        UserError: there is no data; synthetic batches have no pipeline.
    """
    if source.prepared is None:
        raise UserError(f'--input measures the pipeline of real data, but they are {source.note}')
    task = experiment.task
    plan = task.plan(source.prepared, experiment.batch, experiment.seed)
    waiting = task.batches(
        source.prepared, plan, start_step=0, row_multiple=1, process_index=0, process_count=1
    )
    next(waiting)  # starts what reads ahead
    seconds, processor, examples, tokens = [], [], 0, 0
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        for batch in itertools.islice(waiting, steps):
            examples += batch.examples
            tokens += batch.target_tokens
        seconds.append((time.perf_counter() - started) / steps)
        processor.append((time.process_time() - used) / steps)
    count = steps * repeats
    pace, work = spread(seconds), spread(processor)
    result = {
        'data': source.note,
        'steps': steps,
        'repeats': repeats,
        'examples_per_batch': examples / count,
        'tokens_per_batch': tokens / count,
        'seconds_per_batch': pace,
        'processor_seconds_per_batch': work,
        'examples_per_second': examples / count / pace['median'],
        'examples_per_second_per_core': examples / count / max(work['median'], 1e-9),
        'tokens_per_second': tokens / count / pace['median'],
        'feeds_chips': None,
    }
    if step_seconds is not None:
        # While a chip works at its share of a step, so many batches are made.
        result['feeds_chips'] = {
            'step_seconds': step_seconds,
            'step_chips': chips,
            'chips': chips * step_seconds / pace['median'],
            'chips_per_core': chips * step_seconds / max(work['median'], 1e-9),
            'formula': 'chips = step chips x step seconds / seconds to make a batch',
        }
    return result


def in_words(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The result as rows of a table."""
    rows = [
        ('data', result['data']),
        ('examples per second', f'{result["examples_per_second"]:,.0f}'),
        ('examples per second per core', f'{result["examples_per_second_per_core"]:,.0f}'),
        ('tokens per second', f'{result["tokens_per_second"]:,.0f}'),
        ('seconds per batch', f'{result["seconds_per_batch"]["median"]:.5f}'),
    ]
    if (feeds := result['feeds_chips']) is None:
        rows.append(('chips it can feed', 'say how long a step takes: --step-seconds S --chips N'))
    else:
        rows += [
            ('chips it can feed', f'{feeds["chips"]:,.1f}'),
            ('chips per core', f'{feeds["chips_per_core"]:,.1f}'),
            ('formula', feeds['formula']),
        ]
    return rows
