"""One text or two as a row of pieces with marks around them.

WordPiece     [CLS] first [SEP]              [CLS] first [SEP] second [SEP]
(Devlin et al. 2019, section 3)
others        | first |                      | first | second |
(Radford et al. 2018, section 3.3), | being what closes a line in that vocabulary:
no new mark is added to it, and what is read last has been seen in training
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqzoo.data.encoding import TextTokenizer
from seqzoo.data.wordpiece import WordPiece
from seqzoo.errors import UserError


@dataclass(frozen=True)
class Framed:
    """A row.

    Attributes:
        tokens: `[length]` int32.
        token_types: `[length]` int32, 1 behind the mark that closes the first text.
    """

    tokens: np.ndarray
    token_types: np.ndarray


def framed(tokenizer: TextTokenizer, texts: Sequence[np.ndarray], max_length: int) -> Framed:
    """Pieces of one text or two, with marks.

    Args:
        tokenizer: of the pieces.
        texts: one or two, `[length]` each. Where they are too long together, the longer one loses
            pieces at its end until they fit.
        max_length: of the row, marks included.

    Raises:
        UserError: there is no room for a piece of each text.
    """
    room = max_length - len(texts) - 1
    if room < len(texts):
        raise UserError(
            f'task.max_length is {max_length}; with its marks a row needs at least '
            f'{2 * len(texts) + 1}'
        )
    first, second = (*map(len, texts), 0)[:2]
    if len(texts) == 2:  # the first one may have what the second leaves, or half of the room
        first = min(first, max(room - second, room - room // 2))
    lengths = [min(first, room), min(second, room - first)][: len(texts)]
    begin, end = tokenizer.line_end, tokenizer.line_end
    if isinstance(tokenizer, WordPiece):
        begin = tokenizer.cls_id
    parts, types = [[begin]], [[0]]
    for number, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        parts += [text[:length], [end]]
        types += [[number] * (length + 1)]
    return Framed(np.concatenate(parts).astype(np.int32), np.concatenate(types).astype(np.int32))
