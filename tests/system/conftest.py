"""A corpus and a configuration small enough to train inside a test."""

import contextlib
import io
import os
import socket
import subprocess
import sys
import time

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


class Launched:
    """Processes of the command line that work as one, each with its share of eight devices."""

    def __init__(self, words, count, environment, own_environment=None):
        with socket.socket() as free:
            free.bind(('localhost', 0))
            address = f'localhost:{free.getsockname()[1]}'
        self.processes = []
        for number in range(count):
            place = ['--coordinator', address, '--processes', count, '--process-id', number]
            own = words(number) if callable(words) else words
            command = [sys.executable, '-m', 'seqzoo', *own, *(place if count > 1 else [])]
            self.processes.append(
                subprocess.Popen(
                    [str(word) for word in command],
                    env={**environment, **(own_environment(number) if own_environment else {})},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    encoding='utf-8',
                )
            )

    def ends(self, timeout=400):
        """How each of them ended; none is left behind."""
        deadline = time.monotonic() + timeout
        try:
            said = [p.communicate(timeout=deadline - time.monotonic()) for p in self.processes]
        finally:
            self.kill()
        return [
            Outcome(p.returncode, *texts) for p, texts in zip(self.processes, said, strict=True)
        ]

    def kill(self):
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def launch(tmp_path):
    """Starts the command line in one or several processes of their own.

    The words are those of the command, or a function that gives them for each number;
    `environment` gives variables that each has of its own.
    """
    started = []

    def run(words, count=2, devices=None, environment=None):
        flag = '--xla_force_host_platform_device_count'
        flags = [word for word in os.environ.get('XLA_FLAGS', '').split() if flag not in word]
        shared = {
            **os.environ,
            'XLA_FLAGS': ' '.join([*flags, f'{flag}={devices or 8 // count}']),
            'JAX_PLATFORMS': 'cpu',
            'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',  # what takes long here is compiling
        }
        started.append(Launched(words, count, shared, environment))
        return started[-1]

    yield run
    for launched in started:
        launched.kill()
