"""The life of a fleet: made, waited for, made anew where Google took it away, deleted."""

import time
from collections.abc import Callable

from tpu.fleet import AlreadyThere, Engine, State, forget, remember
from tpu.shell import Lost, NoCapacity, Refusal

POLL_SECONDS = 20.0


class Life:
    """Makes and deletes the slices of an engine; every call may be made again."""

    def __init__(
        self,
        engine: Engine,
        *,
        wait: float = 3600.0,
        poll: float = POLL_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepares.

        Args:
            engine: with the fleet.
            wait: seconds after which slices that do not come are given up; 0 does not wait.
            poll: seconds between two looks.
            sleep: in place of `time.sleep`.
        """
        self.engine, self.fleet, self.shell = engine, engine.fleet, engine.shell
        self.wait, self._poll, self._sleep = wait, poll, sleep

    def states(self) -> dict[str, State]:
        """What there is of each slice."""
        return {node: self.engine.state(node) for node in self.fleet.nodes}

    def create(self) -> None:
        """Makes what is missing, makes anew what was taken away, and waits until all is there.

        Raises:
            Refusal: Google says no, or somebody else has something of that name.
        """
        states = self.states()
        for node, state in states.items():
            self._refuse_foreign(node, state)
        if not self.shell.dry_run:
            remember(self.fleet)  # before anything costs money: `delete` must find it
        lost = [n for n, s in states.items() if s.kind in ('lost', 'failed')]
        if lost:
            self._clear(lost, states)
            states = self.states()
        missing = [n for n, s in states.items() if s.kind == 'missing']
        if missing:
            self._make(missing)
        elif all(s.kind == 'ready' for s in states.values()):
            self.shell.say(f'{self.fleet.name} is there already')
        if self.wait and not self.shell.dry_run:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Returns when every slice is there."""
        waited, said = 0.0, ''
        while True:
            states = self.states()
            for node, state in states.items():
                if state.kind in ('lost', 'failed'):
                    why = f' ({state.why})' if state.why else ''
                    raise (Lost if state.kind == 'lost' else NoCapacity)(
                        f'{node} is {state.word}{why}: give the same command again, or take '
                        'another --zone, or --queued to wait for it'
                    )
            if all(state.kind == 'ready' for state in states.values()):
                return
            now = ', '.join(f'{node} {state.word}' for node, state in states.items())
            if now != said:
                self.shell.say(now)
                said = now
            if waited >= self.wait:
                raise Refusal(
                    f'{self.fleet.name} is not there after {self.wait:.0f} s ({now}): give the '
                    'same command again to go on waiting, or `delete` it'
                )
            self._sleep(self._poll)
            waited += self._poll

    def delete(self, *, yes: bool = False) -> None:
        """Gives all slices back; asks before it touches what this tool did not make."""
        states = self.states()
        for node, state in states.items():
            if not state.ours and not yes:
                question = (
                    f'{node} in {self.fleet.zone} was not made by this tool (it has not its '
                    'label); delete it all the same?'
                )
                if not self.shell.confirm(question):
                    raise Refusal(f'{node} stays, and nothing was deleted')
        there = [n for n, s in states.items() if s.kind != 'missing' or self.shell.dry_run]
        if not there:
            self.shell.say(f'there is nothing of {self.fleet.name} to delete')
        # What an interrupted start left behind has no state of its own: parts are deleted too.
        for node in self._units(there or self.fleet.nodes):
            self.engine.delete(node)
        if not self.shell.dry_run:
            forget(self.fleet)

    def _make(self, missing: list[str]) -> None:
        try:
            self.engine.create(missing)
        except AlreadyThere as error:
            # Between our look and our call somebody made it: perhaps this command, started twice.
            for node, state in self.states().items():
                self._refuse_foreign(node, state)
                if state.kind == 'missing':
                    raise Refusal(
                        f'{error}: Google says that it exists already, but does not show it; wait '
                        'a minute and try again'
                    ) from error

    def _refuse_foreign(self, node: str, state: State) -> None:
        if state.kind != 'missing' and not state.ours:
            raise Refusal(
                f'{node} in {self.fleet.zone} is there already, and was not made by this tool; '
                'take another name'
            )

    def _clear(self, lost: list[str], states: dict[str, State]) -> None:
        for node in self._units(lost):
            self.shell.say(f'{node} is {states[node].word}: it is deleted, to be made anew')
            self.engine.delete(node)
        waited = 0.0
        gone = self.fleet.nodes if self.fleet.queued else lost
        while any(self.engine.state(node).kind != 'missing' for node in gone):
            if waited >= 600:
                raise Refusal(f'{", ".join(lost)} cannot be deleted; look at it in the console')
            self._sleep(self._poll)
            waited += self._poll

    def _units(self, nodes: list[str]) -> list[str]:
        """What is deleted by one call: a queued request takes all of its slices along."""
        return nodes[:1] if self.fleet.queued else nodes
