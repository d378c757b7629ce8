"""A language model from the command line: trained, stopped, gone on with, measured, asked."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from seqzoo.training import load_run
from seqzoo.training.events import read_events

SMALL = [
    '--task.corpus.folder=',
    '--task.corpus.file=text.txt',
    '--task.corpus.dev-share=0.1',
    '--task.corpus.test-share=0.1',
    '--task.random-offset=false',
    '--model.layers.cell.hidden-dim=8',
    '--batch.tokens=64',
    '--batch.max-length=8',
    '--train.log-every=1',
    '--train.checkpoint-every=3',
]


@pytest.fixture
def train(seqzoo, tmp_path):
    """Trains `lstm_char_time_machine`, small, on a text of its own."""
    rng = np.random.default_rng(0)
    words = rng.choice(['the', 'time', 'machine', 'was', 'gone'], size=(36, 3))
    text = ''.join(f'{" ".join(line)}.\n' for line in words)
    (tmp_path / 'text.txt').write_text(text, encoding='utf-8')

    def run(name, *more, steps=6):
        return seqzoo(
            'train',
            'lstm_char_time_machine',
            f'--run={tmp_path / name}',
            f'--data-dir={tmp_path}',
            *SMALL,
            f'--train.steps={steps}',
            *more,
        )

    return run


def test_a_stopped_run_goes_on_bit_for_bit_in_the_middle_of_a_stream(train, tmp_path):
    assert train('whole').status == 0
    assert train('parts', steps=3).status == 0
    assert train('parts').status == 0
    whole, parts = (list(read_events(tmp_path / n, 'train')) for n in ('whole', 'parts'))
    assert [e['step'] for e in parts] == [e['step'] for e in whole] == [1, 2, 3, 4, 5, 6]
    # Without the state of the third step the fourth would have another loss.
    assert [e['loss'] for e in parts] == [e['loss'] for e in whole]
    assert parts[-1]['examples_digest'] == whole[-1]['examples_digest']
    runs = [load_run(tmp_path / name, step='latest') for name in ('whole', 'parts')]
    jax.tree.map(np.testing.assert_array_equal, *[run.params for run in runs])


def test_a_run_is_measured_continued_asked_and_drawn(train, seqzoo, tmp_path):
    run, data = tmp_path / 'run', f'--data-dir={tmp_path}'
    assert train('run', steps=4).status == 0
    said = seqzoo('evaluate', run, data, '--json')
    metrics = json.loads(said.out)['metrics']
    assert metrics['perplexity'] == pytest.approx(np.exp(metrics['loss']))
    assert metrics['bits_per_character'] == pytest.approx(metrics['loss'] / np.log(2))

    # Of a longer or a shorter file the test part would be another one, trained on perhaps.
    text = (tmp_path / 'text.txt').read_text(encoding='utf-8')
    (tmp_path / 'text.txt').write_text(text[: len(text) // 2], encoding='utf-8')
    said = seqzoo('evaluate', run, data)
    assert said.status == 2
    assert 'file whose parts are the splits is not what' in said.err
    (tmp_path / 'text.txt').write_text(text, encoding='utf-8')

    prompts = tmp_path / 'prompts.txt'
    prompts.write_text('the time\n\nmachine\n', encoding='utf-8')
    said = seqzoo('predict', run, '--input', prompts, '--decode.extra-length=7')
    lines = said.out.split('\n')
    assert [len(line) for line in lines] == [7, 7, 7, 0]
    grown = seqzoo('predict', run, '--input', prompts, '--decode.extra-length=7', '--stream', '3')
    assert grown.out == said.out

    picture = tmp_path / 'next.png'
    asked = ('predict', run, '--input', prompts, '--show-probabilities', '3')
    said = seqzoo(*asked, '--picture', picture)
    tables = said.out.split('\n\n')
    assert [table.split('\n')[0] for table in tables] == ['the time ____', '____', 'machine ____']
    assert all(len(table.strip().split('\n')) == 4 for table in tables)
    with Image.open(picture) as image:
        assert image.format == 'PNG'
    said = seqzoo(*asked, '--json-lines')
    objects = [json.loads(line) for line in said.out.splitlines()]
    assert [o['prompt'] for o in objects] == ['the time', '', 'machine']
    assert seqzoo(*asked, '--scores').status == 2
    assert seqzoo('predict', run, '--input', prompts, '--picture', picture).status == 2
    assert 'not to translate' in seqzoo('predict', run, '--input', prompts, '--alignments').err

    said = seqzoo('plot', run)
    assert said.status == 0
    assert said.out.split() == [str(run / 'pictures' / 'loss.png')]
    assert said.err == ''


def test_the_data_is_shown_as_the_model_sees_it(train, seqzoo, tmp_path):
    del train  # it wrote the text
    said = seqzoo(
        'data',
        'show',
        'lstm_char_time_machine',
        f'--data-dir={tmp_path}',
        *[word for word in SMALL if 'train' not in word],
        '--batches=2',
        '--rows=1',
    )
    assert said.status == 0
    assert '8 streams of' in said.out
    shown = [line for line in said.out.split('\n') if line.startswith('row 0')]
    assert len(shown) == 2
    assert 'each begins anew' in said.out
    assert 'each goes on' in said.out


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--batch.tokens=40'], 'make batch.tokens a multiple of 64'),
        (['--batch.tokens=4096'], 'fewer than the 512 x 8'),
        (['--batch.packing=true'], 'batch.packing is for sentences'),
        (['--task.corpus.file=no.txt'], 'no.txt'),
        (['--model.vocab-size=9'], 'leave model.vocab_size out'),
        (['--task.order=random'], 'streams or windows'),
    ],
)
def test_bad_input_is_one_sentence(train, tmp_path, more, message):
    outcome = train('run', *more)
    assert outcome.status == 2
    (line,) = [line for line in outcome.err.splitlines() if line.startswith('seqzoo: ')]
    assert message in line
    assert 'Traceback' not in outcome.err
    assert not (tmp_path / 'run' / 'checkpoints').exists()


@pytest.mark.slow
def test_a_gpt_is_trained_measured_and_continues_a_prompt(train, seqzoo, tmp_path, caplog):
    train('lines', steps=1)  # writes the text
    run, data = tmp_path / 'gpt', f'--data-dir={tmp_path}'
    sizes = ['num-layers=1', 'embed-dim=16', 'num-heads=2', 'max-length=16']
    settings = [word for word in SMALL if 'layers.cell' not in word]
    settings += ['--task.tokenizer.vocab-size=300', '--task.documents=lines']
    settings += [f'--model.{size}' for size in sizes]
    name, more = 'gpt_time_machine:bpe', '--train.steps=4'
    assert seqzoo('train', name, f'--run={run}', data, *settings, more).status == 0
    metrics = json.loads(seqzoo('evaluate', run, data, '--json').out)['metrics']
    assert metrics['bits_per_character'] > 0

    prompts = tmp_path / 'prompts.txt'
    prompts.write_text(f'the time\n\n{"machine " * 9}\n', encoding='utf-8')
    asked = ('predict', run, '--input', prompts, '--decode.extra-length=7')
    whole, grown = seqzoo(*asked), seqzoo(*asked, '--stream', '2')
    assert len(whole.out.split('\n')) == 4
    assert grown.out == whole.out
    assert 'their ends were read' in caplog.text
    beams = seqzoo(*asked, '--decode.method=beam', '--n-best', '2')
    assert len(beams.out.splitlines()) == 6
    too_long = seqzoo(*asked[:-1], '--decode.extra-length=16')
    assert too_long.status == 2
    assert 'only 16 positions' in too_long.err
