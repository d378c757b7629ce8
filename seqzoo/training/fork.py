"""A run that begins with the parameters of another one, and remembers whose they were.

A fork (`--fork-from`) is the same model: it takes everything. A run that is fine-tuned
(`--pretrained`) takes the backbone, what lies below the heads; see `training.pretrained`.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax

from seqzoo import buckets
from seqzoo.errors import UserError
from seqzoo.experiment import Experiment
from seqzoo.training.checkpoint import Checkpoints
from seqzoo.training.pretrained import Overlap, overlap_of, placed, taken
from seqzoo.training.run_folder import CHECKPOINTS, load_experiment_of, opened
from seqzoo.training.state import TrainState

ORIGIN = 'origin.json'

Part = Literal['all', 'backbone']


@dataclass(frozen=True)
class Source:
    """Another run to begin with.

    Attributes:
        run: its folder.
        part: of its parameters, that is taken.
    """

    run: Path
    part: Part

    @property
    def option(self) -> str:
        """How it was asked for."""
        return '--fork-from' if self.part == 'all' else '--pretrained'


@dataclass(frozen=True)
class Origin:
    """Where the first parameters of a run came from.

    Attributes:
        run: folder of the other run.
        step: of its checkpoint.
        part: of its parameters, that was taken.
        loaded, new, left: names of what was taken, of what was not there, and of what was not
            taken; empty where all was.
    """

    run: str
    step: int
    part: Part = 'all'
    loaded: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    def save(self, run_dir: Path) -> None:
        """Notes it in the run, so that a start over before the first checkpoint begins likewise."""
        partial = run_dir / f'.{ORIGIN}.part'
        partial.write_text(json.dumps(asdict(self), indent=2) + '\n', encoding='utf-8')
        partial.replace(run_dir / ORIGIN)

    def said(self) -> list[str]:
        """It in sentences."""
        if self.part == 'all':
            return [f'beginning with the parameters of {self.run}, step {self.step:,}']
        lines = [f'from {self.run}, step {self.step:,}: {", ".join(self.loaded)}']
        if self.new:
            lines.append(f'new: {", ".join(self.new)}')
        if self.left:
            lines.append(f'left there: {", ".join(self.left)}')
        return lines

    def event(self) -> dict[str, Any]:
        """It as fields of the event `start`."""
        found: dict[str, Any] = {'forked_from': self.run, 'forked_step': self.step}
        if self.part == 'backbone':
            found |= {'loaded': list(self.loaded), 'new': list(self.new), 'left': list(self.left)}
        return found


def source_of(
    run_dir: Path, fork_from: str | Path | None, pretrained: str | Path | None
) -> Source | None:
    """The run to begin with: the one that was asked for, or the one noted in `run_dir`."""
    if fork_from is not None and pretrained is not None:
        raise UserError(
            '--fork-from takes all parameters of a run and --pretrained those below the heads; '
            'leave one of them out.'
        )
    if fork_from is not None:
        return Source(opened(fork_from, '--fork-from'), 'all')
    if pretrained is not None:
        return Source(opened(pretrained, '--pretrained'), 'backbone')
    noted = run_dir / ORIGIN
    if not noted.is_file():
        return None
    try:
        origin = Origin(**json.loads(noted.read_text(encoding='utf-8')))
    except (ValueError, TypeError) as error:
        raise UserError(
            f'{noted} is damaged ({error}); say with --fork-from or --pretrained what the run '
            'begins with.'
        ) from error
    return Source(opened(origin.run, ORIGIN), origin.part)


def overlap_with(source: Source, experiment: Experiment) -> Overlap | None:
    """What is taken of another run; `None` is all of it.

    Raises:
        UserError: the folder is no run, or its model is another one where both should be alike.
    """
    if source.part == 'all':
        return None
    other = load_experiment_of(source.run)
    return overlap_of(other.model, experiment.model, f'--pretrained {source.run}')


def begin_with(
    source: Source, state: TrainState, overlap: Overlap | None
) -> tuple[TrainState, Origin]:
    """`state` with the newest parameters of another run; of a fork its other variables too.

    Raises:
        UserError: there is no checkpoint, or it is that of another model.
    """
    part = {'params': state.params, 'variables': state.variables}
    if overlap is not None:
        part = {'params': taken(state.params, overlap)}
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), part
    )
    with Checkpoints(buckets.home_of(source.run) / CHECKPOINTS, read_only=True) as checkpoints:
        restored = checkpoints.restore_part(abstract)
    if restored is None:
        raise UserError(
            f'{source.option} {source.run}: there is no checkpoint; is it the folder of a trained '
            'run?'
        )
    where = str(buckets.home_of(source.run.resolve()))  # a mirror is of this machine alone
    if overlap is None:
        return replace(state, **restored.state), Origin(where, restored.step)
    params = placed(state.params, restored.state['params'], overlap)
    origin = Origin(
        where, restored.step, 'backbone', overlap.loaded, overlap.new, overlap.left_there
    )
    return replace(state, params=params), origin
