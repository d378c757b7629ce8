"""TER (Snover et al. 2006): edits and shifts of phrases for each word of the reference, by
sacreBLEU; less is better.
"""

from collections.abc import Sequence

from seqzoo.scoring.score import Score
from seqzoo.scoring.scorer import Scorer


def ter_scorer(*, quoted_by: str = '') -> Scorer:
    """TER of detokenised text, in percent, case ignored as is its habit."""
    return Scorer(name='ter', metric='TER', quoted_by=quoted_by)


def ter(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """TER of detokenised text, one line for each segment.

    Raises:
        UserError: different numbers of lines, or none.
    """
    return ter_scorer()(hypotheses, references)
