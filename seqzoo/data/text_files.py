r"""Parallel text in files: one sentence a line, one file a language, plain or `.gz`.

Lines end at '\n' and nowhere else. `str.splitlines` would also break at U+0085 or U+2028, which
occur inside sentences of real corpora, and the two sides would slip against each other without an
error.
"""

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, cast

from seqzoo.errors import UserError

_BYTE_ORDER_MARK = b'\xef\xbb\xbf'
# White space of any script, and what takes no space at all.
_BLANK = re.compile(r'[\s\u200b\u2060\ufeff]*')


class Lines(Protocol):
    """One side of a corpus: lines that are counted and can be read repeatedly. A list will do."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[str]: ...


@dataclass(frozen=True, kw_only=True)
class FileLines:
    """The lines of a text file, read anew by each iteration and never held together in memory.

    Attributes:
        path: a UTF-8 file, packed if its name ends in `.gz`.
        count: how many lines it has; `count_lines` finds out.
    """

    path: Path
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[str]:
        return read_lines(self.path)


@dataclass(frozen=True)
class BlankAsEmpty:
    """Lines of which the blank ones are empty: a tokenizer may have pieces for white space, but no
    sentence is made of them alone.

    Attributes:
        lines: what they are read from.
    """

    lines: Lines

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[str]:
        return ('' if is_blank(line) else line for line in self.lines)


@dataclass(frozen=True, kw_only=True)
class ParallelText:
    """Two sides of a corpus, line n of one translating line n of the other.

    Attributes:
        source: lines of the source language.
        target: lines of the target language, as many.
        name: what to call it in messages.
        blank: pairs of which at least one side `is_blank`. They are still part of `source` and
            `target`: line numbers stay those of the files, and `BatchConfig.empty_lines` decides
            whether training uses them.
    """

    source: Lines
    target: Lines
    name: str
    blank: int

    def __post_init__(self) -> None:
        if len(self.source) != len(self.target):
            raise UserError(
                f'{self.name}: the source has {len(self.source)} lines and the target '
                f'{len(self.target)}; parallel text needs one target line for every source line'
            )

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return zip(self.source, self.target, strict=True)

    def without_blank(self) -> 'ParallelText':
        """The pairs of which neither side is blank, held in memory; for small corpora."""
        kept = [pair for pair in self if not any(map(is_blank, pair))]
        return ParallelText(
            source=[source for source, _ in kept],
            target=[target for _, target in kept],
            name=self.name,
            blank=0,
        )


@dataclass(frozen=True, kw_only=True)
class TextLayout:
    """Where a corpus lies inside `--data-dir`: `FOLDER/STEM.LANGUAGE`, with or without `.gz`.

    Attributes:
        folder: sub-folder of the data directory; '' is the directory itself.
        train: stem of the training files.
        dev: stem of the files that select a checkpoint.
        test: stem of the files on which results are reported. Any other split name is its own stem.
    """

    folder: str = ''
    train: str = 'train'
    dev: str = 'dev'
    test: str = 'test'

    def stem(self, split: str) -> str:
        """The file stem of a split."""
        return {'train': self.train, 'dev': self.dev, 'test': self.test}.get(split, split)


def is_blank(line: str) -> bool:
    """Whether a line shows nothing: it is empty, or white space of any kind."""
    return _BLANK.fullmatch(line) is not None


def read_lines(path: str | Path) -> Iterator[str]:
    r"""Yields the lines of a UTF-8 file, plain or `.gz`, without their ends ('\n' or '\r\n').

    A byte order mark at the start of the file is left out.

    Raises:
        UserError: the file is missing or unreadable, is not UTF-8 (says where), or is a damaged
            `.gz`.
    """
    path = Path(path)
    try:
        with open_text_file(path) as file:
            yield from decode_lines(file, str(path))
    except OSError as error:
        raise UserError(
            f'{path}: cannot be read ({error.strerror or error}); check the path'
        ) from error


def decode_lines(file: Iterable[bytes], name: str) -> Iterator[str]:
    """What `read_lines` yields, of a file that is open for reading bytes.

    Args:
        file: the open file; closing it is left to the caller.
        name: what to call it in messages.
    """
    number = 0
    try:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith(_BYTE_ORDER_MARK):
                line = line[len(_BYTE_ORDER_MARK) :]
            yield line.decode('utf-8').removesuffix('\n').removesuffix('\r')
    except UnicodeDecodeError as error:
        raise UserError(
            f'{name}: line {number} is not UTF-8 (byte 0x{error.object[error.start]:02x} at '
            f'position {error.start + 1} of the line); convert the file, for example with iconv -f '
            'latin1 -t utf-8'
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f'{name}: the gzip file is damaged after line {number} ({error}); fetch or pack it '
            'again'
        ) from error


def read_parallel(
    data_dir: str | Path,
    split: str,
    source_language: str,
    target_language: str,
    *,
    layout: TextLayout | None = None,
    empty_lines: Literal['drop', 'keep'] = 'keep',
) -> ParallelText:
    """Finds and checks `STEM.SOURCE_LANGUAGE` and `STEM.TARGET_LANGUAGE`, plain or `.gz`.

    Both files are read through once, so that every mistake in them is met now and not in the middle
    of training.

    Args:
        data_dir: the directory given by the user.
        split: 'train', 'dev' or 'test', or the stem of another test set.
        source_language: ending of the source file's name.
        target_language: ending of the target file's name.
        layout: folder and stems; by default `train`, `dev` and `test` in `data_dir` itself.
        empty_lines: 'keep' leaves pairs with a blank side in place, counted; 'drop' leaves them out
            (and holds the text in memory). Evaluation must keep them: predictions come back line by
            line.

    Raises:
        UserError: a file is missing, empty, damaged or not UTF-8, or the sides differ in length.
    """
    layout = layout or TextLayout()
    stem = layout.stem(split)
    folder = Path(data_dir) / layout.folder
    if source_language == target_language:
        raise UserError(
            f'source and target language are both {source_language!r}, so both sides would be the '
            'same file; set --task.source-language and --task.target-language'
        )
    paths = [
        find_text_file(folder, f'{stem}.{language}', split)
        for language in (source_language, target_language)
    ]
    counts, blank = _check_sides(*paths)
    for path, count in zip(paths, counts, strict=True):
        if count == 0:
            raise UserError(f'{path} is empty; the {split} split needs at least one line')
    if counts[0] != counts[1]:
        raise UserError(
            f'{paths[0]} has {counts[0]} lines but {paths[1]} has {counts[1]}; line n of one must '
            'translate line n of the other'
        )
    source, target = (
        FileLines(path=path, count=count) for path, count in zip(paths, counts, strict=True)
    )
    text = ParallelText(source=source, target=target, name=str(folder / stem), blank=blank)
    if blank == len(text):
        raise UserError(
            f'{text.name}: in all {blank} pairs at least one side is empty; check the files'
        )
    return text.without_blank() if empty_lines == 'drop' and blank else text


def _check_sides(source: Path, target: Path) -> tuple[tuple[int, int], int]:
    """Line counts of both files, and the pairs with a blank side."""
    lines = [read_lines(source), read_lines(target)]
    counts = [0, 0]
    blank = 0
    while True:
        pair = [next(side, None) for side in lines]
        for side, line in enumerate(pair):
            counts[side] += line is not None
        if None in pair:
            break
        blank += any(line is not None and is_blank(line) for line in pair)
    for side in (0, 1):  # the longer one, to say how long it is
        counts[side] += sum(1 for _ in lines[side])
    return (counts[0], counts[1]), blank


def find_text_file(folder: Path, name: str, split: str) -> Path:
    """The file `name`, or `name`.gz, of a folder.

    Raises:
        UserError: neither is there, which the split needs.
    """
    for candidate in (folder / name, folder / f'{name}.gz'):
        if candidate.is_file():
            return candidate
    if not folder.is_dir():
        raise UserError(
            f'the folder {folder} does not exist, so there is no {name} for the {split} split; '
            'check --data-dir'
        )
    raise UserError(
        f'neither {name} nor {name}.gz is in {folder}, which the {split} split needs; check '
        '--data-dir and the names that the configuration gives'
    )


def open_text_file(path: Path) -> BinaryIO:
    """Opens a file for reading its bytes, unpacked if its name ends in `.gz`."""
    return cast(BinaryIO, gzip.open(path, 'rb')) if path.name.endswith('.gz') else path.open('rb')
