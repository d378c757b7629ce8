"""Writes the tables of results from the rows in `benchmarks/results` and nothing else.

The README shows some rows, `benchmarks/results/README.md` all of them.

python benchmarks/tables.py            rewrites both files
python benchmarks/tables.py --check    fails if one of them is not what the rows say
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / 'benchmarks' / 'results'
BEGIN, END = '<!-- results:begin -->', '<!-- results:end -->'

# One row, as far as it has been recorded, of each kind of problem; the README is one screen.
SHOWN = (
    'multi30k_20min',
    'multi30k_luong',
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


def quality_rows() -> list[dict[str, Any]]:
    """Recorded training runs, in the order of their names."""
    rows = [json.loads(path.read_text(encoding='utf-8')) for path in sorted(RESULTS.glob('*.json'))]
    return [row for row in rows if 'results' in row and 'parameters' in row]


# How the table writes a metric; what stands beside it is shown where the row has it.
MEASURES = {
    'exact_match': '{exact_match:.1f} % exact match',
    'bleu': '{bleu:.1f} sacreBLEU',
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


def quality_line(row: dict[str, Any]) -> str:
    """One line of the table for one run."""
    name, found = list(row['results'].items())[-1]
    split = row.get('split', 'test')
    scores = found[split]
    measure = row.get('measure') or ('exact_match' if scores['exact_match'] > 90 else 'bleu')
    shown = [MEASURES[measure], *(text for key, text in BESIDE.items() if key in scores)]
    figure = ', '.join(text.format(**scores) for text in shown)
    if split != 'test':
        figure += f' ({split})'
    cores = row['machine'].split(' ')[0]
    how = f'{row["minutes"]:.0f} min on {cores} cores, {name.replace("_", " ")}'
    if 'measure' in row:
        how = f'{row["what"]}, {row["steps"]:,} updates'
    return f'| {row["data"]}, {_millions(row["parameters"])} parameters | {figure} | {how} |'


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


def table(rows: list[dict[str, Any]], speeds: list[str]) -> str:
    """The Markdown between the marks."""
    head = ['| what | result | how |', '|---|---|---|']
    return '\n'.join([*head, *map(quality_line, rows), *speeds])


def rendered(text: str, table: str) -> str:
    """A file with the table that the rows give."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f'{before}{BEGIN}\n{table}\n{END}{after}'


def main() -> int:
    """Rewrites or checks."""
    rows = {row['name']: row for row in quality_rows()}
    some = [rows[name] for name in SHOWN if name in rows]
    tables = {
        ROOT / 'README.md': table(some, speed_lines()),
        RESULTS / 'README.md': table(list(rows.values()), []),
    }
    differ = False
    for file, content in tables.items():
        old = file.read_text(encoding='utf-8')
        new = rendered(old, content)
        differ |= old != new
        if '--check' not in sys.argv:
            file.write_text(new, encoding='utf-8')
    return int(differ and '--check' in sys.argv)


if __name__ == '__main__':
    sys.exit(main())
