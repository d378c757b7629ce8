"""Handwritten digits (LeCun et al. 1998), as images and as sequences of pixels.

The files are in the idx format: two bytes 0, the type (8: unsigned byte), the rank, one big-endian
32-bit size for each dimension, then the bytes.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from seqzoo.data.batching import permutation
from seqzoo.data.labelled import Labelled, LabelledData
from seqzoo.data.public_files import PublicFile
from seqzoo.data.text_files import open_text_file
from seqzoo.errors import UserError

_URL = 'https://storage.googleapis.com/cvdf-datasets/mnist/'  # as TFDS lists it, with checksums
SIDE = 28  # pixels of an image, either side


def _file(name: str, sha256: str, packed: str) -> tuple[str, PublicFile]:
    return name, PublicFile(sha256, f'{_URL}{name}.gz', packed)


MNIST_FILES = dict(
    (
        _file(
            'train-images-idx3-ubyte',
            'ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db',
            '440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609',
        ),
        _file(
            'train-labels-idx1-ubyte',
            '65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5',
            '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c',
        ),
        _file(
            't10k-images-idx3-ubyte',
            '0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7',
            '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6',
        ),
        _file(
            't10k-labels-idx1-ubyte',
            'ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2',
            'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6',
        ),
    )
)


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file of unsigned bytes, plain or `.gz`.

    Raises:
        UserError: the file is damaged, or holds something else.
    """
    try:
        with open_text_file(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'{path} cannot be read ({error}); fetch it again') from error
    rank = content[3] if len(content) > 3 else 0
    if content[:3] != b'\x00\x00\x08' or len(content) < 4 + 4 * rank:
        raise UserError(f'{path} is no idx file of bytes; fetch it again')
    shape = tuple(np.frombuffer(content, '>u4', rank, 4).tolist())
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if values.size != np.prod(shape):
        raise UserError(
            f'{path} says that it holds {shape}, but has {values.size} bytes; fetch it again'
        )
    return values.reshape(shape)


@dataclass(frozen=True, kw_only=True)
class Mnist(LabelledData):
    """Digits as sequences of numbers from 0 to 1; a part of the training images is 'dev'.

    Attributes:
        step: what is read at a time: a `'pixel'`, row after row, 784 steps, or a whole `'row'`, 28
            steps of 28 numbers.
        permutation_seed: pixels in another order, the same for all images (Le, Jaitly, Hinton
            2015); the order is not standardised, so name the seed with a result. `None`: as they
            stand.
        dev_size: training images set aside as 'dev'.
        seed: which ones.
    """

    folder: str = 'mnist'
    step: Literal['pixel', 'row'] = 'pixel'
    permutation_seed: int | None = None
    dev_size: int = 5000
    seed: int = 0

    published: ClassVar = MNIST_FILES

    def __post_init__(self) -> None:
        if self.step not in ('pixel', 'row'):
            raise UserError(f"corpus.step is {self.step!r}; choose 'pixel' or 'row'")
        if not 0 < self.dev_size < 60_000:
            raise UserError(f'corpus.dev_size is {self.dev_size}; it lies between 0 and 60,000')

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple('0123456789')

    def read(self, split: str, data_dir: Path | None) -> Labelled:
        images, labels = self.images(split, data_dir)
        pixels = images.reshape(len(images), -1)
        if self.permutation_seed is not None:
            pixels = pixels[:, permutation(pixels.shape[1], self.permutation_seed)]
        features = 1 if self.step == 'pixel' else images.shape[2]
        values = pixels.reshape(len(images), -1, features).astype(np.float32) / 255
        return Labelled(values, labels)  # type: ignore[arg-type]

    def images(self, split: str, data_dir: Path | None) -> tuple[np.ndarray, np.ndarray]:
        """Images `[examples, 28, 28]` uint8 of a split, and their digits `[examples]` int32.

        Raises:
            UserError: a file is missing or damaged, or there is no such split.
        """
        self._refuse_split(split)
        part = 't10k' if split == 'test' else 'train'
        images, labels = (
            read_idx(self._find(data_dir, f'{part}-{kind}-ubyte', split))
            for kind in ('images-idx3', 'labels-idx1')
        )
        self._check(images, labels, part)
        labels = labels.astype(np.int32)
        if split == 'test':
            return images, labels
        if len(images) <= self.dev_size:
            raise UserError(
                f'{self.name}: of {len(images)} training images none is left beside the '
                f'{self.dev_size} of dev; set a smaller dev_size, or fetch the files again'
            )
        order = permutation(len(images), self.seed)
        chosen = np.sort(order[: self.dev_size] if split == 'dev' else order[self.dev_size :])
        return images[chosen], labels[chosen]

    def _check(self, images: np.ndarray, labels: np.ndarray, part: str) -> None:
        """Refuses files that do not hold digits."""
        wrong = None
        if images.shape[1:] != (SIDE, SIDE) or not len(images):
            wrong = f'images of shape {images.shape}, not [images, {SIDE}, {SIDE}]'
        elif labels.shape != (len(images),):
            wrong = f'labels of shape {labels.shape} for {len(images)} images'
        elif labels.max() > 9:
            wrong = f'the label {labels.max()}, which is no digit'
        if wrong:
            raise UserError(f'{self.name}: the {part} files hold {wrong}; fetch them again')
