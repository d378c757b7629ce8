"""Other programs: run, asked, or with `--dry-run` only shown."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Seconds after which a program hangs. Looks take seconds, over ssh to many hosts a minute; building
# a container or a node pool may take an hour.
ASK_SECONDS, DO_SECONDS = 600.0, 7200.0
_TIMED_OUT = 124  # as `timeout` says it


class Refusal(Exception):
    """What is wrong and what to do, in one sentence; the exit status is 2."""


class Passing(Refusal):
    """What may be over in a while, such as a server that is busy."""


class NoCapacity(Passing):
    """There is no such slice to be had now."""


class Lost(Refusal):
    """Google took a slice away while it was waited for."""


@dataclass(frozen=True)
class Answer:
    """How a program ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The line of its complaint that says most: the last one that is not empty."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        errors = [line for line in lines if 'ERROR' in line]
        return (errors or lines or ['it said nothing'])[-1][:300]


class Shell:
    """Runs programs by their words; no shell ever sees them, so that names may hold anything."""

    def __init__(
        self, *, dry_run: bool = False, confirm: Callable[[str], bool] | None = None
    ) -> None:
        """With `dry_run` every command is printed and none is run."""
        self.dry_run = dry_run
        self._confirm = confirm or _on_terminal

    def ask(self, words: Sequence[str]) -> Answer:
        """Runs a program that changes nothing; in a dry run it answers nothing.

        One that hangs is ended, and has timed out, which may pass like a server that is busy.
        """
        return self._run(words, say=False, seconds=ASK_SECONDS)

    def do(self, words: Sequence[str], *, stdin: str | None = None) -> Answer:
        """Runs a program that changes something, and says so on standard error; see `ask`."""
        return self._run(words, say=True, seconds=DO_SECONDS, stdin=stdin)

    def confirm(self, question: str) -> bool:
        """Whether a person agrees; a dry run asks nobody."""
        return self.dry_run or self._confirm(question)

    def say(self, text: str) -> None:
        """One line of progress."""
        print(f'# {text}' if self.dry_run else f'tpu: {text}', file=sys.stderr, flush=True)

    def _run(
        self, words: Sequence[str], *, say: bool, seconds: float, stdin: str | None = None
    ) -> Answer:
        if self.dry_run:
            shown = shlex.join(words)
            if stdin is not None:
                shown += f" <<'END'\n{stdin.rstrip()}\nEND"
            print(shown, flush=True)
            return Answer(0, '', '')
        if shutil.which(words[0]) is None:
            raise Refusal(
                f'{words[0]} is not on PATH; install it (gcloud and kubectl come with the Google '
                'Cloud CLI), or add --dry-run to see the commands'
            )
        if say:
            print(f'+ {shlex.join(words)[:400]}', file=sys.stderr, flush=True)
        try:
            done = subprocess.run(
                list(words),
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                errors='replace',
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as hung:
            # What some hosts said before another one hung counts. These are bytes, `text` or not.
            out, err = (
                bytes(said or b'').decode(errors='replace') for said in (hung.stdout, hung.stderr)
            )
            why = f'ERROR: {words[0]} timed out: it did not end within {seconds:.0f} s'
            return Answer(_TIMED_OUT, out, f'{err}\n{why}')
        return Answer(done.returncode, done.stdout, done.stderr)


def _on_terminal(question: str) -> bool:
    if not sys.stdin.isatty():
        raise Refusal(f'{question} Nobody is there to answer: add --yes if that is what you want')
    print(f'{question} [y/N] ', end='', file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ('y', 'yes')
