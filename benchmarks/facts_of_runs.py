"""What a recorder says of a trained run, taken from its folder: the facts of a row."""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import commands
from rows import NOT_RECORDED

from seqzoo.errors import UserError
from seqzoo.provenance import commit


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares what every program takes that records a run."""
    parser.add_argument('run', type=Path)
    parser.add_argument('--name', required=True, help='of the files in benchmarks/results')
    parser.add_argument('--command', required=True, help='the command that trained the run')
    parser.add_argument('--data-dir', type=Path)
    parser.add_argument('--note', default='', help='what a reader has to know about the run')
    old = 'of a run that does not say so itself, as old ones do not'
    parser.add_argument('--trained-at', metavar='COMMIT', help=f'the source, {old}')
    parser.add_argument('--device', help=f'on what it was trained, {old}')
    parser.add_argument('--versions', help=f'of the packages, {old}')


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `add_options` declared, for `describe`."""
    names = ('name', 'command', 'note', 'trained_at', 'device', 'versions')
    return {name: getattr(arguments, name) for name in names}


def describe(
    run: Any,
    *,
    name: str,
    command: str,
    note: str = '',
    trained_at: str | None = None,
    device: str | None = None,
    versions: str | None = None,
) -> dict[str, Any]:
    """The facts of a trained run, but for its results; `finish` adds what follows from those.

    Args:
        run: from `seqzoo.load_run`.
        name: of the row and its file; a row of several seeds ends in `_seed0`, `_seed1`, ...
        command: what trained it.
        note: what a reader has to know about it.
        trained_at, device, versions: the source that trained it, on what and with which packages,
            where the run does not say so itself.

    Raises:
        UserError: the command trains something else, or the run says something else.
    """
    from seqzoo.analysis.parameters import count_parameters
    from seqzoo.training.events import read_events

    commands.refuse_other(command, run)
    experiment = run.experiment
    clock = seconds_by_step(run.path)
    identity = stored_identity(run.path) or dict(run.prepared.identity)
    tokens: list[Any] = [event.get('tokens') for event in read_events(run.path, 'train')]
    task, decode = experiment.task, experiment.decode
    language = (getattr(task, x, None) for x in ('source_language', 'target_language'))
    direction = '-'.join(filter(None, language))
    searched = bool(direction)
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
        **trained_on(run.path, device=device, versions=versions, commit=trained_at),
        'recorded_at_commit': commit(),
        'date': time.strftime('%Y-%m-%d'),
    }


def trained_on(run: Path, **told: str | None) -> dict[str, str | None]:
    """On what a run was trained, with which versions, by which source: what its processes noted.

    Args:
        run: its folder. Where several processes trained it, all that they noted is said.
        **told: `device`, `versions` and `commit`, where nobody noted them.

    Raises:
        UserError: what was told is not what was noted.
    """
    from seqzoo.training.events import read_events

    starts = read_events(run, 'start')
    found = {}
    for name, told_value in told.items():
        noted = [_in_words(event.get(name)) for event in starts]
        known = ', then '.join(dict.fromkeys(one for one in noted if one))
        if told_value and known and None not in noted and not _same(name, told_value, known):
            raise UserError(f'{run} says that its {name} was {known}, not {told_value}.')
        every = dict.fromkeys(one or told_value or NOT_RECORDED for one in noted)
        found[name] = ', then '.join(every) if known else told_value or None
    return {
        'device': found['device'],
        'versions': found['versions'],
        'trained_at_commit': found['commit'],
    }


def _in_words(noted: Any) -> str | None:
    """Versions by package as a row has them; other notes as they are."""
    if not isinstance(noted, Mapping):
        return noted
    known = {**({'Python': noted['python']} if 'python' in noted else {}), **noted}
    return ', '.join(f'{k} {v}' for k, v in known.items() if v and k != 'python')


def _same(name: str, told: str, noted: str) -> bool:
    """Whether two spellings mean the same; a commit may be shortened."""
    if name != 'commit':
        return told == noted
    clean = noted.removesuffix('-dirty')
    return told == noted or told.startswith(clean) or clean.startswith(told)


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
