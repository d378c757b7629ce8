"""`seqzoo audit`."""

import argparse
import json
import sys
from typing import Any

from seqzoo.commands.command import Command, add_json, table
from seqzoo.configuration import differences, load_config
from seqzoo.errors import UserError

DESCRIPTION = """\
Reads configurations, writes nothing, needs no data and no memory for the models, however large:
parameters are counted from the shapes of the real module. Every row stands beside what its paper
prints; where the two differ it says by how much and why, and with which vocabulary the printed
figure comes out. Overrides that make another model, task or training of it leave out what the paper
prints of these. Operations are those of the whole training: by formula, and as six for each
parameter and token, in petaFLOP/s-days.

Without CONFIG all configurations that come along are shown, with their variants.

examples:
  seqzoo audit
  seqzoo audit transformer_base_wmt14_ende:B1 --json
  seqzoo audit transformer_base_wmt14_ende --task.tokenizer.vocab-size 41100
  seqzoo audit --markdown > AUDIT.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `audit`."""
    parser.add_argument('configs', metavar='CONFIG', nargs='*', help='only these; NAME:VARIANT too')
    parser.add_argument('--markdown', action='store_true', help='a page of Markdown, as AUDIT.md')
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints a row for each configuration."""
    if arguments.overrides and not arguments.configs:
        raise UserError(f'{arguments.overrides[0]}: say which CONFIG to change')
    if arguments.json and arguments.markdown:
        raise UserError('--json and --markdown are two ways to print; give one of them')
    from seqzoo.analysis.audit import audit_experiment, audit_names

    rows, status = [], 0
    for name in arguments.configs or audit_names():
        try:
            experiment = load_config(name, arguments.overrides)
            changes = differences(load_config(name), experiment) if arguments.overrides else []
            rows.append(audit_experiment(name, experiment, changes))
        except UserError as error:
            if arguments.configs:
                raise
            # One broken file must not hide the others.
            print(f'seqzoo: {name}: {error}', file=sys.stderr)
            status = 2
    print(rendered(rows, arguments), end='')
    return status


def rendered(rows: list[Any], arguments: argparse.Namespace) -> str:
    """What is printed."""
    from seqzoo.analysis.audit import markdown

    if arguments.json:
        return json.dumps({'rows': [row.as_dict() for row in rows]}, ensure_ascii=False) + '\n'
    if arguments.markdown:
        return f'{PAGE}\n{markdown(rows)}'
    lines = [('CONFIG', 'PARAMETERS', 'PRINTED', '', 'FLOPS', 'PFS-DAYS', '6ND', 'TOKENS', 'PEAK')]
    for row in rows:
        deviation = '' if row.deviation is None else f'{100 * row.deviation:+.1f} %'
        lines.append(
            (
                row.config,
                f'{row.counted:,}'.rjust(15),
                row.published.parameters.rjust(11),
                ('agrees' if row.agrees else deviation).rjust(7),
                f'{row.training_flops:.2e}',
                f'{row.petaflop_days:.3g}',
                f'{row.rule_petaflop_days:.3g}',
                f'{row.published.tokens or row.tokens:.2e}',
                f'{row.peak:.3g}',
            )
        )
    text = table(lines) + '\n'
    if arguments.configs:
        text += ''.join(f'\n{row.config}\n{_parts(row)}\n' for row in rows)
    explained = [f'{row.config}: {row.explanation}\n' for row in rows if row.explanation]
    return text + ('\n' + ''.join(explained) if explained else '')


def _parts(row: Any) -> str:
    """The operations of the training by part of the model."""
    total = max(row.training_flops, 1)
    return table(
        [
            (f'  {part.replace("_", " ")}', f'{count:.3e} FLOP', f'{100 * count / total:5.1f} %')
            for part, count in row.flops.items()
        ]
    )


PAGE = """\
# Audit

What the configurations have and what their papers print, as `seqzoo audit --markdown` writes it
(a test holds this page to it). Parameters are counted from the shapes of the real modules, at the
vocabulary that the paper states or the configuration asks for; in brackets those that the printed
figure leaves out too. Training FLOPs are three times the forward pass by formula over all updates
of the configuration, sentences taken to be 32 pieces (160 characters) long; petaFLOP/s-days are the
same, and in brackets six operations for each parameter and token, as the table of GPT-3 counts
them. Tokens are those of one side, as the paper states them or else as the configuration trains on,
padding included. "Known" says how well: *verified* against the paper's text or its authors' code,
*secondary* from another paper or from notes, *memory* not checked.
"""

COMMAND = Command(
    'audit',
    'set parameters and operations of every configuration beside its paper',
    DESCRIPTION,
    add_arguments,
    run,
    ('',),
)
