"""One score of a corpus, and the checks that every scorer makes first."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from seqzoo.errors import UserError


@dataclass(frozen=True)
class Score:
    """A number that says how it was made.

    Attributes:
        value: from 0, most of them to 100.
        signature: all settings that change the number, and the version of the scorer.
        name: a short name, unique among the scores of a table: `bleu`, `bleu_lowercase`, `chrf`,
            ...
        details: what the value was made of, by name; plain numbers and lists of them.
        quoted_by: who gives numbers of this kind.
        better: whether the `'higher'` or the `'lower'` of two is the better one.
    """

    value: float
    signature: str
    name: str
    details: dict[str, Any] = field(default_factory=dict)
    quoted_by: str = ''
    better: Literal['higher', 'lower'] = 'higher'

    def __str__(self) -> str:
        """The value with two decimals, the name and the signature."""
        return f'{self.value:6.2f}  {self.name}  {self.signature}'

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data for JSON."""
        return asdict(self)


def check_corpus(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    """Raises `UserError` unless there is one reference for each of one or more hypotheses."""
    for name, lines in (('hypotheses', hypotheses), ('references', references)):
        if isinstance(lines, str):  # a str is a sequence of str, but of its characters
            raise TypeError(f'{name} is one str; pass a list of lines')
    if len(hypotheses) != len(references):
        raise UserError(
            f'there are {len(hypotheses)} hypotheses but {len(references)} references; '
            'give one reference line for each hypothesis line, empty lines included'
        )
    if not references:
        raise UserError('there is nothing to score: hypotheses and references have no lines')
