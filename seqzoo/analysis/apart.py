"""A command of ours in a process of its own, for a compiler that may take its process with it.

Where libtpu's compiler meets what it did not expect it prints a stack trace and aborts, and no
exception says so.
"""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from seqzoo.errors import UserError

# The first of a compiler's last words: `F1130 19:35:00.6 2668 emitter.cc:1904] Check failed: ...`.
_FATAL = re.compile(r'F\d{4} [^\]]*\] (.*)')


@dataclass(frozen=True)
class Outcome:
    """What a command left.

    Attributes:
        status: its exit status.
        output: what it printed.
        said: the last line of its messages.
    """

    status: int
    output: str
    said: str


def run_apart(words: Sequence[str], show: IO[str] | None = None) -> Outcome:
    """Runs `seqzoo WORDS` in a process of its own.

    Args:
        words: of the command.
        show: where messages go as they come, but for the stack trace of an abort.

    Raises:
        UserError: the process was ended from inside or outside instead of leaving.
    """
    output: list[str] = []
    said = fatal = ''
    with subprocess.Popen(
        [sys.executable, '-m', 'seqzoo', *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding='utf-8',
        errors='replace',
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        reader = threading.Thread(target=lambda out: output.append(out.read()), args=[child.stdout])
        reader.start()
        for line in child.stderr:
            fatal = fatal or ''.join(_FATAL.findall(line)[:1]).strip()
            if not fatal:
                said = line.strip() or said
                if show is not None:
                    print(line, end='', file=show, flush=True)
        reader.join()
    status = child.returncode
    if status < 0:
        raise UserError(_ended(-status, fatal))
    return Outcome(status, output[0], said)


def _ended(number: int, fatal: str) -> str:
    if number == signal.SIGKILL:
        return 'compiling was killed, as systems do to who takes more memory than there is'
    return (
        f'the compiler of the accelerator gave up ({fatal or signal.Signals(number).name}), which '
        'is a defect of it and no property of the program: another mesh, batch or slice may pass'
    )
