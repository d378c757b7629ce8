"""Loss curves: what `metrics.jsonl` of one run or several holds, as a picture."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqzoo.analysis import drawing
from seqzoo.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Path = str | os.PathLike[str]
Event = Mapping[str, Any]
Series = tuple[np.ndarray, np.ndarray]  # steps, values

_MOST_POINTS = 2000  # more than a picture has columns; longer curves are averaged down to this


def loss_curve(
    runs: Sequence[tuple[str, Iterable[Event]]],
    path: Path | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Training loss against the step for one run or several; dev loss and dev BLEU if measured.

    The thin line is every logged loss, the thick one its centred moving average; markers are
    evaluations. Where a run was resumed and logged a step twice, the later event counts.

    Args:
        runs: names and events as `metrics.jsonl` holds them: `{'kind': 'train', 'step', 'loss',
            ...}` and `{'kind': 'evaluation', 'step', 'loss', 'bleu', ...}`.
        path: where to write the PNG.
        title: default: what the curves show, in words.

    Raises:
        UserError: no run has a training loss.
    """
    curves = [(name, *_series(events)) for name, events in runs]
    if not any(len(train[0]) for _, train, _, _ in curves):
        raise UserError('there is no training loss to draw yet; train for a few steps first')
    has_bleu = any(len(bleu[0]) for _, _, _, bleu in curves)
    figure = drawing.new_figure(8, 6.4 if has_bleu else 4.6)
    panels = figure.subplots(
        2 if has_bleu else 1, 1, sharex=True, squeeze=False, height_ratios=[2, 1][: 1 + has_bleu]
    )[:, 0]
    for index, (name, train, dev, bleu) in enumerate(curves):
        color = drawing.COLORS[index % len(drawing.COLORS)]
        style = drawing.LINE_STYLES[index // len(drawing.COLORS) % len(drawing.LINE_STYLES)]
        label = name if len(curves) > 1 else 'training'
        _draw_loss(panels[0], train, dev, label, color=color, style=style, alone=len(curves) == 1)
        if len(bleu[0]):
            panels[1].plot(*bleu, color=color, linestyle=style, marker='o', markersize=5)
    for panel, y_label in zip(panels, ('loss (nats per token)', 'dev BLEU (0-100)'), strict=False):
        last = panel is panels[-1]
        drawing.style_curves(panel, 'training step (updates)' if last else '', y_label)
    panels[-1].xaxis.set_major_formatter(lambda step, _: f'{step:,.0f}')
    _choose_loss_scale(panels[0], curves)
    if has_bleu:
        panels[1].set_ylim(bottom=0)
    title = title or _loss_title(curves)
    panels[0].set_title(
        drawing.wrapped(title, 7.2), loc='left', pad=10, **drawing.text_style(drawing.TITLE_SIZE)
    )
    _loss_legend(panels[0], several=len(curves) > 1, has_dev=any(len(c[2][0]) for c in curves))
    if path is not None:
        drawing.save(figure, path)
    return figure


def _series(events: Iterable[Event]) -> tuple[Series, Series, Series]:
    """Training loss, dev loss, dev BLEU by step; of a step logged twice the later event stays."""
    found: tuple[dict[int, float], ...] = ({}, {}, {})
    for event in events:
        wanted = {'train': ((0, 'loss'),), 'evaluation': ((1, 'loss'), (2, 'bleu'))}
        for series, name in wanted.get(event.get('kind', ''), ()):
            if event.get(name) is not None:
                found[series][int(event['step'])] = float(event[name])

    def arrays(points: dict[int, float]) -> Series:
        steps = np.array(sorted(points), dtype=np.int64)
        return steps, np.array([points[int(step)] for step in steps], dtype=np.float64)

    train, dev, bleu = map(arrays, found)
    return train, dev, bleu


def _thinned(series: Series) -> Series:
    """At most `_MOST_POINTS` points, each the mean of its neighbours."""
    steps, values = series
    if len(steps) <= _MOST_POINTS:
        return series
    bins = np.array_split(np.arange(len(steps)), _MOST_POINTS)
    return np.array([steps[b].mean() for b in bins]), np.array([values[b].mean() for b in bins])


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Moving average over `window` values on each side; unlike an exponential one it does not lag.

    At the start, where a loss falls fast, both sides shrink alike; at the end only the right side
    does, so that the last value is an average too. Values that are not finite are left out.
    """
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    index = np.arange(len(values))
    reach = np.minimum(index, window)
    low, high = index - reach, np.minimum(index + reach, len(values) - 1) + 1
    with np.errstate(invalid='ignore', divide='ignore'):
        return (sums[high] - sums[low]) / (counts[high] - counts[low])


def _window(values: np.ndarray) -> int:
    """How far the smoothing of a curve reaches to each side; short curves are left alone."""
    return len(values) // 50 + 1 if len(values) >= 40 else 0


def _draw_loss(
    axes: Axes, train: Series, dev: Series, label: str, *, color: str, style: str, alone: bool
) -> None:
    steps, values = _thinned(train)
    if _window(values):
        raw_label = f'{label}, as logged' if alone else None
        axes.plot(steps, values, color=color, alpha=0.35, linewidth=0.8, label=raw_label)
        values = smoothed(values, _window(values))
        label = f'{label}, smoothed' if alone else label
    if len(steps):
        axes.plot(steps, values, color=color, linestyle=style, linewidth=2, label=label)
    if len(dev[0]):
        dev_color = drawing.COLORS[1] if alone else color
        axes.plot(
            *dev,
            color=dev_color,
            linestyle='-' if alone else ':',
            linewidth=1.2,
            marker='o',
            markersize=5,
            markerfacecolor='white',
            label='dev' if alone else None,
        )


def _choose_loss_scale(axes: Axes, curves: Sequence[tuple[str, Series, Series, Series]]) -> None:
    """Logarithmic where the loss falls tenfold or more: otherwise its end would be a flat line."""
    values = np.concatenate([series[1] for _, train, dev, _ in curves for series in (train, dev)])
    values = values[np.isfinite(values)]
    if not len(values) or values.min() <= 0 or values.max() / values.min() <= 10:
        return
    axes.set_yscale('log')
    axes.yaxis.set_major_formatter(lambda value, _: f'{value:g}')
    axes.set_ylabel('loss (nats per token, log scale)', fontsize=drawing.LABEL_SIZE)


def _loss_title(curves: Sequence[tuple[str, Series, Series, Series]]) -> str:
    def ends(series: Series) -> tuple[float, float, int]:
        steps, values = series
        keep = np.isfinite(values)
        steps, values = steps[keep], values[keep]
        return float(values[0]), float(smoothed(values, _window(values))[-1]), int(steps[-1])

    ended = {name: ends(train) for name, train, _, _ in curves if np.isfinite(train[1]).any()}
    if not ended:
        return 'The training loss was never finite'
    if len(curves) > 1:
        best = min(ended, key=lambda name: ended[name][1])
        return f'Training loss of {len(curves)} runs; {best} ends lowest, at {ended[best][1]:.3g}'
    ((name, (first, last, step)),) = ended.items()
    verb = 'fell' if last < first else 'rose'
    sentence = f'{name}: the training loss {verb} from {first:.3g} to {last:.3g} in {step:,} steps'
    steps, bleu = curves[0][3]
    if len(bleu):
        best = int(np.nanargmax(bleu))
        sentence += f'; best dev BLEU {bleu[best]:.1f} at step {steps[best]:,}'
    return sentence


def _loss_legend(axes: Axes, *, several: bool, has_dev: bool) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if several and has_dev:
        from matplotlib.lines import Line2D

        handles.append(
            Line2D([], [], color=drawing.GREY, linestyle=':', marker='o', markerfacecolor='white')
        )
        labels.append('dev loss of the run in that colour')
    if len(handles) < 2:
        return
    legend = axes.legend(handles, labels, frameon=False, fontsize=drawing.TICK_SIZE, loc='best')
    for text in legend.get_texts():
        text.set(fontfamily=drawing.font_families(), parse_math=False)
