"""Pre-train, fine-tune, predict: the whole way by commands, at toy size."""

import json

import jax
import numpy as np
import pytest

from seqzoo.training.events import read_events
from seqzoo.training.run import load_run

WORDS = ['film', 'plot', 'it', 'is', 'so', 'the', 'good', 'great', 'bad', 'dull']
ENCODER = [
    '--model.encoder.num-layers=1',
    '--model.encoder.embed-dim=16',
    '--model.encoder.num-heads=2',
    '--model.encoder.max-length=32',
]
TRAINED = ['--train.evaluate-every=0', '--train.checkpoint-every=2', '--train.log-every=2']


def write_text(folder):
    """Documents of a few lines, and pairs of texts of which half are equal."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 120), ('dev', 12), ('test', 12)):
        lines = [' '.join(rng.choice(WORDS, size=rng.integers(3, 8))) for _ in range(count)]
        text = [line for i, line in enumerate(lines) for line in ([line, ''] if i % 4 else [line])]
        (folder / f'{split}.txt').write_text('\n'.join(text) + '\n')
        table = ['sentence1\tsentence2\tlabel']
        for i, line in enumerate(lines):
            table.append(f'{line}\t{line if i % 2 else lines[i - 1]}\t{i % 2}')
        (folder / f'{split}.tsv').write_text('\n'.join(table) + '\n')
    return folder


def small_bilm(where):
    layers = f'--model.{where}.layers'
    return [
        f'--model.{where}.words.embed-dim=4',
        f'{layers}.num-layers=1',
        f'{layers}.residual-from=none',
        f'{layers}.cell.hidden-dim=6',
        f'{layers}.cell.projection-dim=4',
    ]


@pytest.mark.slow
def test_an_elmo_is_pre_trained_judges_words_and_stays_as_it_was_below_a_classifier(
    seqzoo, tmp_path
):
    data, first, second = write_text(tmp_path), tmp_path / 'first', tmp_path / 'second'
    for folder in ('wikitext2', 'rt_polarity'):
        (tmp_path / folder).mkdir()
    text = (tmp_path / 'train.txt').read_text()
    (tmp_path / 'wikitext2/wiki.valid.raw').write_text(text * 3)
    for name, word in (('neg', 'bad'), ('pos', 'good')):
        lines = [f'the {word} film , number {i}' for i in range(40)]
        (tmp_path / f'rt_polarity/rt-polarity.{name}').write_text('\n'.join(lines) + '\n')
    common = ['--data-dir', data, *TRAINED, '--train.steps=2']
    trained = seqzoo(
        *('train', 'elmo_small_wikitext', '--run', first, *common, *small_bilm('bilm')),
        *('--batch.tokens=160', '--batch.max-length=20'),
    )
    assert trained.status == 0, trained.err
    found = json.loads(seqzoo('evaluate', first, '--data-dir', data, '--json').out)['metrics']
    assert found['perplexity'] == pytest.approx(np.exp(found['loss']))
    (tmp_path / 'lines').write_text('the film is unseen\n\n')
    said = seqzoo('predict', first, '--input', tmp_path / 'lines', '--json-lines').out.splitlines()
    assert len(json.loads(said[0])['forward']) == len(json.loads(said[0])['backward']) == 4
    asked = seqzoo('predict', first, '--input', tmp_path / 'lines', '--show-probabilities')
    assert asked.status == 2
    assert 'from both ends' in asked.err

    tuned = seqzoo(
        *('train', 'bilstm_rt_polarity:elmo', '--run', second, *common),
        *('--pretrained', first, *small_bilm('encoder.bilm'), '--batch.buckets=none'),
        *('--batch.max-length=12', '--batch.tokens=96', '--model.encoder.layers.cell.hidden-dim=4'),
    )
    assert tuned.status == 0, tuned.err
    assert 'encoder/bilm/forward' in tuned.err
    before, after = (load_run(run, step='latest').params for run in (first, second))
    jax.tree.map(np.testing.assert_array_equal, before['bilm'], after['encoder']['bilm'])
    assert np.any(after['encoder']['mix']['weights'])  # learnt; it began as zeros
    answers = seqzoo('predict', second, '--input', tmp_path / 'lines').out.split('\n')
    assert answers[0] in ('negative', 'positive')
    assert answers[1] == ''


@pytest.mark.slow
def test_a_bert_is_pre_trained_fills_masks_and_is_fine_tuned_on_pairs(seqzoo, tmp_path):
    data, first, second = write_text(tmp_path), tmp_path / 'first', tmp_path / 'second'
    common = ['--data-dir', data, *ENCODER, *TRAINED, '--train.steps=2']
    trained = seqzoo(
        'train', 'bert_base', '--run', first, *common, '--model.encoder.vocab-multiple=1',
        '--task.tokenizer.vocab-size=60', '--batch.tokens=256', '--batch.max-length=32',
    )  # fmt: skip
    assert trained.status == 0, trained.err
    found = json.loads(seqzoo('evaluate', first, '--data-dir', data, '--json').out)['metrics']
    assert found['perplexity'] == pytest.approx(np.exp(found['masked_loss']))
    assert 0 <= found['next_sentence_accuracy'] <= 100
    (tmp_path / 'lines').write_text('the [MASK] is good [SEP] it [MASK] so\n')
    shown = seqzoo('predict', first, '--input', tmp_path / 'lines', '--n-best', 3).out.splitlines()
    assert len(shown) == 3
    assert all('[MASK]' not in line and ' is good [SEP] it ' in line for line in shown)
    (tmp_path / 'lines').write_text('the film\n')
    refused = seqzoo('predict', first, '--input', tmp_path / 'lines')
    assert refused.status == 2
    assert 'has no [MASK]' in refused.err

    config = tmp_path / 'pairs.py'
    config.write_text(PAIRS)
    tune = ['train', config, '--run', second, *common, '--pretrained', first]
    unlike = seqzoo(*tune, '--model.encoder.num-layers=2')
    assert unlike.status == 2
    assert 'set --model.encoder.num-layers 1' in unlike.err
    assert not (second / 'experiment.json').exists()
    tuned = seqzoo(*tune)
    assert tuned.status == 0, tuned.err
    assert 'encoder/stack' in tuned.err
    assert 'new: head' in tuned.err
    begun = read_events(second, 'start')[0]
    assert begun['forked_step'] == 2
    assert begun['new'] == ['head']
    before, after = (load_run(run).params['encoder'] for run in (first, second))
    moved = np.abs(before['embedding']['table'] - after['embedding']['table']).max()
    assert 0 < moved < 0.05  # two steps away, not another start
    assert (first / 'wordpiece.json').read_text() == (second / 'wordpiece.json').read_text()
    (tmp_path / 'lines').write_text('the film\tthe film\n\n')
    answers = seqzoo('predict', second, '--input', tmp_path / 'lines').out.split('\n')
    assert answers[0] in ('0', '1')
    assert answers[1] == ''
    assert seqzoo('evaluate', second, '--data-dir', data).status == 0


def write_pairs(folder):
    """A word, and three: is it among them?"""
    rng = np.random.default_rng(0)
    for split, count in (('train', 2000), ('dev', 100), ('test', 200)):
        table = ['sentence1\tsentence2\tlabel']
        for number in range(count):
            word, *others = rng.choice(WORDS, size=4, replace=False)
            if number % 2:
                others[rng.integers(3)] = word
            table.append(f'{word}\t{" ".join(others)}\t{number % 2}')
        (folder / f'{split}.tsv').write_text('\n'.join(table) + '\n')
    return folder


@pytest.mark.slow
def test_pairs_are_compared_across_the_mark_between_them(launch, tmp_path):
    data, run, config = write_pairs(tmp_path), tmp_path / 'run', tmp_path / 'pairs.py'
    config.write_text(PAIRS)
    words = [
        'train', config, '--run', run, '--data-dir', data, '--train.steps=800',
        '--model.encoder.num-layers=2', '--model.encoder.embed-dim=32',
        '--model.encoder.num-heads=4', '--model.encoder.max-length=16',
        '--model.encoder.init-scale=0.15', '--model.encoder.dropout-rate=0',
        '--model.encoder.attention-dropout-rate=0', '--task.tokenizer.vocab-size=60',
        '--task.max-length=12', '--batch.tokens=768', '--batch.max-length=12',
        '--batch.buckets=12', '--schedule.rate=3e-3', '--train.evaluate-every=200',
    ]  # fmt: skip
    (trained,) = launch(words, count=1, devices=1).ends()
    assert trained.status == 0, trained.err
    evaluation = read_events(run, 'evaluation')[-1]
    assert evaluation['accuracy'] >= 90  # half of them without comparing


@pytest.mark.slow
def test_a_gpt_is_fine_tuned_as_a_classifier_and_goes_on_as_a_language_model(seqzoo, tmp_path):
    data, first, second = write_text(tmp_path), tmp_path / 'first', tmp_path / 'second'
    for name, text in (('lm', LANGUAGE_MODEL), ('tune', CLASSIFIER)):
        (tmp_path / f'{name}.py').write_text(text)
    common = ['--data-dir', data, *TRAINED, '--train.steps=2']
    trained = seqzoo('train', tmp_path / 'lm.py', '--run', first, *common)
    assert trained.status == 0, trained.err
    tuned = seqzoo('train', tmp_path / 'tune.py', '--run', second, *common, '--pretrained', first)
    assert tuned.status == 0, tuned.err
    event = read_events(second, 'train')[-1]
    assert np.isfinite(event['next_token'])
    before, after = load_run(first).params, load_run(second).params['encoder']['language_model']
    moved = [
        float(np.abs(a - b).max())
        for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)
    ]
    assert 0 < max(moved) < 0.05
    (tmp_path / 'lines').write_text('the film is good\n')
    assert seqzoo('predict', second, '--input', tmp_path / 'lines').out.strip() in ('0', '1')


PAIRS = """
from seqzoo.data.batching import BatchConfig
from seqzoo.data.labelled_texts import Tsv
from seqzoo.experiment import Experiment
from seqzoo.models.bert import BertConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.optimization.schedules import Constant
from seqzoo.tasks.subword_labeling import SubwordClassification


def experiment():
    return Experiment(
        model=LabelerConfig(encoder=BertConfig()),
        task=SubwordClassification(corpus=Tsv(), max_length=24),
        schedule=Constant(rate=1e-3),
        batch=BatchConfig(tokens=256, max_length=24, buckets=(24,)),
    )
"""
MODELS = """
from seqzoo.data.batching import BatchConfig
from seqzoo.data.labelled_texts import Tsv
from seqzoo.data.plain_text import SplitFiles
from seqzoo.data.vocabularies import Characters
from seqzoo.experiment import Experiment
from seqzoo.models.gpt import GPTConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.language_model_encoder import LanguageModelEncoderConfig
from seqzoo.optimization.schedules import Constant
from seqzoo.tasks.language_modeling import LanguageModeling
from seqzoo.tasks.subword_labeling import SubwordClassification

MODEL = GPTConfig(num_layers=1, embed_dim=16, num_heads=2, max_length=64)
"""
LANGUAGE_MODEL = f"""{MODELS}

def experiment():
    return Experiment(
        model=MODEL,
        task=LanguageModeling(corpus=SplitFiles(), tokenizer=Characters(), order='windows'),
        schedule=Constant(rate=1e-3),
        batch=BatchConfig(tokens=256, max_length=32),
    )
"""
CLASSIFIER = f"""{MODELS}

def experiment():
    return Experiment(
        model=LabelerConfig(encoder=LanguageModelEncoderConfig(language_model=MODEL)),
        task=SubwordClassification(
            corpus=Tsv(second=None), tokenizer=Characters(), max_length=48,
            language_model_weight=0.5,
        ),
        schedule=Constant(rate=1e-3),
        batch=BatchConfig(tokens=384, max_length=48, buckets=(48,)),
    )
"""
