"""A series and its forecasts: one step ahead with the interval, and several steps from its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np

from seqzoo.analysis import drawing
from seqzoo.data.time_series import Scale
from seqzoo.tasks.forecasting import Forecasting, OneStepAhead
from seqzoo.tasks.roll_out import Forecast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Path = str | os.PathLike[str]

_MOST_SHOWN = 180  # values one step ahead; more would be a blur
_BEFORE = 3  # times as many values before a forecast of several steps as it has


def draw_run(run: Any, path: FilePath, data_dir: FilePath | None) -> FilePath:
    """Draws the end of the test part; gives the file.

    Args:
        run: a trained forecast, `seqzoo.load_run(..., splits=('test',))`.
        path: where to write the PNG.
        data_dir: where the series lies.
    """
    from seqzoo.training.run_folder import default_data_dir

    task: Forecasting = run.experiment.task
    table, learnt = run.prepared.splits['test'], run.prepared.learnt
    answers = task.answers_for(run.runtime, table, run.experiment.batch)
    part = task.read('test', default_data_dir(data_dir)).part
    decoding, scale = run.experiment.decode, Scale(**learnt)
    origin = len(part.values) - min(decoding.extra_length, len(part))
    context = scale.standardised(part.values[max(origin - task.context, 0) : origin])
    ahead = task.forecast(run.runtime, scale, [context], run.experiment.batch, decoding)
    forecast_picture(
        part.values,
        part.times,
        task.one_step_ahead(table, answers, learnt),
        ahead,
        origin,
        path,
        name=task.data_name,
        interval=task.interval,
    )
    return path


def forecast_picture(
    values: np.ndarray,
    times: Sequence[str],
    one_step: OneStepAhead,
    ahead: Forecast,
    origin: int,
    path: Path | None = None,
    *,
    name: str,
    interval: float,
) -> Figure:
    """The end of a series.

    Args:
        values: `[values]` of the series.
        times: their time stamps.
        one_step: of the last values.
        ahead: of one record, what comes from `origin` on.
        origin: the place of the first value of `ahead`.
        path: where to write the PNG.
        name: of the series.
        interval: probability that the intervals claim.
    """
    when = _axis(times)
    figure = drawing.new_figure(9, 6.4)
    upper, lower = figure.subplots(2, 1)
    shown = slice(-min(_MOST_SHOWN, len(one_step.actual)), None)
    place = np.arange(len(values))[shown]
    inside = 100 * np.mean((one_step.low <= one_step.actual) & (one_step.actual <= one_step.high))
    rmse, simple = (_rmse(x, one_step.actual) for x in (one_step.mean, one_step.last))
    _band(upper, when[place], one_step.low[shown], one_step.high[shown], interval)
    upper.plot(when[place], one_step.mean[shown], color=drawing.COLORS[0], label='forecast')
    _truth(upper, when[place], values[place])
    upper.set_title(
        drawing.wrapped(
            f'{name}, one step ahead: root mean square error {rmse:.3g} (persistence '
            f'{simple:.3g}); {inside:.0f} % of {len(one_step.actual):,} values lie in the '
            f'{100 * interval:.0f} % interval',
            8.6,
        ),
        loc='left',
        **drawing.text_style(drawing.TITLE_SIZE),
    )
    steps = min(ahead.mean.shape[1], len(values) - origin)
    future = np.arange(origin, origin + steps)
    place = np.arange(max(origin - _BEFORE * steps - 1, 0), origin + steps)
    if ahead.low is not None and ahead.high is not None:
        _band(lower, when[future], ahead.low[0, :steps], ahead.high[0, :steps], interval)
    lower.plot(when[future], ahead.mean[0, :steps], color=drawing.COLORS[0], label='forecast')
    lower.axvline(when[origin - 1], color=drawing.GREY, linewidth=0.8, linestyle=':')
    _truth(lower, when[place], values[place])
    lower.set_title(
        f'{steps} steps ahead, from {times[origin - 1]}',
        loc='left',
        **drawing.text_style(drawing.TITLE_SIZE),
    )
    for panel in (upper, lower):
        drawing.style_curves(panel, '', 'value')
        panel.margins(x=0.01)
    upper.legend(frameon=False, fontsize=drawing.TICK_SIZE, ncols=3, loc='best')
    if path is not None:
        drawing.save(figure, path)
    return figure


def _band(axes: Axes, when: np.ndarray, low: np.ndarray, high: np.ndarray, interval: float) -> None:
    axes.fill_between(
        when,
        low,
        high,
        color=drawing.COLORS[5],
        alpha=0.35,
        linewidth=0,
        label=f'{100 * interval:.0f} % interval',
    )


def _truth(axes: Axes, when: np.ndarray, values: np.ndarray) -> None:
    axes.plot(
        when,
        values,
        color='black',
        linewidth=0.6,
        marker='o',
        markersize=2.2,
        label='what came true',
    )


def _axis(times: Sequence[str]) -> np.ndarray:
    """Dates where the time stamps are some, and numbers of values otherwise."""
    try:
        return np.array(times, 'datetime64[D]')
    except ValueError:
        return np.arange(len(times))


def _rmse(found: np.ndarray, actual: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(found - actual))))
