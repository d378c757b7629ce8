"""Systems in processes of their own that take turns, so that a change in the load of the machine
meets all of them.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def serve(run: Callable[[], int]) -> None:
    """One system in this process: runs once for every line of standard input, and says how long it
    took; `run` returns how many tokens came out.
    """
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = run()
        answer = {
            'seconds': time.perf_counter() - wall,
            'cpu_seconds': time.process_time() - cpu,
            'tokens': tokens,
            'peak_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        print(json.dumps(answer), flush=True)


class Worker:
    """A process with one system in it, which calls `serve`."""

    def __init__(self, system: str, program: str, options: Sequence[str], cores: int) -> None:
        environment = {
            'JAX_PLATFORMS': 'cpu',
            'HF_HUB_OFFLINE': '1',
            'OMP_NUM_THREADS': str(cores),
            'PYTHONPATH': str(HERE.parent),
        }
        self.system = system
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / program), '--worker', system, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    def run(self) -> dict[str, Any]:
        """One turn. Raises `RuntimeError` where the system is not there or fails."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        # Where it ended before it could read, its standard error says why.
        with contextlib.suppress(BrokenPipeError):
            print(flush=True, file=self.process.stdin)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f'{self.system} ended with status {self.process.wait()}')
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


@dataclass
class Turns:
    """What the workers answered, by system.

    Attributes:
        first: seconds of the first turn, which compiles or warms up.
        repeats: the answers of the others.
        failed: what went wrong.
    """

    first: dict[str, float] = field(default_factory=dict)
    repeats: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def take_turns(workers: Sequence[Worker], repeats: int, title: str) -> Turns:
    """Runs every worker once to warm up and then `repeats` times, and ends them."""
    turns = Turns(repeats={worker.system: [] for worker in workers})
    try:
        for turn in range(repeats + 1):
            # Every system follows every other equally often.
            start = turn % len(workers)
            for worker in [*workers[start:], *workers[:start]]:
                if worker.system in turns.failed:
                    continue
                try:
                    answer = worker.run()
                except RuntimeError as error:
                    turns.failed[worker.system] = str(error)
                    continue
                print(f'  {worker.system}: {answer["seconds"]:.2f} s', file=sys.stderr)
                if turn == 0:
                    turns.first[worker.system] = answer['seconds']
                else:
                    turns.repeats[worker.system].append(answer)
            print(f'{title}: turn {turn} of {repeats}', file=sys.stderr, flush=True)
    finally:
        for worker in workers:
            worker.close()
    return turns
