"""Gradients through time as a picture and as a table, with and without clipping."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqzoo.analysis import drawing
from seqzoo.analysis.gradients import (
    GradientsThroughTime,
    gradients_of_cell,
    gradients_of_run,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from seqzoo.layers.recurrent_cells import Cell

Path = str | os.PathLike[str]
Curves = Mapping[str, Mapping[str, GradientsThroughTime]]  # by panel, then by line

GAINS = (0.5, 1.0, 2.0, 3.0)
STEPS = 100
CLIP = 1.0
_LEAST, _LARGEST = 1e-12, 1e12  # what the axis shows; the table has the rest


def usual_cells(hidden_dim: int = 64) -> dict[str, Cell]:
    """The simple network with both activations, GRU and LSTM, by their names in a picture."""
    from seqzoo.layers.recurrent_cells import GRU, LSTM, Elman

    return {
        'Elman, tanh': Elman(hidden_dim=hidden_dim),
        'Elman, ReLU': Elman(hidden_dim=hidden_dim, activation='relu'),
        'GRU': GRU(hidden_dim=hidden_dim),
        'LSTM, forget bias 1': LSTM(hidden_dim=hidden_dim),
    }


def curves_of_cells(
    cells: Mapping[str, Cell], *, gains: Sequence[float] = GAINS, steps: int = STEPS
) -> Curves:
    """Gradients of layers as they start, their recurrent kernels multiplied by each of `gains`."""
    return {
        name: {f'{gain:g}': gradients_of_cell(cell, steps, gain=gain) for gain in gains}
        for name, cell in cells.items()
    }


def draw_cells(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Writes picture, table and numbers of the usual cells as they start; gives the files."""
    yield from _write(
        curves_of_cells(usual_cells()),
        folder,
        title=f'What is left of the gradient of the last loss, up to {STEPS} steps back, in layers '
        'as they start',
        legend='orthogonal recurrent kernels times',
        clip=CLIP,
    )


def draw_runs(runs: Mapping[str, Any], folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The same of the recurrent layers of trained runs, by their names, with those layers before
    training; see `gradients_of_run`.
    """
    curves: dict[str, Mapping[str, GradientsThroughTime]] = {}
    for name, run in runs.items():
        found = gradients_of_run(run)
        own = name if len(found) == 1 else f'{name}, {{}}'
        names = own if len(runs) > 1 else '{}'
        curves |= {names.format(place): of for place, of in found.items()}
    clips = {run.experiment.optimizer.clip_norm or CLIP for run in runs.values()}
    data = sorted({run.experiment.task.data_name for run in runs.values()})
    yield from _write(
        curves,
        folder,
        title=f'{", ".join(data)}: what is left of the gradient of the last loss',
        legend='layers',
        clip=max(clips),
    )


def _write(
    curves: Curves, folder: pathlib.Path, *, title: str, legend: str, clip: float
) -> Iterator[pathlib.Path]:
    gradient_picture(curves, folder / 'gradients.png', title=title, legend=legend, clip=clip)
    yield folder / 'gradients.png'
    table = gradient_table(curves, legend=legend, clip=clip)
    rows = json.dumps({'title': title, 'clip': clip, 'rows': gradient_rows(curves, clip=clip)})
    for name, text in (('gradients.md', f'# {title}\n\n{table}'), ('gradients.json', rows)):
        (folder / name).write_text(text + '\n', encoding='utf-8')
        yield folder / name


def gradient_picture(
    curves: Curves,
    path: Path | None = None,
    *,
    title: str,
    legend: str,
    clip: float = CLIP,
) -> Figure:
    """The norm of the gradient against steps back from the last loss, on a logarithmic scale.

    Where clipping takes more than half, the dashed line is what it leaves of the solid one.

    Args:
        curves: one panel for each entry, one line for each of its entries.
        path: where to write the PNG.
        title: of the whole.
        legend: what tells the lines apart.
        clip: norm to which the gradient of the parameters is clipped.
    """
    columns = len(curves) if len(curves) <= 3 else 2
    rows = -(-len(curves) // columns)
    figure = drawing.new_figure((4.4 if columns == 3 else 5.2) * columns + 0.6, 3.3 * rows + 0.9)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    seen: dict[str, str] = {}
    clipped = False
    for panel, (name, lines) in zip(panels.flat, curves.items(), strict=False):
        for index, (label, found) in enumerate(lines.items()):
            color = seen.setdefault(label, drawing.COLORS[index % len(drawing.COLORS)])
            panel.plot(_shown(found.norms), color=color, linewidth=1.8)
            after = found.clipped(clip)
            if after.parameters < found.parameters / 2:
                panel.plot(_shown(after.norms), color=color, linewidth=1.2, linestyle='--')
                clipped = True
        _style(panel, name, lines)
    _limit(panels[0, 0], curves)
    for unused in panels.flat[len(curves) :]:
        unused.set_visible(False)
    for panel in panels[-1]:
        panel.set_xlabel('steps back from the last loss', fontsize=drawing.LABEL_SIZE)
    for panel in panels[:, 0]:
        panel.set_ylabel('norm of the gradient (log scale)', fontsize=drawing.LABEL_SIZE)
    _legend(figure, seen, legend, clip if clipped else None)
    figure.suptitle(title, x=0.02, ha='left', fontsize=drawing.TITLE_SIZE + 1)
    if path is not None:
        drawing.save(figure, path)
    return figure


def _shown(norms: np.ndarray) -> np.ndarray:
    """Without what has underflowed, which a logarithm cannot show."""
    return np.where(norms > 0, norms, np.nan)


def _style(panel: Axes, name: str, lines: Mapping[str, GradientsThroughTime]) -> None:
    drawing.style_curves(panel, '', '')
    panel.set_yscale('log')
    panel.axhline(1.0, color=drawing.GREY, linewidth=0.8, zorder=1)
    factors = sorted(_per_step(found.norms) for found in lines.values())
    title = f'{name}: {factors[0]:.2f} to {factors[-1]:.2f} times a step'
    panel.set_title(title, loc='left', pad=6, **drawing.text_style(drawing.TITLE_SIZE))


def _limit(panel: Axes, curves: Curves) -> None:
    """The range of all that is shown, within what an eye can compare."""
    norms = np.concatenate([found.norms for lines in curves.values() for found in lines.values()])
    norms = norms[norms > 0]
    if len(norms):
        panel.set_ylim(max(norms.min() / 2, _LEAST), min(norms.max() * 2, _LARGEST))


def _legend(figure: Figure, colors: Mapping[str, str], title: str, clip: float | None) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, linewidth=1.8) for color in colors.values()]
    labels = list(colors)
    if clip is not None:
        handles.append(Line2D([], [], color=drawing.GREY, linewidth=1.2, linestyle='--'))
        labels.append(f'after clipping the gradient to norm {clip:g}')
    figure.legend(
        handles,
        labels,
        title=title,
        loc='outside lower center',
        ncols=len(labels),
        frameon=False,
        fontsize=drawing.TICK_SIZE,
        title_fontsize=drawing.TICK_SIZE,
    )


def gradient_rows(curves: Curves, *, clip: float = CLIP) -> list[dict[str, Any]]:
    """One row for each line of the picture, plain JSON.

    Each has the norm at some numbers of steps back (`back`), the factor by which it changes over
    one step, a geometric mean (`per_step`; below 1 it vanishes, above 1 it explodes), the norm of
    the gradient of the parameters, and by what clipping multiplies all of them.
    """
    rows = []
    for name, lines in curves.items():
        for label, found in lines.items():
            last = len(found.norms) - 1
            places = sorted({place for place in (1, 10, 50, 100, 200, 500, last) if place <= last})
            rows.append(
                {
                    'layer': name,
                    'line': label,
                    'back': {str(place): float(found.norms[place]) for place in places},
                    'per_step': _per_step(found.norms),
                    'parameters': found.parameters,
                    'clipped_by': found.clipped(clip).parameters / found.parameters
                    if found.parameters
                    else 1.0,
                }
            )
    return rows


def _per_step(norms: np.ndarray) -> float:
    """Geometric mean of the factors from one step back to the last that has not underflowed."""
    last = int(np.flatnonzero(norms > 0)[-1])
    return float((norms[last] / norms[1]) ** (1 / max(last - 1, 1))) if last else 0.0


def gradient_table(curves: Curves, *, legend: str, clip: float = CLIP) -> str:
    """The same as a table in Markdown."""
    rows = gradient_rows(curves, clip=clip)
    places = sorted({int(place) for row in rows for place in row['back']})
    header = [
        *('where', legend),
        *(f'{place} back' for place in places),
        *('factor a step', 'all parameters', f'clipping to {clip:g} multiplies by'),
    ]
    lines = [header, ['---'] * len(header)]
    for row in rows:
        norms = [_number(row['back'].get(str(place))) for place in places]
        others = [f'{row["per_step"]:.3f}', _number(row['parameters']), _number(row['clipped_by'])]
        lines.append([row['layer'], row['line'], *norms, *others])
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ''
    return '0' if value == 0 else f'{value:.2g}' if 0.01 <= value < 1000 else f'{value:.1e}'
