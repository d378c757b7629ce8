"""Writes the locks of this folder from `pyproject.toml`; `make lock` runs it.

One set per minor version of Python, because the newest jax depends on it:

    pyXYZ.txt       what seqzoo and its tests need, on any platform
    pyXYZ-cuda.txt  what jax needs on top of that for NVIDIA GPUs
    pyXYZ-tpu.txt   and for TPUs

A lock holds names, versions and hashes, and nothing of where they came from: pip takes them from
whatever index it is set to use, and the hashes say whether they are the same files.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

FOLDER = pathlib.Path(__file__).resolve().parent
PYTHON_VERSIONS = ('3.11', '3.12', '3.13', '3.14')
ACCELERATORS = ('cuda', 'tpu')


def compile_lock(
    workplace: pathlib.Path, version: str, extras: list[str], options: list[str]
) -> str:
    """The requirements that uv finds for one version of Python, as lines of a lock."""
    result = subprocess.run(
        [
            shutil.which('uv') or pathlib.Path(sys.executable).with_name('uv'),
            *('pip', 'compile', 'pyproject.toml', '--universal', '--generate-hashes'),
            *('--python-version', version, '--no-header', '--no-python-downloads', '--quiet'),
            *(f'--extra={extra}' for extra in extras),
            *options,
        ],
        cwd=workplace,
        text=True,
        stdout=subprocess.PIPE,
    )
    if result.returncode != 0:
        sys.exit(f'uv found no packages for Python {version} with {extras}; it says why above.')
    return tidy(result.stdout)


def tidy(lock: str) -> str:
    """Drops the list of what uv left out, and `python_full_version`, which one lock makes true."""
    clause = r"python_full_version (?:<|>=|==) '[0-9.*]+'"
    lock = lock.partition('\n# The following packages were excluded')[0]
    lock = re.sub(rf'{clause} and | and {clause}', '', lock)
    return re.sub(rf' ; {clause}(?= )', '', lock)


def write(path: pathlib.Path, text: str) -> None:
    """Writes a lock, unless something in it says where packages come from."""
    forbidden = re.search(r'https?:|file:|://|--(extra-)?index|--find-links|^torch==', text, re.M)
    if forbidden:
        sys.exit(f'{path.name} would contain {forbidden.group()!r}; a lock names no place.')
    path.write_text(text)
    print(f'{path.name}: {len(names(text))} packages')


def names(lock: str) -> list[str]:
    """The packages of a lock."""
    return re.findall(r'^([a-zA-Z0-9_.-]+)==', lock, re.M)


def main() -> None:
    """Writes every lock anew, at the newest versions that fit together."""
    project = tomllib.loads((FOLDER.parent / 'pyproject.toml').read_text())['project']
    for version in PYTHON_VERSIONS:
        stem = f'py{version.replace(".", "")}'
        with tempfile.TemporaryDirectory() as scratch:
            workplace = pathlib.Path(scratch)
            # A project of its own, because only a project can say for which Python it is solved.
            (workplace / 'pyproject.toml').write_text(subset(project, version, ''))
            base = compile_lock(workplace, version, ['dev'], [])
            write(FOLDER / f'{stem}.txt', base)
            (workplace / 'base.txt').write_text(base)
            known = [f'--no-emit-package={name}' for name in sorted(set(names(base)))]
            linux = " and sys_platform == 'linux'"
            (workplace / 'pyproject.toml').write_text(subset(project, version, linux))
            for accelerator in ACCELERATORS:
                extra = compile_lock(
                    workplace, version, [accelerator], ['--constraint', 'base.txt', *known]
                )
                write(FOLDER / f'{stem}-{accelerator}.txt', extra)


def subset(project: dict, version: str, platform: str) -> str:
    """A `pyproject.toml` with the same requirements, solved for one minor version of Python."""
    extras = project['optional-dependencies']
    lines = [
        '[project]',
        'name = "seqzoo"',
        'version = "0"',
        f'requires-python = "=={version}.*"',
        f'dependencies = {project["dependencies"]!r}',
        '[project.optional-dependencies]',
        *(f'{name} = {extras[name]!r}' for name in ('dev', *ACCELERATORS)),
        '[tool.uv]',
        f'environments = ["python_version == \'{version}\'{platform}"]',
    ]
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    main()
