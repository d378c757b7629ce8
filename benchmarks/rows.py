"""What a result row says besides its numbers: everything that it takes to get them again.

Every row has all of `FIELDS`. Where a field is null, `null_because` says why: it was `NOT_RECORDED`
when the run was trained, or it `DOES_NOT_APPLY` (text has a casing, a series has none). Nothing is
filled in by guessing.

python benchmarks/rows.py            brings every row in benchmarks/results into this form
python benchmarks/rows.py --check    fails if one is not
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from machine import processor

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


def describe(
    run: Any, *, name: str, command: str, note: str = '', trained_at: str | None = None
) -> dict[str, Any]:
    """The facts of a trained run, but for its results; `finish` adds what follows from those.

    Args:
        run: from `seqzoo.load_run`.
        name: of the row and its file; a row of several seeds ends in `_seed0`, `_seed1`, ...
        command: what trained it.
        note: what a reader has to know about it.
        trained_at: the commit of the source that trained it.
    """
    import jax

    from seqzoo.analysis.parameters import count_parameters
    from seqzoo.training.events import read_events

    experiment = run.experiment
    clock = seconds_by_step(run.path)
    identity = stored_identity(run.path) or dict(run.prepared.identity)
    tokens = [event.get('tokens') for event in read_events(run.path, 'train')]
    task, decode = experiment.task, experiment.decode
    language = (getattr(task, x, None) for x in ('source_language', 'target_language'))
    direction = '-'.join(filter(None, language))
    searched = bool(direction)
    lower = getattr(getattr(task, 'tokenizer', None), 'lowercase', False)
    return {
        'name': name,
        'what': experiment.description,
        'command': command,
        'note': note,
        'data': task.data_name,
        'direction': direction or None,
        'corpus': task.data_name.removesuffix(f' {direction}'),
        'corpus_fingerprint': identity.get('training data'),
        'identity': identity,
        'casing': None if not direction else 'lower' if lower else 'mixed',
        'beam': (decode.beams if decode.method == 'beam' else 1) if searched else None,
        'alpha': decode.length_penalty if searched and decode.method == 'beam' else None,
        'parameters': count_parameters(experiment.model),
        'seed': experiment.seed,
        'steps': max(clock),
        'tokens': round(sum(tokens)) if tokens and None not in tokens else None,
        'minutes': round(max(clock.values()) / 60, 2),
        'published': f'{paper.paper}: {paper.result} ({paper.source})'
        if (paper := experiment.published).paper
        else None,
        'device': f'{os.cpu_count()} cores {processor()}, {jax.default_backend()}'
        if jax.default_backend() == 'cpu'
        else f'{jax.device_count()} x {jax.devices()[0].device_kind}',
        'versions': f'Python {platform.python_version()}, jax {jax.__version__}',
        'trained_at_commit': trained_at,
        'recorded_at_commit': commit(),
        'date': time.strftime('%Y-%m-%d'),
    }


def finish(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what its results and older spellings of its fields say, and with the reasons of
    what is null.
    """
    row = dict(row)
    spelt = re.fullmatch(r'(.*) ([a-z]{2}-[a-z]{2})', row.get('data', ''))
    row.setdefault('direction', spelt[2] if spelt else None)
    row.setdefault('corpus', spelt[1] if spelt else row.get('data'))
    row.setdefault('device', row.pop('machine', None))
    if row.get('published') == ': ':
        row['published'] = None
    row.setdefault('trained_at_commit', row.pop('trained_by_commit', None))
    if 'commit' in row:
        row['recorded_at_commit'] = row.pop('commit')
    row.setdefault('corpus_fingerprint', row.get('identity', {}).get('training data'))
    headline = row.setdefault('headline', list(row['results'])[-1])
    row.setdefault('split', 'test' if 'test' in row['results'][headline] else None)
    scores = row['results'][headline][row['split']]
    if 'measure' not in row:
        row['measure'] = 'exact_match' if scores['exact_match'] > 90 else 'bleu'
    found = re.fullmatch(r'average_of_last_(\d+)', headline)
    row['averaging'] = int(found[1]) if found else 1
    row.setdefault('signature', scores.get('signature'))
    case = re.search(r'case:(mixed|lc)', row['signature'] or '')
    row.setdefault('casing', {'mixed': 'mixed', 'lc': 'lower'}[case[1]] if case else None)
    search = re.fullmatch(
        r'(greedy|beam)(?: (\d+), alpha ([\d.]+))?', row.pop('decode', None) or ''
    )
    row.setdefault('beam', None if search is None else int(search[2] or 1))
    row.setdefault('alpha', float(search[3]) if search and search[3] else None)
    row.setdefault('tokens', None)
    applies = {
        'direction': row['direction'] is not None,
        'signature': 'signature' in scores,
        'casing': 'signature' in scores,
        'beam': 'signature' in scores,
        'alpha': 'signature' in scores and row['beam'] != 1,
    }
    row['null_because'] = {
        field: NOT_RECORDED if applies.get(field, True) else DOES_NOT_APPLY
        for field in FIELDS
        if row.get(field) is None
    }
    first = [field for field in FIELDS if field != 'results']
    rest = [field for field in row if field not in FIELDS]
    ordered = {field: row.get(field) for field in first}
    ordered |= {field: row[field] for field in rest if field not in ('curve', 'identity')}
    ordered |= {'identity': row.get('identity', {}), 'results': row['results']}
    return ordered | ({'curve': row['curve']} if 'curve' in row else {})


def problems(row: Mapping[str, Any]) -> list[str]:
    """What keeps a row from being one that a stranger could redo."""
    found = []
    because = row.get('null_because', {})
    for field, (kind, _) in FIELDS.items():
        value = row.get(field)
        if value is None:
            if because.get(field) not in (NOT_RECORDED, DOES_NOT_APPLY):
                found.append(f'{field} is missing, and null_because does not say why')
        elif isinstance(value, bool) or not isinstance(value, kind):
            found.append(f'{field} is {value!r}, which is of another type')
        elif field in because:
            found.append(f'{field} is there, and null_because says that it is not')
    for field in ('name', 'what', 'command', 'corpus', 'split', 'measure', 'seed', 'parameters'):
        if row.get(field) in (None, ''):
            found.append(f'{field} must be said')
    results = row.get('results') or {}
    shown = results.get(row.get('headline', ''), {}).get(row.get('split', ''), {})
    if row.get('measure') not in shown:
        found.append('the measure is not among the results of the headline and split')
    if 'bleu' in str(row.get('measure')) and not row.get('signature'):
        found.append('a BLEU without signature')
    if row.get('direction') and row.get('casing') not in ('mixed', 'lower'):
        found.append('casing must be mixed or lower where text is scored')
    return found


def group(name: str) -> str:
    """What the rows of several seeds have in common."""
    return re.sub(r'_seed\d+$', '', name)


def quality_rows(folder: Path = RESULTS) -> Iterator[dict[str, Any]]:
    """Recorded training runs, in the order of their names."""
    for path in sorted(folder.glob('*.json')):
        row = json.loads(path.read_text(encoding='utf-8'))
        if isinstance(row, dict) and 'results' in row and 'parameters' in row:
            yield row


def ladder(run: Any, params: Any, split: str, **decoding: Any) -> dict[str, Any]:
    """Every score of the translations of a split, by name, with its signature."""
    from dataclasses import replace

    from seqzoo.scoring import score_table

    experiment, prepared = run.experiment, run.prepared
    runtime = run.runtime.with_variables({**run.runtime.variables, 'params': params})
    text = prepared.texts[split]
    decode = replace(experiment.decode, **decoding)
    found = experiment.task.predict(runtime, prepared, list(text.source), experiment.batch, decode)
    scores = score_table(
        [one.text for one in found], list(text.target), experiment.task.target_language
    )
    return {s.name: {'value': s.value, 'signature': s.signature} for s in scores}


def stored_identity(run: Path) -> dict[str, str]:
    """The fingerprints that a run was trained with."""
    file = run / 'identity.json'
    return json.loads(file.read_text(encoding='utf-8')) if file.exists() else {}


def seconds_by_step(run: Path) -> dict[int, float]:
    """How long a run had been trained, by all processes that did, when it logged each step."""
    from seqzoo.training.events import read_events

    found: dict[int, float] = {}
    earlier = latest = 0.0
    for event in read_events(run):
        seconds = event.get('seconds', latest)
        if seconds < latest:  # another process begins to count
            earlier += latest
        latest = seconds
        if 'seconds' in event:
            found[event['step']] = earlier + latest
    return found


def commit() -> str:
    """The commit of the checkout."""
    found = subprocess.run(
        ['git', 'rev-parse', '--short', 'HEAD'],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip()


def write(row: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Completes a row and writes it to its file.

    Raises:
        ValueError: something is missing that only the caller knows.
    """
    row = finish(row)
    if found := problems(row):
        raise ValueError(f'{row.get("name")}: {"; ".join(found)}')
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
    sys.exit(main())
