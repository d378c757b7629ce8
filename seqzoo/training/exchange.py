"""Weights of others as a run, and a run as weights for others."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from seqzoo import buckets
from seqzoo.configuration import differences, override
from seqzoo.errors import UserError
from seqzoo.experiment import Experiment, TrainConfig, defines_run
from seqzoo.interop.family import Imported
from seqzoo.interop.hugging_face import HubFolder, export, family_of
from seqzoo.interop.their_config import CONFIG
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Linear
from seqzoo.parallel.storage import true_count
from seqzoo.training.checkpoint import Checkpoints
from seqzoo.training.lock import RunLock
from seqzoo.training.run import load_run
from seqzoo.training.run_folder import (
    CHECKPOINTS,
    EXPERIMENT,
    IMPORTED,
    save_experiment,
    save_prepared,
)

# How the parameters are stored, and how training drops parts of them: no other function.
_MAY_CHANGE = ('vocab_multiple', 'dtype', 'dropout_rate')


@dataclass(frozen=True)
class ImportedRun:
    """What was made of a folder of weights.

    Attributes:
        run: the folder of the run.
        experiment: that it holds.
        parameters: how many there are.
        notes: sentences about what was not taken over.
    """

    run: Path
    experiment: Experiment
    parameters: int
    notes: tuple[str, ...]


def import_weights(
    folder: str | Path,
    run_dir: str | Path,
    *,
    tokenizer: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> ImportedRun:
    """Makes a run of a folder in Hugging Face's layout; its checkpoint is that of step 0.

    Args:
        folder: `config.json`, `model.safetensors` or shards, and a tokenizer.
        run_dir: the run; must not hold one yet.
        tokenizer: the folder of the tokenizer, if that lies elsewhere.
        overrides: changes to the experiment that leave the function as it is.

    Raises:
        UserError: the folder holds no such model, or a file of it is damaged or does not fit; the
            run holds something already.
    """
    run = _local(run_dir, '--run')
    if (run / EXPERIMENT).exists() or (run / CHECKPOINTS).exists():
        raise UserError(f'{run} holds a run already: choose a new --run.')
    if (run / CONFIG).exists():
        raise UserError(
            f'{run} holds a model of Hugging Face: choose a folder of its own for --run.'
        )
    hub = HubFolder(_local(folder, 'the folder'))
    found = hub.imported(None if tokenizer is None else _local(tokenizer, '--tokenizer'))
    experiment = _experiment(hub, found, overrides)
    params = hub.params(experiment.model)
    # JAX takes the arrays over as they are; a save then copies them one at a time.
    params = jax.tree.map(jax.device_put, params)
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    with RunLock(run):
        with Checkpoints(run / CHECKPOINTS, bytes_at_once=largest + 1) as checkpoints:
            meta = {'identity': found.prepared.identity}
            checkpoints.save(0, {'params': params, 'variables': {}}, meta)
        save_prepared(found.prepared, run)
        note = {'folder': str(hub.folder), 'model_type': hub.theirs.model_type}
        (run / IMPORTED).write_text(json.dumps(note, indent=2) + '\n', encoding='utf-8')
        save_experiment(experiment, run)  # last: now it is a run
    return ImportedRun(run, experiment, _parameters(experiment), found.notes)


def export_weights(
    run_dir: str | Path,
    output: str | Path,
    *,
    step: int | str | None = None,
    average_last: int = 1,
) -> list[str]:
    """Writes the parameters and the tokenizer of a run in Hugging Face's layout.

    Args:
        run_dir: the run.
        output: the folder; must not exist or be empty.
        step: a checkpoint; see `load_run`.
        average_last: how many snapshots are averaged; see there too.

    Returns:
        The names of the files.

    Raises:
        UserError: no such run, the folder holds something, or the model has no counterpart there.
    """
    folder = _local(output, '--output')
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f'{folder} is there and not empty: choose a new --output.')
    run = load_run(run_dir, step=step, average_last=average_last)
    experiment = run.experiment
    model = experiment.task.resolve(experiment.model, run.prepared)
    family_of(model)  # refuses before anything is written
    return export(folder, model, run.params, run.prepared, experiment.decode)


def _experiment(hub: HubFolder, found: Imported, overrides: Any) -> Experiment:
    """The experiment of the run, with what users begin with who train such weights further."""
    experiment = Experiment(
        description=f'{hub.theirs.model_type} imported from {hub.folder.resolve().name}',
        model=found.task.resolve(found.model, found.prepared),
        task=found.task,
        optimizer=Adam(beta2=0.999, epsilon=1e-8, clip_norm=1.0),
        schedule=Linear(peak=5e-5, warmup_steps=100, decay_steps=3000),
        batch=found.batch,
        train=TrainConfig(steps=3000, evaluate_every=500, checkpoint_every=500),
        decode=found.decode,
    )
    changed: Experiment = override(experiment, overrides)
    for difference in differences(experiment.model, changed.model, 'model'):
        name = difference.path.rpartition('.')[2]
        if defines_run(difference.path) and not name.endswith(_MAY_CHANGE):
            raise UserError(
                f'{difference}: the weights are those of the one and not of the other; leave '
                f'--{difference.path.replace("_", "-")} out.'
            )
    return changed


def _parameters(experiment: Experiment) -> int:
    model = experiment.model.build()
    inputs = experiment.model.example_inputs()
    return true_count(jax.eval_shape(model.init, jax.random.key(0), *inputs)['params'])


def _local(path: str | Path, what: str) -> Path:
    """The path. Weights and runs that hold them are made on a disk, and copied from there."""
    if buckets.is_address(path):
        raise UserError(f'{what} {path}: give a folder on a disk, and copy it to the bucket then.')
    return Path(path)
