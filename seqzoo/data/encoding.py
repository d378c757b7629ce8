"""From parallel text to token stores, through a cache that knows the text and the tokenizer.

Tokenizers learn from the training split only. Both they and the encoded splits are cached under a
fingerprint of what went in, so that a second run on the same text starts at once, and a changed
text is never mistaken for the old.
"""

import hashlib
from itertools import islice
from pathlib import Path

from seqzoo.data.pipeline import PairStores, encode_pairs
from seqzoo.data.text_files import ParallelText
from seqzoo.data.tokenizers import Tokenizer, TokenizerPair
from seqzoo.errors import UserError

_LINES_AT_ONCE = 10_000


_ONE, _TWO = 'tokenizer.model', ('source_tokenizer.model', 'target_tokenizer.model')


def save_tokenizers(pair: TokenizerPair, folder: Path) -> None:
    """Writes `tokenizer.model` into a run, or one file a side where they differ."""
    if pair.source is pair.target:
        pair.source.save(folder / _ONE)
    else:
        pair.source.save(folder / _TWO[0])
        pair.target.save(folder / _TWO[1])


def load_tokenizers(folder: Path) -> TokenizerPair:
    """Reads what `save_tokenizers` wrote.

    Raises:
        UserError: the folder holds no tokenizer.
    """
    if (folder / _ONE).exists():
        both = Tokenizer.load(folder / _ONE)
        return TokenizerPair(both, both)
    if not all((folder / name).exists() for name in _TWO):
        raise UserError(f'{folder} holds no {_ONE}; is it the folder of a run?')
    return TokenizerPair(*(Tokenizer.load(folder / name) for name in _TWO))


def encode_cached(text: ParallelText, tokenizers: TokenizerPair, cache_dir: Path) -> PairStores:
    """Encodes a split in bounded memory, or finds it encoded already; sentence n is line n, empty
    ones included.
    """
    name = hashlib.sha256((_fingerprint(text) + tokenizers.fingerprint).encode()).hexdigest()[:24]
    return encode_pairs(text, tokenizers, directory=cache_dir / 'encoded' / name, key=name)


def _fingerprint(text: ParallelText) -> str:
    digest = hashlib.sha256()
    pairs = iter(text)
    while chunk := list(islice(pairs, _LINES_AT_ONCE)):
        digest.update(''.join(f'{source}\t{target}\n' for source, target in chunk).encode())
    return digest.hexdigest()
