"""Images with the captions that a model writes, and where on the image it looks for each word."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqzoo.analysis import drawing
from seqzoo.analysis.attention import attention_weights
from seqzoo.data.tokenizers import Tokenizer
from seqzoo.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Path = str | os.PathLike[str]

_PANEL = 1.15  # inches, either side of a small image
_MOST_WORDS = 8


def attended_places(run: Any, images: np.ndarray, captions: Sequence[str]) -> list[np.ndarray]:
    """Where the model looks while it writes captions.

    Args:
        run: a trained captioning run, `seqzoo.load_run(...)`.
        images: `[images, height, width]` uint8.
        captions: what it wrote, or might have written.

    Returns:
        For each image `[words + 1, map height, map width]`, the last for the end; each sums to 1.

    Raises:
        UserError: the model does not attend.
    """
    number = {word: i for i, word in enumerate(run.prepared.learnt['words'])}
    ids = [[number.get(word, Tokenizer.unk_id) for word in text.split()] for text in captions]
    length = max(map(len, ids)) + 1
    read = np.full((len(ids), length), Tokenizer.pad_id, np.int32)
    for row, own in zip(read, ids, strict=True):
        row[: len(own) + 1] = [Tokenizer.bos_id, *own]
    ink = images.astype(np.float32) / 255
    weights = attention_weights(run.runtime.model, run.params, ink, read)
    size = run.runtime.model.config.map_size
    return [
        weights.mean('cross', row=row, num_queries=len(own) + 1).reshape(-1, size, size)
        for row, own in enumerate(ids)
    ]


def caption_picture(
    images: np.ndarray,
    captions: Sequence[str],
    places: Sequence[np.ndarray] | None,
    references: Sequence[str] | None = None,
    path: Path | None = None,
) -> Figure:
    """One row for each image: the image with its caption, then where the model looks, by word.

    Args:
        images: `[images, height, width]`.
        captions: what the model wrote.
        places: from `attended_places`; `None` for a model that does not attend.
        references: what is really there; a caption that differs says so.
        path: where to write the PNG.

    Raises:
        UserError: there is nothing to draw.
    """
    if not len(images):
        raise UserError('there is no image to draw')
    words = [[*caption.split(), 'end'][:_MOST_WORDS] for caption in captions]
    columns = 1 + (max(map(len, words)) if places is not None else 0)
    # The first column is wider: the whole caption stands above it.
    widths = [1.9, *[1.0] * (columns - 1)]
    figure = drawing.new_figure(max(_PANEL * sum(widths), 4.6), 1.35 * len(images) + 0.6)
    grid = figure.subplots(len(images), columns, squeeze=False, width_ratios=widths)
    for row, (axes, image, caption) in enumerate(zip(grid, images, captions, strict=True)):
        for panel in axes:
            panel.set_axis_off()
        axes[0].imshow(image, cmap='gray')
        wrong = references is not None and references[row] != caption
        label = f'{caption}\n(is {references[row]})' if wrong and references else caption
        axes[0].set_title(label, **drawing.text_style(drawing.TICK_SIZE))
        if places is None:
            continue
        height, width = image.shape
        for panel, word, seen in zip(axes[1:], words[row], places[row], strict=False):
            panel.imshow(image, cmap='gray', extent=(0, width, height, 0))
            panel.imshow(
                seen, cmap='inferno', alpha=0.65, extent=(0, width, height, 0), vmin=0, vmax=None
            )
            panel.set_title(word, **drawing.text_style(drawing.TICK_SIZE))
    title = 'What the model writes, and where it looks for each word: the lighter, the more'
    if places is None:
        title = 'What the model writes'
    width = figure.get_size_inches()[0]
    figure.suptitle(
        drawing.wrapped(title, width - 0.4), x=0.02, ha='left', fontsize=drawing.TITLE_SIZE
    )
    if path is not None:
        drawing.save(figure, path)
    return figure
