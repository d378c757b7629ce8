"""A run that begins with the parameters of another one, and remembers whose they were."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax

from seqzoo import buckets
from seqzoo.errors import UserError
from seqzoo.training.checkpoint import Checkpoints
from seqzoo.training.run import CHECKPOINTS, opened
from seqzoo.training.state import TrainState

ORIGIN = 'origin.json'


@dataclass(frozen=True)
class Origin:
    """Where the first parameters of a run came from.

    Attributes:
        run: folder of the other run.
        step: of its checkpoint.
    """

    run: str
    step: int

    def save(self, run_dir: Path) -> None:
        """Notes it in the run, so that a start over before the first checkpoint forks again."""
        partial = run_dir / f'.{ORIGIN}.part'
        partial.write_text(json.dumps(asdict(self), indent=2) + '\n', encoding='utf-8')
        partial.replace(run_dir / ORIGIN)


def source_of(run_dir: Path, asked: str | Path | None) -> Path | None:
    """The run to begin with: the one that was asked for, or the one noted in `run_dir`."""
    if asked is not None:
        return opened(asked, '--fork-from')
    noted = run_dir / ORIGIN
    if not noted.is_file():
        return None
    try:
        origin = Origin(**json.loads(noted.read_text(encoding='utf-8')))
    except (ValueError, TypeError) as error:
        raise UserError(
            f'{noted} is damaged ({error}); say with --fork-from what the run begins with.'
        ) from error
    return opened(origin.run, ORIGIN)


def begin_with(source: Path, state: TrainState) -> tuple[TrainState, Origin]:
    """`state` with the newest parameters and other variables of the run in `source`.

    Raises:
        UserError: there is no checkpoint, or it is that of another model.
    """
    part = {'params': state.params, 'variables': state.variables}
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), part
    )
    with Checkpoints(buckets.home_of(source) / CHECKPOINTS, read_only=True) as checkpoints:
        restored = checkpoints.restore_part(abstract)
    if restored is None:
        raise UserError(
            f'--fork-from {source}: there is no checkpoint; is it the folder of a trained run?'
        )
    home = buckets.home_of(source.resolve())  # a mirror is of this machine alone
    return replace(state, **restored.state), Origin(str(home), restored.step)
