"""Byte-level byte pairs: every text comes back, lines stay apart, files are checked."""

import json
import pickle

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from seqzoo.data.encoding import load_text_tokenizer, make_text_tokenizer, save_text_tokenizer
from seqzoo.data.subwords import ByteLevelBPE, ImportedSubwords, train_byte_level
from seqzoo.errors import UserError

LINES = ['to be or not to be', 'that is the question', '', 'to be  that'] * 3


@pytest.fixture(scope='module')
def tokenizer():
    return train_byte_level(LINES, ByteLevelBPE(vocab_size=300))


@hypothesis.given(st.text(max_size=40))
@hypothesis.example('😀 é\u0301\x00\r\n \u2028')
def test_every_text_comes_back(tokenizer, text):
    assert tokenizer.decode_text(tokenizer.encode(text)) == text


def test_frequent_words_are_one_token_and_lines_are_closed_by_one(tokenizer):
    assert tokenizer.pieces(tokenizer.encode('to be that')) == ['to', ' be', ' that']
    text = np.concatenate(tokenizer.encode_text(LINES))
    assert np.count_nonzero(text == tokenizer.line_end) == len(LINES)
    assert tokenizer.decode_text(text) == '\n'.join([*LINES, ''])
    assert tokenizer.stop_id == tokenizer.line_end
    sampled = train_byte_level(['one one', *LINES], ByteLevelBPE(vocab_size=300, sample=3))
    assert sampled.vocab_size < tokenizer.vocab_size
    assert tokenizer.prompt_start == (tokenizer.line_end,)
    assert tokenizer.pieces([tokenizer.encode('é')[0], 299]) == ['Ã', '<299>']


def test_the_same_text_gives_the_same_tokens_from_cache_run_and_pickle(tmp_path, tokenizer):
    config = ByteLevelBPE(vocab_size=300)
    first = make_text_tokenizer(LINES, config, tmp_path)
    kept = [path for path in tmp_path.rglob('*') if path.is_file()]
    times = [path.stat().st_mtime_ns for path in kept]
    again = make_text_tokenizer(LINES, config, tmp_path)
    assert [path.stat().st_mtime_ns for path in kept] == times
    run = tmp_path / 'run'
    run.mkdir()
    save_text_tokenizer(first, run)
    loaded = load_text_tokenizer(run)
    for other in (first, again, loaded, pickle.loads(pickle.dumps(first))):
        assert other.fingerprint == tokenizer.fingerprint
        assert other.encode('question').tolist() == tokenizer.encode('question').tolist()
    assert make_text_tokenizer(LINES, ByteLevelBPE(), tmp_path).vocab_size > 0
    (run / 'subwords.json').write_text((run / 'subwords.json').read_text().replace('300', '301'))
    note = json.loads((run / 'subwords.json').read_text())
    (run / 'subwords.json').write_text(json.dumps({**note, 'line_end': 5}))
    with pytest.raises(UserError, match='does not belong to'):
        load_text_tokenizer(run)
    (run / 'tokenizer.json').write_text('{')
    with pytest.raises(UserError, match='damaged tokenizer'):
        load_text_tokenizer(run)


@pytest.mark.parametrize('name', ['tokenizer.json', 'subwords.json'])
def test_a_damaged_cache_is_trained_anew(tmp_path, caplog, name):
    first = make_text_tokenizer(LINES, ByteLevelBPE(vocab_size=300), tmp_path)
    [file] = tmp_path.rglob(name)
    whole = file.read_bytes()
    file.write_bytes(b'null' if name == 'subwords.json' else b'')
    again = make_text_tokenizer(LINES, ByteLevelBPE(vocab_size=300), tmp_path)
    assert again.fingerprint == first.fingerprint
    assert file.read_bytes() == whole
    assert 'the cache is damaged' in caplog.text


def test_what_cannot_be_trained_is_refused(tmp_path):
    for changes, words in (
        ({'vocab_size': 256}, 'at least 257'),
        ({'min_count': 0}, 'at least 1'),
        ({'sample': 0}, 'at least 1 line'),
    ):
        with pytest.raises(UserError, match=words):
            ByteLevelBPE(**changes)
    with pytest.raises(UserError, match='every training line is empty'):
        train_byte_level(['', ' '], ByteLevelBPE())
    with pytest.raises(UserError, match='--fork-from'):
        make_text_tokenizer(LINES, ImportedSubwords(vocab_size=9), tmp_path)
