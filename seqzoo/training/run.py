"""A run folder: what it holds, and a trained run taken out of it again."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from seqzoo import buckets
from seqzoo.configuration import config_source, differences, from_json, override, to_json
from seqzoo.errors import UserError
from seqzoo.experiment import Experiment, defines_run
from seqzoo.parallel import agreement
from seqzoo.parallel.mesh import MeshConfig, build_mesh
from seqzoo.tasks.base import Prediction, Prepared, Runtime
from seqzoo.tasks.streaming import Growing
from seqzoo.training.averaging import average, newest
from seqzoo.training.checkpoint import Checkpoints, committed_steps
from seqzoo.training.state import StateFactory

EXPERIMENT, CONFIG, IDENTITY, RESULTS = (
    'experiment.json',
    'config.py',
    'identity.json',
    'results.json',
)
CHECKPOINTS, SNAPSHOTS = 'checkpoints', 'snapshots'
IMPORTED = 'imported.json'  # in a run whose weights came from elsewhere

ProgressFunction = Callable[[int, int], None]


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


@dataclass(frozen=True)
class Run:
    """A trained run: its experiment, its parameters on a mesh, and its tokenizer.

    Attributes:
        path: the run folder.
        experiment: with everything resolved.
        step: of the checkpoint that was read.
        runtime: model and variables.
        prepared: tokenizer, and data as far as it was asked for.
        averaged: the steps of the snapshots whose mean the parameters are; empty where they are
            those of the checkpoint.
    """

    path: Path
    experiment: Experiment
    step: int
    runtime: Runtime
    prepared: Prepared
    averaged: tuple[int, ...] = ()

    @property
    def params(self) -> Any:
        """The parameters, a tree of arrays."""
        return self.runtime.variables['params']

    def predict(
        self,
        records: Sequence[str],
        *,
        progress: ProgressFunction = lambda d, t: None,
        **decoding: Any,
    ) -> list[Prediction]:
        """One prediction per record, in order.

        Args:
            records: inputs, such as lines of text.
            progress: called with how many are done, of how many.
            **decoding: fields of `Decoding` that shall differ from the experiment's, such as
                `beams=8`.
        """
        experiment = self.experiment
        return experiment.task.predict(
            self.runtime,
            self.prepared,
            list(records),
            experiment.batch,
            replace(experiment.decode, **decoding),
            progress=progress,
        )

    def stream(
        self, records: Sequence[str], *, steps: int = 8, **decoding: Any
    ) -> Iterator[Growing]:
        """Continuations while they grow, one record after the other.

        Args:
            records: prompts.
            steps: how many tokens are generated at a time.
            **decoding: as for `predict`.

        Raises:
            UserError: the run is no language model, or the search knows its text only at the end.
        """
        experiment = self.experiment
        stream = getattr(experiment.task, 'stream', None)
        if stream is None:
            raise UserError(
                f'{self.path} was trained for {type(experiment.task).__name__}, whose outputs do '
                'not grow; only language models continue a text as it is generated.'
            )
        settings = replace(experiment.decode, **decoding)
        return stream(self.runtime, self.prepared, list(records), settings, steps=steps)


def load_run(
    path: str | Path,
    *,
    step: int | str | None = None,
    average_last: int = 1,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    data_dir: str | Path | None = None,
    splits: Sequence[str] = (),
    announce: Callable[[str], None] = lambda text: None,
) -> Run:
    """Reads a run folder for evaluation or prediction.

    Args:
        path: the run folder.
        step: a checkpoint's step, `'latest'`, or `'best'` by the task's metric; `None` is the best
            if there is one.
        average_last: how many of the newest snapshots, none later than a `step` that is given, are
            averaged, or 1 for a checkpoint as it is.
        overrides: changes to how the run works, such as `{'decode.beams': 8}`; what defines it
            stays. The mesh of the training is used if it fits the devices at hand, else all of
            them hold whole parameters.
        data_dir, splits: data to read with it.
        announce: takes sentences about the data.

    Raises:
        UserError: no such run, no good checkpoint, or too few snapshots.
    """
    run_dir = agreement.once_a_host(lambda: opened(path, 'the run'))
    saved = load_experiment_of(run_dir)
    experiment: Experiment = override(saved, overrides)
    refuse_differences(saved, experiment, run_dir)
    prepared = agreement.once_a_host(
        lambda: experiment.task.prepare(
            experiment.batch,
            data_dir=default_data_dir(data_dir),
            cache_dir=default_cache_dir(),
            run_dir=run_dir,
            splits=splits,
            announce=announce,
        )
    )
    refuse_other_data(prepared, run_dir)
    resolved = experiment.task.resolve(experiment.model, prepared)
    model, mesh = resolved.build(), _mesh(saved.mesh, experiment.mesh)
    agreement.connect(mesh)
    factory = StateFactory(resolved, model, experiment.optimizer.build(), mesh, experiment.seed)
    abstract = factory.abstract()
    part = {'params': abstract.params, 'variables': abstract.variables}
    found, averaged, variables = _restore(run_dir, experiment, part, step, average_last)
    shardings = jax.tree.map(
        lambda leaf: leaf.sharding, {**part['variables'], 'params': part['params']}
    )
    runtime = Runtime(model, variables, shardings, mesh)
    return Run(run_dir, experiment, found, runtime, prepared, averaged)


def _mesh(saved: MeshConfig, asked: MeshConfig) -> Mesh:
    try:
        return build_mesh(asked)
    except UserError:
        if asked != saved:  # then somebody wants this one, and must know
            raise
        return build_mesh(MeshConfig())


def _restore(
    run_dir: Path, experiment: Experiment, part: dict[str, Any], step: int | str | None, last: int
) -> tuple[int, tuple[int, ...], Any]:
    metric, mode = experiment.task.best_metric
    home = buckets.home_of(run_dir)
    folder = home / CHECKPOINTS
    with Checkpoints(folder, best_metric=metric, best_mode=mode, read_only=True) as checkpoints:  # type: ignore[arg-type]
        if step is None:
            step = checkpoints.best() if last == 1 else None
        elif step == 'best' and (step := checkpoints.best()) is None:
            raise UserError(f'{folder} holds no checkpoint with a {metric}; use --step latest.')
        elif step == 'latest':
            step = None
        restored = checkpoints.restore_part(part, int(step) if step is not None else None)
    if restored is None:
        raise UserError(f'{folder} holds no checkpoint; train the run first.')
    params, averaged = restored.state['params'], []
    if last > 1:
        up_to = None if step is None else restored.step
        averaged = newest(home / SNAPSHOTS, last, up_to)
        params = average(home / SNAPSHOTS, part['params'], steps=averaged)
    variables = {**restored.state['variables'], 'params': params}
    return restored.step, tuple(averaged), variables


def evaluate(
    path: str | Path,
    *,
    split: str = 'test',
    step: int | str | None = None,
    data_dir: str | Path | None = None,
    average: int = 1,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    progress: ProgressFunction = lambda done, total: None,
    announce: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Scores a split, every example once, and records the result in the run's `results.json`.

    Returns:
        `metrics` (numbers by name), `signature` of the scorer, `split`, `step`, `average`,
        `averaged` (the steps of the snapshots), `decode`. It is announced if the folder cannot be
        written.
    """
    run = load_run(
        path,
        step=step,
        average_last=average,
        overrides=overrides,
        data_dir=data_dir,
        splits=(split,),
        announce=announce,
    )
    experiment = run.experiment
    found = experiment.task.evaluate(
        run.runtime, run.prepared, split, experiment.batch, experiment.decode, progress
    )
    signature = found.pop('signature', None)
    result = {
        'metrics': found,
        'signature': signature,
        'split': split,
        'data': experiment.task.data_name,
        'step': run.step,
        'average': average,
        'averaged': list(run.averaged),
        'decode': json.loads(to_json(experiment.decode)),
    }
    try:
        if agreement.is_first():
            if (aside := record_result(run.path, result)) is not None:
                announce(f'seqzoo: {run.path / RESULTS} was damaged and is now {aside.name}.')
            buckets.push(run.path)
    # Somebody else's run, perhaps, or a bucket: what was measured is not lost for that.
    except (OSError, UserError) as error:
        announce(
            f'seqzoo: {run.path / RESULTS} cannot be written '
            f'({getattr(error, "strerror", None) or error}): the result is not recorded there.'
        )
    return result


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
