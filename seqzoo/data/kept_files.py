"""Small files that are kept: written whole or not at all, and made anew where they are damaged."""

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from seqzoo.errors import UserError

_log = logging.getLogger('seqzoo.data')

_Read = TypeVar('_Read')


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file that a reader meets whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(prefix=f'.{path.name}-', dir=path.parent)
    try:
        with os.fdopen(descriptor, 'wb') as file:
            file.write(content)
            file.flush()
            # A name may reach the disk before what it names: without this, a power loss leaves an
            # empty file.
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_cached(file: Path, read: Callable[[], _Read]) -> _Read | None:
    """What a cache holds; `None` where it holds nothing yet, or, with a warning, nothing sound.

    Args:
        file: is there if anything is.
        read: raises `UserError` if it cannot be read.
    """
    if not file.is_file():
        return None
    try:
        return read()
    except UserError:  # what it advises is for files that somebody gave
        _log.warning('the cache is damaged: %s is made anew', file)
        return None
