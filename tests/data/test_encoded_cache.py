"""The cache of encoded text: what it takes for the same text."""

import hashlib
import itertools

import pytest

from seqzoo.data import encoding
from seqzoo.data.encoding import encode_cached, encode_lines_cached
from seqzoo.data.text_files import ParallelText
from seqzoo.data.tokenizers import TokenizerConfig, TokenizerPair, train_tokenizer

# Each list would be the same file as the one beside it, if its fields were only written down.
SAME_FILES = [
    ([('a\tb', 'c')], [('a', 'b\tc')]),
    ([('a', 'b\nc\td')], [('a', 'b'), ('c', 'd')]),
    ([('a\tb', 'c'), ('d', 'e\tf')], [('a', 'b\tc'), ('d\te', 'f')]),
    ([('', '\t')], [('\t', '')]),
]


def parallel(pairs):
    source, target = ([pair[side] for pair in pairs] for side in (0, 1))
    return ParallelText(source=source, target=target, name='text', blank=0)


@pytest.fixture(scope='module')
def tokenizer():
    return train_tokenizer(['a b c d e f'] * 9, TokenizerConfig(vocab_size=16))


def stores(cache_dir):
    return {path.name for path in (cache_dir / 'encoded').iterdir()}


@pytest.mark.parametrize(('one', 'other'), SAME_FILES)
def test_text_with_tabs_in_other_places_is_other_text(one, other, tokenizer, tmp_path):
    pair = TokenizerPair(tokenizer, tokenizer)
    encode_cached(parallel(one), pair, tmp_path)
    kept = stores(tmp_path)
    assert encode_cached(parallel(one), pair, tmp_path).source.lengths.size == len(one)
    assert stores(tmp_path) == kept
    encode_cached(parallel(other), pair, tmp_path)
    assert len(stores(tmp_path)) == 2


def test_lines_with_breaks_are_other_lines(tokenizer, tmp_path):
    encode_lines_cached(['a\nb'], tokenizer, tmp_path)
    encode_lines_cached(['a', 'b'], tokenizer, tmp_path)
    assert len(stores(tmp_path)) == 2


def test_the_digest_of_plain_text_is_that_of_its_file_so_that_caches_stay():
    pairs = [('one', 'eins'), ('', 'zwei'), ('\x01 three', 'drei\tvier')]
    content = ''.join(f'{source}\t{target}\n' for source, target in pairs)
    wanted = hashlib.sha256(content.encode()).hexdigest()
    assert encoding._fingerprint(parallel(pairs)) == wanted
    assert encoding._fingerprint(parallel([])) == hashlib.sha256().hexdigest()


def test_chunks_do_not_show_in_the_digest(monkeypatch):
    texts = [parallel(pairs * 5) for both in SAME_FILES for pairs in both]
    whole = [encoding._fingerprint(text) for text in texts]
    monkeypatch.setattr(encoding, '_LINES_AT_ONCE', 2)
    assert [encoding._fingerprint(text) for text in texts] == whole
    assert all(a != b for a, b in itertools.combinations(whole, 2))
