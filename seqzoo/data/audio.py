"""Sound: WAV files in and out, samples as levels of the mu-law, and tones drawn by rule.

    level(x) = round(m (1 + sign(x) ln(1 + m |x|) / ln(1 + m)) / 2),  m = levels - 1, |x| <= 1

(ITU-T G.711; van den Oord et al. 2016, section 2.2): fine steps near silence, where the ear is
fine, coarse ones in what is loud.
"""

import abc
import io
import math
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqzoo.data.batching import permutation
from seqzoo.errors import UserError

if TYPE_CHECKING:
    from seqzoo.data.download import ProgressCallback

_SPLITS = ('train', 'dev', 'test')
_LONGEST = 1 << 28  # samples of a clip; more are a slip of the pen
_RATES = range(100, 1_000_001)  # Hz; another one is a damaged header, and no filter fits it


def levels_of(samples: np.ndarray, levels: int = 256) -> np.ndarray:
    """Samples from -1 to 1 as int32 levels 0 to `levels - 1`; what is louder is clipped."""
    m, x = levels - 1, np.clip(np.asarray(samples, np.float64), -1, 1)
    y = np.sign(x) * np.log1p(m * np.abs(x)) / math.log1p(m)
    return np.floor((y + 1) / 2 * m + 0.5).astype(np.int32)


def samples_of(levels: np.ndarray, num_levels: int = 256) -> np.ndarray:
    """Levels as float32 samples from -1 to 1, the inverse of `levels_of` up to its rounding."""
    m = num_levels - 1
    y = 2 * np.asarray(levels, np.float64) / m - 1
    return (np.sign(y) * np.expm1(np.abs(y) * math.log1p(m)) / m).astype(np.float32)


def silence(levels: int = 256) -> int:
    """The level of 0."""
    return int(levels_of(np.zeros(1), levels)[0])


def read_wav(path: Path, rate: int) -> np.ndarray:
    """A WAV file as float32 samples from -1 to 1, one channel at `rate` Hz.

    Integers of 8, 16, 24 and 32 bits are read, not floating-point numbers; several channels are
    mixed down to their mean, and another sampling rate is resampled with a filter against what
    would fold over.

    Raises:
        UserError: the file is missing, empty, cut off, or of another encoding or an odd rate.
    """
    try:
        with wave.open(io.BytesIO(_with_plain_format(path.read_bytes())), 'rb') as file:
            channels, width = file.getnchannels(), file.getsampwidth()
            own_rate, frames = file.getframerate(), file.getnframes()
            content = file.readframes(frames)
    except (OSError, EOFError, RuntimeError, wave.Error) as error:  # the second last: a huge chunk
        raise UserError(
            f'{path} cannot be read as a WAV file of integers ({str(error) or "it ends early"}); '
            'convert it to 16-bit PCM.'
        ) from error
    if frames == 0:
        raise UserError(f'{path} has no samples; leave it out.')
    if len(content) != frames * channels * width:
        raise UserError(
            f'{path} is cut off: it says that it has {frames:,} samples, but only '
            f'{len(content) // (channels * width):,} are there; copy it again.'
        )
    if own_rate not in _RATES:
        raise UserError(
            f'{path} says that it has {own_rate:,} samples a second, which is no sound; mend its '
            f'header, or convert it to {rate:,} Hz.'
        )
    samples = _integers(content, width, path).reshape(-1, channels).mean(axis=1)
    return np.clip(resampled(samples, own_rate, rate), -1, 1)  # the filter overshoots


def _with_plain_format(content: bytes) -> bytes:
    """A WAV file whose extensible format, which programs write for more than 16 bits or two
    channels and which `wave` does not know before Python 3.12, is named as what it stands for.
    """
    place = 12  # behind RIFF, size, WAVE
    while content[place : place + 4] not in (b'fmt ', b''):
        size = int.from_bytes(content[place + 4 : place + 8], 'little')
        place += 8 + size + size % 2
    tag, meant = content[place + 8 : place + 10], content[place + 32 : place + 34]
    if tag != b'\xfe\xff' or not meant:
        return content
    return content[: place + 8] + meant + content[place + 10 :]


def _integers(content: bytes, width: int, path: Path) -> np.ndarray:
    """Little-endian integers of `width` bytes as float64 from -1 to 1."""
    if width == 1:  # the only width without a sign
        return (np.frombuffer(content, np.uint8).astype(np.float64) - 128) / 128
    if width in (2, 4):
        return np.frombuffer(content, f'<i{width}').astype(np.float64) / 2.0 ** (8 * width - 1)
    if width == 3:
        parts = np.frombuffer(content, np.uint8).reshape(-1, 3)
        whole = np.zeros((len(parts), 4), np.uint8)
        whole[:, 1:] = parts  # as the upper bytes of 32 bits, the sign comes out right
        return whole.reshape(-1).view('<i4').astype(np.float64) / 2.0**31
    raise UserError(f'{path} has samples of {8 * width} bits; convert it to 16-bit PCM.')


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Samples at another rate, float32; `rate` and `wanted` in Hz."""
    if rate != wanted:
        from scipy.signal import resample_poly

        common = math.gcd(rate, wanted)
        samples = resample_poly(samples, wanted // common, rate // common)
    return samples.astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """Writes samples from -1 to 1 as one channel of 16 bits; folders are made.

    Raises:
        UserError: the file cannot be written.
    """
    whole = np.round(np.clip(samples, -1, 1) * 32767).astype('<i2')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('wb') as raw, wave.open(raw, 'wb') as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(whole.tobytes())
    except OSError as error:
        raise UserError(
            f'{path} cannot be written ({error.strerror or error}); name another place.'
        ) from error


@dataclass(frozen=True)
class Clips:
    """Short sounds, each of a class.

    Attributes:
        samples: of each, float32 from -1 to 1.
        labels: `[clips]` int32 numbers of classes.
        classes: their names.
    """

    samples: Sequence[np.ndarray]
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, kw_only=True)
class AudioCorpus(abc.ABC):
    """Where sounds come from.

    Attributes:
        rate: samples a second.
        seconds: length of a clip.
        seed: of the drawn sounds, or of the split of files.
    """

    rate: int = 8000
    seconds: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.rate not in _RATES:
            raise UserError(f'corpus.rate is {self.rate}; give samples a second, 8000 or so.')
        if not 2 <= self.seconds * self.rate < _LONGEST:
            raise UserError(
                f'corpus.seconds is {self.seconds}; a clip has two samples at least, and less than '
                f'{_LONGEST:,}.'
            )

    @property
    def length(self) -> int:
        """Samples of a clip."""
        return round(self.seconds * self.rate)

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The data in a word."""

    @property
    @abc.abstractmethod
    def nominal_classes(self) -> int:
        """How many classes there are, as far as is known without reading anything."""

    @abc.abstractmethod
    def read(self, split: str, data_dir: Path | None) -> Clips:
        """The clips of a split.

        Raises:
            UserError: there is no such split, or its files cannot be read.
        """

    def prepare(
        self, data_dir: Path | None, progress: 'ProgressCallback | None' = None
    ) -> list[str]:
        """Nothing has to be fetched; says so."""
        del data_dir, progress
        return []

    def _refuse_split(self, split: str) -> None:
        if split not in _SPLITS:
            raise UserError(f'{self.name} has no split {split!r}; choose train, dev or test.')


_PITCHES = {'low': (180.0, 360.0), 'high': (900.0, 1800.0)}  # Hz


@dataclass(frozen=True, kw_only=True)
class Tones(AudioCorpus):
    """Steady tones, `low` and `high`, and chirps, `rising` and `falling` from one to the other.

    Frequencies, loudness and phase of each are drawn; every split is a function of (seed, split).

    Attributes:
        train_size, dev_size, test_size: clips in each split.
    """

    train_size: int = 2000
    dev_size: int = 200
    test_size: int = 200

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        if min(self.train_size, self.dev_size, self.test_size) < 1:
            raise UserError('corpus: every split needs at least one clip.')
        if self.rate < 2 * _PITCHES['high'][1]:
            raise UserError(f'corpus.rate is {self.rate}; the high tones need 3600 at least.')

    @property
    def name(self) -> str:
        return 'tones'

    @property
    def nominal_classes(self) -> int:
        return 4

    def read(self, split: str, data_dir: Path | None) -> Clips:
        del data_dir
        self._refuse_split(split)
        classes = ('low', 'high', 'rising', 'falling')
        size = getattr(self, f'{split}_size')
        rng = np.random.default_rng([self.seed, _SPLITS.index(split)])
        labels = rng.integers(0, len(classes), size).astype(np.int32)
        return Clips([self._draw(classes[label], rng) for label in labels], labels, classes)

    def _draw(self, kind: str, rng: np.random.Generator) -> np.ndarray:
        low, high = (rng.uniform(*_PITCHES[pitch]) for pitch in ('low', 'high'))
        ends = {'low': (low, low), 'high': (high, high), 'rising': (low, high)}
        first, last = ends.get(kind, (high, low))
        share = np.arange(self.length) / self.length
        pitch = first * (last / first) ** share  # equal musical intervals in equal times
        phase = 2 * np.pi * (np.cumsum(pitch) / self.rate + rng.uniform())
        edge = np.minimum(1, np.minimum(share, 1 - share) * self.seconds / 0.01)  # 10 ms
        return (rng.uniform(0.3, 0.9) * edge * np.sin(phase)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class WavFiles(AudioCorpus):
    """WAV files of any rate and number of channels, cut into clips.

    Files in folders are of the class that the folder is called; files beside the folders are of a
    class that is called as `folder` is. Of every ten files or more one each, at least, is for
    `dev` and `test`; of fewer, each file is cut in time: first its part for training.

    Attributes:
        folder: below the data directory.
        dev_share, test_share: of the files, or of the time of each.
    """

    rate: int = 16_000
    folder: str = 'wav'
    dev_share: float = 0.1
    test_share: float = 0.1

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        both = self.dev_share + self.test_share
        if not (min(self.dev_share, self.test_share) > 0 and both < 1):
            raise UserError(
                f'corpus.dev_share {self.dev_share} and test_share {self.test_share}: both are '
                'above 0, and something is left for training.'
            )

    @property
    def name(self) -> str:
        return self.folder

    @property
    def nominal_classes(self) -> int:
        return 1

    def read(self, split: str, data_dir: Path | None) -> Clips:
        self._refuse_split(split)
        files = self._files(data_dir)
        classes = tuple(sorted({kind for _, kind in files}))
        chosen, parts = self._of_split(split, files)
        samples: list[np.ndarray] = []
        labels: list[int] = []
        for path, kind in chosen:
            sound = read_wav(path, self.rate)
            start, end = (round(len(sound) * share) for share in parts)
            own = self._cut(sound[start:end])
            samples += own
            labels += [classes.index(kind)] * len(own)
        return Clips(samples, np.array(labels, np.int32), classes)

    def prepare(
        self, data_dir: Path | None, progress: 'ProgressCallback | None' = None
    ) -> list[str]:
        """Reads all files once; says how many there are."""
        del progress
        files = self._files(data_dir)
        seconds = sum(len(read_wav(path, self.rate)) for path, _ in files) / self.rate
        return [f'{self.name}: {len(files):,} files, {seconds:,.1f} s']

    def _files(self, data_dir: Path | None) -> list[tuple[Path, str]]:
        """All files with their classes, in a fixed order."""
        if data_dir is None:
            raise UserError(
                f'{self.name}: say where the data lies, with --data-dir or SEQZOO_DATA_DIR.'
            )
        root = data_dir / self.folder
        found = sorted(
            path
            for pattern in ('*', '*/*')
            for path in root.glob(pattern)
            if path.suffix.lower() == '.wav' and path.is_file()
        )
        if not found:
            raise UserError(
                f'{root} has no .wav files; put them there, or into one folder for each class.'
            )
        own = root.name
        return [(path, own if path.parent == root else path.parent.name) for path in found]

    def _of_split(self, split: str, files: list[Any]) -> tuple[list[Any], tuple[float, float]]:
        """Files of a split, and which part of the time of each."""
        train = 1 - self.dev_share - self.test_share
        bounds = (0.0, train, train + self.dev_share, 1.0)
        place = _SPLITS.index(split)
        if len(files) < 10:
            return files, (bounds[place], bounds[place + 1])
        order = permutation(len(files), self.seed)
        dev = max(1, round(len(files) * self.dev_share))
        test = max(1, round(len(files) * self.test_share))
        ends = np.cumsum([0, len(files) - dev - test, dev, test])
        chosen = np.sort(order[ends[place] : ends[place + 1]])
        return [files[i] for i in chosen], (0.0, 1.0)

    def _cut(self, sound: np.ndarray) -> list[np.ndarray]:
        """Clips of equal length; a shorter rest counts, if it is not a mere tail."""
        pieces = [sound[i : i + self.length] for i in range(0, len(sound), self.length)]
        return [piece for piece in pieces if len(piece) >= max(2, self.length // 2)] or (
            [sound] if len(sound) >= 2 else []
        )
