"""chrF (Popovic 2015): F-score over character n-grams, by sacreBLEU; it needs no tokenizer."""

from collections.abc import Sequence

from seqzoo.scoring.score import Score, check_corpus


def chrf(hypotheses: Sequence[str], references: Sequence[str], *, word_order: int = 0) -> Score:
    """ChrF of detokenised text.

    Args:
        hypotheses: one line for each segment.
        references: as many lines.
        word_order: 2 for chrF++, which also counts word n-grams.

    Raises:
        UserError: different numbers of lines, or none.
    """
    check_corpus(hypotheses, references)
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF(word_order=word_order)
    result = metric.corpus_score(list(hypotheses), [list(references)])
    name = 'chrf' + '+' * word_order
    return Score(float(result.score), str(metric.get_signature()), name)
