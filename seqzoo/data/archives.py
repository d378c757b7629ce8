r"""Text straight out of archives: tar, tar.gz, gz, gz inside tar, plain text, SGML.

Everything is a stream. The two sides of a corpus are two members of one archive; each is read
through its own handle, so that neither is unpacked to disk nor held in memory. Lines end at '\n'
and nowhere else: U+0085, U+2028 and a lone carriage return occur inside sentences of real corpora,
and splitting at them would shift one side against the other.
"""

import contextlib
import dataclasses
import gzip
import io
import itertools
import re
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from seqzoo.errors import UserError

_BUFFER = 1 << 18
_GZIP_MAGIC = b'\x1f\x8b'
# Not an XML parser: the published files are not well-formed (bare '&', missing declarations).
_SEGMENT_BEGIN = re.compile(rb'<seg\b[^>]*>', re.IGNORECASE)
_SEGMENT_END = re.compile(rb'</seg\s*>', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class TextFile:
    """One side of a corpus.

    Attributes:
        path: a file on disk, compressed or not.
        member: the name inside it if it is a tar archive, else None.
    """

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return f'{self.member} in {self.path}' if self.member else str(self.path)

    @property
    def is_sgml(self) -> bool:
        """Whether sentences are `<seg>` elements instead of lines."""
        name = (self.member or self.path.name).removesuffix('.gz')
        return name.endswith(('.sgm', '.sgml'))


@contextlib.contextmanager
def open_text(file: TextFile) -> Iterator[BinaryIO]:
    """Opens `file` as a stream of uncompressed bytes.

    Compression is recognised by content, on the outside and inside the archive, whatever the names
    say.

    Raises:
        UserError: the file or the member does not exist.
    """
    with contextlib.ExitStack() as stack:
        try:
            raw = stack.enter_context(open(file.path, 'rb'))
        except OSError as error:
            raise UserError(
                f'{file.path} cannot be read ({error.strerror}): check the path and its '
                'permissions.'
            ) from error
        stream = _decompressed(raw, stack)
        if file.member is not None:
            # Mode 'r|' never seeks, and so decompresses each byte once.
            archive = stack.enter_context(tarfile.open(fileobj=stream, mode='r|', bufsize=_BUFFER))
            member = stack.enter_context(_find_member(archive, file))
            stream = _decompressed(member, stack)
        yield stream


def _decompressed(stream: BinaryIO, stack: contextlib.ExitStack) -> BinaryIO:
    buffered = io.BufferedReader(cast(io.RawIOBase, stream), _BUFFER)
    if buffered.peek(2)[:2] != _GZIP_MAGIC:
        return cast(BinaryIO, buffered)
    unpacked = stack.enter_context(gzip.GzipFile(fileobj=buffered))
    return cast(BinaryIO, io.BufferedReader(unpacked, _BUFFER))


def _find_member(archive: tarfile.TarFile, file: TextFile) -> BinaryIO:
    seen = []
    for entry in archive:
        name = entry.name.removeprefix('./')
        seen.append(name)
        if name == file.member:
            content = archive.extractfile(entry)
            if content is not None:
                return cast(BinaryIO, content)
    listed = ', '.join(seen[:5]) + (', ...' if len(seen) > 5 else '')
    raise UserError(
        f'{file.path} has no member {file.member} (it holds {listed or "nothing"}): delete it and '
        'run the same command again to download it anew.'
    )


def read_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yields (line number from 1, line without its line feed)."""
    for number, line in enumerate(stream, 1):
        yield number, line.removesuffix(b'\n')


def read_segments(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yields (line number from 1, content) for every `<seg>` of an SGML test set.

    Character entities stay as they are, as TFDS leaves them and as sacreBLEU's '13a' expects them.
    A segment that runs over several lines is joined with spaces.
    """
    unfinished: list[bytes] = []
    begin_line = 0
    for number, line in read_lines(stream):
        rest = line.removesuffix(b'\r')
        while True:
            if not unfinished:
                begin = _SEGMENT_BEGIN.search(rest)
                if begin is None:
                    break
                rest, begin_line = rest[begin.end() :], number
            end = _SEGMENT_END.search(rest)
            if end is None:
                unfinished.append(rest.strip())
                break
            yield begin_line, b' '.join([*unfinished, rest[: end.start()]]).strip()
            unfinished, rest = [], rest[end.end() :]


def read_sentences(file: TextFile) -> Generator[str, None, None]:
    """Yields the sentences of one side, in order.

    Raises:
        UserError: the file is missing, damaged or cut short, or is not UTF-8 (says in which line).
    """
    try:
        with open_text(file) as stream:
            sentences = read_segments(stream) if file.is_sgml else read_lines(stream)
            for number, sentence in sentences:
                try:
                    text = sentence.decode('utf-8')
                except UnicodeDecodeError as error:
                    raise UserError(
                        f'Line {number} of {file} is not UTF-8 (byte 0x{sentence[error.start]:02x} '
                        f'at position {error.start}): convert the file to UTF-8.'
                    ) from error
                yield text
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(
            f'{file} is damaged or cut short ({error}): delete {file.path.name} and run the same '
            'command again to download it anew.'
        ) from error


def read_pairs(first: TextFile, second: TextFile) -> Iterator[tuple[str, str]]:
    """Yields the aligned sentences of both sides; memory does not grow with the corpus.

    Raises:
        UserError: as `read_sentences`, or the sides differ in length (names both counts).
    """
    with (
        contextlib.closing(read_sentences(first)) as left,
        contextlib.closing(read_sentences(second)) as right,
    ):
        missing = object()
        both = itertools.zip_longest(left, right, fillvalue=missing)
        for count, (one, other) in enumerate(both):
            if one is missing or other is missing:
                longer = count + 1 + sum(1 for _ in both)
                counts = (count, longer) if one is missing else (longer, count)
                raise UserError(
                    f'The two sides differ in length: {first} has {counts[0]:,} sentences and '
                    f'{second} has {counts[1]:,}; both need one sentence per line, in the same '
                    'order.'
                )
            yield cast(str, one), cast(str, other)


def read_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of the wanted files of a tar archive, or of a folder.

    The archive is read once, in its order, and nothing is unpacked to disk. Names are alike for
    both: those of a folder begin with its own name, as they do in the archive that it came out of.

    Args:
        path: the archive, compressed or not, or the folder.
        wanted: says by its name whether a file is read.

    Raises:
        UserError: the archive is missing, damaged or cut short.
    """
    if path.is_dir():
        for file in sorted(path.rglob('*')):
            name = file.relative_to(path.parent).as_posix()
            if file.is_file() and wanted(name):
                yield name, file.read_bytes()
        return
    try:
        with (
            open_text(TextFile(path)) as stream,
            tarfile.open(fileobj=stream, mode='r|', bufsize=_BUFFER) as archive,
        ):
            for entry in archive:
                name = entry.name.removeprefix('./')
                if entry.isfile() and wanted(name):
                    content = archive.extractfile(entry)
                    assert content is not None
                    yield name, content.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(
            f'{path} is damaged or cut short ({error}): delete it and run the same command again '
            'to download it anew.'
        ) from error
