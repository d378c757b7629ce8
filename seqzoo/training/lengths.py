"""Lengths of batches: on a mesh that splits them, and for a model that knows so many positions."""

import math
from typing import Any

from jax.sharding import Mesh

from seqzoo.data.batching import BatchConfig
from seqzoo.errors import UserError
from seqzoo.experiment import Experiment
from seqzoo.parallel.axes import DEFAULT_RULES, Rules, partition_spec
from seqzoo.tasks.base import Prepared


def refuse_uneven_lengths(batch: BatchConfig, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> None:
    """Raises `UserError` if some batch of training or evaluation has a length that the mesh splits
    and does not divide.
    """
    entry = partition_spec(('length',), rules, mesh)[0]
    axes = (entry,) if isinstance(entry, str) else (entry or ())
    ways = math.prod(mesh.shape[a] for a in axes)
    lengths: list[tuple[str, int | None]] = [
        ('max_length', batch.max_length),
        ('evaluation_max_length', batch.evaluation_max_length),
    ]
    if batch.packing:
        lengths.append(('pack_length', batch.pack_length))
    if batch.buckets is None:
        lengths.append(('length_multiple', batch.length_multiple))
    else:
        lengths += [('buckets', bucket) for bucket in batch.buckets]
    for name, length in lengths:
        if length is not None and length % ways:
            along = ' x '.join(f'mesh.{a} {mesh.shape[a]}' for a in axes)
            raise UserError(
                f'batch.{name} is {length}, which {along} does not divide, and it splits every '
                f'length; set --batch.length-multiple, --batch.max-length and every other length '
                f'to multiples of {ways}, or --mesh.sequence 1.'
            )


def refuse_long_rows(experiment: Experiment, prepared: Prepared, plan: Any) -> None:
    """Raises `UserError` if some batch of training or of its evaluations is longer than the model
    has positions for.

    Args:
        experiment: what is to be trained.
        prepared: the splits 'train' and 'dev'.
        plan: of the training batches.
    """
    limit = experiment.model.longest_row
    if limit is None:
        return
    lengths = [max(shape.source_length, shape.target_length) for shape in plan.shapes]
    evaluated = experiment.task.longest_evaluated(prepared, 'dev', experiment.batch)
    for what, longest in (('training', max(lengths)), ('evaluation', evaluated)):
        if longest > limit:
            raise UserError(
                f'batches of {what} are up to {longest} positions long, but the model has only '
                f'{limit}; set --batch.max-length and --batch.evaluation-max-length to at most '
                f'{limit}, shorten the data, or raise max_length of the model.'
            )
