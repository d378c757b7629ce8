"""What a language model expects next: as a table, and as a picture."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqzoo.analysis import drawing
from seqzoo.errors import UserError
from seqzoo.tasks.continuation import BLANK, NextTokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 12


def next_tokens_of(run: Any, prompts: Sequence[str], count: int) -> list[NextTokens]:
    """The `count` most probable next tokens after each prompt.

    Args:
        run: a trained language model, `seqzoo.load_run(...)`.
        prompts: beginnings of lines.
        count: how many.

    Raises:
        UserError: the run is no language model.
    """
    task = run.experiment.task
    if not hasattr(task, 'next_tokens'):
        raise UserError(
            f'{run.path} was trained for {type(task).__name__} and expects no next token; '
            '--show-probabilities is for language models.'
        )
    return task.next_tokens(run.runtime, run.prepared, prompts, count)


def as_table(found: NextTokens) -> str:
    """The prompt with a blank behind it, then a token a line with its share in percent."""
    labels = [visible(token) for token in found.tokens]
    width = max(map(len, labels), default=0)
    lines = [
        f'  {label:<{width}}  {100 * share:6.2f} %'
        for label, share in zip(labels, found.probabilities, strict=True)
    ]
    return '\n'.join([_with_blank(found.prompt), *lines])


def as_object(found: NextTokens) -> dict[str, Any]:
    """The same as plain JSON, probabilities from 0 to 1."""
    pairs = zip(found.tokens, found.probabilities, strict=True)
    return {
        'prompt': found.prompt,
        'next_tokens': [{'token': token, 'probability': share} for token, share in pairs],
    }


def visible(token: str) -> str:
    """A token with its white space shown; the word-start mark of SentencePiece is a space.

    Other characters that would move a terminal's cursor, or do nothing, are written as escapes.
    """
    shown = token.replace('▁', '␣').replace(' ', '␣').replace('\n', '↵').replace('\t', '⇥')
    return ''.join(
        c if unicodedata.category(c)[0] != 'C' else c.encode('unicode_escape').decode()
        for c in shown
    )


def next_token_bars(
    tables: Sequence[NextTokens], path: str | os.PathLike[str] | None = None
) -> Figure:
    """A panel of bars for each prompt, the most probable token on top.

    Args:
        tables: at most `MOST_PANELS`.
        path: where to write the PNG.

    Raises:
        UserError: there are no prompts, or more than fit into a picture.
    """
    if not 0 < len(tables) <= MOST_PANELS:
        raise UserError(
            f'A picture shows 1 to {MOST_PANELS} prompts, not {len(tables)}; give fewer lines.'
        )
    rows = len(tables[0].tokens)
    figure = drawing.new_figure(6.5, len(tables) * (0.27 * rows + 0.7) + 0.3)
    panels = figure.subplots(len(tables), 1, squeeze=False, sharex=True)[:, 0]
    for axes, table in zip(panels, tables, strict=True):
        percent = 100 * np.array(table.probabilities)
        places = np.arange(rows)
        axes.barh(places, percent, color=drawing.COLORS[0], height=0.7)
        for place, share in zip(places, percent, strict=True):
            axes.annotate(
                f'{share:.1f} %',
                (share, place),
                (3, 0),
                textcoords='offset points',
                va='center',
                fontsize=drawing.TICK_SIZE,
            )
        labels = [visible(token) for token in table.tokens]
        axes.set_yticks(places, labels, **drawing.text_style(drawing.TICK_SIZE))
        axes.invert_yaxis()
        axes.tick_params(axis='x', labelsize=drawing.TICK_SIZE)
        axes.tick_params(axis='y', length=0)
        for side in ('top', 'right', 'left'):
            axes.spines[side].set_visible(False)
        title = drawing.wrapped(_with_blank(table.prompt), 6.0)
        axes.set_title(title, loc='left', pad=6, **drawing.text_style(drawing.TITLE_SIZE))
    top = max(max(table.probabilities) for table in tables)
    panels[-1].set_xlim(0, 115 * top)
    panels[-1].set_xlabel('probability of the next token, percent', fontsize=drawing.LABEL_SIZE)
    if path is not None:
        drawing.save(figure, path)
    return figure


def _with_blank(prompt: str) -> str:
    if BLANK in prompt:  # somewhere inside
        return prompt
    between = ' ' if prompt and not prompt[-1].isspace() else ''
    return f'{prompt}{between}{BLANK}'
