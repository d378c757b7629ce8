"""The step of an experiment on a mesh: what training runs, and what measures it runs too."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from seqzoo.data.batching import ArraySpec
from seqzoo.experiment import Experiment
from seqzoo.parallel.compile import compile_train_step
from seqzoo.parallel.mesh import row_shards
from seqzoo.parallel.rows import RowShare, row_share
from seqzoo.tasks.base import Prepared
from seqzoo.training.lengths import refuse_uneven_lengths
from seqzoo.training.state import StateFactory
from seqzoo.training.step import make_train_step


@dataclass(frozen=True)
class Program:
    """Everything about the step of an experiment that is known before any array is made.

    Attributes:
        experiment: with everything resolved.
        plan: of its training batches.
        mesh: where it runs.
        model, transformation: what the experiment builds.
        factory: makes the first state, or tells its shapes.
        step: the pure step.
        row_multiple: rows of a batch are filled up to a multiple of this.
        share: which rows this process provides.
    """

    experiment: Experiment
    plan: Any
    mesh: Mesh
    model: nn.Module
    transformation: optax.GradientTransformation
    factory: StateFactory
    step: Callable[..., Any]
    row_multiple: int
    share: RowShare

    @property
    def specs(self) -> Sequence[Mapping[str, ArraySpec]]:
        """The arrays of this process in each kind of batch."""
        return self.experiment.task.batch_specs(
            self.plan, row_multiple=self.row_multiple, process_count=self.share.count
        )

    def compiled(self) -> Callable[..., Any]:
        """The step as the experiment lays it over the mesh; see `compile_train_step`."""
        return compile_train_step(
            self.step,
            self.mesh,
            self.factory.shardings(),
            strategy=self.experiment.strategy,
            deterministic=self.experiment.train.deterministic,
        )

    def batches(self, prepared: Prepared, start_step: int = 0) -> Iterator[Any]:
        """This process's part of the training batches from `start_step` on, without end."""
        return self.experiment.task.batches(
            prepared,
            self.plan,
            start_step=start_step,
            row_multiple=self.row_multiple,
            process_index=self.share.index,
            process_count=self.share.count,
        )


def build_program(
    experiment: Experiment, plan: Any, mesh: Mesh, share: RowShare | None = None
) -> Program:
    """The step of an experiment whose open sizes are resolved.

    Args:
        experiment: that is run.
        plan: of its training batches.
        mesh: where it runs.
        share: which rows this process provides; `None`: those of its devices.

    Raises:
        UserError: the plan's rows or lengths cannot be laid over the mesh.
    """
    refuse_uneven_lengths(experiment.batch, mesh)
    task, config = experiment.task, experiment.train
    model, transformation = experiment.model.build(), experiment.optimizer.build()
    row_multiple = row_shards(mesh) * config.accumulation
    first_carry = functools.partial(task.first_carry, model, plan, row_multiple=row_multiple)
    jax.eval_shape(first_carry)  # refuses what the plan cannot do before anything is made
    factory = StateFactory(
        experiment.model, model, transformation, mesh, experiment.seed, first_carry=first_carry
    )
    step = make_train_step(
        task,
        model,
        transformation,
        experiment.schedule.build(plan.steps_per_epoch),
        config.accumulation,
        config.max_gradient_norm,
    )
    share = row_share(mesh) if share is None else share
    return Program(
        experiment, plan, mesh, model, transformation, factory, step, row_multiple, share
    )
