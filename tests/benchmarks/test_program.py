"""How the programs end."""

import pathlib
import subprocess
import sys

import pytest

from seqzoo.errors import UserError

FOLDER = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.fixture(scope='module')
def program(benchmark_program):
    return benchmark_program('program')


def fails(error):
    def main():
        raise error

    return main


def test_what_the_user_can_mend_is_a_sentence_and_status_2(program, capsys):
    with pytest.raises(SystemExit) as left:
        program.run(fails(UserError('there is\n  no such run')))
    assert left.value.code == 2
    assert capsys.readouterr().err == 'there is no such run\n'


def test_a_program_that_has_said_its_sentence_is_not_repeated(program, capsys):
    with pytest.raises(SystemExit) as left:
        program.run(fails(subprocess.CalledProcessError(2, ['seqzoo'])))
    assert left.value.code == 2
    assert capsys.readouterr().err == ''
    with pytest.raises(subprocess.CalledProcessError):
        program.run(fails(subprocess.CalledProcessError(1, ['seqzoo'])))
    with pytest.raises(ZeroDivisionError):
        program.run(fails(ZeroDivisionError()))


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('record_run', ('RUN', '--name', 'x', '--measure', 'loss', '--command', 'y')),
        ('translation_curve', ('RUN', '--name', 'x', '--command', 'y')),
        ('length_curve', ('RUN', '--name', 'x', '--labels', 'y')),
    ],
)
def test_a_folder_that_is_no_run_is_said_so_without_a_traceback(name, options, tmp_path):
    words = [str(tmp_path) if word == 'RUN' else word for word in options]
    command = [sys.executable, str(FOLDER / f'{name}.py'), *words]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1].startswith(f'{tmp_path} is not the folder of a run')
    assert 'Traceback' not in ran.stderr
