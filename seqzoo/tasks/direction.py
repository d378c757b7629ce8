"""Will a series rise or fall? A class for its last values, which are standardised as was learnt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seqzoo.data.columns import Column, Columns
from seqzoo.data.labelled import Labelled
from seqzoo.data.series_directions import RisingOrFalling
from seqzoo.data.time_series import Scale, parse_numbers
from seqzoo.tasks.classification import SeriesClassification


@dataclass(frozen=True, kw_only=True)
class Direction(SeriesClassification):
    """A stretch of a series as rising or falling; a record is a line of numbers between commas.

    What the model reads at each position is the value and its change from the one before, both
    divided by their standard deviations in the training part.
    """

    corpus: RisingOrFalling = field(default_factory=RisingOrFalling)
    input_dim: int = 2

    def learn(self, examples: Labelled) -> dict[str, Any]:
        # Stretches follow one another by one step: the first whole, of the others the last value.
        first, *others = examples.inputs
        values = np.concatenate([first[:, 0], [stretch[-1, 0] for stretch in others]])
        return {**super().learn(examples), 'scale': vars(Scale.of(values))}

    def column(self, inputs: Sequence[np.ndarray], learnt: Mapping[str, Any]) -> Column:
        scale = Scale(**learnt['scale'])
        found = []
        for stretch in inputs:
            values = scale.standardised(stretch[:, 0])
            change = np.diff(values, prepend=values[0]) / scale.change
            found.append(np.stack([values, change], axis=-1))
        return super().column(found, learnt)

    def measure(
        self, table: Columns, answers: Columns, learnt: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Beside the scores of the classes, the accuracy of two rules that need no model: a value
        above the mean of its stretch falls (`reversion_accuracy`), and the series goes on as it
        went over as many steps before (`momentum_accuracy`).
        """
        metrics = super().measure(table, answers, learnt)
        values = table.columns['inputs'].values[:, 0].reshape(len(table), -1)
        rises, last = table.columns['label'].values == 1, values[:, -1]
        before = values[:, max(-1 - self.corpus.ahead, -values.shape[1])]
        for name, says in (('reversion', last < values.mean(axis=1)), ('momentum', last > before)):
            metrics[f'{name}_accuracy'] = float(100 * np.mean(says == rises))
        return metrics

    def read_line(self, record: str) -> np.ndarray:
        return np.array(parse_numbers(record, repr(record[:40])))[:, None]
