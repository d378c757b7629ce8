"""What a scorer of text is: how it prepares lines, which metric counts, and who quotes it.

All metrics are sacreBLEU's (Post 2018), so that another program gives the same number; what the
dialects differ in is what is done to the text before.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from seqzoo.scoring.score import Score, check_corpus

# A line of a hypothesis, or with `True` of a reference, as the metric is to see it.
Prepare = Callable[[str, bool], str]


def unchanged(line: str, is_reference: bool) -> str:
    """The line."""
    del is_reference
    return line


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """One way to put a number on text.

    Attributes:
        name: short and unique, such as `'bleu_lowercase'`.
        metric: which of sacreBLEU's.
        settings: what the metric is made with.
        prepare: what is done to every line first.
        tokenization: what that is called in the signature, in place of `tok:none`.
        quoted_by: who gives numbers of this kind.
    """

    name: str
    metric: Literal['BLEU', 'CHRF', 'TER']
    settings: Mapping[str, Any] = field(default_factory=dict)
    prepare: Prepare = unchanged
    tokenization: str = ''
    quoted_by: str = ''

    def make_metric(self) -> Any:
        """A fresh metric of sacreBLEU."""
        from sacrebleu import metrics

        return getattr(metrics, self.metric)(**self.settings)

    def prepared(
        self, hypotheses: Sequence[str], references: Sequence[str]
    ) -> tuple[list[str], list[str]]:
        """Both sides as the metric is to see them."""
        return (
            [self.prepare(line, False) for line in hypotheses],
            [self.prepare(line, True) for line in references],
        )

    def signature_of(self, metric: Any) -> str:
        """All settings that change the number, and the version of the metric."""
        signature = str(metric.get_signature())
        return signature.replace('tok:none', f'tok:{self.tokenization or "none"}')

    def __call__(self, hypotheses: Sequence[str], references: Sequence[str]) -> Score:
        """The score of a corpus.

        Raises:
            UserError: different numbers of lines, or none.
        """
        check_corpus(hypotheses, references)
        metric = self.make_metric()
        own, other = self.prepared(hypotheses, references)
        result = metric.corpus_score(own, [other])
        details = {}
        if self.metric == 'BLEU':
            details = {
                'precisions': [float(p) for p in result.precisions],
                'brevity_penalty': float(result.bp),
                'hypothesis_length': int(result.sys_len),
                'reference_length': int(result.ref_len),
            }
        return Score(
            value=float(result.score),
            signature=self.signature_of(metric),
            name=self.name,
            details=details,
            quoted_by=self.quoted_by,
            better='lower' if self.metric == 'TER' else 'higher',
        )


def split_compounds(line: str) -> str:
    """Sets hyphens between letters off as words: `rich-text` becomes `rich ##AT##-##AT## text`."""
    return re.sub(r'(\S)-(\S)', r'\1 ##AT##-##AT## \2', line)


def alter_quotes(line: str) -> str:
    """Quotation marks of print as the mark of a typewriter, what was done to a reference by hand.

    The reference of newstest2014 that the Transformer's authors give with their code has it so; no
    script of Moses does it. Guillemets are altered too.
    """
    return re.sub('[„“”‟«»]', '"', line)


def replace_unicode_punctuation(line: str) -> str:
    """What Moses' script of that name does, which knows the upper quotation marks alone."""
    return _normalizer().replace_unicode_punct(line)


def moses_tokenize(line: str, language: str) -> str:
    """Words and punctuation apart by Moses' rules for a language."""
    return _moses(language).tokenize(line)


@functools.cache
def _normalizer() -> Any:
    from sacremoses import MosesPunctNormalizer

    return MosesPunctNormalizer()


@functools.cache
def _moses(language: str) -> Any:
    from seqzoo.data.tokenizer_training import Moses

    return Moses(language)
