"""Sound from the command line: train, generate WAV files, draw spectrograms."""

import json

import numpy as np
import pytest

from seqzoo.data.audio import read_wav, write_wav

SMALL = [
    '--model.dilations=1,2,4,8', '--model.num-cycles=1', '--model.residual-dim=12',
    '--model.gate-dim=12', '--model.skip-dim=24', '--schedule.peak=0.02',
    '--schedule.warmup-steps=5', '--schedule.decay-steps=90', '--train.steps=90',
    '--train.evaluate-every=45', '--train.checkpoint-every=45', '--batch.max-length=400',
    '--batch.tokens=3200', '--mesh.data=8', '--task.corpus.train-size=64',
    '--task.corpus.dev-size=8', '--task.corpus.test-size=8', '--task.corpus.seconds=0.05',
    '--task.levels=32', '--model.vocab-size=32',
]  # fmt: skip


@pytest.mark.slow
def test_a_network_learns_tones_and_says_them(seqzoo, tmp_path):
    run = tmp_path / 'run'
    trained = seqzoo('train', 'wavenet_tones', '--run', run, *SMALL)
    assert trained.status == 0, trained.err
    metrics = json.loads(seqzoo('evaluate', run, '--json').out)['metrics']
    assert metrics['loss'] < 0.8 * metrics['baseline']

    (tmp_path / 'wanted').write_text('low\nrising 0.02\n')
    given = ['--input', tmp_path / 'wanted', '--output', tmp_path / 'new' / 'x.wav']
    said = seqzoo('predict', run, *given)
    assert said.status == 0, said.err
    names = ['x-1.wav', 'x-2.wav', 'x.png']
    assert said.out.split() == [str(tmp_path / 'new' / name) for name in names]
    assert len(read_wav(tmp_path / 'new' / 'x-2.wav', 8000)) == 160
    refused = seqzoo('predict', run, *given, '--scores')
    assert refused.status == 2
    assert 'in which --scores has no place' in refused.err
    plot = seqzoo('plot', run)
    assert plot.out.split() == [str(run / 'pictures' / n) for n in ('loss.png', 'sounds.png')]


def test_files_that_cannot_be_read_end_in_a_sentence(seqzoo, tmp_path):
    write_wav(tmp_path / 'wav' / 'good.wav', np.full(20_000, 0.1), 8000)
    (tmp_path / 'wav' / 'bad.wav').write_bytes(b'RIFF')
    found = seqzoo('train', 'wavenet_wav:small', '--run', tmp_path / 'run', '--data-dir', tmp_path)
    assert found.status == 2
    assert found.err.splitlines()[-1] == (
        f'seqzoo: {tmp_path}/wav/bad.wav cannot be read as a WAV file of integers '
        '(it ends early); convert it to 16-bit PCM.'
    )
