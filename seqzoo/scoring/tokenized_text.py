"""Whether lines are text as people read it or as a tokenizer leaves it."""

from collections.abc import Sequence

_ENTITIES = ('&apos;', '&quot;', '&amp;', '@-@')
_PIECES = ('@@ ', '▁', '##AT##')


def signs_of_tokens(lines: Sequence[str]) -> str:
    """What in the lines a reader would not see, in words; `''` if there is nothing."""
    apart, attached = _full_stops(lines)
    alone = f'{apart:,} full stops and commas stand alone, {attached:,} do not'
    return _marked(lines, _ENTITIES + _PIECES) or (alone if apart > attached else '')


def signs_of_pieces(lines: Sequence[str]) -> str:
    """What in the lines belongs to pieces of words, in words; `''` if there is nothing."""
    return _marked(lines, _PIECES)


def is_tokenized(lines: Sequence[str]) -> bool | None:
    """Whether words stand apart from full stops and commas; `None` if nothing in the lines tells.

    A tokenizer leaves few of them at a word (`z.B.`, `1.`), writers hardly one without a word.
    """
    apart, attached = _full_stops(lines)
    if apart != attached:
        return apart > attached
    return True if signs_of_tokens(lines) else None


def _marked(lines: Sequence[str], marks: Sequence[str]) -> str:
    for mark in marks:
        count = sum(mark in line for line in lines)
        if 100 * count > len(lines):
            return f'{mark!r} in {count:,} of {len(lines):,} lines'
    return ''


def _full_stops(lines: Sequence[str]) -> tuple[int, int]:
    """How many full stops at the end and commas anywhere stand alone, and at a word."""
    apart = attached = 0
    for line in lines:
        words = line.split()
        apart += words.count(',') + (words[-1:] == ['.'])
        attached += sum(len(word) > 1 and word.endswith(',') for word in words)
        attached += bool(words) and len(words[-1]) > 1 and words[-1].endswith('.')
    return apart, attached
