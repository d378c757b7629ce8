"""Compiles every paper's configuration for the smallest TPU slice that holds it; writes a table.

Nothing runs and nothing is allocated: programs are compiled for slices that are not here, by libtpu
(`pip install 'seqzoo[tpu]'`). A row is a configuration, a list of slices from small to large, and
the mesh on each; they are tried in this order, and the first that holds the training step is the
row's result, with what the compiler says of it. What is found is written at once, also that a slice
is too small, and is not compiled again: the program may be stopped and started at any time.

    python benchmarks/tpu_table.py                    # all rows that are missing
    python benchmarks/tpu_table.py transformer_base   # rows whose name begins so
    python benchmarks/tpu_table.py --again NAME       # although they are there
    python benchmarks/tpu_table.py --list
    python benchmarks/tpu_table.py --render           # the Markdown from the JSON alone
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import program

from seqzoo.analysis.apart import run_apart
from seqzoo.analysis.parameters import count_parameters
from seqzoo.analysis.slices import parse_topology
from seqzoo.configuration import load_config
from seqzoo.errors import UserError

RESULTS = Path(__file__).parent / 'results'
JSON, MARKDOWN = RESULTS / 'tpu_slices.json', RESULTS / 'tpu_slices.md'
GIB = 2**30

# Slices from small to large, each with the overrides that lay the program over it.
SMALL = (
    ('v5e:1x1', ()),
    ('v5e:2x2', ('--mesh.fsdp', '4', '--mesh.data', '1')),
    ('v5e:4x4', ('--mesh.fsdp', '16', '--mesh.data', '1')),
    ('v5p:2x2x1', ('--mesh.fsdp', '4', '--mesh.data', '1')),
)


def v5p(*shapes: tuple[str, int, int]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Slices of v5p with parameters split over `fsdp` x `tensor` chips."""
    return tuple(
        (
            f'v5p:{shape}',
            ('--mesh.data', '1', '--mesh.fsdp', str(fsdp), '--mesh.tensor', str(tensor)),
        )
        for shape, fsdp, tensor in shapes
    )


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: of the row.
        what: for people.
        config: the configuration's name.
        overrides: of it.
        slices: to try.
    """

    name: str
    what: str
    config: str
    overrides: tuple[str, ...] = ()
    slices: tuple[tuple[str, tuple[str, ...]], ...] = SMALL


# Of GPT-3: slices of v5p, with parameters split over so many chips along `fsdp` and `tensor`.
GPT3 = {
    'small': v5p(('2x2x1', 4, 1)),
    'medium': v5p(('2x2x1', 4, 1), ('2x2x2', 8, 1)),
    'large': v5p(('2x2x1', 4, 1), ('2x2x2', 8, 1)),
    'xl': v5p(('2x2x1', 4, 1), ('2x2x2', 8, 1), ('2x2x4', 16, 1)),
    '2_7b': v5p(('2x2x1', 4, 1), ('2x2x2', 8, 1), ('2x2x4', 16, 1), ('2x4x4', 32, 1)),
    '6_7b': v5p(('2x2x2', 8, 1), ('2x2x4', 16, 1), ('2x4x4', 32, 1), ('4x4x4', 64, 1)),
    '13b': v5p(('2x2x4', 16, 1), ('2x4x4', 32, 1), ('4x4x4', 64, 1), ('4x4x8', 128, 1)),
    '': v5p(('4x4x4', 16, 4), ('4x4x8', 32, 4), ('4x8x8', 64, 4), ('8x8x8', 128, 4)),
}


def rows() -> Iterator[Row]:
    """All of them, in the order of the table."""
    yield Row('transformer_base', 'Transformer base', 'transformer_base_wmt14_ende')
    yield Row('transformer_big', 'Transformer big', 'transformer_big_wmt14_ende')
    for size in ('', 'medium', 'large', 'xl'):
        yield Row(f'gpt2_{size or "small"}', f'GPT-2 {size or "small"}', _variant('gpt2', size))
    for size, slices in GPT3.items():
        name = size.replace('_', '.').upper() if size[:1].isdigit() else size or '175B'
        yield Row(f'gpt3_{size or "175b"}', f'GPT-3 {name}', _variant('gpt3', size), slices=slices)
    yield Row('bert_large', 'BERT large', 'bert_large')
    yield Row('lstm_large', 'LSTM large, Penn Treebank', 'lstm_ptb:large')
    yield Row('lstm_big_lm1b', 'LSTM-8192-1024, One Billion Words', 'lstm_big_lm1b')


def _variant(config: str, name: str) -> str:
    return f'{config}:{name}' if name else config


def compile_row(
    row: Row, tried: list[dict[str, Any]], keep: Callable[[list[dict[str, Any]]], None]
) -> dict[str, Any]:
    """Tries its slices from small to large.

    Args:
        row: to compile.
        tried: the slices that are known to be too small.
        keep: told when there is one more.

    Returns:
        The report of the first that holds it, what the smaller ones lacked, and when it was made.
    """
    for topology, mesh_options in row.slices:
        if topology in {one['topology'] for one in tried}:
            continue
        experiment = load_config(row.config, [*row.overrides, *mesh_options])
        print(f'{row.name}: {topology} ...', file=sys.stderr, flush=True)
        chips = str(math.prod(parse_topology(topology)[1]))
        words = [row.config, '--topology', topology, '--chips', chips, '--json']
        words += [*row.overrides, *mesh_options]
        try:
            outcome = run_apart(['compile', *words, '--here'])
            if not outcome.output:  # rows that the devices do not divide, for example
                raise UserError(outcome.said.removeprefix('seqzoo: '))
        except UserError as error:
            tried.append({'topology': topology, 'refused': str(error)})
            keep(tried)
            continue
        found = json.loads(outcome.output)
        if found['fits']:
            return {
                'name': row.name,
                'what': row.what,
                'parameters': count_parameters(experiment.nominal_model()),
                'too_small': tried,
                'made': {
                    'date': time.strftime('%Y-%m-%d'),
                    'jax': jax.__version__,
                },
                **found,
            }
        needed = found['memory']['total']
        tried.append({'topology': topology, 'needs_bytes': needed, 'remedy': found['remedy']})
        keep(tried)
    return {'name': row.name, 'what': row.what, 'too_small': tried, 'fits': False}


def load() -> dict[str, dict[str, Any]]:
    """Rows that are there, by name."""
    if not JSON.exists():
        return {}
    return {row['name']: row for row in json.loads(JSON.read_text(encoding='utf-8'))['rows']}


def save(found: dict[str, dict[str, Any]]) -> None:
    """Writes both files; a stop in the middle leaves the old ones."""
    order = [row.name for row in rows()]
    listed = [found[name] for name in order if name in found]
    for path, text in (
        (JSON, json.dumps({'rows': listed}, indent=1) + '\n'),
        (MARKDOWN, markdown([row for row in listed if 'pending' not in row])),
    ):
        partial = path.with_name(f'.{path.name}.part')
        partial.write_text(text, encoding='utf-8')
        partial.replace(path)


def markdown(found: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        '# The smallest TPU slice that holds each training step',
        '',
        'Compiled for slices that were not there (`seqzoo compile`), with the batch of the paper; '
        'nothing was run. Memory is what the compiler says a device needs; step times and MFU are '
        'estimates of the best case, from all of compute, memory and links at the same time to one '
        'after the other. `benchmarks/tpu_table.py` writes this file.',
        '',
        '| model | parameters | batch | slice | chips | mesh | memory of a device '
        '| step, estimated | MFU, estimated | next smaller one |',
        '|---|---|---|---|---|---|---|---|---|---|',
    ]
    for row in found:
        if not row['fits']:
            tried = ', '.join(one['topology'] for one in row['too_small'])
            lines.append(f'| {row["what"]} | | | none of {tried} | | | | | | |')
            continue
        mesh = ' x '.join(f'{axis} {size}' for axis, size in row['mesh'].items() if size > 1)
        best, worst = row['estimate']['step_seconds']
        low, high = row['estimate']['mfu']
        memory = row['memory']
        lines.append(
            f'| {row["what"]} | {row["parameters"] / 1e6:,.0f}M | {row["batch"]["rows"]:,} x '
            f'{row["batch"]["length"]:,} | {row["topology"]} | {row["chips"]} | {mesh or "one"} | '
            f'{memory["total"] / GIB:.1f} of {memory["room"] / GIB:.1f} GiB | {best:.3g} to '
            f'{worst:.3g} s | {low:.0%} to {high:.0%} | {_smaller(row["too_small"])} |'
        )
    return '\n'.join([*lines, ''])


def _smaller(tried: list[dict[str, Any]]) -> str:
    if not tried:
        return '-'
    last = tried[-1]
    if 'refused' in last:
        return f'{last["topology"]}: {last["refused"]}'
    return f'{last["topology"]} would need {last["needs_bytes"] / GIB:.1f} GiB'


def _state(found: dict[str, Any] | None) -> str:
    if found is None:
        return ''
    return '  (begun)' if 'pending' in found else '  (done)'


def main() -> int:
    """Compiles what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('names', nargs='*', help='rows whose names begin so; default: all')
    parser.add_argument('--again', action='store_true', help='compile them although they are there')
    parser.add_argument('--list', action='store_true', help='say which there are')
    parser.add_argument('--render', action='store_true', help='only write the Markdown anew')
    given = parser.parse_args()
    jax.config.update('jax_platforms', 'cpu')
    found = load()
    chosen = [row for row in rows() if not given.names or row.name.startswith(tuple(given.names))]
    if given.list:
        for row in chosen:
            print(f'{row.name}{_state(found.get(row.name))}')
        return 0
    for row in () if given.render else chosen:
        before = {} if given.again else found.get(row.name, {})
        if before and 'pending' not in before:
            continue

        def keep(tried: list[dict[str, Any]], row: Row = row) -> None:
            found[row.name] = {'name': row.name, 'pending': True, 'too_small': tried}
            save(found)

        try:
            found[row.name] = compile_row(row, list(before.get('too_small', [])), keep)
        except UserError as error:
            print(f'{row.name} is left out: {error}', file=sys.stderr)
            continue
        save(found)
    save(found)
    return 0


if __name__ == '__main__':
    program.run(main)
