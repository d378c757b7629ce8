"""Puts libtpu, which compiles for TPUs on any machine, into a folder of its own; `make test-tpu`
calls it.

In the environment itself it would have every program look for a TPU first. The version is that of
the lock, checked by its hash.
"""

import pathlib
import re
import subprocess
import sys


def main(folder: pathlib.Path) -> int:
    """Installs what is missing; the exit status is pip's."""
    minor = f'py{sys.version_info.major}{sys.version_info.minor}'
    lock = pathlib.Path(__file__).with_name(f'{minor}-tpu.txt')
    if not lock.exists():
        print(f'There is no lock of libtpu for this Python: {lock.name}.', file=sys.stderr)
        return 2
    found = re.search(r'^libtpu==([^\s;]+)', lock.read_text(), re.MULTILINE)
    if found and (folder / f'libtpu-{found[1]}.dist-info').is_dir():
        return 0
    print(f'Installing the compiler for TPUs into {folder}', file=sys.stderr)
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', 'install', '--quiet']
    options = ['--require-hashes', '--no-deps', '--upgrade', '--target', str(folder)]
    return subprocess.run([*pip, *options, '-r', str(lock)], check=False).returncode


if __name__ == '__main__':
    sys.exit(main(pathlib.Path(sys.argv[1])))
