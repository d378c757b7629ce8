"""Lines of text in and out: UTF-8 whatever the locale says, one record per line, none lost."""

import contextlib
import gzip
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from seqzoo.data import text_files
from seqzoo.errors import UserError


def read_lines(path: Path | None) -> list[str]:
    """The lines of a file, plain or `.gz`, or of standard input; empty ones included, line ends
    removed.

    Raises:
        UserError: the file cannot be read or is not UTF-8; it says where.
    """
    if path is not None:
        return list(text_files.read_lines(path))
    if sys.stdin.isatty():
        print('reading from the keyboard, one record a line; Ctrl-D ends', file=sys.stderr)
    return list(text_files.decode_lines(sys.stdin.buffer, 'standard input'))


@contextlib.contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """A text file to write to, packed if its name ends in `.gz`, or standard output.

    Raises:
        UserError: the file cannot be written.
    """
    if path is None:
        yield sys.stdout
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        packs = path.name.endswith('.gz')
        file = (gzip.open if packs else open)(path, 'wt', encoding='utf-8', newline='\n')
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror}') from error
    with file:
        yield file
