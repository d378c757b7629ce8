"""`seqzoo evaluate`."""

import argparse
import json
from typing import Any

from seqzoo.buckets import place
from seqzoo.commands.command import (
    RUNNING,
    Command,
    add_checkpoint,
    add_data_dir,
    add_json,
    is_writer,
    table,
)
from seqzoo.commands.processes import EXPLANATION, add_processes, join
from seqzoo.commands.reporting import examples_done, say

DESCRIPTION = f"""\
Reads the run folder R and a split of its data; adds the result to R/results.json. Every example of
the split counts once. `bleu` is sacreBLEU of detokenised text, whose signature is printed with it;
`exact_match` is in percent, `loss` in nats per token, `perplexity` its exponential; of labels
`accuracy`, `macro_f1` and what is said by class are in percent, `majority_accuracy` is that of
always giving the most frequent label of the training data, `margin` what a model adds to it;
`--batch.evaluation-rows 1` reads running text as one stream, which is exact and slow.

{EXPLANATION}
examples:
  seqzoo evaluate runs/demo
  seqzoo evaluate runs/base --split dev --average 5 --data-dir D --json
  seqzoo evaluate runs/base --data-dir D --decode.beams 8 --decode.length-penalty 1.0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `evaluate`."""
    parser.add_argument('run', type=place, metavar='R', help='the run folder, or gs://BUCKET/RUN')
    parser.add_argument('--split', default='test', help='which part of the data (default: test)')
    add_checkpoint(parser)
    add_data_dir(parser)
    add_json(parser)
    add_processes(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints the metrics of a split."""
    join(arguments)
    from seqzoo.training import evaluate

    with examples_done('evaluate') as progress:
        result = evaluate(
            arguments.run,
            split=arguments.split,
            step=arguments.step,
            data_dir=arguments.data_dir,
            average=arguments.average,
            overrides=arguments.overrides,
            progress=progress,
            announce=say,
        )
    if not is_writer():
        return 0
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False))
        return 0
    print(f'{arguments.run}, step {result.get("step")}, {arguments.split}{_made_how(result)}')
    metrics = result['metrics']
    single = {name: value for name, value in metrics.items() if not isinstance(value, dict)}
    print(table([(name, _shown(value)) for name, value in single.items()]))
    for name in metrics.keys() - single.keys():
        print(f'\n{_by_name(name, metrics[name])}')
    if result.get('signature'):
        print(f'signature  {result["signature"]}')
    return 0


def _made_how(result: dict[str, Any]) -> str:
    """Data with its direction, averaging and search, without which a figure says nothing."""
    parts = [f' of {result["data"]}' if result.get('data') else '']
    if averaged := result.get('averaged'):
        first, last = averaged[0], averaged[-1]
        parts.append(f'average of {len(averaged)} snapshots (steps {first:,} to {last:,})')
    decode = result.get('decode') or {}
    if result.get('signature') and decode:
        beam = f'beam {decode["beams"]}, alpha {decode["length_penalty"]}'
        parts.append(beam if decode['method'] == 'beam' else decode['method'])
    return ', '.join(parts)


def _by_name(name: str, rows: dict[str, dict[str, Any]]) -> str:
    """A table of several numbers for each of several things, such as classes."""
    columns = list(next(iter(rows.values()), {}))
    header = (name, *(column.rjust(10) for column in columns))
    return table([header, *((n, *map(_shown, row.values())) for n, row in rows.items())])


def _shown(value: Any) -> str:
    return f'{value:10.4f}' if isinstance(value, float) else str(value).rjust(10)


COMMAND = Command(
    'evaluate',
    'measure a run on a split of its data',
    DESCRIPTION,
    add_arguments,
    run,
    RUNNING,
)
