"""What all pictures share: colours, type sizes, labels for tokens, and how a figure becomes a file.

Everything is drawn with matplotlib's objects on the Agg canvas: no display, no global state, no
`pyplot`.
"""

from __future__ import annotations

import functools
import os
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seqzoo.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
_LARGE_FILE = 200_000  # bytes

# Okabe and Ito (2008), without black and the yellow that vanishes on white: told apart with any
# colour vision.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#555555')
LINE_STYLES = ('-', '--', ':', '-.')
WEIGHT_COLORS = 'Blues'  # one hue, lightness falls from 0 to 1: also readable in grey
SIGNED_COLORS = 'RdBu_r'  # red against blue, white at 0

TITLE_SIZE = 11
LABEL_SIZE = 10
TICK_SIZE = 9
GREY = '#555555'

_FIRST_IDEOGRAPH = '\u2e80'  # from here on scripts that do not part words by spaces
_WIDE_SCRIPTS = ('CJK', 'Noto Sans', 'IPAGothic', 'IPAexGothic', 'WenQuanYi', 'Hiragino', 'YaHei')


def new_figure(
    width: float, height: float, layout: Literal['constrained', 'compressed'] = 'constrained'
) -> Figure:
    """An empty white figure of `width` by `height` inches whose parts never overlap.

    `layout='compressed'` also moves panels of a fixed aspect together.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor='white')
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes `figure` as a PNG; folders are made, and a reader never meets half a file."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(figure, path)
    except OSError as error:
        raise UserError(
            f'{path} cannot be written ({error.strerror or error}); name another place for the '
            'picture.'
        ) from error


def _write(figure: Figure, path: Path) -> None:
    partial = path.with_name(f'.{path.name}.partial')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        figure.savefig(
            partial,
            format='png',
            dpi=DPI,
            bbox_inches='tight',
            pad_inches=0.12,
            pil_kwargs={'optimize': True},
        )
    if partial.stat().st_size > _LARGE_FILE:
        _use_palette(partial)
    partial.replace(path)
    # matplotlib complains once for each missing glyph of each label; the reader needs to hear it
    # once.
    if any('Glyph' in str(warning.message) for warning in caught):
        warnings.warn(
            f'{path}: no installed font has some of the characters; install one '
            '(such as Noto Sans CJK) and draw again',
            stacklevel=2,
        )


def _use_palette(path: Path) -> None:
    """Writes the PNG again with 256 colours: less than half the size, and nothing is missed."""
    from PIL import Image

    with Image.open(path) as image:
        # No dithering: it would speckle the cells of a map, and a cell's colour is its value.
        palette = image.convert('RGB').quantize(256, dither=Image.Dither.NONE)
    palette.save(path, format='PNG', dpi=(DPI, DPI), optimize=True)


@functools.cache
def font_families() -> list[str]:
    """DejaVu Sans, which matplotlib brings, then whatever is installed for the scripts it lacks."""
    from matplotlib import font_manager

    installed = sorted(set(font_manager.get_font_names()))
    return ['DejaVu Sans', *(name for name in installed if any(s in name for s in _WIDE_SCRIPTS))]


def token_label(token: str) -> str:
    """A token as a label: the word-start mark `▁` of SentencePiece goes, the invisible is shown.

    A piece without the mark continues the word before it, and says so with a leading `·`, except
    for special tokens (`</s>`), punctuation and scripts that do not write spaces.
    """
    if token.startswith('▁'):
        return token[1:].replace('▁', '␣') or '␣'
    special = token.startswith('<') and token.endswith('>')
    if not special and token[:1].isalnum() and token[0] < _FIRST_IDEOGRAPH:
        return f'·{token}'
    visible = token.replace('\n', '↵').replace('\t', '⇥').replace('▁', '␣')
    return '␣' if visible.isspace() else visible or '∅'


def token_labels(tokens: Sequence[str], *, longest: int = 18) -> list[str]:
    """Labels of a sentence's tokens.

    Sentences without any `▁` are taken as whole words and keep them as they are; a label beyond
    `longest` characters is cut with an ellipsis, so that one long token cannot squeeze the picture.
    """
    pieces = any('▁' in token for token in tokens)
    labels = [token_label(token) if pieces else token_label(f'▁{token}') for token in tokens]
    return [label if len(label) <= longest else f'{label[: longest - 1]}…' for label in labels]


def wrapped(text: str, width: float, size: float = TITLE_SIZE) -> str:
    """`text` broken into lines that fit `width` inches in a type of `size` points."""
    characters = max(int(width * 72 / (0.52 * size)), 16)
    return '\n'.join(textwrap.fill(line, characters) for line in text.splitlines())


def text_style(size: float) -> dict[str, Any]:
    """Properties of texts from users: any script, and `$` is a dollar, not mathematics."""
    return {'fontsize': size, 'fontfamily': font_families(), 'parse_math': False}


def style_curves(axes: Axes, x_label: str, y_label: str) -> None:
    """Axes for curves: labelled, a light grid, no box around them."""
    axes.set_xlabel(x_label, fontsize=LABEL_SIZE)
    axes.set_ylabel(y_label, fontsize=LABEL_SIZE)
    axes.tick_params(labelsize=TICK_SIZE)
    axes.grid(color='#dddddd', linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
