"""A job on all hosts of a fleet: the code brought, started, watched, started again."""

import shlex
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tpu.fleet import Engine, resource_name
from tpu.gce import ComputeEngine
from tpu.life import Life
from tpu.shell import Lost, NoCapacity, Passing, Refusal

ROOT = Path(__file__).resolve().parent.parent
PREEMPTED, KILLED = 75, 137
ARCHIVE = 'seqzoo-code.tgz'
# Looks in a row in which hosts of a slice that is there do not answer.
_PATIENCE = 3
_SAID = ('running', 'ended', 'none', 'other')
_RUNS_ON = '; the job runs on, the same command watches it again'
_WORKER = '"$HOME/seqzoo/tpu/worker.sh"'


class _Partly(Refusal):
    """Some hosts did not do what all have to."""


@dataclass(frozen=True)
class HostState:
    """What `worker.sh` says of a host: one of `_SAID`, and a process or an exit status."""

    host: str
    what: str
    number: int


class Job:
    """One command, the same on every host of every slice."""

    def __init__(
        self,
        life: Life,
        name: str = 'job',
        *,
        poll: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepares.

        Args:
            life: of the fleet.
            name: of the job; a host runs one of each name.
            poll: seconds between two looks.
            sleep: in place of `time.sleep`.
        """
        self.life, self.engine, self.fleet = life, life.engine, life.fleet
        self.shell, self.name = life.shell, resource_name(name)
        self._poll, self._sleep = poll, sleep
        self._restarts, self._waited = 0, 0.0  # of a launch: left, and lost to what passes

    # The code

    def push(self) -> None:
        """Brings the files of this checkout to every host and installs them there."""
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / ARCHIVE
            setup = ROOT / 'tpu' / 'setup.sh'
            if self.shell.dry_run:
                self.shell.say(f'packs the tracked files of {ROOT.name} into {ARCHIVE}')
                archive, setup = Path(ARCHIVE), Path('tpu/setup.sh')
            else:
                pack(ROOT, archive)
            for node in self.fleet.nodes:
                for file, target in ((archive, ARCHIVE), (setup, 'seqzoo-setup.sh')):
                    answer = self.engine.copy(node, file, target)
                    if answer.status != 0:
                        raise self.fleet.refusal(answer, f'bringing {target} to {node}')
                answer = self.engine.run(node, f'sh seqzoo-setup.sh "$HOME/{ARCHIVE}"')
                self._all_answer(node, answer.out, ' ready ', answer.said)

    def _all_answer(self, node: str, out: str, word: str, said: str) -> None:
        ready = len({line.split()[0] for line in out.splitlines() if word in f'{line} '})
        hosts = self.fleet.kind.hosts
        if ready < hosts and not self.shell.dry_run:
            raise _Partly(
                f'{ready} of {hosts} hosts of {node} are set up ({said}): give the same command '
                'again; what is done is not done twice'
            )

    # Running

    def start(self, words: Sequence[str]) -> None:
        """Starts the command wherever it does not run yet, on all hosts or on none.

        Raises:
            Refusal: a host did not answer; what had been started is stopped.
        """
        for number, node in enumerate(self.fleet.nodes):
            line = self._line('start', *self._joined_slices(number), *words)
            answer = self.engine.run(node, line)
            if self.shell.dry_run:
                continue
            found = _parse(answer.out)
            if any(host.what == 'other' for host in found):
                self._refuse_other(answer.out, words, begun=number > 0)
            if len(found) < self.fleet.kind.hosts:
                raise _Partly(
                    f'the job started on {len(found)} of {self.fleet.kind.hosts} hosts of {node} '
                    f'({answer.said}) and {self._stopped(words)}: the hosts that run would wait '
                    'for the others without end; `push` first, then give the same command again'
                )

    def _refuse_other(self, out: str, words: Sequence[str], *, begun: bool) -> None:
        if begun or any(host.what != 'other' for host in _parse(out)):
            self._stop(words)
        runs = next((w[6:].strip() for w in out.splitlines() if w.startswith('runs: ')), '')
        raise Refusal(
            f'{self.name!r} of {self.fleet.name} already runs {runs or "another command"!r}: '
            '`stop` it, or take another name with --job'
        )

    def stop(self) -> None:
        """Asks the command to save and end, on all hosts.

        Raises:
            Refusal: not all could be asked.
        """
        if failed := self._stop():
            raise Refusal(
                f'{self.name!r} could not be stopped on {"; ".join(failed)}: it may run on there; '
                'give the same command again'
            )

    def _stop(self, words: Sequence[str] = ()) -> list[str]:
        """Stops the job, or only this command of it; where that failed, and why."""
        failed = []
        for node in self.fleet.nodes:
            try:
                answer = self.engine.run(node, self._line('stop', *words))
            except Refusal as refusal:
                failed.append(f'{node} ({refusal})')
                continue
            if answer.status != 0:
                failed.append(f'{node} ({answer.said})')
        return failed

    def _stopped(self, words: Sequence[str]) -> str:
        failed = self._stop(words)
        return f'could not be stopped on {"; ".join(failed)}' if failed else 'was stopped again'

    def hosts(self) -> list[HostState]:
        """What the hosts say that answer."""
        found = []
        for node in self.fleet.nodes:
            found += _parse(self.engine.run(node, self._line('status'), quiet=True).out)
        return found

    def log(self, *, slice_number: int, worker: int, lines: int) -> str:
        """The end of what the command printed on one host."""
        node = self.fleet.nodes[slice_number]
        answer = self.engine.run(node, self._line('log', str(lines)), worker, quiet=True)
        if answer.status != 0 and not self.shell.dry_run:
            raise self.fleet.refusal(answer, f'reading the log of worker {worker} of {node}')
        return answer.out

    def launch(self, words: Sequence[str], *, restarts: int = 50, detach: bool = False) -> int:
        """Sees to it that the command runs to its end, whatever Google takes away meanwhile.

        Slices that are lost are made anew, get the code, and start the same command; the run in
        the bucket goes on from its newest checkpoint. If this program ends, the job goes on; given
        again, it watches what runs.

        Args:
            words: the command, in the folder of the code.
            restarts: after so many losses it gives up.
            detach: return as soon as it runs.

        Returns:
            The exit status of the command.
        """
        self._restarts, self._waited = restarts, 0.0
        self._bring_up(words)
        silent = 0
        while not (detach or self.shell.dry_run):
            try:
                hosts, states = self.hosts(), self.life.states()
            except Refusal as refusal:
                self._ride_out(refusal, _RUNS_ON)
                continue
            ended = [host for host in hosts if host.what == 'ended']
            failed = [host for host in ended if host.number not in (0, PREEMPTED, KILLED)]
            if failed:
                return self._failed(failed[0], words)
            whole = len(hosts) >= self._expected
            if len(ended) >= self._expected and all(host.number == 0 for host in ended):
                self.shell.say(f'{self.fleet.name}: done')
                return 0
            coming = [state.word for state in states.values() if state.kind == 'coming']
            if coming and not whole:  # Google repairs it
                self._ride_out(Passing(f'{self.fleet.name} is {coming[0]}'), _RUNS_ON)
                continue
            self._waited, silent = 0.0, 0 if whole else silent + 1
            fresh = any(s.kind in ('lost', 'missing', 'failed') for s in states.values()) or any(
                host.what == 'none' or host.number == KILLED for host in hosts
            )
            preempted = any(host.number == PREEMPTED for host in ended)
            if fresh or (preempted and len(ended) >= self._expected):
                self._lose(Refusal(f'{self.fleet.name} was lost too often; look at its logs'))
                silent = 0
                self._bring_up(words, push=fresh, again=True)
            elif silent >= _PATIENCE:
                raise Refusal(
                    f'{len(hosts)} of {self._expected} hosts of {self.fleet.name} answer, though '
                    'Google shows the slice as whole: `delete` and `launch` it again, the run goes '
                    'on from its newest checkpoint'
                )
            self._sleep(self._poll)
        return 0

    @property
    def _expected(self) -> int:
        return self.fleet.kind.hosts * self.fleet.count

    def _bring_up(self, words: Sequence[str], *, push: bool = False, again: bool = False) -> None:
        """Slices, code and command; once more where Google takes a slice away meanwhile.

        At the first time (not `again`) a lack of slices is told at once, to choose another zone.
        """
        while True:
            made = False
            try:
                whole = self._made()
                made = True
                if self.shell.dry_run or not whole or push or not self._know_the_job():
                    self.push()
                self.start(words)
                self._waited = 0.0
                return
            except Refusal as caught:
                refusal = caught
                try:
                    lost = isinstance(refusal, (Lost, _Partly) if again else Lost)
                    lost = lost or (made and self._lost())
                except Passing as passing:
                    refusal, lost = passing, False
            if lost:
                self._lose(refusal)
                self._sleep(self._poll)
            elif isinstance(refusal, NoCapacity) and not again:
                raise refusal
            else:
                self._ride_out(refusal)
            push, again = True, again or lost

    def _made(self) -> bool:
        """Makes the slices; whether they had been there before."""
        states = self.life.states()
        whole = all(state.kind == 'ready' for state in states.values())
        if not whole or self.shell.dry_run:
            self.life.create()
        if not (whole or self.life.wait or self.shell.dry_run):
            coming = {n: s.word for n, s in self.life.states().items() if s.kind != 'ready'}
            if coming:
                said = ', '.join(f'{node} {word}' for node, word in coming.items())
                raise Refusal(
                    f'{self.fleet.name} is not there yet ({said}): give the same command again '
                    'when `status` shows it, or let it wait with --wait'
                )
        return whole

    def _lost(self) -> bool:
        """Whether a slice of ours is gone that was there a moment ago."""
        return any(s.ours and s.kind in ('lost', 'missing') for s in self.life.states().values())

    def _lose(self, last: Refusal) -> None:
        if self._restarts == 0:
            raise last
        self._restarts -= 1
        self.shell.say(f'{self.fleet.name} was interrupted: it is started again')

    def _ride_out(self, refusal: Refusal, more: str = '') -> None:
        """Waits for what may pass, at most as long as for slices."""
        if not isinstance(refusal, Passing) or self._waited >= self.life.wait:
            raise type(refusal)(f'{refusal}{more}') from refusal
        self.shell.say(f'{refusal}; tried again in {self._poll:.0f} s')
        self._sleep(self._poll)
        self._waited += self._poll or 1.0

    def _know_the_job(self) -> bool:
        """Whether every host has the code and has run this job before."""
        hosts = self.hosts()
        return len(hosts) >= self._expected and all(host.what != 'none' for host in hosts)

    def _failed(self, host: HostState, words: Sequence[str]) -> int:
        failed = self._stop(words)
        how = f'could not be stopped on {"; ".join(failed)}' if failed else 'are stopped'
        self.shell.say(f'{host.host} ended with status {host.number}; the others {how}')
        for number in range(self.fleet.count):
            for worker in range(self.fleet.kind.hosts):
                try:
                    text = self.log(slice_number=number, worker=worker, lines=20)
                except Refusal as refusal:  # the status of the command counts more
                    text = str(refusal)
                if text.strip():
                    self.shell.say(f'slice {number}, worker {worker}:\n{text.rstrip()}')
                    return host.number
        return host.number

    def _joined_slices(self, number: int) -> list[str]:
        """How several slices of Compute Engine find each other; Cloud TPU and GKE say it."""
        if self.fleet.count == 1 or not isinstance(self.engine, ComputeEngine):
            return []
        return [
            'env',
            f'MEGASCALE_COORDINATOR_ADDRESS={self.engine.address(self.fleet.nodes[0])}',
            f'MEGASCALE_NUM_SLICES={self.fleet.count}',
            f'MEGASCALE_SLICE_ID={number}',
        ]

    def _line(self, what: str, *words: str) -> str:
        """A line of sh for a host; the words reach `worker.sh` as they are."""
        line = f'cd "$HOME/seqzoo" 2>/dev/null; sh {_WORKER} {what} {self.name}'
        return f'{line} {shlex.join(words)}'.rstrip()


def seqzoo_command(words: Sequence[str]) -> list[str]:
    """The words of `seqzoo WORDS` in the environment that `setup.sh` makes."""
    return ['.venv/bin/python', '-m', 'seqzoo', *words]


def check_run_folder(words: Sequence[str], *, spot: bool, hosts: int) -> None:
    """Refuses a training whose run would be lost with the slice, or is not the same for all hosts.

    Raises:
        Refusal: the run folder is not in a bucket, and would have to be.
    """
    if not words or words[0] != 'train':
        return
    folder = ''
    for word, following in zip(words, [*words[1:], ''], strict=True):
        if word == '--run' or word.startswith('--run='):
            folder = word.partition('=')[2] or following
    if not folder:
        raise Refusal('seqzoo train needs --run gs://BUCKET/RUN')
    if not folder.startswith('gs://') and (spot or hosts > 1):
        why = 'a spot slice takes its disk along' if spot else 'every host has a disk of its own'
        raise Refusal(f'--run {folder}: {why}; give a run folder in a bucket, gs://BUCKET/RUN')


def pack(root: Path, archive: Path) -> None:
    """The tracked files of a checkout, as they are now, in a tar."""
    listed = subprocess.run(
        ['git', '-C', str(root), 'ls-files', '-z'], capture_output=True, check=False
    )
    if listed.returncode != 0:
        raise Refusal(f'{root} is no git checkout; `push` sends the files that git tracks')
    with tarfile.open(archive, 'w:gz') as tar:
        for name in sorted(filter(None, listed.stdout.decode().split('\0'))):
            if (root / name).is_file():
                tar.add(root / name, arcname=name, recursive=False)


def _parse(out: str) -> list[HostState]:
    """Lines of `worker.sh`, one for each host; what else ssh prints is left out."""
    found: dict[str, HostState] = {}
    for line in out.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in _SAID and words[2].isdigit():
            found[words[0]] = HostState(words[0], words[1], int(words[2]))
    return list(found.values())


def engine_of(fleet_engine: str) -> type[Engine]:
    """The class behind `--engine`."""
    from tpu.tpu_vm import TpuVm

    return {'tpu-vm': TpuVm, 'gce': ComputeEngine}[fleet_engine]
