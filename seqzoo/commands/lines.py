"""Lines of text in and out: UTF-8 whatever the locale says, one record per line, none lost."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from seqzoo.errors import UserError


def read_lines(path: Path | None) -> list[str]:
    """The lines of a file, or of standard input; empty ones included, line ends removed.

    Raises:
        UserError: the file cannot be read or is not UTF-8; it says where.
    """
    name = 'standard input' if path is None else str(path)
    if path is None and sys.stdin.isatty():
        print('reading from the keyboard, one record a line; Ctrl-D ends', file=sys.stderr)
    try:
        data = sys.stdin.buffer.read() if path is None else path.read_bytes()
    except OSError as error:
        raise UserError(f'{name} cannot be read: {error.strerror}') from error
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise UserError(f'line {line} of {name} is not UTF-8; convert the file first') from error
    # Not splitlines(): only a line feed ends a record, a line separator inside a sentence does not.
    lines = text.split('\n')
    if lines[-1] == '':
        del lines[-1]
    return [line.removesuffix('\r') for line in lines]


@contextlib.contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """A text file to write to, or standard output.

    Raises:
        UserError: the file cannot be written.
    """
    if path is None:
        yield sys.stdout
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open('w', encoding='utf-8', newline='\n')
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror}') from error
    with file:
        yield file
