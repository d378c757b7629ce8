"""Programs of `benchmarks`, imported as they are run: with what lies beside them on the path."""

import importlib.util
import pathlib
import sys

import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.fixture(scope='session')
def benchmark_program():
    """A function from the name of a program to its module."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(FOLDER)

    def load(name):
        if name in sys.modules and str(FOLDER) in str(sys.modules[name].__file__):
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, FOLDER / f'{name}.py')
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    yield load
    patch.undo()
