"""A corpus and a configuration small enough to train inside a test."""

import contextlib
import io

import numpy as np
import pytest

from seqzoo.__main__ import main

WORDS = [consonant + vowel for consonant in 'bdgl' for vowel in 'aeiou']

# Everything that makes `transformer_tiny_text` small; tests add what they are about.
SMALL = [
    '--model.num-layers=1',
    '--model.embed-dim=32',
    '--model.mlp-dim=64',
    '--model.num-heads=2',
    '--task.tokenizer.kind=word',
    '--task.tokenizer.vocab-size=64',
    '--batch.tokens=256',
    '--batch.max-length=16',
    '--batch.fitted-buckets=1',
    '--train.log-every=2',
    '--train.snapshot-every=0',
    '--mesh.data=1',
    '--mesh.fsdp=8',
]


def make_corpus(folder, *, seed=0, pairs=200, upper=str.upper):
    """Sentences of two to six words; the translation is the same in capital letters."""
    generator = np.random.default_rng(seed)
    for split, count in (('train', pairs), ('dev', 20), ('test', 20)):
        lengths = generator.integers(2, 7, size=count)
        lines = [' '.join(generator.choice(WORDS, size=n)) for n in lengths]
        (folder / f'{split}.en').write_text('\n'.join(lines) + '\n', encoding='utf-8')
        (folder / f'{split}.de').write_text('\n'.join(map(upper, lines)) + '\n', encoding='utf-8')
    return folder


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / 'text').mkdir()
    return make_corpus(tmp_path / 'text')


@pytest.fixture
def small():
    return SMALL


@pytest.fixture
def write_corpus():
    return make_corpus


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('SEQZOO_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.delenv('SEQZOO_DATA_DIR', raising=False)


class Outcome:
    """What a command printed, and how it ended."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def seqzoo():
    """Runs the command line in this process."""

    def run(*arguments, stdin=None):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([str(a) for a in arguments])
        return Outcome(status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def train(seqzoo, corpus, tmp_path):
    """Trains `transformer_tiny_text` on the corpus into a run folder."""

    def run(name='run', *more, data=None, steps=4):
        return seqzoo(
            'train',
            'transformer_tiny_text',
            '--run',
            tmp_path / name,
            '--data-dir',
            data or corpus,
            *SMALL,
            f'--train.steps={steps}',
            '--train.checkpoint-every=2',
            *more,
        )

    return run
