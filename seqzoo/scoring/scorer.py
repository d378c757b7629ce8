"""What a scorer of text is: how it prepares lines, which metric counts, and who quotes it.

All metrics are sacreBLEU's (Post 2018), so that another program gives the same number; what the
dialects differ in is what is done to the text before.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

from seqzoo.errors import UserError
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
        casing: what it does to case, in place of `case:mixed`.
        rules: the package by whose rules it takes words apart; its version changes the number too.
        quoted_by: who gives numbers of this kind.
    """

    name: str
    metric: Literal['BLEU', 'CHRF', 'TER']
    settings: Mapping[str, Any] = field(default_factory=dict)
    prepare: Prepare = unchanged
    tokenization: str = ''
    casing: str = ''
    rules: str = ''
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

    def signature_of(self, theirs: Any) -> str:
        """All settings that change the number, and the versions of the metric and of the rules.

        Args:
            theirs: what sacreBLEU gives as the signature, which knows nothing of `prepare`.
        """
        signature = str(theirs)
        signature = signature.replace('tok:none', f'tok:{self.tokenization or "none"}')
        signature = signature.replace('case:mixed', f'case:{self.casing or "mixed"}')
        return f'{signature}|{self.rules}:{version(self.rules)}' if self.rules else signature

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
            signature=self.signature_of(metric.get_signature()),
            name=self.name,
            details=details,
            quoted_by=self.quoted_by,
            better='lower' if self.metric == 'TER' else 'higher',
        )


# What Python takes for blanks, and Perl not where it reads bytes, as in multi-bleu: each becomes a
# character of those that Unicode sets aside for the inside of a program.
_OTHER_BLANKS = [c for c in map(chr, range(0x3001)) if c.isspace() and c not in ' \t\n\v\f\r']
_NO_BLANKS = str.maketrans({c: chr(0xFDD0 + i) for i, c in enumerate(_OTHER_BLANKS)})


def keep_words(line: str) -> str:
    """The line such that Python parts words at the blanks of ASCII alone, where multi-bleu does.

    A no-break space, U+2028, U+3000 and their like become letters.
    """
    return line.translate(_NO_BLANKS)


def lower_ascii(line: str) -> str:
    """A to Z lower-cased and no other letter: what `multi-bleu -lc` does, which reads bytes."""
    return line.encode().lower().decode()


def split_compounds(line: str) -> str:
    """Sets hyphens between letters off as words: `rich-text` becomes `rich ##AT##-##AT## text`.

    In bytes, as the script does it: of `T-ü-V` it splits both hyphens, of `T-u-V` the first alone.
    """
    return re.sub(rb'(\S)-(\S)', rb'\1 ##AT##-##AT## \2', line.encode()).decode()


def alter_quotes(line: str) -> str:
    """Quotation marks of print as the mark of a typewriter, what was done to a reference by hand.

    The reference of newstest2014 that the Transformer's authors give with their code has it so; no
    script of Moses does it. Guillemets are altered too.
    """
    return re.sub('[„“”‟«»]', '"', line)


def replace_unicode_punctuation(line: str) -> str:
    """What Moses' script of that name does, which knows the upper quotation marks alone."""
    return _normalizer().replace_unicode_punct(line)


@functools.cache
def moses_languages() -> tuple[str, ...]:
    """The languages that Moses' tokenizer has rules for; of any other it would take the English
    ones without a word.
    """
    from sacremoses.corpus import NonbreakingPrefixes

    return tuple(sorted(set(NonbreakingPrefixes().available_langs.values())))


def check_moses_language(language: str) -> None:
    """Raises `UserError` unless Moses' tokenizer has rules for a language."""
    if language not in moses_languages():
        raise UserError(
            f"Moses' tokenizer has no rules for the language {language!r}; it has them for "
            f'{", ".join(moses_languages())}'
        )


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
