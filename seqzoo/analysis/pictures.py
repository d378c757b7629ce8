"""Pictures of runs and models: loss curves, attention maps, position tables.

Every function returns its matplotlib `Figure`, and writes it as a PNG if given a `path`.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from seqzoo.analysis import drawing
from seqzoo.analysis.attention_maps import attention_heads, attention_map
from seqzoo.analysis.loss_curves import loss_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Path = str | os.PathLike[str]

__all__ = ['attention_heads', 'attention_map', 'loss_curve', 'position_table']


def position_table(
    num_positions: int = 60,
    dim: int = 32,
    path: Path | None = None,
    layout: Literal['interleaved', 'concatenated'] = 'interleaved',
    *,
    table: Any = None,
) -> Figure:
    """The sinusoidal position table as a heat map, and four neighbouring columns of it as curves.

    Args:
        num_positions: rows.
        dim: columns.
        path: where to write the PNG.
        layout: sine and cosine of a frequency next to each other, or all sines before all cosines.
        table: `[num_positions, dim]` to draw instead of the one that the layers compute.
    """
    if table is None:
        import jax.numpy as jnp

        from seqzoo.layers.positions import sinusoids

        table = sinusoids(jnp.arange(num_positions), dim, layout)
    table = np.asarray(table)
    num_positions, dim = table.shape
    figure = drawing.new_figure(11, 4.8)
    heat, curves = figure.subplots(1, 2, width_ratios=[1, 1.25])
    image = heat.imshow(
        table, cmap=drawing.SIGNED_COLORS, vmin=-1, vmax=1, aspect='auto', interpolation='nearest'
    )
    heat.set_xlabel('column of the encoding', fontsize=drawing.LABEL_SIZE)
    heat.set_ylabel('position in the sequence', fontsize=drawing.LABEL_SIZE)
    heat.tick_params(labelsize=drawing.TICK_SIZE)
    heat.set_title(
        'Each position, a row, has its own pattern', loc='left', fontsize=drawing.TITLE_SIZE, pad=8
    )
    bar = figure.colorbar(image, ax=heat, ticks=(-1, 0, 1), pad=0.02, aspect=30)
    bar.ax.tick_params(labelsize=drawing.TICK_SIZE)
    bar.outline.set_visible(False)

    for index, (column, kind, frequency) in enumerate(_shown_columns(dim, layout)):
        period = 2 * math.pi * 10000 ** (2 * frequency / dim)
        curves.plot(
            np.arange(num_positions),
            table[:, column],
            color=drawing.COLORS[index // 2],
            linestyle='-' if kind == 'sine' else '--',
            linewidth=1.8,
            label=f'column {column}: {kind}, period {period:.1f}',
        )
    drawing.style_curves(curves, 'position in the sequence', 'value')
    seen = 'Lower columns have higher frequencies'
    if layout == 'concatenated':
        seen = 'In each half, lower columns have higher frequencies'
    curves.set_title(seen, loc='left', fontsize=drawing.TITLE_SIZE, pad=8)
    curves.legend(
        loc='upper center',
        bbox_to_anchor=(0.5, -0.16),
        ncols=2,
        frameon=False,
        fontsize=drawing.TICK_SIZE,
    )
    how = (
        'sine and cosine interleaved' if layout == 'interleaved' else 'all sines, then all cosines'
    )
    figure.suptitle(
        f'Sinusoidal position encodings, n = {num_positions}, d = {dim}, {how}',
        x=0.02,
        ha='left',
        fontsize=drawing.TITLE_SIZE + 1,
    )
    if path is not None:
        drawing.save(figure, path)
    return figure


def _shown_columns(dim: int, layout: str) -> list[tuple[int, str, int]]:
    """Column, kind and number of two neighbouring frequencies: columns 6 to 9 if they exist."""
    first = min(3, max(dim // 2 - 2, 0))
    frequencies = [frequency for frequency in (first, first + 1) if frequency < dim // 2]
    half = dim // 2
    return [
        (2 * f + part if layout == 'interleaved' else f + part * half, kind, f)
        for f in frequencies
        for part, kind in enumerate(('sine', 'cosine'))
    ]
