"""Train, evaluate and predict with labels for texts, words and numbers, as everywhere else."""

import json

import numpy as np
import pytest

SMALL = [
    '--model.encoder.inputs.embed-dim=8',
    '--model.encoder.layers.cell.hidden-dim=8',
    '--train.log-every=10',
]
SENTENCES = [('the', 'DET'), ('old', 'ADJ'), ('cat', 'NOUN'), ('sat', 'VERB'), ('.', 'PUNCT')]


@pytest.fixture
def predict(seqzoo, tmp_path):
    def answers(run, text, *options):
        (tmp_path / 'input').write_text(text)
        return seqzoo('predict', run, '--input', tmp_path / 'input', *options).out

    return answers


def write_polarity(folder):
    """Sentences in which one word decides."""
    rng = np.random.default_rng(0)
    (folder / 'rt_polarity').mkdir()
    for side, deciding in (('neg', ['bad', 'dull']), ('pos', ['good', 'great'])):
        lines = []
        for _ in range(150):
            words = rng.choice(['film', 'plot', 'it', 'is', 'so', 'the'], size=rng.integers(3, 9))
            words[rng.integers(len(words))] = rng.choice(deciding)
            lines.append(' '.join(words))
        (folder / 'rt_polarity' / f'rt-polarity.{side}').write_text('\n'.join(lines) + '\n')
    return folder


def write_treebank(folder):
    (folder / 'ud_english_ewt').mkdir()
    rng = np.random.default_rng(0)
    for part, count in (('train', 40), ('dev', 9)):
        lines = []
        for sentence in range(count):
            lines.append(f'# newdoc id = {part}{sentence // 2}')
            for number, word in enumerate(rng.integers(0, 5, size=rng.integers(1, 7)), 1):
                form, tag = SENTENCES[word]
                lines.append(f'{number}\t{form}\tlemma\t{tag}' + 6 * '\t_')
            lines.append('')
        (folder / 'ud_english_ewt' / f'en_ewt-ud-{part}.conllu').write_text('\n'.join(lines))
    return folder


@pytest.mark.slow
def test_a_classifier_learns_which_word_decides(seqzoo, predict, tmp_path):
    data, run = write_polarity(tmp_path), tmp_path / 'run'
    assert seqzoo(
        'train', 'bilstm_rt_polarity', '--run', run, '--data-dir', data, *SMALL,
        '--schedule.peak=0.02', '--train.steps=60', '--train.evaluate-every=30',
        '--train.checkpoint-every=30', '--batch.max-length=8', '--batch.buckets=8',
        '--task.words.max-words=8', '--batch.tokens=256',
    ).status == 0  # fmt: skip
    found = json.loads(seqzoo('evaluate', run, '--data-dir', data, '--json').out)
    metrics = found['metrics']
    assert metrics['accuracy'] >= 95
    assert metrics['majority_accuracy'] < 70
    assert sum(score['count'] for score in metrics['classes'].values()) == 30
    shown = seqzoo('evaluate', run, '--data-dir', data).out
    assert 'precision' in shown
    assert 'positive' in shown
    lines = 'it is so great\n\nthe film is dull\n'
    out = predict(run, lines, '--scores').split('\n')
    assert [line.partition('\t')[2] for line in out] == ['positive', '', 'negative', '']
    assert 0.5 < float(out[0].partition('\t')[0]) <= 1
    record = json.loads(predict(run, 'good', '--json-lines'))
    assert sum(record['probabilities'].values()) == pytest.approx(1, abs=1e-5)
    ranked = predict(run, 'good\n', '--n-best', '2').splitlines()
    assert [line.split('\t')[2] for line in ranked] == ['positive', 'negative']


@pytest.mark.slow
def test_a_tagger_gives_a_tag_for_each_word_and_scores_by_class(seqzoo, predict, tmp_path):
    data, run = write_treebank(tmp_path), tmp_path / 'run'
    trained = seqzoo(
        'train', 'bilstm_tagger_ud_ewt', '--run', run, '--data-dir', data, *SMALL,
        '--model.encoder.inputs.features=4', '--model.encoder.layers.num-layers=1',
        '--train.steps=2', '--batch.max-length=8', '--batch.tokens=64', '--batch.fitted-buckets=1',
        '--task.tokens.words.min-count=1', '--train.evaluate-every=0',
    )  # fmt: skip
    assert trained.status == 0, trained.err
    found = json.loads(seqzoo('evaluate', run, '--data-dir', data, '--json').out)
    words = (data / 'ud_english_ewt' / 'en_ewt-ud-dev.conllu').read_text().count('\tlemma\t')
    assert sum(score['count'] for score in found['metrics']['classes'].values()) == words
    # A sentence longer than any of training is answered too.
    lines = ['the cat', '', ' '.join(['cat'] * 41), 'Philip']
    out = predict(run, '\n'.join(lines) + '\n').split('\n')
    assert [len(line.split()) for line in out] == [2, 0, 41, 1, 0]


def test_missing_data_is_one_sentence(seqzoo, tmp_path):
    for config in ('bilstm_imdb', 'bilstm_tagger_ud_ewt', 'bilstm_protein_cb513'):
        for command in (['data', 'prepare', config], ['train', config, '--run', tmp_path / 'run']):
            outcome = seqzoo(*command, '--data-dir', tmp_path)
            assert outcome.status == 2
            assert len(outcome.err.strip().splitlines()) == 1, outcome.err


def test_generated_chains_need_no_data(seqzoo):
    outcome = seqzoo('data', 'prepare', 'bilstm_angles_generated', '--task.corpus.train-size=50')
    assert outcome.status == 0, outcome.err
    assert 'train: 50 examples' in outcome.out
