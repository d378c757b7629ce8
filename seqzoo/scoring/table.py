"""All scores of a corpus side by side, because a BLEU without its dialect cannot be compared."""

from collections.abc import Sequence

from seqzoo.scoring.bleu import bleu, compound_split_bleu, tokenized_bleu
from seqzoo.scoring.chrf import chrf
from seqzoo.scoring.exact_match import exact_match
from seqzoo.scoring.score import Score


def score_table(hypotheses: Sequence[str], references: Sequence[str]) -> list[Score]:
    """Every score that papers quote, each under a name of its own.

    Args:
        hypotheses: one line for each segment. The two `tokenized` rows take the words as the spaces
            separate them and mean what papers mean only if both sides are tokenised alike; the
            others expect detokenised text.
        references: as many lines.

    Raises:
        UserError: different numbers of lines, or none.
    """
    return [
        bleu(hypotheses, references),
        bleu(hypotheses, references, lowercase=True),
        bleu(hypotheses, references, tokenize='intl'),
        tokenized_bleu(hypotheses, references, lowercase=False),
        tokenized_bleu(hypotheses, references, lowercase=True),
        compound_split_bleu(hypotheses, references),
        chrf(hypotheses, references),
        exact_match(hypotheses, references),
    ]
