"""What a command is, and how its part of the command line is read."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from seqzoo.buckets import place
from seqzoo.configuration import nearest
from seqzoo.errors import UserError

# Fields of an experiment that stand by themselves. All others are in a group and have a dot in
# their option, by which they are told from a command's own options without importing anything.
TOP_LEVEL_FIELDS = ('seed', 'strategy', 'description')

# How the options begin that say only how a trained run is worked with.
RUNNING = ('decode.', 'mesh.', 'batch.evaluation-', 'model.attention-implementation')


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    Attributes:
        name: as typed, one word or two.
        summary: one line for the overview.
        description: what it reads and writes, and examples; follows the summary in its own help.
        add_arguments: declares its options.
        run: does the work; returns the exit status.
        overrides: how the configuration options that it takes begin: `('',)` all, `()` none.
    """

    name: str
    summary: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    overrides: tuple[str, ...] = ()

    def parser(self) -> 'Parser':
        """The parser of its own options; it never sees configuration options."""
        usage = f'seqzoo {self.name}'
        parser = Parser(
            prog=usage,
            description=f'{self.summary[0].upper()}{self.summary[1:]}.\n\n{self.description}',
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_arguments(parser)
        return parser

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Reads the arguments behind the command's name; configuration options land in `overrides`.

        Raises:
            UserError: an argument is unknown, missing or wrong.
            SystemExit: help was asked for and printed.
        """
        parser = self.parser()
        own, overrides = self._split(list(arguments), set(parser.option_strings()))
        parsed = parser.parse_args(own)
        parsed.overrides = overrides
        return parsed

    def _split(self, waiting: list[str], known: set[str]) -> tuple[list[str], list[str]]:
        own: list[str] = []
        overrides: list[str] = []
        while waiting:
            argument = waiting.pop(0)
            flag, equals, value = argument.partition('=')
            if argument == '--':
                return [*own, argument, *waiting], overrides
            if not flag.startswith('--') or flag in known:
                own.append(argument)
            elif flag.replace('_', '-') in known:
                own.append(flag.replace('_', '-') + equals + value)
            else:
                self._check_override(flag, known)
                overrides.append(argument)
                if not equals and waiting and not waiting[0].startswith('--'):
                    overrides.append(waiting.pop(0))
        return own, overrides

    def _check_override(self, flag: str, known: set[str]) -> None:
        path = flag.removeprefix('--')
        if '.' not in path and path not in TOP_LEVEL_FIELDS:
            close = f'; {_ELSEWHERE[path]}' if self.overrides and path in _ELSEWHERE else ''
            close = close or nearest(path, [word.removeprefix('--') for word in known])
            close = close.replace('mean ', 'mean --')
            if not close and self.overrides:  # only now: it imports jax
                close = _configuration_hint(path)
            close = close or f' (see `seqzoo {self.name} --help`)'
            raise UserError(f'seqzoo {self.name} has no option {flag}{close}')
        if not path.replace('_', '-').startswith(self.overrides):
            allowed = f'only --{"*, --".join(self.overrides)}*' if self.overrides else 'none'
            raise UserError(
                f'seqzoo {self.name} does not take {flag} (of the configuration options {allowed})'
            )


# What other programs call differently.
_ELSEWHERE = {
    'resume': 'a run goes on by itself where the same --run is given again',
    'devices': 'the devices are laid out by --mesh.data and the other axes of the mesh',
    'learning-rate': 'the learning rate is a matter of the schedule, such as --schedule.peak',
    'lr': 'the learning rate is a matter of the schedule, such as --schedule.peak',
    'epochs': 'the length of a training is --train.steps',
    'batch-size': 'the size of a batch is --batch.tokens',
}


def _configuration_hint(path: str) -> str:
    """What a configuration option without its group was meant to be; `''` if nobody knows."""
    from seqzoo.experiment import BatchConfig, Decoding, MeshConfig, TrainConfig

    kinds = {'train': TrainConfig, 'batch': BatchConfig, 'decode': Decoding, 'mesh': MeshConfig}
    name = path.replace('_', '-')
    options = [
        (group, field.name.replace('_', '-'))
        for group, kind in kinds.items()
        for field in dataclasses.fields(kind)
    ]
    inside = [f'--{group}.{option}' for group, option in options if name in (group, option)]
    if name in kinds and inside:
        return f'; its parts have options of their own: {", ".join(inside)}'
    return f'; did you mean {" or ".join(inside)}?' if inside else ''


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose complaints are `UserError`s of one line."""

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print and exit with."""
        message = message.replace('the following arguments are required', 'missing')
        message = message.replace('unrecognized arguments', 'too many arguments')
        raise UserError(f'{message} (see `{self.prog} --help`)')

    def option_strings(self) -> list[str]:
        """Every option that is declared, with its dashes."""
        return list(self._option_string_actions)


def add_config(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Declares the positional CONFIG."""
    parser.add_argument(
        'config',
        nargs='?' if optional else None,
        metavar='CONFIG',
        help='a name that `seqzoo list` shows, NAME:VARIANT, the path of a .py file, or of the '
        'experiment.json of a run',
    )


def add_data_dir(parser: argparse.ArgumentParser, *, cache: bool = False) -> None:
    """Declares `--data-dir`, and with `cache` also `--cache-dir`."""
    parser.add_argument(
        '--data-dir',
        type=place,
        metavar='D',
        help='where the data lies, or gs://BUCKET/NAME (default: the environment variable '
        'SEQZOO_DATA_DIR)',
    )
    if cache:
        parser.add_argument(
            '--cache-dir',
            type=Path,
            metavar='D',
            help='where tokenizers and encoded text are kept (default: SEQZOO_CACHE_DIR, or '
            "seqzoo in the user's cache folder)",
        )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Declares `--step` and `--average`: which parameters of a run."""
    parser.add_argument(
        '--step',
        type=_step,
        metavar='S',
        help='a checkpoint: its step, latest, or best (default: the best if there is one)',
    )
    parser.add_argument(
        '--average',
        type=at_least(1),
        default=1,
        metavar='K',
        help='average the last K snapshots of the parameters, none later than --step where that is '
        'given (see --train.snapshot-every)',
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declares `--json`."""
    parser.add_argument(
        '--json', action='store_true', help='print exactly one JSON object instead of text'
    )


def is_writer() -> bool:
    """Whether this is the one of several processes that prints and writes results."""
    import jax

    return jax.process_index() == 0


def at_least(smallest: int) -> Callable[[str], int]:
    """A type for `add_argument`: whole numbers from `smallest` on."""

    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < smallest:
            raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from {smallest} on')
        return int(text)

    return convert


def _step(text: str) -> int | str:
    if text.isdecimal() or text in ('latest', 'best'):
        return int(text) if text.isdecimal() else text
    raise argparse.ArgumentTypeError(f'{text!r} is neither a step nor latest nor best')


def table(rows: Sequence[Sequence[Any]]) -> str:
    """Rows of text in aligned columns; columns of numbers to the right."""
    cells = [[f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row, texts in zip(rows, cells, strict=True):
        parts = [
            text.rjust(width) if isinstance(cell, int | float) else text.ljust(width)
            for cell, text, width in zip(row, texts, widths, strict=True)
        ]
        lines.append('  '.join(parts).rstrip())
    return '\n'.join(lines)
