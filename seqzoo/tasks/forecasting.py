"""Forecasting: each value of a series as a normal distribution, given all values before it.

    p(y_{t+1} | y_1 ... y_t) = N(m_t, s_t^2),    (m_t, log s_t) from the model at position t

which is the autoregressive Gaussian of Graves 2013 (arXiv:1308.0850, section 4, with one component)
and of DeepAR (Salinas, Flunkert, Gasthaus 2017, arXiv:1704.04110).

Values are standardised by mean and standard deviation of the training part. A model that reads
changes says by how much the next value differs from the last: persistence, the forecast that
nothing changes, is then where it begins, not what it has to learn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.data.batching import BatchConfig
from seqzoo.data.columns import Column, Columns, Fixed, Ragged
from seqzoo.data.time_series import (
    Part,
    Scale,
    SeriesFile,
    Windows,
    overlapping_windows,
    parse_numbers,
    scoring_windows,
)
from seqzoo.errors import UserError
from seqzoo.models.base import ModelConfig
from seqzoo.optimization.losses import gaussian_nll
from seqzoo.tasks.base import Batch, Decoding, Losses, Prediction, Prepared, Runtime, Sums
from seqzoo.tasks.column_task import Answers, ColumnTask, PreparedColumns
from seqzoo.tasks.labeling import outputs_of
from seqzoo.tasks.open_sizes import fill_open
from seqzoo.tasks.roll_out import Forecast, forecast

_LOG_SCALES = (-7.0, 7.0)  # least and largest, of standardised values


@dataclass(frozen=True)
class Stretches:
    """A part of a series and the windows that it is cut into."""

    part: Part
    windows: Windows

    def __len__(self) -> int:
        return len(self.windows.starts)


@dataclass(frozen=True)
class OneStepAhead:
    """Forecasts of the next value, `[values]` each, in units of the series.

    Attributes:
        actual: what came true.
        mean: expected value.
        low, high: ends of the interval.
        last: the value before.
        season: the value a period before; `None` where it is not known.
        nll: negative log-density of the standardised value, in nats.
    """

    actual: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    last: np.ndarray
    season: np.ndarray | None
    nll: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Forecasting(ColumnTask):
    """A series, one value at a time.

    Attributes:
        corpus: the series and its parts.
        context: values that the model has read, at least, before one that is scored.
        window: values of a window, context included.
        stride: steps between two training windows, which overlap.
        logarithm: of the values, which are positive.
        reads: what the model reads at each step: the value, its change from the one before, or
            both. With changes it forecasts the next change, without them the next value.
        interval: probability that the intervals claim.
    """

    corpus: SeriesFile = field(default_factory=SeriesFile)
    context: int = 96
    window: int = 128
    stride: int = 8
    logarithm: bool = False
    reads: Literal['values', 'changes', 'both'] = 'both'
    interval: float = 0.9

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        if not 1 <= self.context < self.window:
            raise UserError(
                f'task.context {self.context} must be at least 1 and less than task.window '
                f'{self.window}.'
            )
        if self.stride < 1:
            raise UserError(f'task.stride must be at least 1, not {self.stride}.')
        if not 0 < self.interval < 1:
            raise UserError(f'task.interval must lie between 0 and 1, not {self.interval}.')

    @property
    def data_name(self) -> str:
        return self.corpus.name

    @property
    def best_metric(self) -> tuple[str, str]:
        return 'loss', 'min'

    def nominal_model(self, model: ModelConfig) -> ModelConfig:
        sizes = {'num_outputs': 2, 'input_dim': 2 if self.reads == 'both' else 1}
        return fill_open(model, sizes, because='the forecast')

    def resolve(self, model: ModelConfig, prepared: Prepared) -> ModelConfig:
        del prepared
        if not getattr(model, 'causal', False):
            raise UserError(
                f'{type(model).__name__} as configured would see what it should forecast; take one '
                "output per step (model.per 'step') of an encoder that reads forward."
            )
        return self.nominal_model(model)

    # Data

    def read(self, split: str, data_dir: Path | None) -> Stretches:
        part = self.corpus.part(split, data_dir)
        if self.logarithm and part.values.min() <= 0:
            raise UserError(
                f'{self.data_name} has values that are not positive; set task.logarithm to False.'
            )
        if split == 'train':
            return Stretches(part, overlapping_windows(part, self.window, self.stride))
        return Stretches(part, scoring_windows(part, self.context, self.window))

    def learn(self, examples: Stretches) -> dict[str, Any]:
        own = examples.part.values[examples.part.begin :]
        return vars(Scale.of(own, logarithm=self.logarithm))

    def encode(self, examples: Stretches, learnt: Mapping[str, Any]) -> Columns:
        part, windows, period = examples.part, examples.windows, self.corpus.period
        scale = Scale(**learnt)
        values = scale.standardised(part.values)
        bounds = zip(windows.starts, windows.ends, strict=True)
        places = [np.arange(start, end) for start, end in bounds]
        scored = [p >= first for p, first in zip(places, windows.scored, strict=True)]
        columns: dict[str, Column] = {
            'values': Ragged.of([values[p] for p in places], np.float32),
            'scored': Ragged.of(scored, np.float32),
            'unit': Fixed(np.full(len(places), scale.change, np.float32)),
        }
        if period is not None and part.begin >= period:
            before = [values[np.maximum(p - period, 0)] for p in places]
            columns['season'] = Ragged.of(before, np.float32)
        return Columns(columns)

    def nominal_table(self, lengths: Sequence[int]) -> Columns:
        del lengths  # a window is as long as the task says
        values, scored = (Ragged.blank([self.window], np.float32) for _ in range(2))
        unit = Fixed(np.ones(1, np.float32))
        return Columns({'values': values, 'scored': scored, 'unit': unit})

    # Loss

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {'loss': jnp.sum(_counted(batch))}

    def loss(
        self, model: nn.Module, variables: Any, batch: Batch, carry: Any, *, key: jax.Array | None
    ) -> tuple[Losses, Any]:
        mean, log_scale = self._next(model, variables, batch, key)
        nll = gaussian_nll(mean[:, :-1], log_scale[:, :-1], batch['values'][:, 1:])
        counted = _counted(batch)
        total = jnp.sum(nll * counted)
        sums = Sums(jax.lax.stop_gradient(total), jnp.sum(counted))
        return Losses({'loss': total}, {'loss': sums}), carry

    def _next(
        self, model: nn.Module, variables: Any, batch: Batch, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Mean and logarithm of the standard deviation of the value after each, `[rows, length]`.

        The batch holds `values`, `segments` and `unit`, the standard deviation of changes.
        """
        values, unit = batch['values'], batch['unit'][:, None]
        inputs = [values] if self.reads != 'changes' else []
        if self.reads != 'values':
            inputs.append(jnp.pad(jnp.diff(values, axis=1), ((0, 0), (1, 0))) / unit)
        outputs = outputs_of(model, variables, jnp.stack(inputs, axis=-1), batch, key, rank=3)
        mean, log_scale = outputs[..., 0], outputs[..., 1]
        if self.reads != 'values':
            mean, log_scale = values + unit * mean, jnp.log(unit) + log_scale
        return mean, jnp.clip(log_scale, *_LOG_SCALES)

    # Evaluation

    def answers(self, model: nn.Module, variables: Any, batch: Batch) -> Answers:
        mean, log_scale = self._next(model, variables, batch)
        # To the place of the value that is forecast.
        later = [jnp.pad(x[:, :-1], ((0, 0), (1, 0))) for x in (mean, log_scale)]
        return Answers(positions={'mean': later[0], 'log_scale': later[1]})

    def one_step_ahead(
        self, table: Columns, answers: Columns, learnt: Mapping[str, Any]
    ) -> OneStepAhead:
        """Of every value that counts, in the order of time; arguments as of `measure`."""
        scale, values = Scale(**learnt), _flat(table, 'values')
        places = np.flatnonzero(_flat(table, 'scored'))
        mean, log_scale = (_flat(answers, name)[places] for name in ('mean', 'log_scale'))
        spread = np.exp(log_scale)
        margin = NormalDist().inv_cdf(0.5 + self.interval / 2) * spread
        season = _flat(table, 'season')[places] if 'season' in table.columns else None
        nll = gaussian_nll(*map(jnp.asarray, (mean, log_scale, values[places])))
        return OneStepAhead(
            actual=scale.restored(values[places]),
            mean=scale.expected(mean, spread),
            low=scale.restored(mean - margin),
            high=scale.restored(mean + margin),
            last=scale.restored(values[places - 1]),
            season=None if season is None else scale.restored(season),
            nll=np.asarray(nll),
        )

    def measure(
        self, table: Columns, answers: Columns, learnt: Mapping[str, Any]
    ) -> dict[str, Any]:
        """One step ahead: `loss` in nats of the standardised value; errors in units of the series,
        beside them those of the forecasts that nothing changes and that the season comes again; and
        the percentage of values within the interval (`coverage`), beside what it claims.
        """
        found = self.one_step_ahead(table, answers, learnt)
        return {
            'loss': float(np.mean(found.nll)),
            **_errors(found.actual, found.mean, found.last, found.season),
            'interval': 100 * self.interval,
            'coverage': _coverage(found.actual, found.low, found.high),
            'interval_width': float(np.mean(found.high - found.low)),
            'values': len(found.actual),
        }

    def evaluate(
        self,
        runtime: Runtime,
        prepared: Prepared,
        split: str,
        batch: BatchConfig,
        decoding: Decoding | None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, Any]:
        """With `decoding` also the forecasts of `decoding.extra_length` steps, from places as far
        apart; their figures are called `ahead_...`.
        """
        assert isinstance(prepared, PreparedColumns)
        scale, steps = Scale(**prepared.learnt), decoding.extra_length if decoding else 0
        values, first, season = _joined(prepared.splits[split])
        origins = range(first, len(values) - steps + 1, max(steps, 1)) if decoding else range(0)
        windows = len(prepared.splits[split])
        total = windows + len(origins)
        metrics = super().evaluate(
            runtime, prepared, split, batch, None, lambda done, _: progress(done, total)
        )
        if decoding is None or not origins:  # or the part is shorter than the forecast
            return metrics
        contexts = [values[max(origin - self.context, 0) : origin] for origin in origins]
        found = self.forecast(
            *(runtime, scale, contexts, batch, decoding),
            lambda done, _: progress(windows + done, total),
        )
        stretches = np.add.outer(origins, np.arange(steps))
        actual = scale.restored(values[stretches])
        held = np.broadcast_to(scale.restored(values[stretches[:, :1] - 1]), actual.shape)
        before = None
        if season is not None and self.corpus.period is not None:
            # From the second period on what is known is repeated, not what came true meanwhile.
            again = stretches[:, :1] + np.arange(steps) % self.corpus.period
            before = scale.restored(season[again])
        ahead: dict[str, Any] = {'steps': steps, **_errors(actual, found.mean, held, before)}
        if found.low is not None and found.high is not None:
            ahead['coverage'] = _coverage(actual, found.low, found.high)
        return metrics | {f'ahead_{name}': value for name, value in ahead.items()}

    # Prediction

    def forecast(
        self,
        runtime: Runtime,
        scale: Scale,
        contexts: Sequence[np.ndarray],
        batch: BatchConfig,
        decoding: Decoding,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Forecast:
        """What comes after each context; see `roll_out.forecast`."""

        def next_value(variables: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
            return self._next(runtime.model, variables, batch)

        return forecast(
            runtime,
            next_value,
            contexts,
            scale,
            batch,
            decoding,
            interval=self.interval,
            progress=progress,
        )

    def predict(
        self,
        runtime: Runtime,
        prepared: Prepared,
        records: Sequence[str],
        batch: BatchConfig,
        decoding: Decoding,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Prediction]:
        """A record is numbers parted by commas, of which the last `task.context` are read; its
        prediction has as many forecasts as `decode.extra_length` says.
        """
        assert isinstance(prepared, PreparedColumns)
        scale, contexts = Scale(**prepared.learnt), []
        for number, record in enumerate(records, 1):
            if not record.strip():
                continue
            values = np.array(parse_numbers(record, f'record {number}'))
            if self.logarithm and values.min() <= 0:
                raise UserError(f'record {number}: the model takes positive numbers only.')
            contexts.append(scale.standardised(values[-self.context :]))
        if not contexts:
            return [Prediction('') for _ in records]
        found = self.forecast(runtime, scale, contexts, batch, decoding, progress)
        rows = iter(range(len(contexts)))
        return [
            found.prediction(next(rows), self.interval) if record.strip() else Prediction('')
            for record in records
        ]


def _counted(batch: Batch) -> jax.Array:
    """`[rows, length - 1]` float32: in training all values count but the first of each window."""
    return (batch['segments'][:, 1:] > 0).astype(jnp.float32)


def _flat(table: Columns, name: str) -> np.ndarray:
    return table.columns[name].values


def _joined(table: Columns) -> tuple[np.ndarray, int, np.ndarray | None]:
    """The series as one array, out of windows that follow one another: the context of the first and
    what counts in each; where the first that counts stands; and of each the value a season before.
    """
    counts = _flat(table, 'scored') > 0
    first = int(np.argmax(counts))
    counts[:first] = True
    season = _flat(table, 'season')[counts] if 'season' in table.columns else None
    return _flat(table, 'values')[counts], first, season


def _errors(
    actual: np.ndarray, found: np.ndarray, last: np.ndarray, season: np.ndarray | None
) -> dict[str, float]:
    """Root of the mean square and mean absolute error, and those of the simple forecasts."""
    errors = {}
    for name, forecasts in (('', found), ('persistence_', last), ('season_', season)):
        if forecasts is not None:
            difference = forecasts - actual
            errors[f'{name}rmse'] = float(np.sqrt(np.mean(np.square(difference))))
            errors[f'{name}mae'] = float(np.mean(np.abs(difference)))
    return errors


def _coverage(actual: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Percentage of values within their intervals."""
    return float(100 * np.mean((low <= actual) & (actual <= high)))
