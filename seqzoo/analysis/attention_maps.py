"""Attention weights as maps with the tokens on their axes, one map or one for each head."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqzoo.analysis import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Path = str | os.PathLike[str]

_SMALLEST_CELL = 0.1  # inches: labels of 5.8 points, the smallest that can be read


def attention_map(
    weights: Any,
    source_tokens: Sequence[str],
    target_tokens: Sequence[str],
    path: Path | None = None,
    title: str | None = None,
    *,
    source_label: str = 'source token (attended to)',
    target_label: str = 'target token (attending)',
) -> Figure:
    """One attention map with the tokens on its axes; each row is one distribution over the source.

    Args:
        weights: `[target, source]`, rows sum to 1; the padding already cut off.
        source_tokens: labels of the columns.
        target_tokens: labels of the rows: in a decoder the tokens that the rows predict.
        path: where to write the PNG.
        title: default: a sentence that says how to read the map.
        source_label: what the columns are.
        target_label: what the rows are.

    Raises:
        ValueError: shape and tokens do not belong together.
    """
    weights = _checked_weights(weights, source_tokens, target_tokens, rank=2)
    rows, columns = weights.shape
    cell = _cell_inches(max(rows, columns), roomy=0.32, room=8.8)
    size = _label_points(cell)
    margin = _label_inches(target_tokens, size)
    width = max(columns * cell, 1.6) + margin + 1.2
    figure = drawing.new_figure(
        width, max(rows * cell, 1.6) + _label_inches(source_tokens, size) + 1.2, layout='compressed'
    )
    axes = figure.subplots()
    image = _draw_map(axes, weights, _top(weights))
    _label_columns(axes, source_tokens, size)
    _label_rows(axes, target_tokens, size)
    axes.set_xlabel(source_label, fontsize=drawing.LABEL_SIZE, labelpad=6)
    axes.xaxis.set_label_position('top')
    axes.set_ylabel(target_label, fontsize=drawing.LABEL_SIZE)
    title = title or 'What each row attends to: the darker, the more (rows sum to 1)'
    figure.suptitle(
        drawing.wrapped(title, width - 0.4),
        x=0.02,
        ha='left',
        **drawing.text_style(drawing.TITLE_SIZE),
    )
    _color_bar(figure, image, axes)
    if path is not None:
        drawing.save(figure, path)
    return figure


def attention_heads(
    weights: Any,
    source_tokens: Sequence[str],
    target_tokens: Sequence[str],
    path: Path | None = None,
    title: str | None = None,
    *,
    source_label: str = 'source token (attended to)',
    target_label: str = 'target token (attending)',
) -> Figure:
    """One small map per head, all on the same colours; each says where its head mostly looks.

    Args:
        weights: `[heads, target, source]`, rows sum to 1; the padding already cut off.
        source_tokens: labels of the columns.
        target_tokens: labels of the rows; for self-attention the same tokens as `source_tokens`.
        path: where to write the PNG.
        title: default: a sentence that says how to read the maps.
        source_label: what the columns are.
        target_label: what the rows are.

    Raises:
        ValueError: shape and tokens do not belong together.
    """
    weights = _checked_weights(weights, source_tokens, target_tokens, rank=3)
    heads, rows, columns = weights.shape
    # Twice as many maps across as down, as long as the labels stay readable within 20 inches.
    across = min(
        math.ceil(math.sqrt(2 * heads)), heads, max(int(20 / (columns * _SMALLEST_CELL)), 1)
    )
    down = math.ceil(heads / across)
    across = math.ceil(heads / down)
    cell = _cell_inches(max(rows, columns), roomy=0.26, room=16 / across)
    size = _label_points(cell)
    panel_width = max(columns * cell, 1.9)
    row_labels = _label_inches(target_tokens, size)
    column_labels = _label_inches(source_tokens, size)
    width = across * (panel_width + 0.15) + row_labels + 1.3
    figure = drawing.new_figure(
        width,
        down * (max(rows * cell, 0.8) + 0.45) + column_labels + 1.1,
        layout='compressed',
    )
    panels = figure.subplots(down, across, squeeze=False)
    same_sentence = list(source_tokens) == list(target_tokens)
    image = None
    for head, panel in enumerate(panels.flat):
        if head >= heads:
            panel.set_axis_off()
            continue
        image = _draw_map(panel, weights[head], _top(weights))
        _label_columns(panel, source_tokens if head < across else (), size)
        _label_rows(panel, target_tokens if head % across == 0 else (), size)
        note = f'head {head + 1}: {describe_head(weights[head], same_sentence=same_sentence)}'
        # Under the map, because the tokens stand above it.
        panel.set_xlabel(
            drawing.wrapped(note, panel_width, drawing.TICK_SIZE), fontsize=drawing.TICK_SIZE
        )
    panels[0, 0].set_title(source_label, loc='left', fontsize=drawing.LABEL_SIZE)
    figure.supylabel(target_label, fontsize=drawing.LABEL_SIZE)
    title = title or f'What {heads} heads attend to: each row of a map sums to 1'
    figure.suptitle(
        drawing.wrapped(title, width - 0.4),
        x=0.02,
        ha='left',
        **drawing.text_style(drawing.TITLE_SIZE),
    )
    _color_bar(figure, image, list(panels.flat))
    if path is not None:
        drawing.save(figure, path)
    return figure


def describe_head(weights: Any, *, same_sentence: bool) -> str:
    """Where a head mostly looks, in words.

    Args:
        weights: `[target, source]`.
        same_sentence: rows and columns are the same tokens, so that neighbours have a meaning.

    Returns:
        In self-attention `'previous token, 82 %'` (or same, next, first) where more than half of
        the weight goes there; otherwise over how many tokens it spreads, as the exponential of the
        mean entropy.
    """
    weights = np.asarray(weights, dtype=np.float64)
    rows, columns = weights.shape
    if same_sentence and rows == columns and rows > 2:
        shares = {
            'same token': np.trace(weights) / rows,
            'previous token': np.trace(weights, offset=-1) / (rows - 1),
            'next token': np.trace(weights, offset=1) / (rows - 1),
            'first token': weights[1:, 0].mean(),
            'last token': weights[:-1, -1].mean(),
        }
        place, share = max(shares.items(), key=lambda item: item[1])
        if share > 0.5:
            return f'{place}, {100 * share:.0f} %'
    entropy = -np.sum(weights * np.log(np.clip(weights, 1e-30, None)), axis=1).mean()
    return f'about {np.exp(entropy):.1f} tokens'


def _checked_weights(
    weights: Any, source_tokens: Sequence[str], target_tokens: Sequence[str], *, rank: int
) -> np.ndarray:
    array = np.asarray(weights, dtype=np.float32)
    expected = (len(target_tokens), len(source_tokens))
    if array.ndim != rank or array.shape[-2:] != expected or not array.size:
        raise ValueError(
            f'weights of shape {array.shape} do not fit {expected[0]} target and '
            f'{expected[1]} source tokens'
        )
    return array


def _top(weights: np.ndarray) -> float:
    """The weight drawn darkest: the largest, up to a tenth, so that diffuse maps are not pale."""
    return min(max(math.ceil(10 * float(weights.max()) - 1e-4) / 10, 0.1), 1.0)


def _cell_inches(tokens: int, *, roomy: float, room: float) -> float:
    """Width of a cell: `roomy` for a phrase, less where a sentence must fit into `room` inches."""
    return min(max(room / tokens, _SMALLEST_CELL), roomy)


def _label_points(cell: float) -> float:
    return min(72 * cell * 0.8, drawing.LABEL_SIZE)


def _label_inches(tokens: Sequence[str], size: float) -> float:
    longest = max(map(len, drawing.token_labels(tokens)), default=0)
    return longest * 0.62 * size / 72 + 0.1


def _draw_map(axes: Axes, weights: np.ndarray, top: float) -> Any:
    image = axes.imshow(
        weights,
        cmap=drawing.WEIGHT_COLORS,
        vmin=0,
        vmax=top,
        interpolation='nearest',
        aspect='equal',
    )
    rows, columns = weights.shape
    # Hair lines between the cells let the eye follow a row to its label.
    style = {'colors': '#e4e4e4', 'linewidths': 0.4}
    axes.hlines(np.arange(1, rows) - 0.5, -0.5, columns - 0.5, **style)
    axes.vlines(np.arange(1, columns) - 0.5, -0.5, rows - 0.5, **style)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_color('#bbbbbb')
    return image


def _label_columns(axes: Axes, tokens: Sequence[str], size: float) -> None:
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(
        np.arange(len(tokens)),
        drawing.token_labels(tokens),
        rotation=90,
        **drawing.text_style(size),
    )


def _label_rows(axes: Axes, tokens: Sequence[str], size: float) -> None:
    axes.set_yticks(
        np.arange(len(tokens)), drawing.token_labels(tokens), **drawing.text_style(size)
    )


def _color_bar(figure: Figure, image: Any, axes: Any) -> None:
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=25, shrink=0.9)
    bar.set_label('attention weight', fontsize=drawing.LABEL_SIZE)
    bar.ax.tick_params(labelsize=drawing.TICK_SIZE)
    bar.outline.set_visible(False)
