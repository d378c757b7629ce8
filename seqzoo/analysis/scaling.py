"""What measurements of a step on several numbers of devices say together: a result of JSON, its
table and its picture.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqzoo.analysis import drawing
from seqzoo.analysis.flops import model_flops_utilization
from seqzoo.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND = 'seqzoo bench'
# What must agree for measurements to stand in one table.
SAME = ('config', 'experiment', 'data', 'platform', 'device_kind')

_LINEAR_UP_TO = 16  # times as many devices as the fewest; beyond, a picture needs logarithms

Result = dict[str, Any]


def measurements(
    ready: Mapping[str, Any], rounds: Sequence[Sequence[float]]
) -> list[dict[str, Any]]:
    """One entry for each case and scaling, from what a process said and timed.

    Args:
        ready: of `throughput.Bench.prepare`.
        rounds: `[repeats][cases]` seconds.
    """
    found = []
    for case, seconds in zip(ready['cases'], zip(*rounds, strict=True), strict=True):
        case = dict(case)
        scalings, steps = case.pop('scalings'), case['steps_per_round']
        rates = [case['tokens_per_round'] / s for s in seconds]
        peak = case['peak_flops_per_device']
        middle = statistics.median(seconds)
        entry = {
            **case,
            'processes': ready['processes'],
            'simulated': ready['simulated'],
            'seconds_per_step': spread([s / steps for s in seconds]),
            'tokens_per_second': spread(rates),
            'examples_per_second': case['examples_per_round'] / middle,
            'flops_per_second': case['flops_per_round'] / middle,
            'padding': 1 - case['tokens_per_round'] / case['positions_per_round'],
            'mfu': None
            if peak is None
            else model_flops_utilization(
                case['flops_per_round'],
                middle,
                num_devices=case['devices'],
                peak_per_device=peak,
            ),
        }
        found += [{'scaling': scaling, **entry} for scaling in scalings]
    return found


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles, extremes and all values of a series."""
    low, middle, high = (
        statistics.quantiles(values, n=4, method='inclusive')
        if len(values) > 1
        else (values[0],) * 3
    )
    return {
        'median': middle,
        'quartiles': [low, high],
        'least': min(values),
        'most': max(values),
        'all': list(values),
    }


def with_efficiency(result: Result) -> Result:
    """The result with every measurement set against the one on the fewest devices of its kind.

    The efficiency is the tokens per second of one device over those of one device there; 1 where
    devices do not disturb each other, in strong as in weak scaling.
    """
    entries = sorted(
        result['measurements'], key=lambda m: (m['scaling'], m['strategy'], m['devices'])
    )
    fewest: dict[tuple[str, str], Mapping[str, Any]] = {}
    for entry in entries:
        base = fewest.setdefault((entry['scaling'], entry['strategy']), entry)
        rate, of_base = (m['tokens_per_second']['median'] / m['devices'] for m in (entry, base))
        entry['efficiency'] = {'value': rate / of_base, 'against_devices': base['devices']}
    return {**result, 'measurements': entries, 'simulated': any(m['simulated'] for m in entries)}


def merged(files: Sequence[Path]) -> Result:
    """Results of several slices as one.

    Raises:
        UserError: a file is no such result, they measure different things, or one thing twice.
    """
    results = [_read(file) for file in files]
    first = results[0]
    seen: dict[Any, Path] = {}
    for file, result in zip(files, results, strict=True):
        other = [name for name in SAME if result[name] != first[name]]
        if other:
            raise UserError(
                f'{file} and {files[0]} differ in {", ".join(other)}; only measurements of the '
                'same experiment on the same kind of device can be joined.'
            )
        for m in result['measurements']:
            key = (m['devices'], m['scaling'], m['strategy'])
            if key in seen:
                raise UserError(
                    f'{seen[key]} and {file} both have {m["devices"]} devices ({m["scaling"]}, '
                    f'{m["strategy"]}); leave one of them out.'
                )
            seen[key] = file
    joined = [m for result in results for m in result['measurements']]
    return with_efficiency({**first, 'measurements': joined})


def _read(file: Path) -> Result:
    try:
        result = json.loads(file.read_text(encoding='utf-8'))
        if result['kind'] != KIND or not result['measurements']:
            raise ValueError('it has no measurements')
        rows(with_efficiency(result))  # reads all that is shown
        _ = [result[name] for name in SAME]
    except OSError as error:
        raise UserError(f'{file} cannot be read: {error.strerror or error}.') from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{file} is not a result of seqzoo bench ({error!r}).') from error
    return result


def caution(result: Result) -> str:
    """What a reader must know before the numbers are read; '' if nothing."""
    if not result['simulated']:
        return ''
    return (
        f'The devices are simulated: all of them share the {result["cores"]} cores of one machine. '
        'How the numbers change with their count shows what partitioning adds to a program; it is '
        'no speed and no scaling of any accelerator.'
    )


def rows(result: Result) -> list[tuple[str, ...]]:
    """The table: a header, and a row for each measurement."""
    header = ('scaling', 'strategy', 'devices', 'tokens/s', 'quartiles', 's/step', 'MFU')
    header += ('efficiency', 'compile s', 'input s', 'transfer s')
    return [header, *map(_row, result['measurements'])]


def _row(m: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = m['tokens_per_second']['quartiles']
    return (
        m['scaling'],
        m['strategy'],
        str(m['devices']),
        f'{m["tokens_per_second"]["median"]:,.0f}',
        f'{low:,.0f} to {high:,.0f}',
        f'{m["seconds_per_step"]["median"]:.4f}',
        'unknown' if m['mfu'] is None else f'{m["mfu"]:.1%}',
        f'{m["efficiency"]["value"]:.0%}',
        f'{m["compile_seconds"]:.1f}',
        f'{m["input_seconds_per_step"]:.4f}',
        f'{m["transfer_seconds_per_step"]:.4f}',
    )


def scaling_curves(result: Result, path: str | os.PathLike[str] | None = None) -> Figure:
    """Tokens per second and efficiency against the number of devices, a curve for each kind.

    Args:
        result: with efficiencies.
        path: where to write the PNG.
    """
    figure = drawing.new_figure(9, 4.6)
    speed, share = figure.subplots(1, 2)
    kinds = sorted({(m['scaling'], m['strategy']) for m in result['measurements']})
    for index, kind in enumerate(kinds):
        chosen = [m for m in result['measurements'] if (m['scaling'], m['strategy']) == kind]
        _draw_kind(speed, share, chosen, ', '.join(kind), index)
    counts = sorted({m['devices'] for m in result['measurements']})
    wide = counts[-1] > _LINEAR_UP_TO * counts[0]
    for axes, label in (
        (speed, 'tokens per second (median and quartiles)'),
        (share, 'efficiency of a device'),
    ):
        drawing.style_curves(axes, 'simulated devices' if result['simulated'] else 'devices', label)
        if wide:
            axes.set_xscale('log', base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
    if wide:
        speed.set_yscale('log', base=2)
    else:
        speed.set_ylim(bottom=0)
    speed.yaxis.set_major_formatter(lambda value, _: f'{value:,.0f}')
    share.set_ylim(bottom=0)
    share.axhline(1, color=drawing.GREY, linewidth=0.8, linestyle=':')
    share.yaxis.set_major_formatter(lambda value, _: f'{value:.0%}')
    speed.legend(fontsize=drawing.TICK_SIZE, frameon=False)
    title = f'{result["config"]} on {result["device_kind"]}'
    if result['simulated']:
        title += ': devices simulated on one machine, not a speed'
    figure.suptitle(
        drawing.wrapped(title, 8.4), x=0.01, ha='left', **drawing.text_style(drawing.TITLE_SIZE)
    )
    if path is not None:
        drawing.save(figure, path)
    return figure


def _draw_kind(
    speed: Axes, share: Axes, chosen: Sequence[Mapping[str, Any]], label: str, index: int
) -> None:
    style: dict[str, Any] = {
        'color': drawing.COLORS[index % len(drawing.COLORS)],
        'linestyle': drawing.LINE_STYLES[index % len(drawing.LINE_STYLES)],
        'marker': 'o',
        'markersize': 5,
    }
    counts = [m['devices'] for m in chosen]
    rates = [m['tokens_per_second'] for m in chosen]
    middle = [rate['median'] for rate in rates]
    around = [
        [rate['median'] - rate['quartiles'][0] for rate in rates],
        [rate['quartiles'][1] - rate['median'] for rate in rates],
    ]
    speed.errorbar(counts, middle, yerr=around, capsize=3, label=label, **style)
    if index == 0:
        ideal = [middle[0] * count / counts[0] for count in counts]
        speed.plot(counts, ideal, color=drawing.GREY, linewidth=0.8, linestyle=':', label='ideal')
    share.plot(counts, [m['efficiency']['value'] for m in chosen], **style)
