"""Series of measurements: one value a line in a CSV file, cut into parts of time and into windows.

    |------------ train ------------|-- dev --|---- test ----|

The parts follow one another and share no value. A part is handed out with what came before it, for
a forecaster knows the past; what is to be forecast belongs to the part alone.
"""

import csv
import io
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqzoo.data.public_files import PublicFile, see_to
from seqzoo.data.text_files import find_text_file, open_text_file
from seqzoo.errors import UserError

if TYPE_CHECKING:
    from seqzoo.data.download import ProgressCallback

_URL = 'https://raw.githubusercontent.com/jbrownlee/Datasets/master/'

# By path below the data directory; collected in the Time Series Data Library.
PUBLIC_SERIES: Mapping[str, PublicFile] = {
    f'time_series/{name}.csv': PublicFile(sha256, f'{_URL}{name}.csv')
    for name, sha256 in {
        'monthly-sunspots': 'c4ec8cc57d9f6fb6ecdb3e1f37f25b6f4badd5124c55931052b0cd2fc3bc71f3',
        'daily-min-temperatures': (
            '8b9de63ed6789492bf497625e7f9beb96a63d367b4b0a21754006f749fa5e5da'
        ),
        'airline-passengers': '8cb51be753a718d9be5d76d7e238cc224792754676adc21faa59e954b0201621',
    }.items()
}

_LARGEST = 1e15  # 32 bits hold its square
_LEAST_CHANGE = 1e-7  # of standardised values, which 32 bits keep apart no finer


@dataclass(frozen=True)
class Part:
    """A part of a series and what came before it.

    Attributes:
        values: `[before + own]` float64.
        times: time stamps of `values`, as the file writes them.
        begin: how many values lie before the part.
    """

    values: np.ndarray
    times: tuple[str, ...]
    begin: int

    def __len__(self) -> int:
        """Values of the part itself."""
        return len(self.values) - self.begin


@dataclass(frozen=True, kw_only=True)
class SeriesFile:
    """A CSV file with a header: a time stamp and a value on each line, equally far apart in time.

    Attributes:
        file: below the data directory, there as it is or packed, with `.gz`.
        period: steps after which the series about repeats itself, such as 12 months; `None`: never.
        dev_share, test_share: of the values; the dev part is what lies before the test part, which
            is the end.
    """

    file: str = 'time_series/monthly-sunspots.csv'
    period: int | None = None
    dev_share: float = 0.1
    test_share: float = 0.2

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.period is not None and self.period < 2:
            raise UserError(f'period is {self.period}; give at least 2 steps, or None.')
        if min(self.dev_share, self.test_share) <= 0 or self.dev_share + self.test_share >= 1:
            raise UserError(
                f'dev_share {self.dev_share} and test_share {self.test_share} must be above 0 and '
                'leave something to train on.'
            )

    @property
    def name(self) -> str:
        """The data set in a word."""
        return Path(self.file).stem

    def part(self, split: str, data_dir: Path | None) -> Part:
        """The values of `'train'`, `'dev'` or `'test'`, with all that came before.

        Raises:
            UserError: there is no such split, or the file is missing or damaged (says where).
        """
        times, values = read_series(self._path(data_dir, split))
        begin, end = self.bounds(len(values))[_known(split)]
        if begin == end:
            raise UserError(f'{self.file} has {len(values)} values: too few for a {split} part.')
        return Part(values[:end], times[:end], begin)

    def bounds(self, count: int) -> dict[str, tuple[int, int]]:
        """First value of each part and the first behind it, for a series of `count` values."""
        test = count - round(count * self.test_share)
        dev = test - round(count * self.dev_share)
        return {'train': (0, dev), 'dev': (dev, test), 'test': (test, count)}

    def prepare(
        self, data_dir: Path | None, progress: 'ProgressCallback | None' = None
    ) -> list[str]:
        """Fetches a file that is public and missing, and checks one that is there.

        Raises:
            UserError: the file is not the published one, or cannot be fetched.
        """
        public, folder = PUBLIC_SERIES.get(self.file), (self._root(data_dir) / self.file).parent
        done = [] if public is None else [see_to(folder, Path(self.file).name, public, progress)]
        times, values = read_series(self._path(data_dir, 'train'))
        return [*done, f'{self.name}: {len(values):,} values, {times[0]} to {times[-1]}']

    def _root(self, data_dir: Path | None) -> Path:
        if data_dir is None:
            raise UserError(
                f'{self.name}: say where {self.file} lies, with --data-dir or SEQZOO_DATA_DIR.'
            )
        return data_dir

    def _path(self, data_dir: Path | None, split: str) -> Path:
        path = self._root(data_dir) / self.file
        try:
            return find_text_file(path.parent, path.name, split)
        except UserError as error:
            if self.file not in PUBLIC_SERIES:
                raise
            raise UserError(f'{error}, or let `seqzoo data prepare` see to it') from error


def _known(split: str) -> str:
    if split not in ('train', 'dev', 'test'):
        raise UserError(f"a series has the splits 'train', 'dev' and 'test', not {split!r}.")
    return split


def read_series(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Time stamps and `[values]` float64 of a CSV file with a header and two columns.

    Raises:
        UserError: it cannot be read, has a measurement in place of the header, or a line is not a
            time stamp and a finite number. Some copies of the temperatures have cells such as
            `?0.2`: a value that is in doubt is not guessed.
    """
    try:
        with open_text_file(path) as file:
            text = file.read().decode('utf-8-sig')
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f'{path} cannot be read ({error}); fetch the file anew.') from error
    times: list[str] = []
    values: list[float] = []
    for number, cells in _cells(text, path):
        value = _number(cells[1]) if len(cells) == 2 else None
        if value is None:
            raise UserError(
                f'{path}, line {number}: {",".join(cells)[:80]!r} is not a time stamp and a '
                'number; mend the line, or fetch the file anew.'
            )
        times.append(cells[0])
        values.append(value)
    if not values:
        raise UserError(f'{path} has a header and no values; fetch the file anew.')
    return tuple(times), np.array(values)


def _cells(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line of a CSV file that is not blank, but for the header."""
    lines = csv.reader(io.StringIO(text, newline=''))
    try:
        header = next(lines, [])
        if len(header) == 2 and _number(header[1]) is not None:
            raise UserError(
                f'{path}, line 1: {",".join(header)!r} is a measurement, where the columns should '
                'be named; put a line such as "time,value" before it.'
            )
        for cells in lines:
            if cells:
                yield lines.line_num, cells
    except csv.Error as error:
        raise UserError(
            f'{path}, line {lines.line_num} cannot be read ({error}); mend the line, or fetch the '
            'file anew.'
        ) from error


def _number(text: str) -> float | None:
    if '_' in text or not text.isascii():  # which Python reads, and nobody writes into data
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) < _LARGEST else None


def parse_numbers(record: str, where: str) -> list[float]:
    """The numbers of a line that parts them by commas.

    Args:
        record: such as `'112, 118,132'`.
        where: names the line in a message.

    Raises:
        UserError: something between the commas is not a finite number.
    """
    values = []
    for cell in record.split(','):
        value = _number(cell)
        if value is None:
            raise UserError(
                f'{where}: {cell.strip()!r} is not a number, or too large; part numbers by commas.'
            )
        values.append(value)
    return values


@dataclass(frozen=True)
class Windows:
    """Stretches of a part's values, of which some are to be forecast.

    Attributes:
        starts: `[windows]` int64, where each begins in `Part.values`.
        ends: `[windows]` int64, the place behind its last value.
        scored: `[windows]` int64, the first place that counts in a score; before it is context.
    """

    starts: np.ndarray
    ends: np.ndarray
    scored: np.ndarray


def overlapping_windows(part: Part, length: int, stride: int) -> Windows:
    """Windows of the part alone, `stride` apart, for training. Each value counts in one of them.

    Raises:
        UserError: the part is shorter than a window.
    """
    if len(part) < length:
        raise UserError(
            f'a training part of {len(part)} values holds no window of {length}; shorten the '
            'context.'
        )
    last = len(part.values) - length
    starts = np.arange(part.begin, last + 1, stride)
    if starts[-1] != last:
        starts = np.append(starts, last)
    ends = starts + length
    return Windows(starts, ends, np.append(starts[:1] + 1, ends[:-1]))


def scoring_windows(part: Part, context: int, length: int) -> Windows:
    """Windows in which every value of the part counts once, after at least `context` others.

    Where the series has fewer before the part, what there is has to do; the very first value of a
    series, which nothing foretells, is left out.

    Args:
        part: what is scored.
        context: values before the first that counts.
        length: of a window, context included.
    """
    first = max(part.begin, 1)
    scored = np.arange(first, len(part.values), max(length - context, 1))
    ends = np.append(scored[1:], len(part.values))
    return Windows(np.maximum(scored - context, 0), ends, scored)


@dataclass(frozen=True)
class Scale:
    """Between values in their own units and standardised ones; learnt from the training part.

    Attributes:
        mean, deviation: of the values, or of their logarithms.
        change: standard deviation of the change from one standardised value to the next.
        logarithm: whether the values are positive and their logarithms are standardised.
    """

    mean: float
    deviation: float
    change: float
    logarithm: bool = False

    @classmethod
    def of(cls, values: np.ndarray, *, logarithm: bool = False) -> 'Scale':
        """That of `values`.

        Raises:
            UserError: they are all the same, or each differs from the one before by the same:
                nothing is left to learn, and there is no unit of change.
        """
        levels = np.log(values) if logarithm else values
        deviation = float(levels.std())
        if not deviation > 0:
            raise UserError('the values of the training part are all the same.')
        change = float(np.diff(levels).std()) / deviation
        if not change > _LEAST_CHANGE:
            raise UserError(
                'the values of the training part all differ from the one before by the same '
                f'{"factor" if logarithm else "amount"}; take a series that is no straight line.'
            )
        return cls(float(levels.mean()), deviation, change, logarithm)

    def standardised(self, values: Any) -> np.ndarray:
        """Values in their own units as the model reads them."""
        levels = np.asarray(values, np.float64)
        return ((np.log(levels) if self.logarithm else levels) - self.mean) / self.deviation

    def restored(self, values: Any) -> np.ndarray:
        """Standardised values in their own units."""
        levels = np.asarray(values, np.float64) * self.deviation + self.mean
        return np.exp(levels) if self.logarithm else levels

    def expected(self, mean: Any, scale: Any) -> np.ndarray:
        """Expected value, in its own units, of what is normal when standardised.

        Args:
            mean: of the standardised value.
            scale: its standard deviation.
        """
        middle = self.restored(mean)
        if not self.logarithm:
            return middle
        return middle * np.exp(np.square(np.asarray(scale, np.float64) * self.deviation) / 2)
