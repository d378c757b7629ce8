"""Where the time of a run goes: goodput.

The loop calls `lap` whenever it turns from one kind of work to another. What jax spent on tracing
and compiling meanwhile, which it reports itself, is booked as compilation wherever it happened. The
devices work behind the loop: a loop that waits for the numbers of a step books that as stepping.
"""

import threading
import time
from collections.abc import Mapping
from typing import Any

from jax import monitoring

# `start` is everything before the first step: reading data, making or restoring the state.
KINDS = ('start', 'compile', 'data', 'step', 'evaluation', 'checkpoint')
_COMPILATION = '/jax/core/compile/'
_XLA = f'{_COMPILATION}backend_compile_duration'


class CompileWatch:
    """Listens while it is entered to what jax compiles in the thread that entered it.

    Attributes:
        seconds: spent on tracing, lowering and compiling, reading a compilation cache included.
        programs: names of the compiled functions, in order.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.programs: list[str] = []
        self._thread = 0
        self._counted_to = 0.0

    def __enter__(self) -> 'CompileWatch':
        self._thread = threading.get_ident()
        monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def __exit__(self, *exception: object) -> None:
        monitoring.unregister_event_duration_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **facts: Any) -> None:
        if not event.startswith(_COMPILATION) or threading.get_ident() != self._thread:
            return
        # A program may be compiled while another is traced: the same second counts once.
        now = time.monotonic()
        self.seconds += max(0.0, now - max(now - duration_secs, self._counted_to))
        self._counted_to = now
        if event == _XLA:
            self.programs.append(str(facts.get('fun_name', '')))


class Clock:
    """Seconds of a run by what they were spent on.

    ```
    with Clock() as clock:
        prepare();       clock.begin()
        for ...:
            batch = next(batches);                clock.lap('data')
            state, metrics = step(state, batch);  clock.lap('step')
    ```

    Attributes:
        spent: seconds of this process by kind, compilation apart.
        earlier: the same of the processes before this one, as far as their work has lasted; and
            'lost', what they spent on steps that had to be done again.
        watch: of the compilations.
    """

    def __init__(self) -> None:
        self.spent: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self.earlier: dict[str, float] = {}
        self.watch = CompileWatch()
        self._started = self._lap = self._began = time.monotonic()
        self._compiled = 0.0

    def __enter__(self) -> 'Clock':
        self.watch.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.watch.__exit__(*exception)

    def begin(self) -> None:
        """What was before is the start; `seconds` counts from here."""
        self.lap('start')
        self._began = self._lap

    def lap(self, kind: str) -> None:
        """Books the time since the last lap."""
        now = time.monotonic()
        compiled = min(self.watch.seconds - self._compiled, now - self._lap)
        self._compiled = self.watch.seconds
        self.spent['compile'] += compiled
        self.spent[kind] += now - self._lap - compiled
        self._lap = now

    @property
    def seconds(self) -> float:
        """Seconds since the loop began."""
        return time.monotonic() - self._began

    @property
    def since_lap(self) -> float:
        """Seconds that are not booked yet."""
        return time.monotonic() - self._lap

    def goodput(self) -> dict[str, float]:
        """The share of each kind in the time of this process, `other` included; their sum is 1."""
        return _shares(self.spent, time.monotonic() - self._started)

    def whole_run(self) -> dict[str, float]:
        """Seconds of all processes of the run together, and the shares of each kind.

        Time between two processes is not counted; `lost` went into steps that were done again.
        """
        together = self.so_far()
        seconds = sum(together.values())
        return {'seconds': round(seconds, 3), **_shares(together, seconds)}

    def so_far(self) -> dict[str, float]:
        """`earlier` for the next process: what a checkpoint carries."""
        names: list[str] = list(dict.fromkeys([*KINDS, *self.earlier]))
        found = {k: self.spent.get(k, 0.0) + self.earlier.get(k, 0.0) for k in names}
        return {name: round(seconds, 3) for name, seconds in found.items()}


def _shares(spent: Mapping[str, float], total: float) -> dict[str, float]:
    total = max(total, 1e-9)
    shares = {f'share_{kind}': round(seconds / total, 4) for kind, seconds in spent.items()}
    rest = 1.0 - sum(shares.values())
    return {**shares, 'share_other': round(max(0.0, rest), 4)}
