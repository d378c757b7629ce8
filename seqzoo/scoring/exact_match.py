"""Exact match: the share of lines that are right to the letter."""

from collections.abc import Sequence

from seqzoo.scoring.score import Score, check_corpus


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Percent of hypotheses equal to their reference; blanks around a line do not count.

    Args:
        hypotheses: one line for each segment.
        references: as many lines.

    Raises:
        UserError: different numbers of lines, or none.
    """
    check_corpus(hypotheses, references)
    matches = sum(h.strip() == r.strip() for h, r in zip(hypotheses, references, strict=True))
    return Score(
        value=100.0 * matches / len(references),
        signature='nrefs:1|case:mixed|strip:yes',
        name='exact_match',
        details={'matches': matches, 'lines': len(references)},
        quoted_by='the number words here',
    )
