"""Programs for TPU slices, compiled on any machine by libtpu; nothing runs.

Left out where libtpu is not installed, unless SEQZOO_REQUIRE_TPU_COMPILER=1 says that it must be.
`make test-tpu` installs it and runs these tests alone.
"""

import importlib.util
import os
import pathlib
import sys
from types import ModuleType

import pytest

from seqzoo.analysis.slices import Slice, find_slice, has_compiler

FOLDER = pathlib.Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is here; without a compiler it is skipped, or fails where there must be one."""
    required = os.environ.get('SEQZOO_REQUIRE_TPU_COMPILER') == '1'
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.tpu)
            if not has_compiler() and not required:
                reason = 'needs the compiler of TPUs, libtpu, which is not installed: make test-tpu'
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope='session')
def four_chips() -> Slice:
    """The smallest slice of v5e with links."""
    return find_slice('v5e:2x2')


def _battery() -> ModuleType:
    # The tests are no package (importmode=importlib), so the battery is loaded by its path.
    spec = importlib.util.spec_from_file_location(
        'battery', FOLDER.parent / 'contract' / 'battery.py'
    )
    assert spec is not None
    assert spec.loader is not None
    if 'battery' not in sys.modules:
        sys.modules['battery'] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules['battery']


battery = _battery()
