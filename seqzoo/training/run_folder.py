"""A run folder: what it holds, how that is written, and what may go on in it."""

import itertools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqzoo import buckets
from seqzoo.configuration import config_source, differences, from_json, to_json
from seqzoo.errors import UserError
from seqzoo.experiment import Experiment, defines_run
from seqzoo.tasks.base import Prepared
from seqzoo.training.checkpoint import committed_steps

EXPERIMENT, CONFIG, IDENTITY, RESULTS = (
    'experiment.json',
    'config.py',
    'identity.json',
    'results.json',
)
CHECKPOINTS, SNAPSHOTS = 'checkpoints', 'snapshots'
IMPORTED = 'imported.json'  # in a run whose weights came from elsewhere


def default_cache_dir() -> Path:
    """Where tokenizers and encoded text are kept: `SEQZOO_CACHE_DIR`, or `seqzoo` in the user's
    cache folder.
    """
    if stated := os.environ.get('SEQZOO_CACHE_DIR'):
        return Path(stated)
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'seqzoo'


def default_data_dir(stated: str | Path | None, *, may_be_empty: bool = False) -> Path | None:
    """The data directory that was named, or `SEQZOO_DATA_DIR`, or none."""
    found = stated or os.environ.get('SEQZOO_DATA_DIR')
    if not found:
        return None
    folder = opened(found, '--data-dir', of_run=False)
    if buckets.is_address(found) and not may_be_empty and not any(buckets.held(folder)):
        raise UserError(f'--data-dir {found}: there is nothing below that address.')
    return folder


def save_experiment(experiment: Experiment, run_dir: Path) -> None:
    """Writes `experiment.json`, and a copy of the configuration file if its types are needed to
    read that again.
    """
    if (source := config_source(experiment)) is not None and source != run_dir / CONFIG:
        shutil.copyfile(source, run_dir / CONFIG)
    partial = run_dir / f'.{EXPERIMENT}.part'
    partial.write_text(to_json(experiment), encoding='utf-8')
    partial.replace(run_dir / EXPERIMENT)


def load_experiment_of(run_dir: Path) -> Experiment:
    """The experiment of a run folder.

    Raises:
        UserError: it is not the folder of a run.
    """
    file = run_dir / EXPERIMENT
    if not file.is_file():
        raise UserError(f'{run_dir} is not the folder of a run: it has no {EXPERIMENT}.')
    config = run_dir / CONFIG
    try:
        return from_json(file.read_text(encoding='utf-8'), config if config.exists() else None)
    except UserError as error:
        raise UserError(f'{file}: {error}') from error


def refuse_differences(old: Experiment, new: Experiment, run_dir: Path) -> list[str]:
    """Raises `UserError` with the list of what differs in the half that defines a run.

    Returns:
        What differs in how it is trained from now on, and may.
    """
    all_ = differences(old, new)
    found = [str(d) for d in all_ if defines_run(d.path)]
    if found:
        raise UserError(
            f'{run_dir} holds another run; it differs in {"; ".join(found)}: '
            'choose a new --run, or undo the change.'
        )
    about_training = ('model', 'batch', 'strategy', 'mesh', 'train')
    return [str(d) for d in all_ if d.path.split('.')[0] in about_training]


def refuse_imported(run_dir: Path) -> None:
    """Raises `UserError` for a run that cannot go on because it never began: its weights were
    imported.
    """
    if (run_dir / IMPORTED).exists():
        raise UserError(
            f'{run_dir} holds imported weights and no training to go on with; train them in a '
            f'folder of its own: seqzoo train {run_dir / EXPERIMENT} --run NEW --fork-from '
            f'{run_dir}'
        )


def newest_checkpoint(run_dir: Path) -> int | None:
    """The newest step that was saved; `None` where a folder belongs to no run yet."""
    return max(committed_steps(buckets.home_of(run_dir) / CHECKPOINTS), default=None)


def save_prepared(prepared: Prepared, run_dir: Path) -> None:
    """Keeps the tokenizer, and the fingerprints by which later data is recognised."""
    prepared.save(run_dir)
    text = json.dumps(prepared.identity, indent=2) + '\n'
    partial = run_dir / f'.{IDENTITY}.part'
    partial.write_text(text, encoding='utf-8')
    partial.replace(run_dir / IDENTITY)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding='utf-8'))
    except ValueError as error:
        raise UserError(
            f'{file} is damaged ({error}); move it away, and it is written anew.'
        ) from error


def opened(path: str | Path, what: str, *, of_run: bool = True) -> Path:
    """A folder as the rest of the code knows it: itself, or the up-to-date mirror of a bucket.

    Args:
        path: of the file system, or an address `gs://BUCKET/NAME`.
        what: the option that it comes from.
        of_run: leave out what a run has in the bucket itself.

    Raises:
        UserError: it is the address of something else, or the bucket cannot be read.
    """
    if not buckets.is_address(path):
        return Path(path)
    mirror = buckets.Mirror.of(str(path), default_cache_dir(), what)
    mirror.pull(buckets.NOT_MIRRORED if of_run else ())
    return mirror.folder


def refuse_other_data(
    prepared: Prepared, run_dir: Path, *, names: Sequence[str] | None = None
) -> None:
    """Raises `UserError` if the tokenizer or the training data is not that of the run.

    Args:
        prepared: what was read.
        run_dir: the run.
        names: which of its fingerprints are compared; `None`: all.
    """
    file = run_dir / IDENTITY
    known = _read_json(file) if file.exists() else {}
    for name, fingerprint in prepared.identity.items():
        if names is not None and name not in names:
            continue
        if known.get(name, fingerprint) != fingerprint:
            raise UserError(
                f'The {name} is not what {run_dir} was trained with; put the old one back, '
                'or choose a new --run.'
            )


def record_result(run_dir: Path, result: dict[str, Any]) -> Path | None:
    """Appends a result to `results.json`, which holds a list.

    Returns:
        Where the file was set aside that could not be read; a new one begins.
    """
    file, results, aside = run_dir / RESULTS, [], None
    if file.exists():
        try:
            results = _read_json(file)
        except UserError:
            results = None
        if not isinstance(results, list):
            names = (run_dir / f'{RESULTS}.damaged{n or ""}' for n in itertools.count())
            aside = next(name for name in names if not name.exists())
            file.replace(aside)
            results = []
    partial = run_dir / f'.{RESULTS}.part'
    partial.write_text(
        json.dumps([*results, result], indent=2, ensure_ascii=False) + '\n', encoding='utf-8'
    )
    partial.replace(file)
    return aside
