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
from tpu.shell import Refusal

ROOT = Path(__file__).resolve().parent.parent
PREEMPTED, KILLED = 75, 137
ARCHIVE = 'seqzoo-code.tgz'
# Looks in a row in which hosts of a slice that is there do not answer.
_PATIENCE = 3
_WORKER = '"$HOME/seqzoo/tpu/worker.sh"'


@dataclass(frozen=True)
class HostState:
    """What `worker.sh status` says of a host: `'running'`, `'ended'` or `'none'`, and a number."""

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
            raise Refusal(
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
            if len(found) < self.fleet.kind.hosts:
                self.stop()
                raise Refusal(
                    f'the job started on {len(found)} of {self.fleet.kind.hosts} hosts of {node} '
                    f'({answer.said}) and was stopped again: the hosts that run would wait for '
                    'the others without end; `push` first, then give the same command again'
                )

    def stop(self) -> None:
        """Asks the command to save and end, on all hosts."""
        for node in self.fleet.nodes:
            self.engine.run(node, self._line('stop'))

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
        self._make_ready()
        self.start(words)
        if detach or self.shell.dry_run:
            return 0
        silent = 0
        for _ in iter(int, 1):  # until something below returns or refuses
            hosts = self.hosts()
            expected = self.fleet.kind.hosts * self.fleet.count
            ended = [host for host in hosts if host.what == 'ended']
            failed = [host for host in ended if host.number not in (0, PREEMPTED, KILLED)]
            if failed:
                return self._failed(failed[0])
            if len(ended) >= expected and all(host.number == 0 for host in ended):
                self.shell.say(f'{self.fleet.name}: done')
                return 0
            lost = any(s.kind in ('lost', 'missing', 'failed') for s in self.life.states().values())
            silent = silent + 1 if len(hosts) < expected else 0
            idle = any(host.what == 'none' or host.number == KILLED for host in hosts)
            preempted = any(host.number == PREEMPTED for host in ended)
            if lost or idle or (preempted and len(ended) >= expected):
                if restarts == 0:
                    raise Refusal(f'{self.fleet.name} was lost too often; look at its logs')
                restarts, silent = restarts - 1, 0
                self.shell.say(f'{self.fleet.name} was interrupted: it is started again')
                self._make_ready(push=lost or idle)
                self.start(words)
            elif silent >= _PATIENCE:
                raise Refusal(
                    f'{len(hosts)} of {expected} hosts of {self.fleet.name} answer, though Google '
                    'shows the slice as whole: `delete` and `launch` it again, the run goes on '
                    'from its newest checkpoint'
                )
            self._sleep(self._poll)
        raise AssertionError

    def _make_ready(self, *, push: bool = False) -> None:
        states = self.life.states()
        whole = all(state.kind == 'ready' for state in states.values())
        if not whole or self.shell.dry_run:
            self.life.create()
        if self.shell.dry_run or not whole or push or not self._know_the_job():
            self.push()

    def _know_the_job(self) -> bool:
        """Whether every host has the code and has run this job before."""
        hosts = self.hosts()
        expected = self.fleet.kind.hosts * self.fleet.count
        return len(hosts) >= expected and all(host.what != 'none' for host in hosts)

    def _failed(self, host: HostState) -> int:
        self.stop()
        self.shell.say(f'{host.host} ended with status {host.number}; the others are stopped')
        for number in range(self.fleet.count):
            for worker in range(self.fleet.kind.hosts):
                text = self.log(slice_number=number, worker=worker, lines=20)
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
        if len(words) == 3 and words[1] in ('running', 'ended', 'none') and words[2].isdigit():
            found[words[0]] = HostState(words[0], words[1], int(words[2]))
    return list(found.values())


def engine_of(fleet_engine: str) -> type[Engine]:
    """The class behind `--engine`."""
    from tpu.tpu_vm import TpuVm

    return {'tpu-vm': TpuVm, 'gce': ComputeEngine}[fleet_engine]
