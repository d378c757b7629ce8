"""`seqzoo score`."""

import argparse
import json
from pathlib import Path

from seqzoo.commands.command import Command, add_json, table
from seqzoo.commands.lines import read_lines
from seqzoo.errors import UserError

DESCRIPTION = """\
Reads two text files with the same number of lines, hypothesis i against reference i; writes
nothing. Shows every BLEU that people quote side by side with its signature: numbers are comparable
only where the signatures agree.

examples:
  seqzoo predict runs/demo --input test.en --output test.hyp
  seqzoo score test.hyp test.de
  seqzoo score test.hyp test.de --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `score`."""
    parser.add_argument('hypotheses', type=Path, metavar='HYPOTHESES', help='one output per line')
    parser.add_argument(
        'references', type=Path, metavar='REFERENCES', help='the right answer per line'
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints the table of scores."""
    hypotheses, references = read_lines(arguments.hypotheses), read_lines(arguments.references)
    if len(hypotheses) != len(references):
        raise UserError(
            f'{arguments.hypotheses} has {len(hypotheses):,} lines but {arguments.references} has '
            f'{len(references):,}; line i of one is scored against line i of the other'
        )
    if not references:
        raise UserError(f'{arguments.references} is empty; there is nothing to score')
    from seqzoo.scoring import score_table

    scores = score_table(hypotheses, references)
    if arguments.json:
        found = {s.name: {'value': s.value, 'signature': s.signature} for s in scores}
        print(json.dumps({'lines': len(references), 'scores': found}, ensure_ascii=False))
    else:
        print(table([(s.name, f'{s.value:6.2f}', s.signature) for s in scores]))
    return 0


COMMAND = Command(
    'score',
    'compare two text files by every BLEU that people quote',
    DESCRIPTION,
    add_arguments,
    run,
)
