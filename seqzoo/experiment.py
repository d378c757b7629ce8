"""An experiment: everything that a run is, in one frozen dataclass.

The first half *defines* the run: change it and it is another run. The second half says *how* it
runs: device layout, cadence, decoding. It may change whenever the run is taken up again.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from seqzoo.data.batching import BatchConfig
from seqzoo.errors import UserError
from seqzoo.models.base import ModelConfig
from seqzoo.optimization.optimizers import Adam, Optimizer
from seqzoo.optimization.schedules import Noam, Schedule
from seqzoo.parallel.compile import STRATEGIES, Strategy
from seqzoo.parallel.mesh import MeshConfig
from seqzoo.tasks.base import Decoding, Task

DEFINING = ('model', 'task', 'optimizer', 'schedule', 'batch', 'seed')

# Fields inside the defining half that do not define: the parameters that training finds are the
# same up to rounding, and evaluation only takes other batches. They may change between restarts.
WAYS_TO_RUN = (
    'batch.evaluation_rows',
    'batch.evaluation_max_length',
)
# The same of layers, wherever in a model they stand.
LAYERS_WAYS_TO_RUN = (
    *('scan_layers', 'remat', 'attention_implementation'),
    *('remat_steps', 'unroll', 'evaluation_dispatch'),
)


def defines_run(path: str) -> bool:
    """Whether the field at a dotted path is part of what a run is."""
    first, last = path.split('.')[0], path.split('.')[-1]
    if first == 'model' and last in LAYERS_WAYS_TO_RUN:
        return False
    return first in DEFINING and path not in WAYS_TO_RUN


# A number of parameters as papers print it; '4303.4M' has one decimal.
_COUNT = re.compile(r'(\d[\d,]*)(?:\.(\d+))?([KMB])?')

_LEAST = {
    'steps': 1,
    'accumulation': 1,
    'log_every': 1,
    'evaluate_every': 0,
    'checkpoint_every': 1,
    'keep': 1,
    'keep_best': 0,
    'snapshot_every': 0,
    'snapshot_patience': 1,
    'keep_snapshots': 1,
    'early_stopping': 1,
    'plateau_patience': 1,
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long a run trains, and how often it does what.

    Attributes:
        steps: updates in all.
        max_minutes: stop after this much training time in this process, whatever `steps` says.
        accumulation: parts into which each batch is split; the same batch, less memory.
        log_every: updates between two entries of `metrics.jsonl`.
        evaluate_every: updates between two evaluations on the dev split; 0 evaluates only at the
            end.
        evaluate_decoding: also translate and score the dev split then, greedily; otherwise only its
            loss.
        checkpoint_every: updates between two checkpoints; one is written at the end in any case.
        keep, keep_best: how many checkpoints survive, newest and best by the task's metric.
        snapshot_every, keep_snapshots: parameters alone, to be averaged by `evaluate --average`; 0
            writes none.
        snapshot_patience: write them only once there have been this many evaluations in a row
            without improvement; their mean is then averaged SGD that begins by itself, as Merity et
            al. 2017 have it after 5. `None` from the beginning.
        early_stopping: stop after this many evaluations without improvement; `None` never.
        plateau_patience, plateau_factor: multiply the learning rate by the factor after this many
            evaluations without improvement; `None` never.
        non_finite: a loss or gradient that is not finite, or a gradient above `max_gradient_norm`,
            stops the run (`'stop'`) or its update is left out and counted (`'skip'`).
        max_gradient_norm: a gradient whose norm, before any clipping, is larger has exploded;
            `None` lets every finite one pass.
        on_recompile: a batch of a shape that the plan did not announce, or anything else for which
            the step would be compiled anew, is refused (`'refuse'`) or compiled and counted
            (`'report'`).
        deterministic: on a GPU take only kernels that add in a fixed order, so that a run that was
            interrupted equals one that was not, bit by bit; slower. CPUs and TPUs always do.
    """

    steps: int = 100_000
    max_minutes: float | None = None
    accumulation: int = 1
    log_every: int = 50
    evaluate_every: int = 1000
    evaluate_decoding: bool = False
    checkpoint_every: int = 1000
    keep: int = 2
    keep_best: int = 1
    snapshot_every: int = 0
    keep_snapshots: int = 10
    snapshot_patience: int | None = None
    early_stopping: int | None = None
    plateau_patience: int | None = None
    plateau_factor: float = 0.5
    non_finite: Literal['stop', 'skip'] = 'stop'
    max_gradient_norm: float | None = None
    on_recompile: Literal['refuse', 'report'] = 'refuse'
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f'train.{name} must be at least {least}, not {value}.')
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise UserError(f'train.max_minutes must be above 0, not {self.max_minutes}.')
        if not 0 < self.plateau_factor <= 1:
            raise UserError(
                f'train.plateau_factor must be above 0 and at most 1, not {self.plateau_factor}.'
            )
        if self.non_finite not in ('stop', 'skip'):
            raise UserError(f"train.non_finite must be 'stop' or 'skip', not {self.non_finite!r}.")
        if self.max_gradient_norm is not None and not self.max_gradient_norm > 0:
            raise UserError(
                f'train.max_gradient_norm must be above 0, not {self.max_gradient_norm}.'
            )
        if self.on_recompile not in ('refuse', 'report'):
            raise UserError(
                f"train.on_recompile must be 'refuse' or 'report', not {self.on_recompile!r}."
            )


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the paper prints of an experiment. Nothing trains by it; `seqzoo audit` sets it beside
    what is here.

    Attributes:
        paper: authors and year.
        result: the figure with its metric and test set.
        source: how well the figures here are known: `'verified'` against the text of the paper or
            its authors' code, `'secondary'` from another paper's table or from notes, `'memory'`
            not checked.
        score: what `seqzoo score` calls the scorer of the result; `''` where it is none of its.
        parameters: their number as printed: `'65M'`, `'2.6M'`, `'2,757,761'`; `''` if it is not.
        left_out: which parameters that number leaves out, as patterns of their paths.
        tokens: of training, of one side, as stated.
        flops: operations of the whole training, as printed.
        difference: why the count or the operations here are not the printed ones; `{vocabulary}`
            stands for the sizes of a vocabulary with which the count rounds to `{parameters}`, the
            printed one.
    """

    paper: str = ''
    result: str = ''
    source: Literal['verified', 'secondary', 'memory'] = 'memory'
    score: str = ''
    parameters: str = ''
    left_out: tuple[str, ...] = ()
    tokens: int | None = None
    flops: float | None = None
    difference: str = ''
    flops_difference: str = ''

    def __post_init__(self) -> None:
        if self.parameters and not _COUNT.fullmatch(self.parameters):
            raise UserError(
                f"published.parameters is {self.parameters!r}; write it as '65M', '2.6M', '1.3B' "
                "or '2,757,761'."
            )
        if self.printed_parameters is not None and not self.printed_parameters[0]:
            raise UserError("published.parameters is 0; leave it '' where no number is printed.")
        if self.source not in ('verified', 'secondary', 'memory'):
            raise UserError(
                "published.source must be 'verified', 'secondary' or 'memory', not "
                f'{self.source!r}.'
            )

    @property
    def printed_parameters(self) -> tuple[int, int] | None:
        """The printed number, and how much its last digit stands for: 65,000,000 and 1,000,000."""
        found = _COUNT.fullmatch(self.parameters)
        if found is None:
            return None
        whole, decimals, suffix = found.groups(default='')
        unit = {'': 1, 'K': 10**3, 'M': 10**6, 'B': 10**9}[suffix] // 10 ** len(decimals)
        return int(whole.replace(',', '') + decimals) * unit, unit


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run, completely described.

    Attributes:
        description: one sentence for `seqzoo list`.
        model, task, optimizer, schedule, batch, seed: what defines the run.
        strategy: how the step is laid over the devices: `'jit'` with shardings over any mesh, or
            `'shard_map'` or `'pmap'`, which split the batch alone. The run is the same.
        mesh, train, decode: how it runs.
        published: what the paper reports.
    """

    description: str = ''
    model: ModelConfig
    task: Task
    optimizer: Optimizer = field(default_factory=Adam)
    schedule: Schedule = field(default_factory=Noam)
    batch: BatchConfig = field(default_factory=BatchConfig)
    seed: int = 0
    strategy: Strategy = 'jit'
    mesh: MeshConfig = field(default_factory=MeshConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: Decoding = field(default_factory=Decoding)
    published: Published = field(default_factory=Published)

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UserError(
                f"strategy must be 'jit', 'shard_map' or 'pmap', not {self.strategy!r}."
            )
        if self.batch.packing and not self.model.packs:
            name = type(self.model).__name__.removesuffix('Config')
            raise UserError(
                f'batch.packing puts several sentences into a row, and {name} cannot keep them '
                'apart; leave --batch.packing out.'
            )

    def nominal_model(self) -> ModelConfig:
        """The model's configuration with the sizes of the paper where the data has to say them."""
        return self.task.nominal_model(self.model)
