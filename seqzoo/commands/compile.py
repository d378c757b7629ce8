"""`seqzoo compile`."""

import argparse
import json
import sys
from typing import Any

from seqzoo.commands.command import Command, add_config, add_json, at_least, table
from seqzoo.commands.reporting import say
from seqzoo.configuration import load_config
from seqzoo.errors import UserError

DESCRIPTION = """\
Compiles the real training step for a TPU slice, on a machine without one, and reads the result:
memory of a chip by part, collectives by kind and place, kernels, and the roofline, from which a
step time, MFU and scaling are estimated. Needs libtpu (`pip install 'seqzoo[tpu]'`) and no data:
sizes that only the data knows are the configuration's nominal ones. Allocates nothing and writes
nothing; a small model takes seconds, a large one minutes. The batch is that with the longest rows.

The exit status is 2 where the program does not fit, and one sentence says what would make it fit.

examples:
  seqzoo compile transformer_base_wmt14_ende --topology v5e:4x4
  seqzoo compile transformer_big_wmt14_ende --topology v5e:2x2 --mesh.fsdp 4 --model.remat full
  seqzoo compile transformer_tiny_numerals --topology v5e:1x1 --fit
  seqzoo compile transformer_base_wmt14_ende --topology v6e:2x2 --decode --json
"""

MIB, GIB = 2**20, 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `compile`."""
    add_config(parser)
    parser.add_argument(
        '--topology',
        required=True,
        metavar='T',
        help='chip and slice: v3:2x2, v4:2x2x1, v5e:4x4, v5p:4x4x4, v6e:2x4, 7x:2x2x1, ...',
    )
    parser.add_argument(
        '--decode', action='store_true', help='compile the search for outputs instead'
    )
    parser.add_argument(
        '--fit',
        action='store_true',
        help='find the largest batch.tokens that fits, in up to eight compilations',
    )
    parser.add_argument(
        '--length', type=at_least(1), metavar='L', help='the batch whose rows are this long'
    )
    parser.add_argument(
        '--chips',
        type=_numbers,
        metavar='N,N',
        help='estimate scaling to these numbers of chips (default: the slice, 2, 4 and 8 times it)',
    )
    parser.add_argument('--here', action='store_true', help=argparse.SUPPRESS)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compiles in a process of its own; the exit status says whether it fits."""
    if arguments.here:
        return compile_here(arguments)
    from seqzoo.analysis.apart import run_apart

    outcome = run_apart(['compile', *_words(arguments), '--here'], show=sys.stderr)
    print(outcome.output, end='')
    return outcome.status


def _words(arguments: argparse.Namespace) -> list[str]:
    """The words that these arguments were read from."""
    words = [arguments.config, '--topology', arguments.topology]
    words += [f'--{name}' for name in ('decode', 'fit', 'json') if getattr(arguments, name)]
    if arguments.length:
        words += ['--length', str(arguments.length)]
    if arguments.chips:
        words += ['--chips', ','.join(map(str, arguments.chips))]
    return [*words, *arguments.overrides]


def compile_here(arguments: argparse.Namespace) -> int:
    """Compiles in this process, which the compiler may abort, and prints."""
    experiment = load_config(arguments.config, arguments.overrides)
    from seqzoo.analysis.slices import find_slice, parse_topology

    parse_topology(arguments.topology)
    if arguments.fit and (arguments.decode or arguments.length):
        raise UserError('--fit is for the training step and its longest batch; leave out the rest')
    import jax

    # Nothing runs: the accelerators of this machine, if it has any, are left alone.
    jax.config.update('jax_platforms', 'cpu')
    slice_ = find_slice(arguments.topology)
    from seqzoo.analysis import ahead_of_time
    from seqzoo.analysis.compile_report import as_json, report
    from seqzoo.parallel.mesh import build_mesh

    mesh = build_mesh(experiment.mesh, slice_.devices)
    if arguments.fit:
        from seqzoo.analysis.fitting import fit_batch

        experiment, fit, compiled = fit_batch(experiment, mesh, slice_.room, say=say)
    else:
        fit = None
        if arguments.decode:
            traced = ahead_of_time.trace_search(experiment, mesh)
        else:
            traced = ahead_of_time.trace_step(experiment, mesh, arguments.length)
        compiled = ahead_of_time.compile_traced(traced, slice_.room)
    chips = arguments.chips or [slice_.chips * factor for factor in (1, 2, 4, 8)]
    result = as_json(report(arguments.config, experiment, slice_, compiled, chips))
    if fit is not None:
        tokens = experiment.batch.tokens
        result['fit'] = {'batch_tokens': tokens, 'is_largest': fit.is_largest}
    print(json.dumps(result) if arguments.json else render(result))
    if not result['fits']:
        raise UserError(result['remedy'])
    return 0


def render(result: dict[str, Any]) -> str:
    """The report for people."""
    batch = result['batch']
    mesh = ', '.join(f'{axis} {size}' for axis, size in result['mesh'].items() if size > 1)
    chips = f'{result["chips"]} chip{"s" if result["chips"] > 1 else ""}'
    parts = [
        f'{result["config"]}, {result["program"]} of {batch["rows"]:,} x {batch["length"]:,} for '
        f'{result["topology"]}: {chips}, {mesh or "one device"}; compiled in '
        f'{result["compile_seconds"]:.0f} s',
        _memory(result),
    ]
    if 'fit' in result:
        how = 'the most that fits' if result['fit']['is_largest'] else 'fits; more might'
        parts.append(f'--batch.tokens {result["fit"]["batch_tokens"]} is {how}')
    if 'collectives' in result:
        parts += [_collectives(result), _kernels(result)]
    if 'estimate' in result:
        parts += [_estimate(result['estimate']), _scaling(result['scaling'])]
    if 'bytes_per_decoded_token' in result:
        moved, seconds = (
            result['bytes_per_decoded_token'],
            result['estimated_seconds_per_decoded_token'],
        )
        parts.append(
            f'each step of the search moves {moved / MIB:,.1f} MiB on a device: at best '
            f'{1e6 * seconds:,.1f} us (estimate: bytes / bandwidth)'
        )
    parts += [f'warning: {warning}' for warning in result.get('warnings', [])]
    return '\n\n'.join(part for part in parts if part)


def _memory(result: dict[str, Any]) -> str:
    memory = dict(result['memory'])
    room = memory.pop('room')
    rows: list[tuple[Any, ...]] = [('memory of a device', 'MiB', 'share')]
    rows += [
        (name, f'{size / MIB:,.1f}', f'{size / room:.1%}') for name, size in memory.items() if size
    ]
    answer = 'fits' if result['fits'] else 'does not fit'
    return f'{_right(rows)}\n{room / MIB:,.1f} MiB are there: it {answer}'


def _collectives(result: dict[str, Any]) -> str:
    if not result['collectives']:
        return 'no collectives'
    rows: list[tuple[Any, ...]] = [('collectives', 'kind', 'number', 'MiB a step')]
    rows += [
        (one['place'].replace('_', ' '), one['kind'], one['count'], f'{one["bytes"] / MIB:,.2f}')
        for one in result['collectives']
    ]
    return _right(rows, left=2)


def _kernels(result: dict[str, Any]) -> str:
    found = [f'{name} ({count} times)' for name, count in result['kernels'].items()]
    return f'kernels: {", ".join(found) or "none, plain XLA alone"}'


def _estimate(found: dict[str, Any]) -> str:
    best, worst = (1e3 * seconds for seconds in found['step_seconds'])
    low, high = found['mfu']
    slow, fast = found['tokens_per_second']
    return '\n'.join(
        [
            f'estimate: {best:,.2f} to {worst:,.2f} ms a step, {slow:,.0f} to {fast:,.0f} '
            f'positions/s, MFU {low:.1%} to {high:.1%}; {found["bound"]} takes longest',
            f'  compute {1e3 * found["compute_seconds"]:,.2f} ms '
            f'({found["flops_per_device"] / 1e12:,.3f} TFLOP a device), memory '
            f'{1e3 * found["memory_seconds"]:,.2f} ms ({found["bytes_per_device"] / GIB:,.2f} GiB),'
            f' links {1e3 * found["link_seconds"]:,.2f} ms',
            f'  {found["formula"]}',
        ]
    )


def _scaling(found: list[dict[str, Any]]) -> str:
    head = ('estimated on', 'weak: ms', 'positions/s', 'efficiency', 'strong: ms', 'efficiency')
    rows: list[tuple[Any, ...]] = [head]
    for one in found:
        weak, strong = one['weak'], one.get('strong')
        rows.append(
            (
                f'{one["chips"]:,} chips',
                f'{1e3 * weak["step_seconds"][0]:,.2f}',
                f'{weak["tokens_per_second"]:,.0f}',
                f'{weak["efficiency"][1]:.1%}',
                f'{1e3 * strong["step_seconds"][0]:,.2f}' if strong else '-',
                f'{strong["efficiency"][1]:.1%}' if strong else '-',
            )
        )
    return f'{_right(rows)}\n(everything overlapped; the axis data grows)' if found else ''


def _right(rows: list[tuple[Any, ...]], left: int = 1) -> str:
    """Aligned columns, the first ones to the left and the others to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        row[left:] = [c.rjust(w) for c, w in zip(row[left:], widths[left:], strict=True)]
    return table(cells)


def _numbers(text: str) -> list[int]:
    found = text.split(',')
    if not all(part.isdecimal() and int(part) > 0 for part in found):
        raise argparse.ArgumentTypeError(f'{text!r} is no list of numbers such as 16,64,256')
    return [int(part) for part in found]


COMMAND = Command(
    'compile',
    'compile for a TPU slice without one: memory, collectives, roofline',
    DESCRIPTION,
    add_arguments,
    run,
    ('',),
)
