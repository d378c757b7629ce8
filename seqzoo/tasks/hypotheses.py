"""The hypotheses of a search as a prediction: ranked, and cut to as many as were asked for."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from seqzoo.tasks.base import Prediction


def best_of(scores: Any, lengths: Any, n_best: int, one: Callable[[int], Prediction]) -> Prediction:
    """The best hypothesis of one input, which holds the others as alternatives.

    Args:
        scores: array `[hypotheses]`, in any order: samples come in the order of drawing.
        lengths: array `[hypotheses]`, tokens; 0 of a place that no hypothesis filled.
        n_best: how many are kept.
        one: a hypothesis, by its number, as text; asked for at least one.
    """
    order = np.argsort(-np.asarray(scores), kind='stable')
    kept = [int(rank) for rank in order if lengths[rank] > 0][:n_best]
    best, *others = [one(rank) for rank in kept or [0]]
    return replace(best, alternatives=tuple(others))
