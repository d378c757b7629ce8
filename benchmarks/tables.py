"""Writes the tables of results from the rows in `benchmarks/results` and nothing else.

The README shows some rows, `RESULTS.md` all of them beside what others published.

python benchmarks/tables.py            rewrites both files
python benchmarks/tables.py --check    fails if one of them is not what the rows say
"""

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import commands
import program
from rows import RESULTS, group, said, sound_rows, write_or_check

from seqzoo.errors import UserError

ROOT = Path(__file__).parent.parent
BEGIN, END = '<!-- results:begin -->', '<!-- results:end -->'

# One row, as far as it has been recorded, of each kind of problem; the README is one screen.
SHOWN = (
    'multi30k_20min',
    'multi30k_conv_s2s',
    'multi30k_luong',
    'multi30k_bytenet',
    'multi30k_lstm',
    'numerals',
    'ptb_lstm_small',
    'time_machine_gru',
    'imdb_bilstm',
    'ewt_bilstm',
    'cb513_bilstm',
    'captions_digits',
    'series_sunspots',
    'adding_lstm',
)


# How the table writes a metric; what stands beside it is shown where the row has it.
MEASURES = {
    'exact_match': '{exact_match:.1f} % exact match',
    'bleu': '{bleu:.1f} sacreBLEU',
    'bleu_tokenized_lowercase': '{bleu_tokenized_lowercase:.1f} tokenised lower-cased BLEU',
    'perplexity': 'perplexity {perplexity:.1f}',
    'bits_per_character': '{bits_per_character:.3f} bits per character',
    'accuracy': '{accuracy:.1f} % accuracy',
    'rmse': 'root mean square error {rmse:.3g}',
    'loss': 'loss {loss:.3g}',
}
BESIDE = {
    'bleu_tokenized_lowercase': '{bleu_tokenized_lowercase:.1f} tokenised lower-cased',
    'majority_accuracy': 'always the most frequent: {majority_accuracy:.1f} %',
    'reversion_accuracy': 'back to the mean: {reversion_accuracy:.1f} %',
    'momentum_accuracy': 'on as before: {momentum_accuracy:.1f} %',
    'persistence_rmse': 'persistence {persistence_rmse:.3g}',
    'coverage': '{coverage:.1f} % within the {interval:.0f} % interval',
    'baseline': 'without memory {baseline:.3g}',
}


def figure(members: Sequence[dict[str, Any]]) -> str:
    """The measure of one row, or its mean and standard deviation over the rows of several seeds,
    with what stands beside it.
    """
    row = members[0]
    scores = [one['results'][one['headline']][one['split']] for one in members]
    shown = [MEASURES[row['measure']], *(text for key, text in BESIDE.items() if key in scores[0])]
    mean = {k: v for k, v in scores[0].items() if not isinstance(v, (int, float))}
    for key in scores[0].keys() - mean.keys():
        mean[key] = statistics.fmean(score[key] for score in scores)
    text = ', '.join(one.format(**mean) for one in shown)
    if row['measure'] == 'bleu':
        text += ', cased' if row['casing'] == 'mixed' else ', lower-cased text'
    if len(members) > 1:
        spread = statistics.stdev(score[row['measure']] for score in scores)
        text += f' (± {spread:.3g}, {len(members)} seeds)'
    return text if row['split'] == 'test' else f'{text} ({row["split"]})'


def by_group(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows that differ in their seed alone, under the name that they have in common.

    Raises:
        UserError: rows of one name differ in more, or in no seed.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(group(row['name']), []).append(row)
    for name, members in found.items():
        for field in ALIKE:
            if len({json.dumps(row[field]) for row in members}) > 1:
                raise UserError(f'the rows of {name} differ in {field}; give them other names')
        if len(members) > 1:
            _refuse_no_seeds(name, members)
    return found


def _refuse_no_seeds(name: str, members: Sequence[dict[str, Any]]) -> None:
    """Raises `UserError` where the spread of several rows would not be that of their seeds."""
    seeds = [row['seed'] for row in members]
    if len(set(seeds)) < len(seeds):
        raise UserError(f'rows of {name} have the same seed; record each seed once')
    for row in members:
        if row['name'] != f'{name}_seed{row["seed"]}':
            raise UserError(f'{row["name"]} is of seed {row["seed"]}, and its name must end so')
    if len({commands.alike(row['command']) for row in members}) > 1:
        raise UserError(f'the commands of {name} differ in more than --seed; give them other names')


# What rows of several seeds must have in common, so that their mean means something.
ALIKE = (
    *('corpus', 'corpus_fingerprint', 'direction', 'split', 'casing', 'signature', 'headline'),
    *('averaging', 'beam', 'alpha', 'measure', 'parameters'),
)


def quality_line(members: Sequence[dict[str, Any]]) -> str:
    """One line of the README's table for the rows of one run or of several seeds."""
    row = members[0]
    how = f'{row["what"]}, {row["steps"]:,} updates'
    if row['averaging'] > 1:
        how += f', {_averaged(row)}'
    return (
        f'| {row["data"]}, {_millions(row["parameters"])} parameters | {figure(members)} | {how} |'
    )


def _averaged(row: dict[str, Any]) -> str:
    return f'average of last {row["averaging"]}' if row['averaging'] > 1 else 'best checkpoint'


def _millions(count: int) -> str:
    return f'{count / 1e6:.1f}M' if count >= 1e6 else f'{count / 1e3:.0f}k'


def step_lines(found: dict[str, Any]) -> list[str]:
    """The training step beside other programs, from `train_step.json`."""
    seconds = {one['name']: one['seconds']['median'] for one in found['systems']}
    ours = seconds.pop('seqzoo')
    others = [f'{name} {seconds[name]:.2f} s' for name in ('flax-wmt', 'torch') if name in seconds]
    what = f'Transformer base, training step, {found["machine"]["cores"]} cores'
    how = '[conditions](benchmarks/results/train_step.md)'
    return [f'| {what} | {ours:.2f} s ({", ".join(others)}) | {how} |']


def decode_lines(found: dict[str, Any]) -> list[str]:
    """Decoding beside other programs, from `decode.json`."""
    lines = []
    for beams in sorted({row['beams'] for row in found['results']}, reverse=True):
        rate = {
            row['system']: row['sentences_per_second']
            for row in found['results']
            if row['beams'] == beams and 'failed' not in row
        }
        ours = rate.pop('seqzoo')
        others = ', '.join(f'{name.replace("_", " ")} {value:.1f}' for name, value in rate.items())
        what = f'Transformer base, translating, beam {beams}, {found["machine"]["cores"]} cores'
        how = '[conditions](benchmarks/results/decode.md)'
        lines.append(f'| {what} | {ours:.1f} sentences/s ({others}) | {how} |')
    return lines


def speed_lines() -> list[str]:
    """Speeds beside other programs, as far as they have been recorded."""
    lines = []
    for name, render in (('train_step', step_lines), ('decode', decode_lines)):
        file = RESULTS / f'{name}.json'
        if file.exists():
            lines += render(json.loads(file.read_text(encoding='utf-8')))
    return lines


def table(groups: Iterable[Sequence[dict[str, Any]]], speeds: Iterable[str]) -> str:
    """The Markdown between the marks."""
    head = ['| what | result | how |', '|---|---|---|']
    return '\n'.join([*head, *map(quality_line, groups), *speeds])


def rendered(text: str, table: str) -> str:
    """A file with the table that the rows give."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f'{before}{BEGIN}\n{table}\n{END}{after}'


PAGE = """\
# Results

Every run that is recorded, written by `python benchmarks/tables.py` from the rows in
[`benchmarks/results`](benchmarks/results) and from nothing else (a test holds this page to them).
A row says what it takes to have it again: corpus with the fingerprint of its training data,
direction, split, casing, scorer, averaging, search, seed, updates, tokens, device, commits and the
command. "Not recorded" is what nobody wrote down when the run was trained. Rows of several seeds
stand as one, with the mean and the standard deviation. Minutes are of training, on the device that
is named; many of these runs shared it with other work.

Numbers of others stand below ours with how well they are known: *verified* against the paper or its
authors' code, *secondary* from another paper or from notes, *memory* not checked. Scores may be
compared where scorer, casing, split and direction agree, and nowhere else.
"""

COLUMNS = (
    *('run', 'result', 'split', 'casing', 'scorer', 'parameters', 'averaged', 'search', 'updates'),
    *('tokens', 'minutes', 'device', 'trained at', 'training data'),
)


def results_page(rows: Sequence[dict[str, Any]], published: Sequence[dict[str, Any]]) -> str:
    """All rows by corpus and direction, the numbers of others with them, and how to have them."""
    sections: dict[str, list[str]] = {}
    others: dict[str, list[dict[str, Any]]] = {}
    for one in published:
        others.setdefault(_problem(one), []).append(one)
    groups = by_group(rows)
    problems = {_problem(members[0]) for members in groups.values()}
    for problem in sorted(problems | others.keys()):
        ours = [members for members in groups.values() if _problem(members[0]) == problem]
        lines = []
        if ours:
            lines += _table(COLUMNS, map(_row_cells, ours))
        if problem in others:
            columns = ('published', 'result', 'split', 'casing', 'scorer', 'known')
            lines += ['', *_table(columns, map(_published_cells, others[problem]))]
        for members in ours:
            note = members[0]['note']
            note = f' {note[0].upper()}{note[1:]}' if note else ''
            lines += ['', f'{group(members[0]["name"])}: {members[0]["what"]}.{note}', '']
            lines += [f'    {one["command"]}' for one in members]
        sections[problem] = lines
    body = [
        f'\n## {problem}\n\n' + '\n'.join(lines).strip('\n') for problem, lines in sections.items()
    ]
    return PAGE + '\n'.join(body) + '\n'


def _problem(row: dict[str, Any]) -> str:
    return ' '.join(filter(None, [row['corpus'], row.get('direction')]))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f'| {" | ".join(columns)} |', f'|{"---|" * len(columns)}']
    return lines + [f'| {" | ".join(cell.replace("|", "/") for cell in row)} |' for row in rows]


def _row_cells(members: Sequence[dict[str, Any]]) -> list[str]:
    row = members[0]
    search = 'greedy' if row['beam'] == 1 else f'beam {row["beam"]}, alpha {row["alpha"]}'
    known = {
        'scorer': said(row, 'signature', f'`{row["signature"]}`'),
        'search': said(row, 'beam', search),
        'tokens': said(row, 'tokens', f'{row["tokens"] or 0:,}'),
        'data': said(row, 'corpus_fingerprint', f'`{row["corpus_fingerprint"]}`'),
    }
    return [
        f'[{group(row["name"])}](benchmarks/results/{row["name"]}.json)',
        figure(members),
        row['split'],
        said(row, 'casing'),
        known['scorer'],
        f'{row["parameters"]:,}',
        _averaged(row),
        known['search'],
        ', '.join(f'{one["steps"]:,}' for one in members),
        known['tokens'],
        ', '.join(f'{one["minutes"]:.0f}' for one in members),
        said(row, 'device'),
        said(row, 'trained_at_commit'),
        known['data'],
    ]


def _published_cells(one: dict[str, Any]) -> list[str]:
    what = f'{one["paper"]}: {one["system"]}' + (f' ({one["note"]})' if one.get('note') else '')
    return [
        what,
        one['result'],
        one['split'],
        one.get('casing') or '',
        one.get('score') or '',
        one['source'],
    ]


def main() -> int:
    """Rewrites or checks."""
    rows = sound_rows()
    groups = by_group(rows)
    published = json.loads((RESULTS / 'published.json').read_text(encoding='utf-8'))
    some = [groups[name] for name in SHOWN if name in groups]
    readme = ROOT / 'README.md'
    pages = {
        readme: rendered(readme.read_text(encoding='utf-8'), table(some, speed_lines())),
        ROOT / 'RESULTS.md': results_page(rows, published),
    }
    return write_or_check(pages)


if __name__ == '__main__':
    program.run(main)
