"""chrF (Popovic 2015): F-score over character n-grams, by sacreBLEU; it needs no tokenizer."""

from collections.abc import Sequence

from seqzoo.scoring.score import Score
from seqzoo.scoring.scorer import Scorer


def chrf_scorer(*, word_order: int = 0, quoted_by: str = '') -> Scorer:
    """ChrF of detokenised text.

    Args:
        word_order: 2 for chrF++, which also counts word n-grams.
        quoted_by: who gives numbers of this kind.
    """
    settings = {'word_order': word_order}
    return Scorer(
        name='chrf' + '+' * word_order, metric='CHRF', settings=settings, quoted_by=quoted_by
    )


def chrf(hypotheses: Sequence[str], references: Sequence[str], *, word_order: int = 0) -> Score:
    """ChrF of detokenised text, one line for each segment; see `chrf_scorer`.

    Raises:
        UserError: different numbers of lines, or none.
    """
    return chrf_scorer(word_order=word_order)(hypotheses, references)
