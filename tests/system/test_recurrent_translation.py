"""A recurrent encoder-decoder on the whole path: train, evaluate, translate, align, draw."""

import json

import pytest


@pytest.mark.slow
def test_it_learns_to_copy_and_attends_to_what_it_copies(seqzoo, write_corpus, tmp_path):
    (tmp_path / 'more').mkdir()
    run, data = tmp_path / 'run', write_corpus(tmp_path / 'more', pairs=3000)
    outcome = seqzoo(
        'train', 'recurrent_tiny_multi30k_ende:luong', '--run', run, '--data-dir', data,
        '--task.corpus.folder=.', '--task.corpus.dev=dev', '--task.corpus.test=test',
        '--task.tokenizer.kind=word', '--task.tokenizer.vocab-size=64',
        '--model.cell.hidden-dim=32', '--model.embed-dim=32', '--model.num-layers=1',
        '--model.attention=dot', '--model.dropout-rate=0', '--batch.tokens=1024',
        '--batch.max-length=16', '--batch.fitted-buckets=1', '--schedule.peak=0.01',
        '--schedule.warmup-steps=20', '--schedule.decay-steps=200', '--train.steps=200',
        '--train.evaluate-every=0', '--train.snapshot-every=0', '--mesh.data=1', '--mesh.fsdp=8',
    )  # fmt: skip
    assert outcome.status == 0
    short = '--decode.extra-length=3'
    found = json.loads(seqzoo('evaluate', run, '--data-dir', data, '--json', short).out)
    assert found['metrics']['exact_match'] >= 90
    (tmp_path / 'input').write_text('ba be di du\nga do bi be du la\n')
    outcome = seqzoo('predict', run, '--input', tmp_path / 'input', '--alignments', short)
    pairs = [pair for line in outcome.out.splitlines() for pair in line.split('\t')[1].split()]
    assert len(pairs) == 10  # one for each word that was written
    same = [source == target for source, target in (pair.split('-') for pair in pairs)]
    assert sum(same) >= 8
    outcome = seqzoo('plot', run, '--sentence', 'ba be di du', '--data-dir', data)
    assert outcome.status == 0
    assert outcome.out.split()[-1].endswith('attention.png')
    assert 'self_attention' not in outcome.out
