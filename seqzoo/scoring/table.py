"""All scores of a corpus side by side, because a BLEU without its dialect cannot be compared."""

from collections.abc import Sequence

from seqzoo.scoring.bleu import (
    bleu_scorer,
    compound_split_scorer,
    moses_scorer,
    tokenized_scorer,
)
from seqzoo.scoring.chrf import chrf_scorer
from seqzoo.scoring.exact_match import exact_match
from seqzoo.scoring.score import Score
from seqzoo.scoring.scorer import Scorer, moses_languages
from seqzoo.scoring.ter import ter_scorer


def scorers(language: str = 'de') -> tuple[Scorer, ...]:
    """Every dialect, the one to report first.

    Args:
        language: of the references, whose rules Moses' tokenizer goes by; where it has none, those
            that go through it are left out.
    """
    return (
        bleu_scorer(quoted_by='papers since 2018'),
        bleu_scorer(lowercase=True, quoted_by='MLPerf'),
        bleu_scorer(tokenize='intl', quoted_by='tensor2tensor (t2t-bleu)'),
        tokenized_scorer(
            lowercase=False,
            quoted_by='Sutskever, Bahdanau 2014, Luong 2015, Gehring 2017: on tokenised files',
        ),
        tokenized_scorer(
            lowercase=True, quoted_by='Multi30k, IWSLT14: on tokenised lower-cased files'
        ),
        *(_by_moses(language) if language in moses_languages() else ()),
        chrf_scorer(quoted_by='WMT'),
        ter_scorer(quoted_by='WMT'),
    )


def _by_moses(language: str) -> tuple[Scorer, ...]:
    return (
        moses_scorer(language, quoted_by='multi-bleu of the same files, if they are not tokenised'),
        moses_scorer(
            language, lowercase=True, quoted_by='Multi30k, IWSLT14: of files that are not tokenised'
        ),
        compound_split_scorer(language=language, quoted_by='fairseq (Ott et al. 2018), En-De'),
        compound_split_scorer(
            language=language, alter_reference_quotes=True, quoted_by='Vaswani et al. 2017, En-De'
        ),
    )


def score_table(
    hypotheses: Sequence[str], references: Sequence[str], language: str = 'de'
) -> list[Score]:
    """Every score that papers quote, each under a name of its own.

    Args:
        hypotheses: one line for each segment. The two `tokenized` rows take the words as the spaces
            separate them and mean what papers mean only if both sides are tokenised alike; the
            others expect detokenised text.
        references: as many lines.
        language: of both; where Moses' tokenizer has no rules for it, four scores are left out.

    Raises:
        UserError: different numbers of lines, or none.
    """
    found = [scorer(hypotheses, references) for scorer in scorers(language)]
    return [*found, exact_match(hypotheses, references)]
