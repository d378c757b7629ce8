"""Spectrograms: which pitches a sound has at which time, of sounds read and of sounds generated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import numpy as np

from seqzoo.analysis import drawing
from seqzoo.errors import UserError
from seqzoo.tasks.audio import ANY_CLASS, sound_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Path = str | os.PathLike[str]

_FLOOR = -80.0  # dB below the loudest; what is softer is white
_MOST_CLASSES = 6


def spectrogram(samples: np.ndarray, window: int = 256, hop: int = 64) -> np.ndarray:
    """`[window / 2 + 1, frames]` float64, loudness in dB below the loudest place of the sound.

    Frames are of `window` samples under Hann's bell, `hop` apart; a sound shorter than a window is
    filled up with silence. Row k is the frequency `k / window` of the sampling rate.
    """
    samples = np.asarray(samples, np.float64)
    samples = np.pad(samples, (0, max(window - len(samples), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window), axis=1)) ** 2
    loudest = max(power.max(), np.finfo(np.float64).tiny)
    return np.maximum(10 * np.log10(np.maximum(power / loudest, 1e-30)), _FLOOR).T


def spectrogram_picture(
    sounds: Sequence[Sequence[tuple[str, np.ndarray]]], rate: int, path: Path | None = None
) -> Figure:
    """A grid of spectrograms.

    Args:
        sounds: rows of titles with samples, equally many in each row.
        rate: samples a second of all.
        path: where to write the PNG.

    Raises:
        UserError: there is nothing to draw.
    """
    if not sounds or not any(len(samples) for row in sounds for _, samples in row):
        raise UserError('there is no sound to draw')
    columns = max(map(len, sounds))
    figure = drawing.new_figure(3.6 * columns, 1.9 * len(sounds) + 0.4)
    grid = figure.subplots(len(sounds), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for panels, row in zip(grid, sounds, strict=True):
        for axes, (title, samples) in zip(panels, row, strict=False):
            axes.set_axis_on()
            extent = (0, len(samples) / rate, 0, rate / 2000)
            axes.imshow(
                spectrogram(samples),
                origin='lower',
                aspect='auto',
                extent=extent,
                cmap=drawing.WEIGHT_COLORS,
                vmin=_FLOOR,
                vmax=0,
            )
            axes.set_title(title, **drawing.text_style(drawing.LABEL_SIZE))
            axes.tick_params(labelsize=drawing.TICK_SIZE)
        panels[0].set_ylabel('kHz', fontsize=drawing.LABEL_SIZE)
    for axes in grid[-1]:
        axes.set_xlabel('seconds', fontsize=drawing.LABEL_SIZE)
    if path is not None:
        drawing.save(figure, path)
    return figure


def draw_run(run: Any, path: Path, data_dir: File | None) -> File:
    """One sound of each class as a trained run generates it, beside one of the test split.

    Args:
        run: a trained run of `tasks.audio.AudioModeling`, `seqzoo.load_run(...)`.
        path: where to write the PNG.
        data_dir: where the data lies.

    Raises:
        UserError: the test split cannot be read.
    """
    task, learnt = run.experiment.task, run.prepared.learnt
    clips = task.corpus.read('test', data_dir)
    conditioned = run.experiment.model.class_dim is not None
    wanted = list(learnt['classes'])[:_MOST_CLASSES] if conditioned else [ANY_CLASS]
    rows: list[list[tuple[str, np.ndarray]]] = []
    for name, found in zip(wanted, run.predict(wanted), strict=True):
        own = [
            samples
            for samples, label in zip(clips.samples, clips.labels, strict=True)
            if name in (ANY_CLASS, clips.classes[label])
        ]
        title = 'a sound' if name == ANY_CLASS else name
        real = own[:1] or [np.zeros(0, np.float32)]
        rows.append(
            [(f'{title}, read', real[0]), (f'{title}, generated', sound_of(found, task.levels))]
        )
    spectrogram_picture(rows, learnt['rate'], path)
    return File(path)
