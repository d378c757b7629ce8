"""Bad input is met with one sentence and status 2, before any training."""

import gzip

import pytest

from seqzoo.data.tokenizers import TokenizerConfig, train_tokenizer


@pytest.fixture
def refused(train, tmp_path):
    """Trains and expects to be refused; returns the one line that says why."""

    def run(*more):
        outcome = train('run', *more)
        assert outcome.status == 2
        assert 'Traceback' not in outcome.err
        lines = [line for line in outcome.err.splitlines() if line.startswith('seqzoo: ')]
        assert len(lines) == 1
        assert not (tmp_path / 'run' / 'checkpoints').exists()
        return lines[0]

    return run


def test_sides_of_different_length(refused, corpus):
    with (corpus / 'train.de').open('a') as file:
        file.write('ONE TOO MANY\n')
    message = refused()
    assert '200' in message
    assert '201' in message


def test_a_file_that_is_not_utf8_says_where(refused, corpus):
    lines = (corpus / 'train.en').read_bytes().split(b'\n')
    lines[16] = 'für'.encode('latin-1')
    (corpus / 'train.en').write_bytes(b'\n'.join(lines))
    message = refused()
    assert 'line 17' in message
    assert 'train.en' in message


def test_a_missing_file(refused, corpus):
    (corpus / 'dev.de').unlink()
    assert 'dev.de' in refused()


def test_an_empty_corpus(refused, corpus):
    for language in ('en', 'de'):
        (corpus / f'train.{language}').write_text('')
    assert 'empty' in refused()


def test_a_vocabulary_larger_than_the_text_supports(refused):
    message = refused('--task.tokenizer.kind=bpe', '--task.tokenizer.vocab-size=9000')
    assert '9000' in message


def test_a_sentence_longer_than_the_longest_bucket_may_be_refused(refused, corpus):
    for language in ('en', 'de'):
        with (corpus / f'train.{language}').open('a') as file:
            file.write(' '.join(['ba' if language == 'en' else 'BA'] * 40) + '\n')
    assert 'max_length' in refused('--batch.long-sentences=refuse')


def test_positions_that_the_longest_batch_lacks(refused, seqzoo, small, corpus, tmp_path):
    few = ['--model.positions=learned', '--model.max-length=7']
    message = refused(*few)
    assert 'up to 8 positions long, but the model has only 7' in message
    assert not (tmp_path / 'run' / 'experiment.json').exists()
    assert not (tmp_path / 'run' / 'metrics.jsonl').exists()
    words = ['data', 'show', 'transformer_tiny_text', '--data-dir', corpus, *small, *few]
    shown = seqzoo(*words)
    assert shown.status == 2
    assert message in shown.err


def test_a_damaged_gz(refused, corpus):
    packed = gzip.compress((corpus / 'train.en').read_bytes())
    (corpus / 'train.en').unlink()
    (corpus / 'train.en.gz').write_bytes(packed[: len(packed) // 2])
    assert 'train.en.gz' in refused()


def test_an_unknown_option_is_met_with_the_nearest_name(refused):
    assert 'model.num-layers' in refused('--model.num-layer=3').replace('_', '-')


def test_a_vocabulary_size_that_contradicts_the_tokenizer(refused):
    assert 'vocab_size' in refused('--model.vocab-size=77')


def test_no_data_directory(seqzoo, tmp_path):
    outcome = seqzoo('train', 'transformer_tiny_text', '--run', tmp_path / 'run')
    assert outcome.status == 2
    assert '--data-dir' in outcome.err


def test_a_tokenizer_that_does_not_belong_to_the_run(train, seqzoo, corpus, tmp_path):
    assert train('one', steps=2).status == 0
    other = train_tokenizer(['xa xe xi'], TokenizerConfig(kind='char', vocab_size=10))
    other.save(tmp_path / 'one' / 'tokenizer.model')
    outcome = seqzoo('evaluate', tmp_path / 'one', '--data-dir', corpus)
    assert outcome.status == 2
    assert 'tokenizer' in outcome.err


def test_a_folder_that_is_no_run(seqzoo, tmp_path):
    outcome = seqzoo('evaluate', tmp_path)
    assert outcome.status == 2
    assert 'experiment.json' in outcome.err
