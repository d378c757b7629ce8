"""Chains with a pair of angles at each position, made by a rule: no such data is at hand.

The pair stands for the torsion angles of a protein's backbone, and the rule for what makes them
hard to read off a single residue: both neighbours matter, and so does something far back.

    state_t   turns over at every 'P', and starts anew at every 'G'
    first_t   = own[r_t] + 0.5 lean[r_{t-1}] + 0.5 lean[r_{t+1}] + noise, and half a turn more where
                the state is turned over
    second_t  = other[r_t] - first_t + noise

`own`, `lean` and `other` belong to the twenty residues and are drawn once. The noise is normal with
a known deviation, so that the best mean absolute error is known too: `noise * sqrt(2 / pi)` of the
first angle, and `sqrt(2)` times that of the second one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqzoo.errors import UserError

RESIDUES = 'ACDEFGHIKLMNPQRSTVWY'
_SPLITS = ('train', 'dev', 'test')


@dataclass(frozen=True)
class Angled:
    """Sequences with angles at each position.

    Attributes:
        inputs: the residues of each.
        angles: `[length, angles]` float32 radians from minus pi to pi, of each.
    """

    inputs: Sequence[Sequence[str]]
    angles: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, kw_only=True)
class AngleChains:
    """Generated chains.

    Attributes:
        train_size, dev_size, test_size: chains in each split.
        min_length, max_length: residues of a chain.
        noise_degrees: standard deviation of the noise.
        seed: of rule and chains.
    """

    train_size: int = 4000
    dev_size: int = 300
    test_size: int = 300
    min_length: int = 10
    max_length: int = 60
    noise_degrees: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.min_length <= self.max_length:
            raise UserError(
                f'corpus.min_length is {self.min_length} and corpus.max_length {self.max_length}; '
                'give 1 or more, and no less than the other'
            )

    @property
    def name(self) -> str:
        """The data set in a word."""
        return 'generated chains'

    @property
    def angles(self) -> tuple[str, ...]:
        """Names of the angles."""
        return ('first', 'second')

    def prepare(self, data_dir: Path | None, progress: Any = None) -> list[str]:
        """There is nothing to fetch."""
        del data_dir, progress
        return []

    def read(self, split: str, data_dir: Path | None) -> Angled:
        """The chains of a split; each split is drawn by itself."""
        del data_dir
        if split not in _SPLITS:
            raise UserError(f'{self.name} have no split {split!r}; they have {", ".join(_SPLITS)}.')
        own, lean, other = np.random.Generator(np.random.PCG64(self.seed)).uniform(
            -np.pi, np.pi, (3, len(RESIDUES))
        )
        number = _SPLITS.index(split)
        draw = np.random.Generator(np.random.PCG64([self.seed, 1 + number]))
        count = (self.train_size, self.dev_size, self.test_size)[number]
        chains, angles = [], []
        for length in draw.integers(self.min_length, self.max_length + 1, count):
            chain = draw.integers(0, len(RESIDUES), length)
            noise = draw.normal(0, np.radians(self.noise_degrees), (2, length))
            leaning = np.concatenate([[0.0], 0.5 * lean[chain], [0.0]])
            first = own[chain] + leaning[:-2] + leaning[2:] + np.pi * _turned(chain) + noise[0]
            second = other[chain] - first + noise[1]
            pair = np.stack([first, second], axis=1)
            angles.append(np.arctan2(np.sin(pair), np.cos(pair)).astype(np.float32))
            chains.append([RESIDUES[r] for r in chain])
        return Angled(chains, angles)


def _turned(chain: np.ndarray) -> np.ndarray:
    """`[length]`: 1 where the state is turned over."""
    turns = np.cumsum(chain == RESIDUES.index('P'))
    fresh = chain == RESIDUES.index('G')
    # Turns before the last 'G' do not count any more.
    before = np.maximum.accumulate(np.where(fresh, turns, 0))
    return (turns - before) % 2
