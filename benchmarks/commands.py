"""What the command in a row trains: which configuration, and with what changed."""

import argparse
import itertools
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from seqzoo.commands.train import COMMAND
from seqzoo.configuration import differences, load_config
from seqzoo.errors import UserError

# What a reader types who wants all of it, and what that trains (see the Makefile).
MADE = {'make demo': 'seqzoo train transformer_tiny_numerals --run R'}
PLACES = ('--run', '--data-dir', '--cache-dir')
# A budget is given anew whenever a run is taken up: it may differ where the command names one.
_BUDGETS = ('train.max_minutes', 'train.steps')


def experiment_of(command: str) -> Any:
    """The experiment that a command trains.

    Raises:
        UserError: it trains nothing.
    """
    parsed = _parsed(command)
    return load_config(parsed.config, parsed.overrides)


def alike(command: str) -> tuple[str, ...]:
    """The words that the commands of several seeds have in common: all but seed and places."""
    words, kept = shlex.split(MADE.get(command, command)), []
    while words:
        word = words.pop(0)
        flag, equals, _ = word.partition('=')
        if flag not in ('--seed', *PLACES):
            kept.append(word)
        elif not equals and words:
            words.pop(0)
    return tuple(kept)


def refuse_other(command: str, run: Any) -> None:
    """Raises `UserError` unless a command trains what a run is."""
    parsed = _parsed(command)
    meant = load_config(parsed.config, parsed.overrides)
    meant = replace(meant, model=meant.task.resolve(meant.model, run.prepared))
    budgets = set(_BUDGETS) & _changed(parsed.overrides)
    found = [
        str(one)
        for one in differences(meant, run.experiment)
        # Only said of it, and perhaps in other words since.
        if one.path.split('.')[0] not in ('description', 'published') and one.path not in budgets
    ]
    if found:
        raise UserError(
            f'--command {command!r} does not train what {run.path} is; from one to the other: '
            f'{"; ".join(found)}.'
        )


def _parsed(command: str) -> argparse.Namespace:
    words = shlex.split(MADE.get(command, command))
    places = [
        place
        for place, (program, word) in enumerate(itertools.pairwise(words))
        if (program.split('/')[-1], word) == ('seqzoo', 'train')
    ]
    if not places:
        raise UserError(f'the command {command!r} is not of the form seqzoo train CONFIG --run R')
    # Where a run lies is no part of it, and often left out.
    return COMMAND.parse([*words[places[0] + 2 :], '--run', 'R'])


def _changed(overrides: Sequence[str]) -> set[str]:
    """The fields that overrides name."""
    flags = [word.partition('=')[0] for word in overrides if word.startswith('--')]
    return {flag.removeprefix('--').replace('-', '_') for flag in flags}
