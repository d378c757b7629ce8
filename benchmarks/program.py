"""How the programs here end: with a status, and where the user can mend it with a sentence."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from seqzoo.errors import UserError

WRONG_INPUT = 2


def run(main: Callable[[], int | None]) -> NoReturn:
    """Runs a program and leaves with its status; a `UserError`, its own or that of a program
    that it ran, is a sentence and status 2.
    """
    try:
        sys.exit(main())
    except UserError as error:
        print(' '.join(str(error).split()), file=sys.stderr)
        sys.exit(WRONG_INPUT)
    except subprocess.CalledProcessError as error:
        if error.returncode != WRONG_INPUT:
            raise
        sys.exit(WRONG_INPUT)  # it has said its sentence


def status_of(failures: Sequence[str]) -> int:
    """Names what was not trained while the others were; the exit status."""
    for failure in failures:
        print(f'not trained: {failure}', file=sys.stderr)
    return WRONG_INPUT if failures else 0
