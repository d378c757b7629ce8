"""The house rules: who may import whom, what stays out, and how large a file may grow."""

import ast
import functools
import graphlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'seqzoo'

GROUND = 0
FLOORS = {
    **dict.fromkeys(
        (
            *('errors', 'accelerators', 'buckets', 'configuration', 'provenance'),
            *('parallel', 'data', 'decoding', 'scoring', 'optimization'),
        ),
        GROUND,
    ),
    'layers': 1,
    'models': 2,
    'tasks': 3,
    'interop': 3,
    'experiment': 4,
    'training': 5,
    'analysis': 6,
    'doctor': 6,
    '__init__': 7,  # the public API, which the command line calls
    'commands': 8,
    '__main__': 9,
}
# Only the tests compare with these, and only our own reading of TFDS replaces the last.
NEVER = {'torch', 'transformers', 'tensorflow', 'flaxformer', 'keras'}
# Nothing that the modules of a model need; each costs a second or more to import.
HEAVY = ('tensorflow', 'tensorflow_datasets', 'matplotlib', 'torch', 'grain', 'sacrebleu')
MAX_LINES = 450


def module_name(path: pathlib.Path) -> str:
    """`seqzoo.layers.attention`; a package by its own name."""
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


@functools.cache
def sources() -> dict[str, pathlib.Path]:
    return {module_name(path): path for path in sorted(PACKAGE.rglob('*.py'))}


@functools.cache
def imports(module: str) -> frozenset[str]:
    """Every module that a module imports, also in functions and for type checkers only."""
    path = sources()[module]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parts = module.split('.') + ['__init__'] * (path.name == '__init__.py')
                base = '.'.join([*parts[: len(parts) - node.level], *filter(None, [base])])
            for alias in node.names:
                whole = f'{base}.{alias.name}'
                if whole in sources():
                    found.add(whole)
                elif whole != 'seqzoo.__version__':
                    found.add(base)
    return frozenset(found)


def own_imports(module: str) -> set[str]:
    return {name for name in imports(module) if name.split('.')[0] == 'seqzoo'} - {module}


def floor(module: str) -> int:
    room = [*module.split('.'), '__init__'][1]
    assert room in FLOORS, f'{module} is in a room without a floor: name it in FLOORS'
    return FLOORS[room]


def tracked_files() -> list[pathlib.Path]:
    """The files of the project: what git knows, or without git all that is not built."""
    result = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, check=False)
    if result.returncode == 0:
        listed = [ROOT / os.fsdecode(name) for name in result.stdout.split(b'\0') if name]
        return [path for path in listed if path.is_file()]
    built = {'.git', '.venv', '.jax_cache', '.hypothesis', 'runs', '__pycache__', 'build', 'dist'}
    return [path for path in ROOT.rglob('*') if path.is_file() and not built & set(path.parts)]


@pytest.mark.parametrize('module', sorted(sources()))
def test_imports_run_downwards(module):
    upwards = sorted(name for name in own_imports(module) if floor(name) > floor(module))
    assert not upwards, f'{module} imports from a higher floor: {upwards}'


def test_imports_go_in_no_circle():
    graph = {module: own_imports(module) & sources().keys() for module in sources()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize('module', sorted(sources()))
def test_a_module_imports_neither_configurations_nor_other_frameworks(module):
    roots = {name.split('.')[0] for name in imports(module)}
    assert not roots & (NEVER | {'configs', 'tests'})


def test_an_import_upwards_would_be_seen():
    assert floor('seqzoo.layers.attention') < floor('seqzoo.models.base')
    assert floor('seqzoo.__main__') > floor('seqzoo') > floor('seqzoo.analysis')


@pytest.mark.parametrize('module', ['seqzoo', 'seqzoo.models', 'seqzoo.models.transformer'])
def test_importing_models_brings_in_nothing_heavy(module):
    program = f'import sys, {module}; print(*[n for n in {HEAVY!r} if n in sys.modules])'
    result = subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


@pytest.mark.parametrize('module', sorted(sources()))
def test_a_file_stays_small(module):
    lines = len(sources()[module].read_text().splitlines())
    assert lines <= MAX_LINES, f'{module} has {lines} lines: which concept is missing?'


def test_no_room_is_called_utils():
    assert not [name for name in sources() if re.search(r'\b(utils?|helpers|misc|common)$', name)]


def test_no_file_names_a_place_on_one_machine_or_a_package_index():
    folders = '|'.join(['work', 'root', 'home', 'mnt'])
    place = re.compile(rf'(?<![A-Za-z0-9_./-])/({folders})/')
    index = re.compile(r'--(extra-)?index' + r'-url|https?://[^ "\')]+/(simple|packages|dists)/')
    found = []
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if place.search(line) or index.search(line):
                found.append(f'{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}')
    assert not found
