"""A fresh process for each number of devices, and the turns that they take."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from seqzoo.errors import UserError

_SIMULATE = '--xla_force_host_platform_device_count'


def serve(prepare: Callable[[], Any], work: Callable[[], Any], lines: Iterable[str]) -> None:
    """The side of such a process: one line of JSON when it is ready, and one for every line that
    it reads.
    """
    print(json.dumps(prepare()), flush=True)
    for _ in lines:
        print(json.dumps(work()), flush=True)


class Worker:
    """One such process, from outside."""

    def __init__(self, words: Sequence[str], devices: int) -> None:
        """Starts `seqzoo WORDS` where the processor counts as so many devices, and waits for it."""
        # Closed by `close`; a pipe that nobody reads would fill up.
        self._errors = tempfile.TemporaryFile('w+', encoding='utf-8', errors='replace')  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'seqzoo', *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, 'XLA_FLAGS': simulating(devices)},
        )
        try:
            self.ready = self._hear()
        except BaseException:
            self.close()
            raise

    def ask(self) -> Any:
        """Lets it work once while all others wait."""
        assert self._process.stdin is not None
        self._process.stdin.write('\n')
        self._process.stdin.flush()
        return self._hear()

    def close(self) -> None:
        """Ends the process, however far it is."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            assert pipe is not None
            pipe.close()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(('{', '[')):  # libraries print other things there
                return json.loads(line)
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip()
        if status == 2:
            raise UserError(said.rpartition('seqzoo: ')[2])
        raise RuntimeError(f'a process that measures ended with status {status}:\n{said}')


def simulating(devices: int) -> str:
    """The flags of XLA that are set, and the one by which the processor is so many devices."""
    flags = [word for word in os.environ.get('XLA_FLAGS', '').split() if _SIMULATE not in word]
    return ' '.join([*flags, f'{_SIMULATE}={devices}'])


def take_turns(
    starts: Sequence[Callable[[], Worker]],
    repeats: int,
    said: Callable[[str], None] = lambda text: None,
) -> list[tuple[Any, list[Any]]]:
    """What every worker said when it was ready, and of its rounds.

    Where the processor works, all workers live at once and take turns, so that whatever else the
    machine does falls on all alike. An accelerator belongs to one process at a time: there they
    follow each other.
    """
    found: list[tuple[Any, list[Any]]] = []
    living: list[tuple[Worker, list[Any]]] = []
    try:
        for number, start in enumerate(starts, start=1):
            worker, rounds = start(), []
            living.append((worker, rounds))
            found.append((worker.ready, rounds))
            said(f'{number} of {len(starts)} is compiled')
            if worker.ready['platform'] != 'cpu':
                rounds += [worker.ask() for _ in range(repeats)]
                living.remove((worker, rounds))
                worker.close()
        for number in range(repeats if living else 0):
            for worker, rounds in living:
                rounds.append(worker.ask())
            said(f'round {number + 1} of {repeats}')
    finally:
        for worker, _ in living:
            worker.close()
    return found
