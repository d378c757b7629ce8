"""What a run shows while it works."""

import io

from seqzoo.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_file_gets_plain_lines_and_always_the_last_step():
    stream = io.StringIO()
    with Progress(total=5, start=2, stream=stream, interval=1e9) as progress:
        for step in (3, 4, 5):
            progress.update(step, loss=1.23456, tokens_per_second=8123.4, learning_rate=1e-3)
        progress.announce('step 5: [saved]')
    first, second = stream.getvalue().splitlines()
    assert first.startswith('train 5/5  loss 1.235  lr 0.001  tokens/s 8,123  ')
    assert first.endswith(' 0:00:00 left')
    assert second == 'step 5: [saved]'
    assert '\x1b' not in stream.getvalue()


def test_lines_come_at_most_once_per_interval():
    stream = io.StringIO()
    with Progress(total=1000, stream=stream, interval=1e9) as progress:
        for step in range(1, 1000):
            progress.update(step, loss=1.0)
    assert stream.getvalue() == ''
    with Progress(total=1000, stream=stream, interval=0.0) as progress:
        for step in range(1, 4):
            progress.update(step, loss=1.0)
    assert len(stream.getvalue().splitlines()) == 3


def test_a_terminal_gets_a_bar_and_lines_that_stay(capsys):
    stream = Terminal()
    with Progress(total=10, start=4, stream=stream) as progress:
        progress.update(5, loss=0.5)
        progress.announce('dev [bleu] 3')
        progress.update(6)
        print('a result')
    shown = stream.getvalue()
    assert '6/10' in shown
    assert 'loss 0.5' in shown
    assert 'dev [bleu] 3' in shown
    assert 'a result' not in shown
    assert capsys.readouterr().out == 'a result\n'


def test_none_is_silent():
    stream = Terminal()
    with Progress(total=2, stream=stream, mode='none') as progress:
        progress.update(2, loss=1.0)
        progress.announce('text')
    assert stream.getvalue() == ''


def test_nothing_goes_to_standard_output(capsys):
    with Progress(total=1) as progress:
        progress.update(1, loss=1.0)
        progress.announce('text')
    captured = capsys.readouterr()
    assert captured.out == ''
    assert 'train 1/1' in captured.err
