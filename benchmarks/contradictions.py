"""Where a row says the same thing twice, and not alike."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import commands

from seqzoo.configuration import config_names, find_config, load_config, variants
from seqzoo.errors import UserError

LEAST = {
    **dict.fromkeys(('parameters', 'steps', 'tokens', 'averaging', 'beam'), 1),
    **dict.fromkeys(('seed', 'minutes'), 0),
}
CASINGS = {'mixed': 'mixed', 'lc': 'lower'}
_TOLERANCE = 1e-6  # two computations of one score


def contradictions(row: Mapping[str, Any]) -> list[str]:
    """What in a row cannot be true together; every field is there and of its type."""
    return [
        *_numbers(row),
        *_name_and_data(row),
        *_scores(row),
        *_ladders(row),
        *_command(row),
    ]


def shown(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scores that the tables show; nothing where there are none."""
    found: Any = row.get('results')
    for key in (row.get('headline'), row.get('split')):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def casing_of(signature: str | None) -> str | None:
    """How a scorer takes the case of letters, by its signature."""
    found = re.search(r'case:(mixed|lc)\b', signature or '')
    return CASINGS[found[1]] if found else None


def averaged(headline: str) -> int:
    """How many snapshots the parameters of a headline are the average of."""
    found = re.fullmatch(r'average_of_last_(\d+)', headline)
    return int(found[1]) if found else 1


def _numbers(row: Mapping[str, Any]) -> Iterator[str]:
    yield from (f'{path} is {value}, which is no number' for path, value in _infinite('', row))
    for field, least in LEAST.items():
        if row[field] is not None and row[field] < least:
            yield f'{field} is {row[field]}, less than {least}'
    for event in row.get('curve', []):
        if event['step'] > row['steps']:
            yield f'the curve has a step {event["step"]} after the last, {row["steps"]}'
            return


def _infinite(path: str, value: Any) -> Iterator[tuple[str, float]]:
    """Numbers that are not finite, wherever they stand."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _infinite(f'{path}.{key}' if path else str(key), inner)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _infinite(f'{path}.{place}', inner)


def _name_and_data(row: Mapping[str, Any]) -> Iterator[str]:
    suffix = re.search(r'_seed(\d+)$', row['name'])
    if suffix and int(suffix[1]) != row['seed']:
        yield f'the name is of seed {suffix[1]}, and seed is {row["seed"]}'
    known = row.get('identity', {}).get('training data')
    if row['corpus_fingerprint'] != known:
        yield f'corpus_fingerprint is not that of the training data in identity, {known}'
    words = ' '.join(filter(None, (row['corpus'], row['direction'])))
    if row.get('data') != words:
        yield f'data is {row.get("data")!r}, and corpus and direction are {words!r}'


def _scores(row: Mapping[str, Any]) -> Iterator[str]:
    signature = shown(row).get('signature')
    if row['signature'] != signature:
        yield f'signature is not that of the results, {signature}'
    if row['casing'] != casing_of(row['signature']):
        yield f'casing is {row["casing"]}, and the signature {row["signature"]}'
    if row['averaging'] != averaged(row['headline']):
        yield f'averaging is {row["averaging"]}, and the headline {row["headline"]}'
    for kind, found in row['results'].items():
        if found.get('step', 0) > row['steps']:
            yield f'{kind} is of step {found["step"]}, after the last, {row["steps"]}'


def _ladders(row: Mapping[str, Any]) -> Iterator[str]:
    """Scores that stand in a ladder and beside it."""
    for kind, found in row['results'].items():
        for name, ladder in found.items():
            if not name.endswith('_ladder'):
                continue
            scores = found.get(name.removesuffix('_ladder'), {})
            # BLEU of a task with a tokenizer of its own is another one than that of the ladder.
            same = scores.get('signature') == ladder.get('bleu', {}).get('signature')
            for metric, one in ladder.items():
                if metric.startswith('bleu') and not same:
                    continue
                value = one['value']
                beside = scores.get(metric, value)
                if not math.isclose(beside, value, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
                    yield f'{metric} of {kind} is {beside}, and {value} in its {name}'


def _command(row: Mapping[str, Any]) -> Iterator[str]:
    try:
        experiment = commands.experiment_of(row['command'])
    except (UserError, ValueError) as error:  # shlex's, of a quotation mark without another
        yield f'command trains nothing: {error}'
        return
    if experiment.seed != row['seed']:
        yield f'seed is {row["seed"]}, and that of the command {experiment.seed}'
    if experiment.task.data_name != row['data']:
        yield f'data is {row["data"]!r}, and that of the command {experiment.task.data_name!r}'
    tokenizer = getattr(experiment.task, 'bleu_tokenizer', None)
    if tokenizer and f'|tok:{tokenizer}|' not in f'{row["signature"]}|':
        yield f'the signature is {row["signature"]}, and the command tokenizes by {tokenizer}'
    # A description may have been put in other words since, but not be that of something else.
    if experiment.description != row['what'] and (other := _described_so(row['what'])):
        yield f'the row is of {other}, and its command trains another configuration'
    if experiment.train.steps < row['steps']:
        yield f'steps is {row["steps"]}, and the command ends at {experiment.train.steps}'


def _described_so(what: str) -> str | None:
    """The name of the configuration with this description."""
    for name in config_names():
        for variant in ('', *(f':{one}' for one in variants(find_config(name)))):
            if load_config(name + variant).description == what:
                return name + variant
    return None
