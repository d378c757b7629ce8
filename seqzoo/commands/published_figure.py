"""What a paper prints, beside the one score of two files that it may be compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqzoo.errors import UserError

if TYPE_CHECKING:  # it imports jax, and help is for those who wait for nothing
    from seqzoo.experiment import Experiment

# How many lines a test set has, by its name and the language of its references.
_LINES = {
    ('newstest2012', 'de'): (3003,),
    ('newstest2012', 'fr'): (3003,),
    ('newstest2013', 'de'): (3000,),
    ('newstest2013', 'fr'): (3000,),
    ('newstest2014', 'de'): (3003, 2737),  # 2,737 in the first release, which had been cleaned
    ('newstest2014', 'fr'): (3003,),
    ('test_2016_flickr', 'de'): (1000,),
    ('test_2016_flickr', 'fr'): (1000,),
}

# Tokenised BLEU is multi-bleu of output that Moses' tokenizer has been over. Of files that it has
# not been over, this is the same thing.
_TOKENIZED_FIRST = {
    'bleu_tokenized': 'bleu_moses',
    'bleu_tokenized_lowercase': 'bleu_moses_lowercase',
}


@dataclass(frozen=True)
class PublishedFigure:
    """A figure that may stand beside a score here.

    Attributes:
        config: the configuration that states it.
        paper, result, source: as in `Published`.
        score: the one score that it may be compared with.
        notes: sentences on how alike the two are.
    """

    config: str
    paper: str
    result: str
    source: str
    score: str
    notes: tuple[str, ...]


def target_language(experiment: 'Experiment') -> str | None:
    """The language that an experiment translates into, if it translates."""
    return getattr(experiment.task, 'target_language', None)


def published_figure(
    name: str,
    experiment: 'Experiment',
    files: tuple[Path, Path],
    texts: tuple[Sequence[str], Sequence[str]],
    language: str,
    names: Sequence[str],
) -> PublishedFigure:
    """The figure of a configuration, if it is of text like this.

    Args:
        name: of the configuration.
        experiment: what it says.
        files: of outputs and of references.
        texts: their lines.
        language: of the references.
        names: the scores that are asked for.

    Raises:
        UserError: there is no figure, it is of other text, or its score is not asked for.
    """
    published = experiment.published
    if not published.score:
        raise UserError(
            f'{name} states no figure that `seqzoo score` can stand beside; `seqzoo show {name}` '
            'says what its paper reports'
        )
    target = target_language(experiment)
    if target != language:
        raise UserError(
            f'the figure of {name} is of the language {target!r} but {files[1]} is scored as '
            f"{language!r}; score the paper's test set"
        )
    on_lines = check_lines(name, published.result, language, files[1], len(texts[1]))
    score, on_tokens = _comparable(name, published.score, files, texts)
    if score not in names:
        of_these = 'these files' + ', which are not tokenised' * (score != published.score)
        raise UserError(
            f'the figure of {name} stands beside {score} of {of_these}; --only leaves it out, and '
            'with other scores it cannot be compared; add it to --only'
        )
    notes = tuple(note for note in (on_tokens, on_lines) if note)
    return PublishedFigure(name, published.paper, published.result, published.source, score, notes)


def check_lines(name: str, result: str, language: str, path: Path, lines: int) -> str:
    """What was checked of the test set, in a sentence.

    Args:
        name: of the configuration.
        result: the figure with its test set.
        language: of the references.
        path: of the references.
        lines: how many they are.

    Raises:
        UserError: the test set that the figure is of has another number of lines.
    """
    named = [key for key in _LINES if key[0] in result and key[1] == language]
    if not named:
        return 'Its test set was not checked: how many lines that has is not known here.'
    test_set = named[0][0]
    if lines not in _LINES[named[0]]:
        known = ' or '.join(f'{count:,}' for count in _LINES[named[0]])
        raise UserError(
            f'the figure of {name} is of {test_set}, which has {known} lines, but {path} has '
            f"{lines:,}; score the paper's test set"
        )
    return f'Of {test_set} the number of lines was checked, not the text.'


def _comparable(
    name: str, score: str, files: tuple[Path, Path], texts: tuple[Sequence[str], Sequence[str]]
) -> tuple[str, str]:
    """The score that a figure may be compared with, and what is to be said of the text."""
    from seqzoo.scoring import is_tokenized, signs_of_pieces, signs_of_tokens
    from seqzoo.scoring.scorer import lower_ascii

    for path, lines in zip(files, texts, strict=True):
        if found := signs_of_pieces(lines):
            raise UserError(
                f'{path} holds pieces of words ({found}), and the figure of {name} is of whole '
                'ones; join them first'
            )
    told = [is_tokenized(lines) for lines in texts]
    if True in told and False in told:
        tokenized, plain = (files[told.index(kind)] for kind in (True, False))
        raise UserError(
            f'{tokenized} looks tokenised and {plain} does not, so that the figure of {name} is '
            'not of text like this; give both alike'
        )
    if True not in told:
        first = _TOKENIZED_FIRST.get(score, score)
        why = f"These files are not tokenised, the paper's were: {first} tokenises them first."
        return first, why if first != score else ''
    if score not in _TOKENIZED_FIRST:
        i = told.index(True)
        raise UserError(
            f'{files[i]} looks tokenised ({signs_of_tokens(texts[i])}) but {score}, the figure of '
            f'{name}, is of detokenised text; undo the tokenizer first'
        )
    capitals = any(lower_ascii(line) != line.lower() for lines in texts for line in lines)
    if score == 'bleu_tokenized_lowercase' and capitals:
        return score, "The paper's text was lower-cased before, and not from A to Z alone."
    return score, ''
