"""What a result row says besides its numbers: everything that it takes to get them again.

Every row has all of `FIELDS`. Where a field is null, `null_because` says why: it was `NOT_RECORDED`
when the run was trained, or it `DOES_NOT_APPLY` (text has a casing, a series has none). Nothing is
filled in by guessing.

python benchmarks/rows.py            brings every row in benchmarks/results into this form
python benchmarks/rows.py --check    fails if one is not
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import program
from contradictions import averaged, casing_of, contradictions, shown

from seqzoo.errors import UserError

RESULTS = Path(__file__).parent / 'results'
NOT_RECORDED, DOES_NOT_APPLY = 'not recorded', 'does not apply'

# Field, its type, and what it says.
FIELDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    'name': (str, 'of the row and its file'),
    'what': (str, 'the experiment in a sentence'),
    'command': (str, 'what trained it'),
    'note': (str, 'what a reader has to know'),
    'direction': (str, 'source and target language, `en-de`'),
    'corpus': (str, 'trained on'),
    'corpus_fingerprint': (str, 'hash of the training data as ids'),
    'split': (str, 'on which the result is'),
    'casing': (str, '`mixed` or `lower`: of the text that is scored'),
    'signature': (str, 'of the scorer of text'),
    'headline': (str, 'which of `results` the tables show'),
    'averaging': (int, 'how many snapshots were averaged, 1 for a single checkpoint'),
    'beam': (int, 'width of the search, 1 if greedy'),
    'alpha': ((int, float), 'length penalty of the search'),
    'measure': (str, 'the metric that the tables show'),
    'parameters': (int, 'trained numbers'),
    'seed': (int, 'of the run'),
    'steps': (int, 'updates'),
    'tokens': (int, 'that the loss was taken over, all updates together'),
    'minutes': ((int, float), 'of training'),
    'device': (str, 'on what'),
    'versions': (str, 'of the main packages'),
    'trained_at_commit': (str, 'the source that trained it'),
    'recorded_at_commit': (str, 'the source that measured it'),
    'date': (str, 'of the record'),
    'results': (dict, 'all metrics, by kind of parameters and split'),
}
MUST_BE_SAID = ('name', 'what', 'command', 'corpus', 'split', 'measure', 'seed', 'parameters')
OLD_NAMES = {
    'machine': 'device',
    'trained_by_commit': 'trained_at_commit',
    'commit': 'recorded_at_commit',
}
# By these a row is known; other files of the folder, one measurement each, may have the others.
OF_ROWS = FIELDS.keys() - {
    *('name', 'note', 'command', 'split', 'minutes', 'steps', 'device', 'versions', 'date'),
    *('recorded_at_commit', 'results'),
}


def finish(row: dict[str, Any]) -> dict[str, Any]:
    """A recorder's row with what its results and older spellings of its fields say, and with the
    reasons of what is null. One that has its reasons is only put in order: what it lacks, nobody
    here knows.
    """
    row = dict(row) if 'null_because' in row else _completed(row)
    late = ('results', 'curve', 'identity')
    first = {field: row[field] for field in FIELDS if field in row and field != 'results'}
    rest = {field: row[field] for field in row if field not in FIELDS and field not in late}
    last = {'identity': row.get('identity', {})}
    return first | rest | last | {field: row[field] for field in late[:2] if field in row}


def _completed(row: dict[str, Any]) -> dict[str, Any]:
    row = dict(row)
    spelt = re.fullmatch(r'(.*) ([a-z]{2}-[a-z]{2})', row.get('data', ''))
    row.setdefault('direction', spelt[2] if spelt else None)
    row.setdefault('corpus', spelt[1] if spelt else row.get('data'))
    for old, new in OLD_NAMES.items():
        if old in row:
            row[new] = row.pop(old)
    if row.get('published') == ': ':
        row['published'] = None
    row.setdefault('trained_at_commit', None)
    row.setdefault('corpus_fingerprint', row.get('identity', {}).get('training data'))
    results = row.get('results')
    if not isinstance(results, Mapping) or not results:
        return row  # `problems` says so
    headline = row.setdefault('headline', list(results)[-1])
    row.setdefault('split', 'test' if 'test' in results[headline] else None)
    scores = shown(row)
    if 'measure' not in row and 'exact_match' in scores:
        row['measure'] = 'exact_match' if scores['exact_match'] > 90 else 'bleu'
    row['averaging'] = averaged(headline)
    row.setdefault('signature', scores.get('signature'))
    row.setdefault('casing', casing_of(row['signature']))
    search = re.fullmatch(
        r'(greedy|beam)(?: (\d+), alpha ([\d.]+))?', row.pop('decode', None) or ''
    )
    row.setdefault('beam', None if search is None else int(search[2] or 1))
    row.setdefault('alpha', float(search[3]) if search and search[3] else None)
    row.setdefault('tokens', None)
    reasons = {field: _reason(row, field) for field in FIELDS if row.get(field, '') is None}
    return row | {'null_because': reasons}


def _reason(row: Mapping[str, Any], field: str) -> str:
    """Why a field may be null."""
    scored = 'signature' in shown(row)
    applies = {
        'direction': re.fullmatch(r'.* [a-z]{2}-[a-z]{2}', row.get('data') or '') is not None,
        **dict.fromkeys(('signature', 'casing', 'beam'), scored),
        'alpha': scored and row.get('beam') != 1,
    }
    return NOT_RECORDED if applies.get(field, True) else DOES_NOT_APPLY


def problems(row: Mapping[str, Any]) -> list[str]:
    """What keeps a row from being one that a stranger could redo."""
    found = []
    because = row.get('null_because', {})
    for field, (kind, _) in FIELDS.items():
        value = row.get(field)
        if field not in row:
            found.append(f'{field} is missing')
        elif value is None and field not in because:
            found.append(f'{field} is missing, and null_because does not say why')
        elif value is None and because[field] != _reason(row, field):
            found.append(f'{field} is null, and the reason is {_reason(row, field)!r}')
        elif value is None:
            continue
        elif isinstance(value, bool) or not isinstance(value, kind):
            found.append(f'{field} is {value!r}, which is of another type')
        elif field in because:
            found.append(f'{field} is there, and null_because says that it is not')
    for field in MUST_BE_SAID:
        if row.get(field) in (None, ''):
            found.append(f'{field} must be said')
    results = row.get('results')
    if isinstance(results, dict) and not all(isinstance(one, dict) for one in results.values()):
        found.append('results are not by kind of parameters and split')
    if row.get('measure') not in shown(row):
        found.append('the measure is not among the results of the headline and split')
    if 'bleu' in str(row.get('measure')) and not row.get('signature'):
        found.append('a BLEU without signature')
    if row.get('direction') and row.get('casing') not in ('mixed', 'lower'):
        found.append('casing must be mixed or lower where text is scored')
    return found or contradictions(row)


def group(name: str) -> str:
    """What the rows of several seeds have in common."""
    return re.sub(r'_seed\d+$', '', name)


def quality_rows(folder: Path = RESULTS) -> Iterator[dict[str, Any]]:
    """Recorded training runs, in the order of their names, also those that have problems.

    Raises:
        UserError: a file is not JSON, or has another name than its row.
    """
    for path in sorted(folder.glob('*.json')):
        try:
            row = json.loads(path.read_text(encoding='utf-8'))
        except ValueError as error:
            raise UserError(f'{path} is not JSON ({error}).') from error
        if isinstance(row, dict) and not OF_ROWS.isdisjoint(row):
            if row.get('name') != path.stem:
                raise UserError(f'{path} is a row named {row.get("name")!r}, not as its file.')
            yield row


def sound_rows(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All recorded training runs.

    Raises:
        UserError: one has problems, so that no table of them should be made.
    """
    found = list(quality_rows(folder))
    wrong = [f'{row["name"]}: {problem}' for row in found for problem in problems(row)]
    if wrong:
        raise UserError(f'{folder} has rows that are not sound: {"; ".join(wrong)}.')
    return found


def said(row: Mapping[str, Any], field: str, text: str | None = None) -> str:
    """A field in words, or why it is not there."""
    if row[field] is not None:
        return str(row[field]) if text is None else text
    because = row['null_because'][field]
    return '' if because == DOES_NOT_APPLY else because


def write(row: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Completes a row and writes it to its file.

    Raises:
        UserError: something contradicts itself, or is missing that only the caller knows.
    """
    row = finish(row)
    if found := problems(row):
        raise UserError(f'{row.get("name")}: {"; ".join(found)}.')
    file = folder / f'{row["name"]}.json'
    file.write_text(as_text(row), encoding='utf-8')
    return file


def write_or_check(pages: Mapping[Path, str]) -> int:
    """Writes pages that are made of rows; with `--check` on the command line tells by the exit
    status whether they are what they should be.
    """
    if '--check' not in sys.argv:
        for file, text in pages.items():
            file.write_text(text, encoding='utf-8')
        return 0
    stale = (
        file
        for file, text in pages.items()
        if not file.exists() or file.read_text(encoding='utf-8') != text
    )
    return int(any(map(str, stale)))


def as_text(row: dict[str, Any]) -> str:
    """A row as its file has it."""
    return json.dumps(row, indent=2, ensure_ascii=False) + '\n'


def main() -> int:
    """Rewrites or checks all rows."""
    status = 0
    for row in quality_rows():
        new = finish(row)
        for problem in problems(new):
            print(f'{row["name"]}: {problem}', file=sys.stderr)
            status = 1
        if new != row and '--check' in sys.argv:
            print(f'{row["name"]}: run python benchmarks/rows.py', file=sys.stderr)
            status = 1
        elif new != row:
            (RESULTS / f'{row["name"]}.json').write_text(as_text(new), encoding='utf-8')
    return status


if __name__ == '__main__':
    program.run(main)
