"""Captioning from the command line to the picture, on scenes of stamps."""

import json

import numpy as np
import pytest
from PIL import Image

from seqzoo.__main__ import main
from seqzoo.data.mnist import Mnist

SMALL = [
    '--task.corpus.train-size=64',
    '--task.corpus.dev-size=16',
    '--task.corpus.test-size=12',
    '--model.channels=4,8',
    '--model.strides=4,2',
    '--model.embed-dim=8',
    '--model.cell.hidden-dim=16',
    '--batch.tokens=128',
    '--train.steps=2',
    '--train.evaluate-every=0',
]


@pytest.fixture
def stamps(monkeypatch):
    def images(self, split, data_dir):
        labels = np.tile(np.arange(10, dtype=np.int32), 3)
        shades = (20 * labels + 50).astype(np.uint8)
        return np.broadcast_to(shades[:, None, None], (30, 28, 28)), labels

    monkeypatch.setattr(Mnist, 'images', images)


def test_images_are_captioned_scored_and_drawn(stamps, tmp_path, capsys):
    run = str(tmp_path / 'run')
    assert main(['train', 'captions_digits', '--run', run, *SMALL]) == 0
    capsys.readouterr()
    assert main(['evaluate', run, '--json']) == 0
    metrics = json.loads(capsys.readouterr().out)['metrics']
    assert {'loss', 'exact_match', 'bleu'} <= metrics.keys()
    assert main(['plot', run]) == 0
    assert (tmp_path / 'run' / 'pictures' / 'captions.png').stat().st_size > 1000
    right, wrong, text = (tmp_path / name for name in ('right.png', 'wrong.png', 'text.png'))
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(right)
    Image.fromarray(np.zeros((32, 40), np.uint8)).save(wrong)
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(deep := tmp_path / 'deep.png')
    text.write_text('no image')
    Image.new('1', (20_000, 20_000)).save(huge := tmp_path / 'huge.png')
    (tmp_path / 'names').write_text(f'{right}\n\n{right}\n')
    capsys.readouterr()
    assert main(['predict', run, '--input', str(tmp_path / 'names')]) == 0
    first, empty, second = capsys.readouterr().out.split('\n')[:3]
    assert (first, empty) == (second, '')
    # Refused before any caption is searched for, or an image is read.
    (tmp_path / 'names').write_text('none.png\n')
    assert main(['predict', run, '--input', str(tmp_path / 'names'), '--alignments']) == 2
    assert 'no source and target that could be aligned' in capsys.readouterr().err
    for path, message in (
        (wrong, '40 by 32 pixels'),
        (deep, '8 bits a pixel'),
        (text, 'cannot be read as an image'),
        (huge, 'cannot be read as an image'),
    ):
        (tmp_path / 'names').write_text(f'{path}\n')
        assert main(['predict', run, '--input', str(tmp_path / 'names')]) == 2
        assert message in capsys.readouterr().err
