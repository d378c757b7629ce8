"""`seqzoo show`."""

import argparse
import json
from typing import Any

from seqzoo.commands.command import Command, add_config, add_json, table
from seqzoo.configuration import load_config, options, to_json

DESCRIPTION = """\
Reads a configuration, applies the overrides, and shows every option with its value, every parameter
with its shape and axis names, and the floating-point operations of a step. Writes nothing, needs no
data, allocates nothing: a model of any size can be looked at.

examples:
  seqzoo show transformer_tiny_numerals
  seqzoo show transformer_base_wmt14_ende --model.num-layers 2
  seqzoo show transformer_tiny_numerals --json
"""


def run(arguments: argparse.Namespace) -> int:
    """Prints the resolved experiment."""
    experiment = load_config(arguments.config, arguments.overrides)
    from seqzoo.analysis.flops import humanize, render_flops, training_flops
    from seqzoo.analysis.parameters import parameter_table, render_parameter_table

    model = experiment.nominal_model()
    rows = parameter_table(model)
    parameters = sum(row.count for row in rows)
    batch_rows = max(experiment.batch.tokens // experiment.batch.max_length, 1)
    parts = training_flops(model, batch_rows, experiment.batch.max_length)
    flops = parts if isinstance(parts, int) else parts.training()
    if arguments.json:
        result = {
            'config': arguments.config,
            'parameters': parameters,
            'flops_per_step': flops,
            'experiment': json.loads(to_json(experiment)),
            'parameter_table': [
                {'path': r.path, 'shape': r.shape, 'axes': r.axes, 'dtype': r.dtype} for r in rows
            ],
        }
        print(json.dumps(result, ensure_ascii=False))
        return 0
    if experiment.description:
        print(f'{experiment.description}\n')
    if experiment.published.paper:
        print(f'{experiment.published.paper}: {experiment.published.result}\n')
    print(_option_table(experiment))
    print(f'\n{render_parameter_table(rows)}')
    shape = f'{batch_rows} x {experiment.batch.max_length} tokens'
    print(f'\n{humanize(flops)} in a training step of {shape}, forward and backward')
    if not isinstance(parts, int):
        print(render_flops(parts))
    return 0


def _option_table(experiment: Any) -> str:
    rows: list[tuple[str, str, str]] = []
    for option in options(experiment):
        if option.path.partition('.')[0] not in ('description', 'published'):
            value = 'none' if option.value is None else str(option.value)
            rows.append(('--' + option.path.replace('_', '-'), value, option.type))
    return table(rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `show`."""
    add_config(parser)
    add_json(parser)


COMMAND = Command(
    'show',
    'show a configuration, its parameters and its cost',
    DESCRIPTION,
    add_arguments,
    run,
    ('',),
)
