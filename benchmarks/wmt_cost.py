"""What a full run of each WMT 2014 configuration needs, estimated and written down as such.

    python benchmarks/wmt_cost.py            writes benchmarks/results/wmt14_cost.md
    python benchmarks/wmt_cost.py --check    fails if it is not what the program says

Hours are by formula at an assumed MFU, as `seqzoo cost CONFIG --topology T` prints them; where
`benchmarks/results/compiled` holds what `seqzoo compile CONFIG --topology T --json` printed, as
`CONFIG.json`, the range of the compiled step stands beside them.
"""

import json
import math

import program
import rows

from seqzoo.analysis.cost import ASSUMED_MFU, cost_as_compiled, cost_by_formula
from seqzoo.analysis.slices import parse_topology
from seqzoo.configuration import load_config

CONFIGS = (
    'transformer_base_wmt14_ende',
    'transformer_big_wmt14_ende',
    'transformer_base_wmt14_enfr',
    'transformer_big_wmt14_enfr',
    'conv_seq2seq_wmt14_ende',
    'bytenet_wmt14_ende',
    'gnmt_wmt14_ende',
    'luong_wmt14_ende',
    'rnnsearch_wmt14_enfr',
    'seq2seq_lstm_wmt14_enfr',
)
TOPOLOGIES = ('v5e:2x4', 'v5e:4x4', 'v5p:2x2x1')


def page() -> str:
    """The table."""
    columns = ['configuration', 'training FLOPs', 'updates']
    columns += [f'chip-hours (hours), {topology}' for topology in TOPOLOGIES]
    columns += ['as compiled, hours', 'downloads', 'checkpoints and snapshots']
    lines = [f'| {" | ".join(columns)} |', f'|---|{"--:|" * (len(columns) - 1)}']
    for name in CONFIGS:
        lines.append(f'| {" | ".join(_cells(name))} |')
    return '\n'.join(
        [
            '# What a full run on WMT 2014 needs: an estimate',
            '',
            'Nobody has run these here. Written by `python benchmarks/wmt_cost.py`: operations by',
            f'formula, divided by chips x peak x an assumed MFU of {100 * ASSUMED_MFU:.0f} %,',
            'without evaluations, saves, restarts and queues. Recurrent networks reach less than',
            'that: their steps follow each other. Money is chip-hours times the price of the day:',
            '`seqzoo cost CONFIG --topology T --price P`. The prepared text takes more room than',
            'the downloads, which are packed, and each of its pieces four bytes.',
            '',
            *lines,
            '',
        ]
    )


def _cells(name: str) -> list[str]:
    experiment = load_config(name)
    found = []
    for topology in TOPOLOGIES:
        chip, shape = parse_topology(topology)
        found.append(
            cost_by_formula(
                name,
                experiment,
                kind=chip.name,
                chips=math.prod(shape),
                peak=chip.peak,
                mfu=ASSUMED_MFU,
            )
        )
    disk = found[0].disk
    kept = (disk['checkpoints'] or 0) + (disk['snapshots'] or 0)
    return [
        f'`{name}`',
        f'{found[0].flops:.2e}',
        f'{found[0].steps:,}',
        *(f'{one.chip_hours[0]:,.1f} ({one.hours[0]:,.1f})' for one in found),
        _compiled(name, experiment),
        'not known' if disk['downloads'] is None else f'{disk["downloads"] / 1e9:.1f} GB',
        f'{kept / 1e9:.1f} GB',
    ]


def _compiled(name: str, experiment) -> str:
    file = rows.RESULTS / 'compiled' / f'{name}.json'
    if not file.exists():
        return 'not compiled'
    step = json.loads(file.read_text(encoding='utf-8'))
    best, worst = cost_as_compiled(name, experiment, step).hours
    return f'{best:,.1f} to {worst:,.1f} ({step["topology"]})'


def main() -> int:
    """Writes or checks."""
    return rows.write_or_check({rows.RESULTS / 'wmt14_cost.md': page()})


if __name__ == '__main__':
    program.run(main)
