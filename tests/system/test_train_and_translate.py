"""The whole path: train on text files, evaluate, translate, and what goes wrong on the way."""

import gzip
import json

import jax
import numpy as np
import pytest

from seqzoo.training import load_run
from seqzoo.training.averaging import average


@pytest.mark.slow
def test_it_learns_to_copy(train, seqzoo, write_corpus, tmp_path):
    (tmp_path / 'more').mkdir()
    data = write_corpus(tmp_path / 'more', pairs=3000)
    outcome = train(
        'run', '--batch.tokens=1024', '--schedule.warmup-steps=100', '--train.evaluate-every=0',
        '--train.checkpoint-every=1000', data=data, steps=400,
    )  # fmt: skip
    assert outcome.status == 0
    found = json.loads(seqzoo('evaluate', tmp_path / 'run', '--data-dir', data, '--json').out)
    assert found['metrics']['exact_match'] >= 90
    assert found['metrics']['bleu'] >= 90
    assert found['metrics']['loss'] < 0.3
    assert found['signature'].startswith('nrefs:1|case:mixed')


def test_translations_come_back_in_order_one_line_each_empty_lines_included(
    train, seqzoo, tmp_path
):
    assert train(steps=2).status == 0
    lines = ['ba be', '', 'da de di do du ga ge', '   ', 'lu']
    (tmp_path / 'input').write_text('\n'.join(lines) + '\n')
    out = tmp_path / 'output'
    outcome = seqzoo(
        'predict', tmp_path / 'run', '--input', tmp_path / 'input', '--output', out,
        '--decode.beams=2', '--decode.extra-length=3',
    )  # fmt: skip
    assert outcome.status == 0
    found = out.read_text().split('\n')
    assert len(found) == len(lines) + 1
    assert found[1] == found[3] == ''
    alone = load_run(tmp_path / 'run').predict(['da de di do du ga ge'], beams=2, extra_length=3)
    assert found[2] == alone[0].text


def test_evaluation_reports_what_scripts_read(train, seqzoo, corpus, tmp_path):
    assert train(steps=2).status == 0
    outcome = seqzoo(
        'evaluate', tmp_path / 'run', '--data-dir', corpus, '--json', '--decode.method=greedy',
        '--decode.extra-length=3',
    )  # fmt: skip
    found = json.loads(outcome.out)
    assert {'bleu', 'exact_match', 'loss'} <= set(found['metrics'])
    assert found['split'] == 'test'
    assert json.loads((tmp_path / 'run' / 'results.json').read_text())[-1] == found


def test_packed_files_and_packed_rows_train_too(train, corpus):
    for path in list(corpus.iterdir()):
        (corpus / f'{path.name}.gz').write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert train('run', '--batch.packing', steps=2).status == 0


def test_separate_vocabularies_train_too(train, tmp_path):
    outcome = train('run', '--task.tokenizer.joint=False', '--model.tie=decoder', steps=2)
    assert outcome.status == 0
    assert (tmp_path / 'run' / 'source_tokenizer.model').exists()
    assert load_run(tmp_path / 'run').predict(['ba be'], beams=1, extra_length=2)


def test_a_loss_that_is_not_finite_stops_the_run_with_the_step_and_what_to_try(train, tmp_path):
    outcome = train(
        'run', '--schedule.peak=1e30', '--schedule.warmup-steps=1', '--optimizer.clip-norm=none',
        '--train.log-every=1', steps=20,
    )  # fmt: skip
    assert outcome.status == 2
    assert 'not finite' in outcome.err
    assert '--train.non-finite skip' in outcome.err
    assert 'Traceback' not in outcome.err
    events = [json.loads(x) for x in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()]
    step = next(e['step'] for e in events if e['kind'] == 'non_finite')
    assert f'step {step} ' in outcome.err


def test_steps_that_are_not_finite_may_be_skipped_and_are_counted(train, tmp_path):
    outcome = train(
        'run', '--schedule.peak=1e30', '--schedule.warmup-steps=1', '--optimizer.clip-norm=none',
        '--train.log-every=1', '--train.non-finite=skip', '--train.evaluate-every=0', steps=8,
    )  # fmt: skip
    assert outcome.status == 0
    events = map(json.loads, (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines())
    assert sum(e.get('skipped_steps', 0) for e in events) > 0


def test_training_stops_early_and_lowers_the_rate_when_nothing_improves(train, tmp_path):
    outcome = train(
        'run', '--schedule.peak=1e-12', '--schedule.initial=0', '--schedule.warmup-steps=1',
        '--train.evaluate-every=2', '--train.early-stopping=2',
        '--train.plateau-patience=1', '--train.log-every=1', steps=40,
    )  # fmt: skip
    assert outcome.status == 0
    events = [json.loads(x) for x in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    assert max(e['step'] for e in events) < 40
    rates = [e['learning_rate'] for e in events if e['kind'] == 'train']
    assert rates[-1] < max(rates)
    assert 'learning rate times' in outcome.err


def test_the_newest_and_the_best_checkpoint_survive_and_snapshots_average(
    train, seqzoo, corpus, tmp_path
):
    outcome = train('run', '--train.snapshot-every=1', '--train.keep-snapshots=3', steps=6)
    assert outcome.status == 0
    found = seqzoo(
        'evaluate', tmp_path / 'run', '--data-dir', corpus, '--average', 3, '--json',
        '--decode.method=greedy', '--decode.extra-length=2',
    )  # fmt: skip
    assert found.status == 0
    assert json.loads(found.out)['average'] == 3
    assert json.loads(found.out)['averaged'] == [4, 5, 6]
    refused = seqzoo('evaluate', tmp_path / 'run', '--data-dir', corpus, '--average', 5)
    assert refused.status == 2
    assert '3' in refused.err


def test_an_average_up_to_a_step_knows_nothing_of_later_ones(train, seqzoo, corpus, tmp_path):
    more = ('--train.snapshot-every=1', '--train.keep-snapshots=6', '--train.keep=3')
    assert train('run', *more, steps=6).status == 0
    words = ('evaluate', tmp_path / 'run', '--data-dir', corpus, '--decode.method=greedy')
    found = seqzoo(*words, '--step', 4, '--average', 3, '--json')
    assert found.status == 0, found.err
    said = json.loads(found.out)
    assert (said['step'], said['averaged']) == (4, [2, 3, 4])
    recorded = json.loads((tmp_path / 'run' / 'results.json').read_text(encoding='utf-8'))
    assert recorded == [said]
    text = seqzoo(*words, '--step', 4, '--average', 3)
    assert 'average of 3 snapshots (steps 2 to 4)' in text.out
    params = load_run(tmp_path / 'run', step=4, average_last=3).params
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    wanted = average(tmp_path / 'run' / 'snapshots', shapes, steps=[2, 3, 4])
    jax.tree.map(np.testing.assert_allclose, params, wanted)
    refused = seqzoo(*words, '--step', 4, '--average', 5)
    assert refused.status == 2
    assert 'holds 4 of step 4 or earlier' in refused.err


def test_vocabularies_of_their_own_cannot_share_one_table(train):
    outcome = train('run', '--task.tokenizer.joint=False', steps=2)
    assert outcome.status == 2
    assert '--model.tie decoder' in outcome.err


def test_steps_that_would_train_at_a_rate_of_zero_are_refused(seqzoo, tmp_path):
    outcome = seqzoo(
        'train', 'transformer_tiny_numerals', '--run', tmp_path / 'run', '--train.steps=601',
        '--task.corpus.train-size=1000',
    )  # fmt: skip
    assert outcome.status == 2
    assert '--schedule.decay-steps' in outcome.err


def test_learned_positions_bound_what_is_decoded(train, seqzoo, corpus, tmp_path):
    outcome = train('run', '--model.positions=learned', '--model.max-length=16', steps=2)
    assert outcome.status == 0
    (tmp_path / 'input').write_text(' '.join(['ba'] * 40) + '\n')
    found = seqzoo(
        'predict', tmp_path / 'run', '--input', tmp_path / 'input', '--scores', '--decode.beams=2'
    )
    assert found.status == 0
    score, text = found.out.rstrip('\n').split('\t')
    assert float(score) < 0
    assert len(text.split()) < 16
