"""A stand-in cloud on PATH, and the command line in this process."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tpu import job, shell
from tpu.__main__ import main

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]

# `make install` on a stand-in host: an interpreter that ends as the file `exits` says.
_MAKE = """\
#!/bin/sh
mkdir -p .venv/bin
cat >.venv/bin/python <<'END'
#!/bin/sh
[ "$1" = -c ] && exit 0
echo "ran $*"
echo "$*" >>"$HOME/ran"
exits=$(cat "$STAND_IN_CLOUD/exits" 2>/dev/null || echo 0)
n=$(cat "$STAND_IN_CLOUD"/hosts/*/ran "$STAND_IN_CLOUD"/lost-*/ran 2>/dev/null | wc -l)
set -- $exits
while [ "$n" -gt 1 ] && [ $# -gt 1 ]; do shift; n=$((n - 1)); done
[ "$1" = wait ] && sleep 30
exit "$1"
END
chmod +x .venv/bin/python
"""


class Cloud:
    """The stand-in, from the side of a test."""

    def __init__(self, folder, code, capsys):
        self.folder, self.code, self.capsys = folder, code, capsys

    def run(self, *words):
        """Runs `python -m tpu WORDS`; its status, standard output and error."""
        self.capsys.readouterr()
        status = main([*map(str, words)])
        said = self.capsys.readouterr()
        return status, said.out, said.err

    def calls(self, *parts):
        """The commands that were run and have all of these words."""
        file = self.folder / 'calls'
        lines = file.read_text().splitlines() if file.exists() else []
        found = [json.loads(line) for line in lines]
        return [c for c in found if all(any(p in w for w in c['words']) for p in parts)]

    def nodes(self):
        file = self.folder / 'nodes.json'
        return json.loads(file.read_text()) if file.exists() else {}

    def write(self, name, value):
        text = value if isinstance(value, str) else json.dumps(value)
        (self.folder / name).write_text(text)

    def ran(self):
        """The commands that hosts ran, of those that are there and of those that were lost."""
        files = [*self.folder.glob('hosts/*/ran'), *self.folder.glob('lost-*/ran')]
        return [line for file in sorted(files) for line in file.read_text().splitlines()]


@pytest.fixture(scope='session')
def machine(tmp_path_factory):
    """The programs of the stand-in, and a checkout with what hosts run; neither ever changes."""
    folder = tmp_path_factory.mktemp('a machine')
    programs, code = folder / 'bin', folder / 'my code'
    programs.mkdir()
    (code / 'tpu').mkdir(parents=True)
    for name in ('gcloud', 'kubectl', 'sbatch', 'squeue', 'scancel'):
        program = programs / name
        text = (HERE / 'stand_in.py').read_text()
        program.write_text(f'#!{sys.executable} -SE\n{text}')
        program.chmod(0o755)
    for name, text in {
        'make': _MAKE,
        'hostname': '#!/bin/sh\necho "${STAND_IN_HOST:-laptop}"\n',
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    for name in ('worker.sh', 'setup.sh'):
        (code / 'tpu' / name).write_bytes((ROOT / 'tpu' / name).read_bytes())
    subprocess.run(['git', 'init', '-q', code], check=True)
    subprocess.run(['git', '-C', code, 'add', '.'], check=True)
    return programs, code


@pytest.fixture
def cloud(machine, tmp_path, monkeypatch, capsys):
    """A cloud in which there is nothing yet."""
    programs, code = machine
    folder = tmp_path / 'cloud'
    folder.mkdir()
    monkeypatch.setattr(job, 'ROOT', code)
    monkeypatch.setenv('STAND_IN_CLOUD', str(folder))
    monkeypatch.setenv('PATH', f'{programs}:{os.environ["PATH"]}')
    monkeypatch.setenv('SEQZOO_TPU_RECORDS', str(tmp_path / 'records'))
    monkeypatch.setenv('SEQZOO_RESTART_SECONDS', '0')
    monkeypatch.setattr(shell.sys.stdin, 'isatty', lambda: False, raising=False)
    return Cloud(folder, code, capsys)
