"""A checkout installs anywhere: what the locks, the installer, the wheel and the README promise."""

import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / 'requirements'
LOCKS = sorted(REQUIREMENTS.glob('py*.txt'))
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


def normal(name: str) -> str:
    """The one spelling of a package's name; `tensorboardX>=2` is `tensorboardx`."""
    return re.sub(r'[-_.]+', '-', re.match(r'[\w.-]+', name).group()).lower()


def entries(lock: pathlib.Path) -> dict[str, str]:
    """What a lock says of each package, by name."""
    blocks = re.split(r'\n(?=[\w.-]+==)', '\n' + lock.read_text())
    return {normal(block): block for block in blocks if block.strip()}


def make_targets() -> set[str]:
    return set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.M))


def run_installer(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ['sh', str(REQUIREMENTS / 'install.sh')],
        env={'PATH': os.environ['PATH'], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def fake_python(folder: pathlib.Path, name: str, version: str) -> None:
    """An interpreter that knows only its own version, whatever it is asked."""
    path = folder / name
    path.write_text(f'#!/bin/sh\n[ -n "{version}" ] || exit 127\necho {version}\n')
    path.chmod(0o755)


def test_there_is_a_lock_for_every_supported_python():
    names = {lock.name for lock in LOCKS}
    for minor in (11, 12, 13):
        for accelerator in ('', '-cuda', '-tpu'):
            assert f'py3{minor}{accelerator}.txt' in names


@pytest.mark.parametrize('lock', LOCKS, ids=lambda lock: lock.stem)
def test_every_package_of_a_lock_has_a_version_and_a_hash(lock):
    found = entries(lock)
    assert found
    for block in found.values():
        assert re.match(r'[\w.-]+==[\w.]+( ; [^\n]+)? \\\n', block), block[:80]
        assert '--hash=sha256:' in block, block[:80]


@pytest.mark.parametrize('lock', LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_names_no_place_and_no_torch(lock):
    text = lock.read_text()
    assert not re.search(r'://|file:|-index|find-links|\.(com|org|io|net)\b', text)
    assert 'torch' not in entries(lock)


@pytest.mark.parametrize(
    'lock', [lock for lock in LOCKS if '-' not in lock.stem], ids=lambda p: p.stem
)
def test_a_lock_holds_every_requirement(lock):
    wanted = [*PROJECT['dependencies'], *PROJECT['optional-dependencies']['dev']]
    assert {normal(name) for name in wanted} <= entries(lock).keys()


def test_the_version_is_written_once():
    assert 'version' in PROJECT['dynamic']
    assert re.search(r"^__version__ = '[\d.]+", (ROOT / 'seqzoo/__init__.py').read_text(), re.M)


def test_continuous_integration_is_a_program_that_calls_make_test():
    path = ROOT / '.ci' / 'run'
    assert path.stat().st_mode & stat.S_IXUSR
    assert 'make test\n' in path.read_text()


def test_an_old_python_is_answered_in_one_sentence(tmp_path):
    fake_python(tmp_path, 'python3.8', '3.8')
    result = run_installer(PYTHON=str(tmp_path / 'python3.8'))
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert 'is 3.8, and seqzoo needs 3.11 or newer' in result.stderr


def test_where_every_python_is_old_it_says_how_to_get_another(tmp_path):
    for name in ('dirname', 'tr', 'cat', 'cksum'):
        (tmp_path / name).symlink_to(shutil.which(name))
    fake_python(tmp_path, 'python3', '3.10')
    # A launcher without an interpreter behind it, as version managers leave on PATH.
    fake_python(tmp_path, 'python3.12', '')
    result = subprocess.run(
        [shutil.which('sh'), str(REQUIREMENTS / 'install.sh')],
        env={'PATH': str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith('python3 is 3.10 here, and seqzoo needs Python 3.11 or newer')


def test_an_unknown_accelerator_is_refused(tmp_path):
    result = run_installer(
        PYTHON=sys.executable, ACCELERATOR='gpu', VENV=str(tmp_path / 'environment')
    )
    assert result.returncode == 2
    assert 'none of cpu, cuda and tpu' in result.stderr
    assert not (tmp_path / 'environment').exists()


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> zipfile.Path:
    """The wheel of this checkout."""
    pytest.importorskip('hatchling')
    folder = tmp_path_factory.mktemp('wheel')
    program = (
        'import sys; from hatchling.builders.wheel import WheelBuilder; '
        "next(WheelBuilder(sys.argv[1]).build(directory=sys.argv[2], versions=['standard']))"
    )
    subprocess.run([sys.executable, '-c', program, ROOT, folder], cwd=ROOT, check=True)
    return next(folder.glob('*.whl'))


def test_a_wheel_holds_the_package_and_the_configurations(wheel):
    files = set(zipfile.ZipFile(wheel).namelist())
    package = {str(path.relative_to(ROOT)) for path in (ROOT / 'seqzoo').rglob('*.py')}
    assert package <= files
    configs = {f'seqzoo/_configs/{path.name}' for path in (ROOT / 'configs').glob('*.py')}
    assert configs
    assert configs <= files
    rest = {name for name in files - package - configs if not name.startswith('seqzoo/_configs/')}
    assert {name.split('/')[0].split('-')[0] for name in rest} <= {'seqzoo'}
    assert not [name for name in files if name.endswith('.pyc')]


def test_named_configurations_are_found_from_an_installed_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / 'site')
    program = (
        'import pathlib; from seqzoo import configuration as c; '
        'print(pathlib.Path(c.__file__).parts[-4], *c.config_names())'
    )
    result = subprocess.run(
        [sys.executable, '-c', program],
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': str(tmp_path / 'site')},
        capture_output=True,
        text=True,
        check=True,
    )
    place, *names = result.stdout.split()
    assert place == 'site'
    assert names == sorted(path.stem for path in (ROOT / 'configs').glob('[!_]*.py'))


def test_make_help_lists_every_target():
    listed = subprocess.run(['make', 'help'], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in make_targets():
        assert f'make {target} ' in listed.stdout


@pytest.mark.skipif(not (ROOT / 'README.md').exists(), reason='there is no README yet')
class TestReadme:
    def commands(self) -> list[str]:
        """Every command line in the README's shell blocks, continued lines joined."""
        text = (ROOT / 'README.md').read_text()
        blocks = re.findall(r'^```(?:bash|sh|shell|console)\n(.*?)^```', text, re.M | re.S)
        lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
        return [line.strip().removeprefix('$ ') for line in lines if line.strip()]

    def test_it_names_the_two_commands(self):
        assert {'make demo', 'make test'} <= {
            line.split('#')[0].strip() for line in self.commands()
        }

    def test_its_make_targets_exist(self):
        for line in self.commands():
            words = line.split('#')[0].split()
            if words[:1] == ['make']:
                targets = {word for word in words[1:] if '=' not in word}
                assert targets <= make_targets(), line

    def test_its_commands_of_seqzoo_exist(self):
        from seqzoo.__main__ import main

        for line in self.commands():
            found = re.search(r'(?:^|[/\s])seqzoo\s+([a-z-]+)', line.split('#')[0])
            if found:
                with pytest.raises(SystemExit) as left:
                    sys.exit(main([found.group(1), '--help']))
                assert not left.value.code, line

    def test_it_is_the_description_of_the_package(self):
        assert PROJECT.get('readme') == 'README.md'
