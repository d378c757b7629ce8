"""What a whole run needs: chips, hours, disk and money. An estimate, and it says so.

    hours = updates x seconds of one / 3600,    chip-hours = chips x hours

The seconds of one update come from the compiled step of `seqzoo compile`, as a range from
everything at the same time to one after the other, or are

    operations of one update (by formula) / (chips x peak x MFU)

with an MFU (the share of the peak that a model's own operations get) that is assumed. Neither knows
of evaluations, saves, restarts and queues; the hours of a real run are longer.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax.core import meta

from seqzoo.analysis.audit import audit_experiment
from seqzoo.analysis.compiled_step import read_step
from seqzoo.analysis.parameters import abstract_parameters, count_parameters
from seqzoo.errors import UserError
from seqzoo.experiment import Experiment

# Between a fifth and a half is what published trainings of encoder-decoders reach on accelerators.
ASSUMED_MFU = 0.35


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The estimate for one run.

    Attributes:
        config: whose.
        chips: how many.
        kind: which, such as `v5e`.
        steps: updates.
        flops: operations of the training, by formula.
        seconds_per_step: of one update, from the best to the worst that is expected.
        basis: where the seconds come from, in words.
        disk: bytes by what takes them; `None` where only the data says it.
        price: of a chip for an hour, in whatever money; `None`: nobody said.
    """

    config: str
    chips: int
    kind: str
    steps: int
    flops: float
    seconds_per_step: tuple[float, float]
    basis: str
    disk: Mapping[str, int | None]
    price: float | None = None

    @property
    def hours(self) -> tuple[float, float]:
        """Of training."""
        best, worst = self.seconds_per_step
        return self.steps * best / 3600, self.steps * worst / 3600

    @property
    def chip_hours(self) -> tuple[float, float]:
        """Hours times chips."""
        best, worst = self.hours
        return self.chips * best, self.chips * worst

    @property
    def money(self) -> tuple[float, float] | None:
        """Chip-hours times their price."""
        best, worst = self.chip_hours
        return None if self.price is None else (best * self.price, worst * self.price)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        computed = {name: getattr(self, name) for name in ('hours', 'chip_hours', 'money')}
        return {'estimate': True, **dataclasses.asdict(self), **computed}


def cost_by_formula(
    config: str,
    experiment: Experiment,
    *,
    kind: str,
    chips: int,
    peak: float,
    mfu: float,
    price: float | None = None,
) -> Cost:
    """From the operations and an assumed MFU.

    Args:
        config: what to call it.
        experiment: whose updates are counted.
        kind: of chip, for the words.
        chips: how many.
        peak: operations per second of one.
        mfu: share of the peak, 0 to 1.
        price: of a chip for an hour.

    Raises:
        UserError: an MFU that nobody can reach.
    """
    if not 0 < mfu <= 1:
        raise UserError(f'--mfu {mfu}: a share of the peak lies between 0 and 1, such as 0.35')
    row = audit_experiment(config, experiment)
    seconds = row.training_flops / row.steps / (chips * peak * mfu)
    return Cost(
        config=config,
        chips=chips,
        kind=kind,
        steps=row.steps,
        flops=row.training_flops,
        seconds_per_step=(seconds, seconds),
        basis=f'operations by formula at an assumed MFU of {100 * mfu:.0f} % of {chips} x '
        f'{peak / 1e12:.0f} TFLOP/s',
        disk=disk_of(experiment),
        price=price,
    )


def cost_as_compiled(
    config: str, experiment: Experiment, compiled: Mapping[str, Any], price: float | None = None
) -> Cost:
    """From what `seqzoo compile CONFIG --json` said of the step.

    Raises:
        UserError: it is of another experiment, or says no time; see `read_step`.
    """
    step = read_step(config, experiment, compiled)
    row = audit_experiment(config, experiment)
    return Cost(
        config=config,
        chips=step.chips,
        kind=step.topology,
        steps=experiment.train.steps,
        flops=row.training_flops,
        seconds_per_step=step.seconds,
        basis=f'the step as compiled for {step.topology}, its longest batch',
        disk=disk_of(experiment),
        price=price,
    )


def disk_of(experiment: Experiment) -> dict[str, int | None]:
    """Bytes on disk: what is fetched, and what a run keeps."""
    model, train = experiment.nominal_model(), experiment.train
    parameters = meta.unbox(abstract_parameters(model))
    state = jax.eval_shape(experiment.optimizer.build().init, parameters)
    stored = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    weights = 4 * count_parameters(model)
    snapshots = train.keep_snapshots if train.snapshot_every else 0
    return {
        'downloads': _downloads(experiment),
        'checkpoints': (train.keep + train.keep_best) * (weights + stored),
        'snapshots': snapshots * weights,
    }


def _downloads(experiment: Experiment) -> int | None:
    sizes = getattr(getattr(experiment.task, 'corpus', None), 'download_bytes', None)
    return None if sizes is None else sizes()
