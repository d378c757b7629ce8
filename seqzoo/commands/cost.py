"""`seqzoo cost`."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from seqzoo.commands.command import Command, add_config, add_json, table
from seqzoo.commands.lines import read_lines
from seqzoo.configuration import load_config
from seqzoo.errors import UserError

DESCRIPTION = """\
Estimates what a whole training needs: chips, hours, disk and money. Writes nothing, needs no data
and no accelerator. With --topology the time of an update is its operations over the peak of the
chips and an assumed MFU; with --compiled it is what `seqzoo compile --json` with the same options
says of the real step on its slice, as a range. Prices change and are yours to give, in any money,
of one chip for one hour. What it prints is an estimate: it leaves out evaluations, saves, restarts
and queues. Attention counts as the whole square of positions; programs that halve it where it looks
back only print another MFU for the same speed.

examples:
  seqzoo cost transformer_base_wmt14_ende --topology v5e:4x4
  seqzoo cost transformer_big_wmt14_ende --topology v5p:2x2x1 --mfu 0.4 --price 4.2
  seqzoo compile transformer_base_wmt14_ende --topology v5e:2x4 --json > step.json
  seqzoo cost transformer_base_wmt14_ende --compiled step.json --price 1.2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `cost`."""
    add_config(parser)
    parser.add_argument('--topology', metavar='T', help='chip and slice, as of `seqzoo compile`')
    parser.add_argument(
        '--compiled', type=Path, metavar='FILE', help='what `seqzoo compile CONFIG --json` printed'
    )
    parser.add_argument('--mfu', type=float, metavar='M', help='assumed share of the peak: 0.35')
    parser.add_argument('--price', type=float, metavar='P', help='of a chip for an hour')
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints the estimate."""
    if (arguments.topology is None) is (arguments.compiled is None):
        raise UserError('seqzoo cost needs either --topology or --compiled')
    if arguments.compiled is not None and arguments.mfu is not None:
        raise UserError('--mfu is an assumption, which --compiled has no need of; give one of them')
    if arguments.price is not None and not 0 <= arguments.price < math.inf:
        raise UserError(f'--price {arguments.price}: a price is a number, not below 0')
    experiment = load_config(arguments.config, arguments.overrides)
    from seqzoo.analysis.cost import ASSUMED_MFU, cost_as_compiled, cost_by_formula

    if arguments.compiled is not None:
        found = cost_as_compiled(
            arguments.config, experiment, _compiled(arguments.compiled), arguments.price
        )
    else:
        from seqzoo.analysis.slices import parse_topology

        chip, shape = parse_topology(arguments.topology)
        found = cost_by_formula(
            arguments.config,
            experiment,
            kind=chip.name,
            chips=math.prod(shape),
            peak=chip.peak,
            mfu=ASSUMED_MFU if arguments.mfu is None else arguments.mfu,
            price=arguments.price,
        )
    print(json.dumps(found.as_dict()) if arguments.json else _text(found))
    return 0


def _compiled(path: Path) -> dict[str, Any]:
    try:
        found = json.loads('\n'.join(read_lines(path)))
    except ValueError as error:
        raise UserError(f'{path} is not what `seqzoo compile --json` prints ({error})') from error
    if not isinstance(found, dict):
        raise UserError(f'{path} is not what `seqzoo compile --json` prints')
    return found


def _text(found: Any) -> str:
    rows = [
        ('updates', f'{found.steps:,}'),
        ('operations', f'{found.flops:.2e}'),
        ('seconds an update', _range(found.seconds_per_step, '.3g')),
        ('hours', _range(found.hours, ',.1f')),
        ('chip-hours', _range(found.chip_hours, ',.1f')),
        (
            'money',
            'chip-hours times your --price' if found.money is None else _range(found.money, ',.0f'),
        ),
        *(
            (f'disk: {name}', 'only the data says' if size is None else f'{size / 1e9:,.2f} GB')
            for name, size in found.disk.items()
        ),
    ]
    return (
        f'ESTIMATE for {found.config} on {found.chips} chips of {found.kind}, from {found.basis}'
        f'\n\n{table(rows)}\n\nwithout evaluations, saves, restarts and queues'
    )


def _range(pair: tuple[float, float], form: str) -> str:
    low, high = (format(value, form) for value in pair)
    return low if low == high else f'{low} to {high}'


COMMAND = Command(
    'cost',
    'estimate chips, hours, disk and money of a whole training',
    DESCRIPTION,
    add_arguments,
    run,
    ('',),
)
