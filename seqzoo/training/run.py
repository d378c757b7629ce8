"""A trained run taken out of its folder again: to predict, and to be measured."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from seqzoo import buckets
from seqzoo.configuration import override, to_json
from seqzoo.errors import UserError
from seqzoo.experiment import Experiment
from seqzoo.parallel import agreement
from seqzoo.parallel.mesh import MeshConfig, build_mesh
from seqzoo.tasks.base import Prediction, Prepared, Runtime
from seqzoo.tasks.streaming import Growing
from seqzoo.training.averaging import average, newest
from seqzoo.training.checkpoint import Checkpoints
from seqzoo.training.run_folder import (
    CHECKPOINTS,
    RESULTS,
    SNAPSHOTS,
    default_cache_dir,
    default_data_dir,
    load_experiment_of,
    opened,
    record_result,
    refuse_differences,
    refuse_other_data,
)
from seqzoo.training.state import StateFactory

ProgressFunction = Callable[[int, int], None]


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
