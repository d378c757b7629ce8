"""Trains several things side by side, each in a process on a core of its own, in so many minutes.

Programs that are too small to gain from a second core are trained faster this way. Each training
leaves a row in its run's folder; one that has a row is not trained again, unless its minutes were
over and there are more now.
"""

import concurrent.futures
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import facts_of_runs
import jax
import machine

from seqzoo.data.kept_files import write_atomically

Row = dict[str, Any]  # `steps` of `of_steps` were done in `minutes` of a `share`; and more

_WORTH_STARTING = 0.2  # minutes; less is not worth the compilation
_SPAWN = multiprocessing.get_context('spawn')


class Interrupted(Exception):
    """Somebody stopped a training."""


@dataclass
class Budget:
    """Minutes, shared out evenly among those that have not begun.

    Attributes:
        left: minutes that nobody has.
        waiting: how many have not begun.
    """

    left: float
    waiting: int

    def take(self) -> float:
        """The share of the next one."""
        share = max(self.left, 0.0) / self.waiting
        self.left, self.waiting = self.left - share, self.waiting - 1
        return share

    def give_back(self, minutes: float) -> None:
        """What one left over; less than nothing if it overran."""
        self.left += minutes


@dataclass
class SideBySide:
    """Trainings and the processes that do them.

    Attributes:
        jobs: by the file of each one's row, in a folder of its own: trains for so many minutes,
            those of earlier calls included, and gives the row. It can be pickled.
        minutes: of all together, on the clock.
        workers: processes at a time, each on a core of its own if there are several.
        describe: what a row found, in a word.
        failures: what went wrong, a sentence each.
    """

    jobs: Mapping[Path, Callable[[float], Row]]
    minutes: float
    workers: int
    describe: Callable[[Row], str]
    failures: list[str] = field(default_factory=list)

    def train(self) -> None:
        """Trains what has no row, and what could use more time.

        Raises:
            Interrupted: somebody stopped one of them.
        """
        there = {note: read_row(note) for note in self.jobs if note.exists()}
        done = [row for row in there.values() if not could_go_on(row)]
        waiting = [note for note in self.jobs if note not in there or could_go_on(there[note])]
        used = sum(row['minutes'] for row in done)
        budget = Budget(max(self.minutes * self.workers - used, 0.0), len(waiting))
        cores: list[int | None] = [None]
        if self.workers > 1:
            cores = [*sorted(os.sched_getaffinity(0))[: self.workers]]
        running: dict[concurrent.futures.Future[None], tuple[Path, float, int | None]] = {}
        with concurrent.futures.ProcessPoolExecutor(
            self.workers, mp_context=_SPAWN, max_tasks_per_child=1
        ) as pool:
            while waiting or running:
                while waiting and cores:
                    note, share = waiting.pop(0), budget.take()
                    had = there[note]['minutes'] if note in there else None
                    if had is not None and share < had + _WORTH_STARTING:
                        budget.give_back(share - had)
                        continue
                    core = cores.pop()
                    _say(f'{note.parent.name}: at most {share:.1f} minutes')
                    future = pool.submit(_train_into, note, core, self.jobs[note], share)
                    running[future] = (note, share, core)
                ended, _ = concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in ended:
                    note, share, core = running.pop(future)
                    cores.append(core)
                    budget.give_back(share - self._came_to(note, future))

    def _came_to(self, note: Path, future: 'concurrent.futures.Future[None]') -> float:
        """Says how one ended; the minutes that it took."""
        try:
            future.result()
        except Interrupted:
            raise
        except Exception as error:  # of one alone; the others go on
            self.failures.append(f'{note.parent.name}: {error}')
            _say(self.failures[-1])
            return trained_minutes(note.parent)
        row = read_row(note)
        _say(f'{note.parent.name}: {self.describe(row)}')
        return row['minutes']


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def read_row(note: Path) -> Row:
    """What a training left."""
    return json.loads(note.read_text(encoding='utf-8'))


def could_go_on(row: Row) -> bool:
    """Whether a training stopped because its minutes were over."""
    return row['steps'] < row['of_steps'] and row['minutes'] > 0.9 * row['share']


def default_workers() -> int:
    """One for each core; on an accelerator one."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=_SPAWN) as pool:
        # Asked elsewhere: the process that asks holds the accelerator's memory from then on.
        backend = pool.submit(jax.default_backend).result()
    return machine.cores() if backend == 'cpu' else 1


def trained_minutes(folder: Path) -> float:
    """How long a run has been trained, by all processes that did."""
    return max(facts_of_runs.seconds_by_step(folder).values(), default=0.0) / 60


def _train_into(note: Path, core: int | None, job: Callable[[float], Row], minutes: float) -> None:
    """Trains in a process of its own, which says what it says in `log.txt`; writes the row."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    note.parent.mkdir(parents=True, exist_ok=True)
    with open(note.with_name('log.txt'), 'a', encoding='utf-8') as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
        row = job(minutes)
    write_atomically(note, (json.dumps(row, indent=1) + '\n').encode())
