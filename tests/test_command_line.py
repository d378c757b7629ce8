"""The command line: words in, exit status and streams out. What commands call is stood in for."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from seqzoo import __main__ as command_line
from seqzoo.commands.lines import read_lines
from seqzoo.errors import UserError

CONFIG = """
from dataclasses import dataclass, field

@dataclass(frozen=True)
class Part:
    num_layers: int = 6

@dataclass(frozen=True)
class Whole:
    model: Part = field(default_factory=Part)
    train: Part = field(default_factory=Part)
    seed: int = 0

def experiment():
    return Whole()
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / 'config.py'
    path.write_text(CONFIG)
    return str(path)


@dataclass(frozen=True)
class Output:
    text: str
    score: float = -0.5
    log_prob: float = -1.0
    tokens: tuple[str, ...] = ()
    source_tokens: tuple[str, ...] = ()
    alignment: Any = None
    alternatives: tuple['Output', ...] = ()
    details: Any = field(default_factory=dict)


class StandIn:
    """Takes the place of `seqzoo.training` and remembers how it was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.train_result: Any = SimpleNamespace(status='done', step=3)
        module: Any = ModuleType('seqzoo.training')
        module.train = self._named('train', lambda: self.train_result)
        module.evaluate = self._named('evaluate', lambda: EVALUATION)
        module.load_run = self._named('load_run', lambda: self)
        monkeypatch.setitem(sys.modules, 'seqzoo.training', module)
        rescoring: Any = ModuleType('seqzoo.analysis.rescoring')
        rescoring.score_given = self.score_given
        monkeypatch.setitem(sys.modules, 'seqzoo.analysis.rescoring', rescoring)
        progress: Any = ModuleType('seqzoo.training.progress')
        progress.Progress = None
        monkeypatch.setitem(sys.modules, 'seqzoo.training.progress', progress)

    def _named(self, name: str, result: Any) -> Any:
        def function(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            value = result()
            if isinstance(value, BaseException):
                raise value
            return value

        return function

    def predict(self, records: list[str], **kwargs: Any) -> list[Output]:
        self.calls.append(('predict', (records,), kwargs))
        return [Output(r.upper(), alternatives=(Output(r.lower(), -2.0),)) for r in records]

    def stream(self, records: list[str], *, steps: int) -> Any:
        for number, record in enumerate(records):
            for end in range(steps, len(record), steps):
                yield SimpleNamespace(record=number, text=record[:end].upper(), prediction=None)
            whole = record.upper()
            yield SimpleNamespace(record=number, text=whole, prediction=Output(whole))

    def score_given(self, run: Any, records: list[str], targets: list[str]) -> list[Output]:
        return [Output(t, -len(s) - len(t)) for s, t in zip(records, targets, strict=True)]


EVALUATION = {
    'metrics': {'bleu': 41.25, 'loss': 1.5},
    'signature': 'nrefs:1|tok:13a',
    'split': 'test',
    'step': 7,
}


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(monkeypatch)


def seqzoo(*words: str) -> int:
    return command_line.main(words)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a wrong command line is answered with."""
    assert seqzoo(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ''
    (line,) = captured.err.splitlines()
    assert line.startswith('seqzoo: ')
    return line


# ----------------------------------------------------------------------------------- help, mistakes


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert seqzoo('--help') == 0
    text = capsys.readouterr().out
    for name in command_line.COMMANDS:
        assert re.search(rf'^  {name} ', text, re.M)


@pytest.mark.parametrize('name', command_line.COMMANDS)
def test_help_of_a_command_says_what_it_reads_and_shows_examples_that_parse(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seqzoo(*name.split(), '--help') == 0
    text = capsys.readouterr().out
    assert re.search(r'\b(reads|looks at|downloads|prints)\b', text, re.I)
    examples = re.findall(rf'seqzoo {name}((?: [^\n|]*\\\n[^\n]*)| [^\n|]*|$)', text, re.M)
    parsed = 0
    for example in examples:
        words = example.replace('\\\n', ' ').replace("'three hundred and forty-two'", 'x').split()
        if '[-h]' not in words:
            command_line.load_command(name).parse(words)
            parsed += 1
    assert parsed


@pytest.mark.parametrize(
    ('words', 'answer'),
    [
        (['trian'], 'did you mean train?'),
        (['xyzzy'], '`seqzoo --help` lists all'),
        (['data', 'prepar'], 'seqzoo data is followed by prepare or show'),
        (['train', 'c', '--rnu', 'r'], 'seqzoo train has no option --rnu; did you mean --run?'),
        (['train', 'c', '--steps', '5'], 'no option --steps; did you mean --train.steps?'),
        (['train', 'c', '--mesh', '8'], 'no option --mesh; its parts have options of their own'),
        (['train', 'c', '--resume'], 'goes on by itself where the same --run is given again'),
        (['train', 'c', '--zzz'], 'see `seqzoo train --help`'),
        (['train', 'c'], 'missing: --run (see `seqzoo train --help`)'),
        (['train', '--run', 'r'], 'missing: CONFIG'),
        (['train', 'c', 'd', '--run', 'r'], 'too many arguments: d'),
        (['train', 'c', '--run', 'r', '--require', 'abacus'], "invalid choice: 'abacus'"),
        (['evaluate', 'r', '--average', '0'], "'0' is not a whole number from 1 on"),
        (['evaluate', 'r', '--step', 'last'], "'last' is neither a step nor latest nor best"),
        (['evaluate', 'r', '--model.norm', 'pre'], 'does not take --model.norm'),
        (['list', '--model.norm', 'pre'], 'does not take --model.norm'),
        (['show', 'no_such_config_exists'], "there is no configuration 'no_such_config_exists'"),
        (['score', 'missing.txt', 'missing.txt'], 'missing.txt: cannot be read (No such file'),
    ],
)
def test_a_mistake_is_answered_in_one_line_with_status_2(
    words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer in refusal(capsys, *words)


def test_a_wrong_override_names_the_nearest(
    config: str, training: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = refusal(capsys, 'train', config, '--run', 'r', '--model.num-layer', '2')
    assert 'unknown option --model.num-layer; did you mean --model.num-layers?' in answer
    assert training.calls == []


def test_no_command_shows_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert seqzoo() == 2
    assert 'usage: seqzoo' in capsys.readouterr().out


def test_help_and_mistakes_do_not_import_jax() -> None:
    code = (
        'import sys\nfrom seqzoo.__main__ import main\n'
        "assert main(['--help']) == 0 and main(['train', '--help']) == 0\n"
        "assert main(['trian']) == 2 and main(['train', 'c', '--rnu', 'r']) == 2\n"
        "heavy = [m for m in ('jax', 'numpy', 'matplotlib') if m in sys.modules]\n"
        'assert not heavy, heavy\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------- train


@pytest.mark.parametrize(('status', 'code'), [('done', 0), ('preempted', 75), ('interrupted', 130)])
def test_train_ends_with_the_status_of_its_result(
    status: str, code: int, config: str, training: StandIn
) -> None:
    training.train_result = SimpleNamespace(status=status, step=3)
    assert seqzoo('train', config, '--run', 'r') == code


def test_train_hands_everything_on(config: str, training: StandIn) -> None:
    words = ['--seed', '4', config, '--run=r', '--data_dir', 'd', '--train.num_layers', '3']
    assert (
        seqzoo('train', *words, '--profile', '5', '--require', 'cpu', '--model.num-layers=2') == 0
    )
    ((name, (experiment, run), options),) = training.calls
    assert name == 'train'
    assert (experiment.seed, experiment.model.num_layers, experiment.train.num_layers) == (4, 2, 3)
    assert run == Path('r')
    assert options['data_dir'] == Path('d')
    assert options['profile_steps'] == 5
    assert options['require'] == 'cpu'


@pytest.mark.parametrize(
    ('error', 'code', 'lines'),
    [
        (UserError('the text is empty;\n say where'), 2, ['seqzoo: the text is empty; say where']),
        (KeyboardInterrupt(), 130, ['seqzoo: interrupted']),
    ],
)
def test_errors_become_statuses_without_a_traceback(
    error: BaseException,
    code: int,
    lines: list[str],
    config: str,
    training: StandIn,
    capsys: pytest.CaptureFixture[str],
) -> None:
    training.train_result = error
    assert seqzoo('train', config, '--run', 'r') == code
    assert capsys.readouterr().err.splitlines() == lines


def test_a_fault_of_ours_shows_its_traceback_and_ends_with_1(
    config: str, training: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    training.train_result = ValueError('broken invariant')
    assert seqzoo('train', config, '--run', 'r') == 1
    error = capsys.readouterr().err
    assert 'Traceback' in error
    assert 'broken invariant' in error


# ----------------------------------------------------------------------------- evaluate and predict


def test_evaluate_prints_one_json_object_and_nothing_else(
    training: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['r', '--json', '--average', '3', '--decode.beams', '8', '--split', 'dev']
    assert seqzoo('evaluate', *words) == 0
    assert json.loads(capsys.readouterr().out) == EVALUATION
    ((_, (run,), options),) = training.calls
    assert run == Path('r')
    assert options['average'] == 3
    assert options['split'] == 'dev'
    assert options['overrides'] == ['--decode.beams', '8']


def test_evaluate_shows_metrics_and_signature(
    training: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seqzoo('evaluate', 'r') == 0
    out = capsys.readouterr().out
    assert re.search(r'^bleu +41\.25', out, re.M)
    assert 'nrefs:1|tok:13a' in out


def predict(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: bytes,
    *words: str,
) -> str:
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(data)))
    assert seqzoo('predict', 'r', *words) == 0
    return capsys.readouterr().out


def test_predict_writes_a_line_per_record_in_order(
    training: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'zwei\n\nüber\u2028all\r\n\n'
    out = predict(monkeypatch, capsys, text.encode())
    assert out == 'ZWEI\n\nÜBER ALL\n\n'
    assert training.calls[-1][1] == (['zwei', '', 'über\u2028all', ''],)


def test_predict_reads_and_writes_files(training: StandIn, tmp_path: Path) -> None:
    source, output = tmp_path / 'in.txt', tmp_path / 'new' / 'out.txt'
    source.write_bytes(b'\xef\xbb\xbfa\nb')
    assert seqzoo('predict', 'r', '--input', str(source), '--output', str(output)) == 0
    assert output.read_text() == 'A\nB\n'
    packed = tmp_path / 'out.gz'
    assert seqzoo('predict', 'r', '--input', str(source), '--output', str(packed)) == 0
    assert gzip.decompress(packed.read_bytes()) == b'A\nB\n'
    assert read_lines(packed) == ['A', 'B']
    folder = tmp_path / 'folder.gz'
    folder.mkdir()
    assert seqzoo('predict', 'r', '--input', str(source), '--output', str(folder)) == 2


def test_predict_gives_scores_and_n_best_lists(
    training: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(monkeypatch, capsys, b'Ab\n', '--scores') == '-0.5000\tAB\n'
    out = predict(monkeypatch, capsys, b'Ab\nC\n', '--n-best', '2', '--decode.beams', '3')
    assert out.splitlines() == [
        '1\t-0.5000\tAB',
        '1\t-2.0000\tab',
        '2\t-0.5000\tC',
        '2\t-2.0000\tc',
    ]
    loads = [call for call in training.calls if call[0] == 'load_run']
    assert loads[-1][2]['overrides'] == ['--decode.beams', '3', '--decode.n-best', '2']


def test_predict_writes_json_lines(
    training: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = predict(monkeypatch, capsys, b'a\n\n', '--json-lines')
    first, second = map(json.loads, out.splitlines())
    assert first['text'] == 'A'
    assert first['alternatives'][0]['score'] == -2.0
    assert second['text'] == ''


def test_predict_streams_what_it_would_write_at_the_end(
    training: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'alpha beta gamma\n\nδ\u2028ε and more\n'.encode()
    wanted = predict(monkeypatch, capsys, text)
    for steps in ('1', '3', '50'):
        assert predict(monkeypatch, capsys, text, '--stream', steps) == wanted


@pytest.mark.parametrize('option', ['--scores', '--n-best=2', '--json-lines', '--target=f'])
def test_predict_streams_text_alone(
    training: StandIn, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert option.split('=')[0] in refusal(capsys, 'predict', 'r', '--stream', option)


def test_predict_scores_given_outputs(
    training: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    target = tmp_path / 'target'
    target.write_text('xy\nz\n')
    out = predict(monkeypatch, capsys, b'a\nb\n', '--target', str(target))
    assert out == '-3.0000\txy\n-2.0000\tz\n'
    target.write_text('xy\n')
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(b'a\nb\n')))
    assert 'has 1 lines but the input has 2' in refusal(
        capsys, 'predict', 'r', '--target', str(target)
    )


def test_input_that_is_not_utf8_is_refused_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / 'latin'
    path.write_bytes('eins\nüber\n'.encode('latin-1'))
    with pytest.raises(UserError, match=r'latin: line 2 is not UTF-8'):
        read_lines(path)


def test_packed_input_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / 'lines.gz'
    path.write_bytes(gzip.compress(b'a\n\nb'))
    assert read_lines(path) == ['a', '', 'b']
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match='gzip file is damaged'):
        read_lines(path)


def test_lines_are_parted_by_line_feeds_alone(tmp_path: Path) -> None:
    path = tmp_path / 'lines'
    path.write_bytes('a\x0bb\x85c\u2029d\n\ne'.encode())
    assert read_lines(path) == ['a\x0bb\x85c\u2029d', '', 'e']
    path.write_bytes(b'')
    assert read_lines(path) == []


def test_files_of_different_length_are_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'h').write_text('a\nb\n')
    (tmp_path / 'r').write_text('a\n')
    answer = refusal(capsys, 'score', str(tmp_path / 'h'), str(tmp_path / 'r'))
    assert 'h has 2 lines but' in answer
    assert 'r has 1;' in answer


# ------------------------------------------------------------------------------------- as a process


def test_a_reader_that_leaves_early_is_no_traceback() -> None:
    program = (
        'import sys\nfrom seqzoo import __main__ as m\n'
        "m._run = lambda words: [print('line') for _ in range(1_000_000)].count(0)\n"
        'sys.exit(m.main([]))\n'
    )
    command = [sys.executable, '-c', program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 1
        assert process.stderr.read() == b''


def test_text_is_utf8_whatever_the_locale_says(tmp_path: Path) -> None:
    (tmp_path / 'h').write_text('a\n')
    environment = {**os.environ, 'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONIOENCODING': 'ascii'}
    done = subprocess.run(
        [sys.executable, '-m', 'seqzoo', 'show', 'ünbekannt'],
        env=environment,
        capture_output=True,
        check=False,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert done.returncode == 2
    assert 'ünbekannt' in done.stderr.decode()


# ------------------------------------------------------------------------------------ real contents


def test_every_top_level_field_of_an_experiment_is_a_group_or_known_to_the_parser() -> None:
    from seqzoo.commands.command import TOP_LEVEL_FIELDS
    from seqzoo.configuration import load_config, options

    paths = [option.path for option in options(load_config('transformer_tiny_numerals'))]
    assert {path for path in paths if '.' not in path} == set(TOP_LEVEL_FIELDS)


def test_list_counts_every_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    from seqzoo.configuration import config_names

    assert seqzoo('list', '--json') == 0
    captured = capsys.readouterr()
    configs = {config['name']: config for config in json.loads(captured.out)['configs']}
    assert captured.err == ''
    assert sorted(configs) == config_names()
    numerals = configs['transformer_tiny_numerals']
    assert numerals['model'] == 'Transformer'
    assert numerals['data'] == 'numerals en-de'
    assert all(config['parameters'] > 0 for config in configs.values())


def test_show_counts_the_papers_base_model(capsys: pytest.CaptureFixture[str]) -> None:
    words = ['--model.num-layers', '6', '--model.embed-dim', '512', '--model.mlp-dim', '2048']
    words += ['--model.num-heads', '8', '--model.norm', 'post', '--model.vocab-size', '37000']
    assert seqzoo('show', 'transformer_tiny_numerals', *words, '--json') == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown['parameters'] == 63_045_632
    assert shown['experiment']['model']['num_layers'] == 6


def test_flops_are_three_forward_passes_of_the_longest_batch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from seqzoo.configuration import load_config
    from seqzoo.models.transformer_flops import transformer_flops

    experiment = load_config('transformer_tiny_numerals')
    rows = experiment.batch.tokens // experiment.batch.max_length
    length = experiment.batch.max_length
    expected = transformer_flops(
        experiment.nominal_model(), batch=rows, source_length=length, target_length=length
    )
    assert seqzoo('show', 'transformer_tiny_numerals', '--json') == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown['flops_per_step'] == pytest.approx(expected.training(), rel=0.01)
