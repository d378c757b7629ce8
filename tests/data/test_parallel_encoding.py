"""Text becomes ids on several cores, in order; what was killed in the middle is taken up."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from seqzoo.data import parallel_encoding, token_store
from seqzoo.data.parallel_encoding import encode_in_chunks, workers_for
from seqzoo.data.pipeline import encode_lines
from seqzoo.data.token_store import TokenStore, TokenStoreWriter
from seqzoo.data.tokenizers import TokenizerConfig, train_tokenizer
from seqzoo.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
LINES = [f'line {i} of a text with {i * 7 % 13} words or so' for i in range(3000)] + ['', 'end']


@pytest.fixture(scope='module')
def tokenizer():
    return train_tokenizer(LINES, TokenizerConfig(vocab_size=60))


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks, buffers and notes of the size of this text."""
    monkeypatch.setattr(parallel_encoding, 'LINES_AT_ONCE', 128)
    monkeypatch.setattr(token_store, '_WRITE_AT_ONCE', 512)
    monkeypatch.setattr(token_store, '_NOTE_EVERY', 2048)


def test_workers_give_what_one_process_gives(tokenizer, small_chunks):
    here = list(encode_in_chunks(LINES, tokenizer))
    there = list(encode_in_chunks(iter(LINES), tokenizer, workers=2))
    assert len(here) == len(there) == -(-len(LINES) // 128)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.lengths, other.lengths)
    assert sum(len(chunk.lengths) for chunk in there) == len(LINES)


def test_lines_are_read_only_as_far_as_workers_are(tokenizer, small_chunks):
    read = 0

    def lines():
        nonlocal read
        for line in LINES:
            read += 1
            yield line

    chunks = encode_in_chunks(lines(), tokenizer, workers=1)
    next(chunks)
    assert read <= 128 * 4
    chunks.close()  # also ends the worker


class Strange:
    """An encoder of somebody else's."""

    fingerprint = 'strange'

    def encode_batch(self, lines):
        return [np.array([len(line)]) for line in lines]


def test_workers_are_taken_where_they_are_worth_it(tokenizer):
    assert workers_for(tokenizer, 10_000_000) == len(os.sched_getaffinity(0))
    assert workers_for(tokenizer, 1000) == 0
    assert workers_for(tokenizer, None) == 0
    assert workers_for(Strange(), 10_000_000) == 0  # no other process could load its class


def test_an_error_in_a_worker_is_an_error_here(small_chunks, tokenizer):
    with pytest.raises(Exception, match=r'str|bytes|expected'):
        list(encode_in_chunks([3.5], tokenizer, workers=1))  # type: ignore[list-item]


KILLED = """
    import os, pathlib, signal, sys
    from seqzoo.data import parallel_encoding, token_store
    from seqzoo.data.pipeline import encode_lines
    from seqzoo.data.tokenizers import Tokenizer

    parallel_encoding.LINES_AT_ONCE = 128
    token_store._WRITE_AT_ONCE, token_store._NOTE_EVERY = 512, 2048
    folder = pathlib.Path(sys.argv[1])

    def lines():
        for number, line in enumerate(open(folder / 'text', encoding='utf-8')):
            if number == 2000:
                os.kill(os.getpid(), signal.SIGKILL)
            yield line.rstrip('\\n')

    tokenizer = Tokenizer.load(folder / 'tokenizer.model')
    encode_lines(lines(), tokenizer, directory=folder / 'store', key='text')
"""


def test_a_killed_preparation_goes_on_where_it_was(tmp_path, tokenizer, small_chunks):
    tokenizer.save(tmp_path / 'tokenizer.model')
    (tmp_path / 'text').write_text(''.join(f'{line}\n' for line in LINES), 'utf-8')
    program = textwrap.dedent(KILLED)
    killed = subprocess.run(
        [sys.executable, '-c', program, str(tmp_path)],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / 'store').exists()
    done = []
    store = encode_lines(
        LINES, tokenizer, directory=tmp_path / 'store', key='text', progress=done.append
    )
    assert 0 < len(LINES) - sum(done) < 2000  # that many were there already
    whole = encode_lines(LINES, tokenizer)
    assert store.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(store.ids, whole.ids)
    np.testing.assert_array_equal(store.offsets, whole.offsets)
    np.testing.assert_array_equal(store.lengths, whole.lengths)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ['store', 'text', 'tokenizer.model', 'tokenizer.model.json']
    assert sorted(path.name for path in (tmp_path / 'store').iterdir()) == [
        'ids.npy', 'offsets.npy', 'store.json',
    ]  # fmt: skip


def interrupted(folder, metadata, sentences):
    def stopped():
        yield from sentences
        raise KeyboardInterrupt

    writer = TokenStoreWriter(folder, metadata, resume=True)
    with pytest.raises(KeyboardInterrupt), writer:
        writer.add_batch(stopped())


SENTENCES = [np.arange(i % 50) for i in range(600)]


@pytest.mark.parametrize('damage', ['none', 'other metadata', 'short', 'mixed up', 'unreadable'])
def test_unfinished_work_is_taken_up_only_if_it_is_whole_and_of_this_text(
    tmp_path, small_chunks, damage
):
    folder, partial = tmp_path / 'store', tmp_path / '.store.partial'
    interrupted(folder, {'text': 1}, SENTENCES[:500])
    assert not folder.exists()
    wanted = {'text': 2 if damage == 'other metadata' else 1}
    if damage == 'short':
        os.truncate(partial / 'ids.npy', 1000)
    elif damage == 'mixed up':
        (partial / 'offsets.npy').write_bytes(bytes((partial / 'offsets.npy').stat().st_size))
    elif damage == 'unreadable':
        (partial / 'progress.json').write_text('{')
    with TokenStoreWriter(folder, wanted, resume=True) as writer:
        assert (writer.sentences > 0) is (damage == 'none')
        writer.add_batch(SENTENCES[writer.sentences :])
    assert TokenStore.open(folder).fingerprint == TokenStore.from_sentences(SENTENCES).fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ['store']


def test_two_at_the_same_work_do_not_disturb_each_other(tmp_path, small_chunks):
    folder = tmp_path / 'store'
    with TokenStoreWriter(folder, {}, resume=True) as first:
        first.add_batch(SENTENCES[:300])
        with TokenStoreWriter(folder, {}, resume=True) as second:
            second.add_batch(SENTENCES)
        first.add_batch(SENTENCES[300:])
    assert len(TokenStore.open(folder)) == len(SENTENCES)
    assert [path.name for path in tmp_path.iterdir()] == ['store']


def test_bad_text_leaves_a_sentence_and_the_work_before_it(tmp_path, tokenizer, small_chunks):
    def lines():
        yield from LINES[:1500]
        raise UserError('line 1501 is not UTF-8')

    with pytest.raises(UserError, match='1501'):
        encode_lines(lines(), tokenizer, directory=tmp_path / 'store', key='text')
    assert [path.name for path in tmp_path.iterdir()] == ['.store.partial']


def test_how_much_of_the_text_a_tokenizer_saw_is_recorded(tmp_path):
    config = TokenizerConfig(vocab_size=60, sample=500)
    sampled = train_tokenizer(LINES, config, cache_dir=tmp_path)
    assert sampled.learnt_from == (500, len(LINES))
    again = train_tokenizer(LINES, config, cache_dir=tmp_path)  # from the cache
    assert again.learnt_from == (500, len(LINES))
    assert train_tokenizer(LINES, TokenizerConfig(vocab_size=60)).learnt_from == (
        len(LINES),
        len(LINES),
    )
