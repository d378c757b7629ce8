"""How well classes were found: accuracy, precision, recall and F1, beside the majority class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqzoo.errors import UserError


@dataclass(frozen=True)
class ClassScore:
    """One class, in percent.

    Attributes:
        precision: of what was called so, how much is; 0 where nothing was.
        recall: of what is so, how much was called so; 0 where nothing is.
        f1: their harmonic mean.
        count: how many are so.
    """

    precision: float
    recall: float
    f1: float
    count: int


@dataclass(frozen=True)
class LabelScores:
    """All classes, in percent.

    Attributes:
        accuracy: how many are right.
        macro_f1: mean of the F1 of those classes that occur, in truth or in the answers.
        majority_accuracy: how many were right if everything got one class, the most frequent one of
            the training data.
        classes: scores of each by its name.
    """

    accuracy: float
    macro_f1: float
    majority_accuracy: float
    classes: dict[str, ClassScore]

    def as_metrics(self) -> dict[str, Any]:
        """The numbers by name, `margin` being accuracy over the majority class, and `classes`."""
        return {
            'accuracy': self.accuracy,
            'macro_f1': self.macro_f1,
            'majority_accuracy': self.majority_accuracy,
            'margin': self.accuracy - self.majority_accuracy,
            'classes': {name: vars(score) for name, score in self.classes.items()},
        }


def confusion(wanted: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """`[classes, classes]` int64: how many of each class (row) got which answer (column).

    Args:
        wanted: `[examples]` true classes.
        found: `[examples]` answers.
        classes: how many there are.
    """
    flat = np.asarray(wanted, np.int64) * classes + np.asarray(found, np.int64)
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def label_scores(
    wanted: np.ndarray, found: np.ndarray, classes: Sequence[str], *, majority: int
) -> LabelScores:
    """Scores answers.

    Args:
        wanted: `[examples]` true classes.
        found: `[examples]` answers.
        classes: names of the classes.
        majority: the class that is most frequent in the training data.

    Raises:
        UserError: there is nothing to score.
    """
    if len(wanted) != len(found):
        raise ValueError(f'{len(found)} answers for {len(wanted)} examples')
    if not len(wanted):
        raise UserError('there is nothing to score: the split has no examples')
    matrix = confusion(wanted, found, len(classes))
    right, are, called = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    precision = 100 * right / np.maximum(called, 1)
    recall = 100 * right / np.maximum(are, 1)
    f1 = 200 * right / np.maximum(are + called, 1)  # 2 p r / (p + r), and 0 where both are
    occurs = (are + called) > 0
    return LabelScores(
        accuracy=float(100 * right.sum() / len(wanted)),
        macro_f1=float(f1[occurs].mean()),
        majority_accuracy=float(100 * are[majority] / len(wanted)),
        classes={
            name: ClassScore(float(precision[i]), float(recall[i]), float(f1[i]), int(are[i]))
            for i, name in enumerate(classes)
        },
    )


def mean_angular_error(wanted: np.ndarray, found: np.ndarray) -> float:
    """Mean distance of angles on the circle, in degrees: 359 and 1 are 2 degrees apart.

    Args:
        wanted: `[...]` radians.
        found: `[...]` radians.
    """
    difference = np.asarray(found, np.float64) - np.asarray(wanted, np.float64)
    return float(np.degrees(np.abs(np.arctan2(np.sin(difference), np.cos(difference)))).mean())
