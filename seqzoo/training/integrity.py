"""Whether a checkpoint is what was written, and what is asked for.

Orbax itself notices a truncated file but not a flipped bit in a large array, which it restores as
other numbers. So every checkpoint carries a list of its files with their sizes and checksums.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from seqzoo import buckets

PyTree = Any

CHECKSUMS = 'checksums.json'
# Orbax writes to these two again when it commits; the numbers are not in them.
_WRITTEN_LATER = ('_CHECKPOINT_METADATA', 'commit_success.txt')
_BLOCK = 1 << 22


def write_checksums(folder: Any) -> None:
    """Lists the files of a checkpoint that is written but not yet committed, in `CHECKSUMS`."""
    if buckets.in_bucket(folder):
        (folder / CHECKSUMS).write_text(json.dumps(_sums_of_store(folder)))
        return
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    sums = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _checksum(path)]
        for path in files
        if path.name not in _WRITTEN_LATER
    }
    (folder / CHECKSUMS).write_text(json.dumps(sums))


def damage(folder: Any) -> str:
    """What the checksums say is wrong with a checkpoint; empty if nothing."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_text())
        if buckets.in_bucket(folder):
            return _damage_in_bucket(folder, sums)
        for name, (size, checksum) in sums.items():
            path = folder / name
            if not path.is_file():
                return f'{name} is missing'
            if path.stat().st_size != size:
                return f'{name} has {path.stat().st_size} bytes, {size} were written'
            if _checksum(path) != checksum:
                return f'{name} is not what was written'
    except FileNotFoundError:
        # The whole list may be gone because the folder is. One that Orbax alone wrote is left to
        # Orbax's checks.
        return '' if (folder / 'state').is_dir() else 'its files are missing'
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f'{CHECKSUMS} cannot be read: {error}'
    return ''


def _sums_of_store(folder: Any) -> dict[str, list[Any]]:
    """Sizes and checksums of objects as the store has them: nothing is read for it."""
    return {
        name: [int(about['size']), about.get('crc32c', '')]
        for name, about in buckets.listed(str(folder)).items()
        if name.rpartition('/')[2] not in (*_WRITTEN_LATER, CHECKSUMS)
    }


def _damage_in_bucket(folder: Any, sums: dict[str, list[Any]]) -> str:
    there = _sums_of_store(folder)
    for name, (size, checksum) in sums.items():
        if name not in there:
            return f'{name} is missing'
        if there[name][0] != size:
            return f'{name} has {there[name][0]} bytes, {size} were written'
        if there[name][1] != checksum:
            return f'{name} is not what was written'
    return ''


def differences(stored: PyTree, abstract: PyTree, *, partial: bool) -> list[str]:
    """How the arrays of a checkpoint differ from the ones asked for, in name or in shape.

    Args:
        stored: The tree in the checkpoint; its leaves have a `shape`.
        abstract: The tree asked for, of `jax.ShapeDtypeStruct`s.
        partial: Whether the checkpoint may hold more than is asked for.

    Returns:
        A phrase for each difference, other shapes first; empty if the checkpoint fits.
    """
    saved = {_name(path): tuple(leaf.shape) for path, leaf in _leaves(stored)}
    wanted = {_name(path): _stored_shape(leaf) for path, leaf in _leaves(abstract)}
    other = [
        f'{name} is {saved[name]} there and {shape} here'
        for name, shape in wanted.items()
        if name in saved and saved[name] != shape
    ]
    missing = [f'{name} is not in it' for name in wanted if name not in saved]
    extra = [] if partial else [f'{name} is only in it' for name in saved if name not in wanted]
    return other + missing + extra


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open('rb') as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _stored_shape(leaf: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return tuple(leaf.shape)


def _leaves(tree: PyTree) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _name(path: tuple[Any, ...]) -> str:
    """`params/encoder/kernel`, whether a level was a dict, a dataclass, a named tuple or a list."""
    return jax.tree_util.keystr(path, simple=True, separator='/')
