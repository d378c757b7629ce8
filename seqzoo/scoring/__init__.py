"""Scores of text against references: text in, numbers out.

Every scorer takes as many hypotheses as references, one line each, and returns a `Score`: the
value, and the signature without which it cannot be compared. `score_table` computes all of them,
`difference` subtracts only like from like, `paired_bootstrap` says whether a difference is chance.

| function | input | quoted by |
|---|---|---|
| `bleu` | detokenised text | papers since 2018 (sacreBLEU, cased, 13a) |
| `tokenized_bleu` | tokenised text | Multi30k (lower-cased), papers before 2018 |
| `compound_split_bleu` | detokenised text | Vaswani et al. 2017, English-German |
| `chrf`, `ter` | detokenised text | WMT |
| `exact_match` | any | this project's number words |
"""

from seqzoo.scoring.bleu import bleu, compound_split_bleu, tokenized_bleu
from seqzoo.scoring.chrf import chrf
from seqzoo.scoring.comparison import PairedComparison, difference, paired_bootstrap
from seqzoo.scoring.exact_match import exact_match
from seqzoo.scoring.score import Score
from seqzoo.scoring.scorer import Scorer, check_moses_language, moses_languages
from seqzoo.scoring.table import score_table, scorers
from seqzoo.scoring.ter import ter
from seqzoo.scoring.tokenized_text import is_tokenized, signs_of_pieces, signs_of_tokens

__all__ = [
    'PairedComparison',
    'Score',
    'Scorer',
    'bleu',
    'check_moses_language',
    'chrf',
    'compound_split_bleu',
    'difference',
    'exact_match',
    'is_tokenized',
    'moses_languages',
    'paired_bootstrap',
    'score_table',
    'scorers',
    'signs_of_pieces',
    'signs_of_tokens',
    'ter',
    'tokenized_bleu',
]
