"""The command line: finds the command, runs it, and turns what happens into an exit status."""

import difflib
import errno
import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from seqzoo import __version__
from seqzoo.commands.command import Command
from seqzoo.errors import UserError

DONE, FAILED, WRONG_INPUT, PREEMPTED, INTERRUPTED = 0, 1, 2, 75, 130

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Command and the file in `seqzoo/commands/` that holds it; the order is that of the overview.
COMMANDS = {
    'list': 'listing',
    'show': 'show',
    'data prepare': 'data_prepare',
    'data show': 'data_show',
    'compile': 'compile',
    'train': 'train',
    'evaluate': 'evaluate',
    'predict': 'predict',
    'score': 'score',
    'audit': 'audit',
    'cost': 'cost',
    'plot': 'plot',
    'import-weights': 'import_weights',
    'export-weights': 'export_weights',
    'bench': 'bench',
    'doctor': 'doctor',
}

_HELP = """\
usage: seqzoo COMMAND [ARGUMENTS]

Sequence models in JAX and Flax, trained on TPU, GPU and CPU.

{commands}

A first run, two minutes on two cores, no data needed:
  seqzoo train transformer_tiny_numerals --run runs/demo
  echo 'three hundred and forty-two' | seqzoo predict runs/demo
  seqzoo evaluate runs/demo
  seqzoo plot runs/demo

Your own parallel text, train.en train.de dev.en dev.de test.en test.de in D:
  seqzoo train transformer_tiny_text --run runs/mine --data-dir D \\
      --task.source-language en --task.target-language de

Every field of a configuration is an option: `seqzoo show CONFIG` lists them with their values, and
`--model.num-layers 2 --train.steps 100 --seed 1` overrides them.

Results go to standard output, progress and messages to standard error.
Exit status: 0 done; 2 the input is wrong, and one line says what to do; 75 preempted, saved, start
the same command again; 130 stopped by Ctrl-C, saved; 1 anything else.

`seqzoo COMMAND --help` explains a command and gives examples.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after `seqzoo`; `None` takes them from the process.

    Returns:
        The exit status: 0 done, 2 wrong input, 75 preempted, 130 interrupted, 1 anything else.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding='utf-8', errors='backslashreplace')
    if argv is None:  # text is UTF-8 whatever the locale says, in our streams and in the arguments
        argv = [os.fsencode(word).decode('utf-8', 'surrogateescape') for word in sys.argv[1:]]
    try:
        status = _run(list(argv))
        sys.stdout.flush()
        return _leave(status)
    except UserError as error:
        return _leave_with(WRONG_INPUT, ' '.join(str(error).split()))
    except KeyboardInterrupt:
        print('seqzoo: interrupted', file=sys.stderr)
        return _leave(INTERRUPTED, 'interrupted')
    except BrokenPipeError:
        # Whoever read our output has left; what is buffered must not fail a second time at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _leave(FAILED, 'nobody reads its output any more')
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            message = f'{error.strerror} ({error.filename or "writing"}): make room and start again'
            print(f'seqzoo: {message}', file=sys.stderr)
            return _leave(WRONG_INPUT, message)
        text = f'{type(error).__name__}: {error}'
        return _leave_with(FAILED, text, traceback.format_exc())


def _leave_with(status: int, failure: str, shown: str = '') -> int:
    """Prints a failure and leaves.

    Args:
        status: the exit status.
        failure: what happened.
        shown: what is printed in place of a sentence.
    """
    # Where another process is gone, what fails here is only the first collective after that.
    if (processes := _processes()) is not None:
        why = processes.trouble()
        if why is not None and (shown or why.status == PREEMPTED):
            status, failure, shown = why.status, why.message, ''
    print(shown.rstrip() or f'seqzoo: {failure}', file=sys.stderr)
    return _leave(status, failure)


def _leave(status: int, failure: str = '') -> int:
    """The exit status, once the other processes, if there are any, know of it too."""
    if (processes := _processes()) is not None:
        processes.finish(status, failure)
    return status


def _processes() -> Any:
    # Not imported unless a command did: importing jax takes a second.
    return sys.modules.get('seqzoo.parallel.processes')


def load_command(name: str) -> Command:
    """The command of this name."""
    return importlib.import_module(f'seqzoo.commands.{COMMANDS[name]}').COMMAND


def _run(words: list[str]) -> int:
    if not words or words in (['--help'], ['-h'], ['help']):
        print(_help(), end='')
        return DONE if words else WRONG_INPUT
    if words[0] in ('--version', 'version'):
        print(f'seqzoo {__version__}')
        return DONE
    if words[0] == 'help':
        words = [*words[1:], '--help']
    name = next((n for n in COMMANDS if words[: len(n.split())] == n.split()), None)
    if name is None:
        return _no_command(words)
    command = load_command(name)
    try:
        arguments = command.parse(words[len(name.split()) :])
    except SystemExit:  # argparse printed the help that was asked for
        return DONE
    return command.run(arguments)


def _no_command(words: list[str]) -> int:
    inner = [name for name in COMMANDS if name.startswith(f'{words[0]} ')]
    if inner and (len(words) < 2 or words[1] in ('--help', '-h')):
        print('\n'.join(f'seqzoo {name:<14} {load_command(name).summary}' for name in inner))
        return DONE if len(words) > 1 else WRONG_INPUT
    if inner:
        raise UserError(
            f'seqzoo {words[0]} is followed by {" or ".join(n.split()[1] for n in inner)}'
        )
    close = difflib.get_close_matches(words[0], COMMANDS, n=1, cutoff=0.5)
    hint = f'did you mean {close[0]}?' if close else '`seqzoo --help` lists all'
    raise UserError(f'there is no command {words[0]!r}; {hint}')


def _help() -> str:
    lines = [f'  {name:<14} {load_command(name).summary}' for name in COMMANDS]
    return _HELP.format(commands='\n'.join(lines))


if __name__ == '__main__':
    sys.exit(main())
