"""The zoo on one page: every family of translators on Multi30k English-German, from recorded rows.

    python benchmarks/zoo.py            writes benchmarks/results/zoo.md
    python benchmarks/zoo.py --check    fails if it is not what the rows say

A family has a line for every row of it that is recorded; rows of several seeds stand as one. The
operations of the training are counted by formula for the updates that the row says. BLEU stands on
the whole ladder of `seqzoo score`, as far as the row has it: on old rows a step may be missing.
"""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import commands
import program
import rows
import tables

CORPUS, DIRECTION = 'multi30k', 'en-de'
LADDER = ('bleu', 'bleu_lowercase', 'bleu_intl', 'bleu_moses', 'bleu_tokenized_lowercase', 'chrf')
FAMILIES = {
    'RecurrentSeq2SeqConfig': 'recurrent',
    'ByteNetConfig': 'ByteNet',
    'ConvS2SConfig': 'ConvS2S',
    'TransformerConfig': 'Transformer',
}


def lines(found: Iterable[dict[str, Any]]) -> list[list[str]]:
    """A line for every run, or for all seeds of one."""
    mine = [r for r in found if (r['corpus'], r['direction']) == (CORPUS, DIRECTION)]
    groups = tables.by_group(mine)
    return [line(members) for members in sorted(groups.values(), key=_bleu, reverse=True)]


def _bleu(members: Sequence[dict[str, Any]]) -> float:
    return statistics.fmean(_scores(one)['bleu'] for one in members)


def _scores(row: dict[str, Any]) -> dict[str, float]:
    """What a row knows of the ladder."""
    kind = row['results'][row['headline']]
    scores: dict[str, float] = {
        k: v for k, v in kind[row['split']].items() if isinstance(v, (int, float))
    }
    ladder = kind.get(f'{row["split"]}_ladder', {})
    return scores | {name: one['value'] for name, one in ladder.items()}


def line(members: Sequence[dict[str, Any]]) -> list[str]:
    """The cells of one line."""
    row = members[0]
    experiment = commands.experiment_of(row['command'])
    steps = statistics.fmean(one['steps'] for one in members)
    minutes = statistics.fmean(one['minutes'] for one in members)
    kind = type(experiment.model).__name__
    spelt = [
        f'{FAMILIES.get(kind, kind.removesuffix("Config"))}: {row["what"]}',
        f'{row["parameters"]:,}',
        f'{training_flops(experiment, steps):.2e}',
        f'{steps:,.0f}',
        f'{minutes:.0f}',
        rows.said(row, 'device'),
        f'{row["averaging"]}',
    ]
    for name in LADDER:
        values = [_scores(one)[name] for one in members if name in _scores(one)]
        spread = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
        spelt.append(f'{statistics.fmean(values):.2f}{spread}' if values else 'not recorded')
    return spelt


def training_flops(experiment: Any, steps: float) -> float:
    """Operations of so many updates, by formula."""
    from seqzoo.analysis.audit import audit_experiment

    found = audit_experiment('', experiment)
    return found.training_flops / found.steps * steps


def page(found: Iterable[dict[str, Any]]) -> str:
    """The table, and what its columns mean."""
    columns = (
        *('model', 'parameters', 'training FLOPs', 'updates', 'minutes', 'device', 'averaged'),
        *LADDER,
    )
    rule = f'|---|{"--:|" * 4}---|{"--:|" * (1 + len(LADDER))}'
    body = [f'| {" | ".join(cells)} |' for cells in lines(found)]
    return '\n'.join(
        [
            '# The zoo on Multi30k English-German',
            '',
            'Written by `python benchmarks/zoo.py` from the rows in this folder; commands, seeds',
            'and signatures are in [RESULTS.md](../../RESULTS.md). The test set is',
            'test_2016_flickr. Training FLOPs are counted by formula for sentences of 32 pieces;',
            'minutes are those of the machine that is named, which many of the runs shared with',
            'other work.',
            '',
            f'| {" | ".join(columns)} |',
            rule,
            *body,
            '',
        ]
    )


def main() -> int:
    """Writes or checks."""
    return rows.write_or_check({rows.RESULTS / 'zoo.md': page(rows.sound_rows())})


if __name__ == '__main__':
    program.run(main)
