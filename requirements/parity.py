"""Installs PyTorch and transformers into the running environment; `make install-parity` calls it.

They serve only the tests that hold seqzoo to another implementation, and are in no lock: which
build of torch is right (CPU, CUDA) is a property of the machine and of the index that pip is set to
use. A CPU build is enough, and several gigabytes smaller; where pip's own index brings CUDA along,
point pip at PyTorch's CPU index first.
"""

import importlib.metadata
import pathlib
import subprocess
import sys
import tomllib


def missing(requirement: str) -> bool:
    """Whether `name==version` is not installed at that version; `2.13.0+cpu` is 2.13.0."""
    name, _, version = requirement.partition('==')
    try:
        return importlib.metadata.version(name).partition('+')[0] != version
    except importlib.metadata.PackageNotFoundError:
        return True


def main() -> int:
    """Installs what is missing; the exit status is pip's."""
    project = pathlib.Path(__file__).resolve().parent.parent / 'pyproject.toml'
    extras = tomllib.loads(project.read_text())['project']['optional-dependencies']
    wanted = [requirement for requirement in extras['parity'] if missing(requirement)]
    if not wanted:
        return 0
    print('Installing', *wanted, file=sys.stderr)
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', 'install', '--quiet']
    return subprocess.run([*pip, *wanted], check=False).returncode


if __name__ == '__main__':
    sys.exit(main())
