"""Several steps ahead of a series: each forecast value goes back in as if it had come true.

Paths are drawn from the model's distribution of the next value, over and over; their means are the
forecast and their quantiles its interval. Or the means themselves go back in, which gives one path
and no interval.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqzoo.data.batching import BatchConfig
from seqzoo.data.columns import Columns, Fixed, Ragged
from seqzoo.data.time_series import Scale
from seqzoo.errors import UserError
from seqzoo.parallel.loops import loop_over
from seqzoo.tasks.base import Batch, Decoding, Prediction, Runtime
from seqzoo.tasks.column_task import Answers, pass_over

PATHS = 200  # the ends of a 90 % interval are then off by about 0.02 of probability

# (variables, batch of `values`, `segments` and `unit`) -> mean and logarithm of the standard
# deviation of the value after each, `[rows, length]`.
NextValue = Callable[[Any, Batch], tuple[jax.Array, jax.Array]]


@dataclass(frozen=True)
class Forecast:
    """What is to come, in units of the series.

    Attributes:
        mean: `[records, steps]`.
        low, high: the same, ends of the interval; `None` where the means were fed back, which says
            nothing about how far the truth may lie from them.
    """

    mean: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def prediction(self, row: int, interval: float) -> Prediction:
        """One record's: `MEAN (LOW to HIGH), ...`.

        Args:
            row: which.
            interval: probability that the interval claims.
        """
        mean = self.mean[row].tolist()
        if self.low is None or self.high is None:
            text = ', '.join(f'{value:.4g}' for value in mean)
            return Prediction(text, details={'mean': mean})
        low, high = self.low[row].tolist(), self.high[row].tolist()
        steps = zip(mean, low, high, strict=True)
        text = ', '.join(f'{m:.4g} ({a:.4g} to {b:.4g})' for m, a, b in steps)
        return Prediction(
            text, details={'mean': mean, 'low': low, 'high': high, 'interval': interval}
        )


def forecast(
    runtime: Runtime,
    next_value: NextValue,
    contexts: Sequence[np.ndarray],
    scale: Scale,
    batch: BatchConfig,
    decoding: Decoding,
    *,
    interval: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Forecast:
    """What comes after each context, `decoding.extra_length` steps.

    Args:
        runtime: model and mesh.
        next_value: the model's distribution.
        contexts: standardised values, at least one each.
        scale: of the series.
        batch: buckets.
        decoding: `'sample'` draws paths, `'greedy'` feeds back the means; `rows` at a time.
        interval: probability between `low` and `high`.
        progress: called with how many are done, of how many.

    Raises:
        UserError: the method is another one, or there is no step to forecast.
    """
    if decoding.method == 'beam':
        raise UserError(
            'a forecast is drawn or follows the means: set --decode.method sample or greedy.'
        )
    if decoding.extra_length < 1:
        raise UserError('decode.extra_length is the number of steps: give at least 1.')
    count = len(contexts)
    table = Columns(
        {
            'values': Ragged.of(contexts, np.float32),
            'example': Fixed(np.arange(count, dtype=np.int32)),
            'unit': Fixed(np.full(count, scale.change, np.float32)),
        }
    )

    def paths(variables: Any, batch: Batch) -> Answers:
        return Answers({'paths': _paths(next_value, variables, batch, decoding)})

    rows = replace(batch, evaluation_rows=decoding.rows)
    found = pass_over(runtime, table, rows, ('paths', decoding), paths, progress)
    values = scale.restored(found.columns['paths'].values)
    if decoding.method == 'greedy':
        return Forecast(values[:, 0])
    tail = (1 - interval) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=1)
    return Forecast(values.mean(axis=1), low, high)


def _paths(next_value: NextValue, variables: Any, batch: Batch, decoding: Decoding) -> jax.Array:
    """`[rows, paths, steps]` standardised values after each row.

    Every step reads the whole window again: any causal model will do, and keeps no state.
    """
    steps = decoding.extra_length
    noise = _noise(batch['example'], decoding)
    rows, paths = noise.shape[:2]
    known = jnp.repeat(jnp.sum(batch['segments'] > 0, axis=1), paths)
    unit = jnp.repeat(batch['unit'], paths)
    window = jnp.repeat(jnp.pad(batch['values'], ((0, 0), (0, steps))), paths, axis=0)
    every, place = jnp.arange(rows * paths), jnp.arange(window.shape[1])

    def step(state: tuple[jax.Array, jax.Array], noise: jax.Array) -> Any:
        window, known = state
        segments = (place < known[:, None]).astype(jnp.int32)
        after = next_value(variables, {'values': window, 'segments': segments, 'unit': unit})
        mean, log_scale = (x[every, known - 1] for x in after)
        value = mean + jnp.exp(log_scale) * noise
        return (window.at[every, known].set(value), known + 1), value

    # [rows, paths, steps] -> [steps, rows * paths], and back
    with loop_over('decode_loop'):
        _, values = jax.lax.scan(step, (window, known), noise.reshape(-1, steps).T)
    return values.T.reshape(rows, paths, steps)


def _noise(examples: jax.Array, decoding: Decoding) -> jax.Array:
    """`[rows, paths, steps]` standard normal, by the number of the example, so that a record draws
    the same in whatever batch it stands.
    """
    shape = (PATHS, decoding.extra_length)
    if decoding.method == 'greedy':
        return jnp.zeros((len(examples), 1, decoding.extra_length))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(decoding.seed), examples)
    # The density to the power of 1 / temperature is that of a normal distribution, too.
    drawn = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    return drawn * decoding.temperature**0.5
