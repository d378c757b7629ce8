"""Whether a series will rise or fall: its last values in, one of two classes out.

Stretches of consecutive values overlap, so that neighbouring examples say nearly the same: the test
part has as many independent ones as it has stretches without overlap.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seqzoo.data.labelled import Labelled, LabelledData
from seqzoo.data.time_series import SeriesFile
from seqzoo.errors import UserError

if TYPE_CHECKING:
    from seqzoo.data.download import ProgressCallback


@dataclass(frozen=True, kw_only=True)
class RisingOrFalling(LabelledData):
    """Every stretch of a series, and whether the series stands higher some steps after its end.

    Attributes:
        series: the series and its parts; the end of a stretch, and the value that decides its
            class, lie in the part itself.
        window: values of a stretch.
        ahead: steps after which the value is compared with the last one of the stretch; an equal
            one has not risen.
    """

    series: SeriesFile = field(default_factory=SeriesFile)
    window: int = 48
    ahead: int = 12

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.window < 2 or self.ahead < 1:
            raise UserError(
                f'corpus.window is {self.window} and corpus.ahead {self.ahead}; give at least 2 '
                'values and 1 step.'
            )

    @property
    def name(self) -> str:
        return f'{self.series.name}, {self.ahead} ahead'

    @property
    def classes(self) -> tuple[str, ...]:
        return ('falling', 'rising')

    def read(self, split: str, data_dir: Path | None) -> Labelled:
        part = self.series.part(split, data_dir)
        values = part.values
        # The place of the last value of each stretch.
        last = np.arange(max(part.begin, self.window - 1), len(values) - self.ahead)
        if not len(last):
            raise UserError(
                f'the {split} part of {self.series.name} has {len(part)} values: too few for '
                f'stretches of {self.window} and {self.ahead} steps ahead.'
            )
        stretches = values[last[:, None] - np.arange(self.window)[::-1]]
        rises = values[last + self.ahead] > values[last]
        return Labelled(list(stretches[..., None]), rises.astype(np.int32))

    def prepare(
        self, data_dir: Path | None, progress: 'ProgressCallback | None' = None
    ) -> list[str]:
        return self.series.prepare(data_dir, progress)
