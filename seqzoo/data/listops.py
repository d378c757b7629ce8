"""ListOps: nested lists of digits, to be reduced to one digit (Nangia and Bowman 2018).

    [ max 2 9 [ min 4 7 ] 0 ]   ->   9

    expression = digit | '[' operator expression ... expression ']'
    operators    min, max, med (the median, rounded down), sm (the sum modulo 10)

Expressions are drawn by this grammar and kept where they are neither too short nor too long. The
Long Range Arena (Tay et al. 2021) has 500 to 2,000 tokens, up to ten arguments and a depth of ten:
`min_length=500, max_length=2000`. Its files are one draw of such a grammar, this is another, so
that accuracies may be compared but not examples. Every split is a function of (seed, split) alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqzoo.data.labelled import Labelled, LabelledData
from seqzoo.errors import UserError

SPLITS = ('train', 'dev', 'test')
NESTED = 0.25  # how often an argument is a list, as long as the depth allows it
_ATTEMPTS = 1_000  # draws for one example before the lengths are called impossible


def _median(values: list[int]) -> int:
    """Rounded down."""
    ordered, middle = sorted(values), len(values) // 2
    return (ordered[middle] + ordered[~middle]) // 2


OPERATORS: dict[str, Callable[[list[int]], int]] = {
    'min': min,
    'max': max,
    'med': _median,
    'sm': lambda values: sum(values) % 10,
}


@dataclass(frozen=True, kw_only=True)
class ListOps(LabelledData):
    """Expressions and their values.

    Attributes:
        min_length, max_length: tokens of an expression, brackets and operators among them.
        max_arguments: of an operator; it has at least two.
        max_depth: lists within lists.
        train_size, dev_size, test_size: examples in each split.
        seed: of all splits; each is drawn by itself.
    """

    min_length: int = 20
    max_length: int = 100
    max_arguments: int = 10
    max_depth: int = 10
    train_size: int = 50_000
    dev_size: int = 2_000
    test_size: int = 2_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the values."""
        if not 5 <= self.min_length <= self.max_length:
            raise UserError(
                f'corpus.min_length {self.min_length} and max_length {self.max_length}: give a '
                'range of at least 5 tokens, the shorter first'
            )
        if self.max_arguments < 2 or self.max_depth < 1:
            raise UserError('corpus: give max_arguments of at least 2 and max_depth of at least 1')
        if min(self.train_size, self.dev_size, self.test_size) < 1:
            raise UserError('corpus: every split needs at least one example')

    @property
    def name(self) -> str:
        """The data in a word."""
        return f'listops {self.min_length} to {self.max_length}'

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple('0123456789')

    def read(self, split: str, data_dir: Path | None) -> Labelled:
        """Draws the examples of a split; there is nothing on a disk.

        Raises:
            UserError: no expression of such a length comes up.
        """
        del data_dir
        self._refuse_split(split)
        number = SPLITS.index(split)
        size = (self.train_size, self.dev_size, self.test_size)[number]
        generator = np.random.Generator(np.random.PCG64([self.seed, number]))
        draw = _Draw(generator, self)
        drawn = [draw.example() for _ in range(size)]
        labels = np.array([value for _, value in drawn], np.int32)
        return Labelled([text for text, _ in drawn], labels)


class _Draw:
    """Draws expressions; uniform numbers come in blocks, for one call each would be slow."""

    def __init__(self, generator: np.random.Generator, config: ListOps) -> None:
        self.generator, self.config = generator, config
        self.uniform: list[float] = []

    def example(self) -> tuple[str, int]:
        """Text and value of an expression whose length is in the range."""
        c = self.config
        for _ in range(_ATTEMPTS):
            tokens: list[str] = []
            value = self._list(tokens, 1)
            if value is not None and len(tokens) >= c.min_length:
                return ' '.join(tokens), value
        raise UserError(
            f'{c.name}: no expression of {c.min_length} to {c.max_length} tokens came up in '
            f'{_ATTEMPTS} draws with max_depth {c.max_depth} and max_arguments {c.max_arguments}; '
            'widen the range or raise them'
        )

    def _below(self, number: int) -> int:
        return int(self._next() * number)

    def _next(self) -> float:
        if not self.uniform:
            self.uniform = self.generator.random(4096).tolist()
        return self.uniform.pop()

    def _list(self, tokens: list[str], depth: int) -> int | None:
        """Appends a list; its value, or `None` as soon as it is too long."""
        operator = tuple(OPERATORS)[self._below(len(OPERATORS))]
        tokens += ['[', operator]
        values = []
        for _ in range(2 + self._below(self.config.max_arguments - 1)):
            if depth < self.config.max_depth and self._next() < NESTED:
                value = self._list(tokens, depth + 1)
            else:
                value = self._below(10)
                tokens.append(str(value))
            if value is None or len(tokens) >= self.config.max_length:
                return None
            values.append(value)
        tokens.append(']')
        return OPERATORS[operator](values)


def evaluate(text: str) -> int:
    """The value of an expression.

    Raises:
        UserError: it is none.
    """
    stack: list[list[str | int]] = [[]]
    for token in text.split():
        if token == '[':
            stack.append([])
        elif token == ']':
            operator, *values = stack.pop() or ['']
            if not stack or operator not in OPERATORS or not values:
                raise UserError(f'{text!r} is no expression: a list is empty or has no operator')
            stack[-1].append(OPERATORS[str(operator)]([int(value) for value in values]))
        else:
            stack[-1].append(int(token) if token.isdecimal() else token)
    if len(stack) != 1 or len(stack[0]) != 1 or not isinstance(stack[0][0], int):
        raise UserError(f'{text!r} is no expression: its brackets do not match')
    return stack[0][0]
