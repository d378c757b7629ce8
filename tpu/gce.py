"""Slices from Compute Engine: a managed group of machines that a workload policy wires together.

The way for TPU 7x and what follows it, which the Cloud TPU API does not serve; v5p and v6e can be
had here too.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tpu.fleet import LABEL, SSH, Engine, State, is_there
from tpu.shell import Answer, Refusal

_COMPUTE = ['gcloud', 'compute']
_GROUPS = [*_COMPUTE, 'instance-groups', 'managed']
_IMAGES = 'ubuntu-os-accelerator-images'


class ComputeEngine(Engine):
    """One managed instance group for each slice."""

    @property
    def region(self) -> str:
        """Where policies live: the zone without its letter."""
        return self.fleet.zone.rpartition('-')[0]

    def state(self, node: str) -> State:
        group = self.describe([*_GROUPS, 'describe', node, *self.fleet.place])
        if group is None:
            return State('missing', 'MISSING')
        ours = group.get('description') == self._mark
        listed = self._machines(node)
        words = [str(machine.get('instanceStatus', 'UNKNOWN')) for machine in listed]
        broken = [w for w in words if w in ('STOPPING', 'STOPPED', 'TERMINATED', 'SUSPENDED')]
        if broken:
            return State('lost', broken[0], ours)
        running = words.count('RUNNING')
        if running == self.fleet.kind.hosts:
            return State('ready', 'RUNNING', ours)
        errors = [
            str(e.get('message', ''))
            for machine in listed
            for e in ((machine.get('lastAttempt') or {}).get('errors') or {}).get('errors', [])
        ]
        why = '; '.join(errors[:1]) or f'{running} of {self.fleet.kind.hosts} hosts run'
        return State('coming', words[0] if words else 'CREATING', ours, why)

    def create(self, nodes: Sequence[str]) -> None:
        fleet, kind = self.fleet, self.fleet.kind
        for node in nodes:
            self._ignore_existing(self._template(node), f'template {node}')
            policy = []
            if kind.hosts > 1:
                words = [*_COMPUTE, 'resource-policies', 'create', 'workload-policy', node]
                words += [f'--region={self.region}', *fleet.own_project, '--type=HIGH_THROUGHPUT']
                words.append(f'--accelerator-topology={kind.shape}')
                self._ignore_existing(words, f'workload policy {node}')
                policy = [f'--workload-policy={self._policy(node)}']
                policy.append('--target-size-policy-mode=bulk')  # all hosts, or none
            words = [*_GROUPS, 'create', node, *fleet.place, f'--template={node}']
            words += [f'--size={kind.hosts}', f'--description={self._mark}', *policy]
            # A host that is made anew alone would not be wired to the others.
            words.append('--default-action-on-vm-failure=do-nothing')
            self.made(self.shell.do(words), f'creating {node}')

    def _template(self, node: str) -> list[str]:
        fleet, kind = self.fleet, self.fleet.kind
        words = [*_COMPUTE, 'instance-templates', 'create', node, *fleet.own_project]
        words += [f'--machine-type={kind.machine_type}', f'--image-project={_IMAGES}']
        words += [f'--image-family={fleet.runtime or kind.facts.image}', '--boot-disk-size=200GB']
        words += ['--maintenance-policy=TERMINATE', f'--labels={LABEL}={fleet.resource}']
        words += ['--scopes=cloud-platform']
        if fleet.service_account:
            words.append(f'--service-account={fleet.service_account}')
        if fleet.spot:
            words += ['--provisioning-model=SPOT', '--instance-termination-action=STOP']
        return words

    def delete(self, node: str) -> None:
        place = [*self.fleet.place, '--quiet']
        own = [*self.fleet.own_project, '--quiet']
        self.gone(self.shell.do([*_GROUPS, 'delete', node, *place]), f'deleting {node}')
        words = [*_COMPUTE, 'instance-templates', 'delete', node, *own]
        self.gone(self.shell.do(words), f'deleting template {node}')
        if self.fleet.kind.hosts > 1:
            words = [*_COMPUTE, 'resource-policies', 'delete', node, f'--region={self.region}']
            self.gone(self.shell.do([*words, *own]), f'deleting workload policy {node}')

    def run(
        self, node: str, command: str, worker: int | None = None, *, quiet: bool = False
    ) -> Answer:
        names = self._names(node)
        chosen = names if worker is None else names[worker : worker + 1]
        if not chosen:
            raise Refusal(f'{node} has no worker {worker}; it has {len(names)}')
        words = [*_COMPUTE, 'ssh']
        return self._each(
            [[*words, name, *self.fleet.place, *SSH, f'--command={command}'] for name in chosen],
            quiet=quiet,
        )

    def copy(self, node: str, file: Path, name: str) -> Answer:
        words = [*_COMPUTE, 'scp', str(file)]
        return self._each(
            [
                [*words, f'{machine}:{name}', *self.fleet.place, *SSH]
                for machine in self._names(node)
            ]
        )

    def address(self, node: str) -> str:
        """The inner address of a slice's first host, where several slices find each other."""
        words = [*_COMPUTE, 'instances', 'describe', self._names(node)[0], *self.fleet.place]
        found = self.describe(words)
        if found is None:
            return f'ADDRESS-OF-{node}'  # in a dry run
        return str(found['networkInterfaces'][0]['networkIP'])

    @property
    def _mark(self) -> str:
        return f'{LABEL}={self.fleet.resource}'

    def _policy(self, node: str) -> str:
        owner = f'projects/{self.fleet.project}/' if self.fleet.project else ''
        return f'{owner}regions/{self.region}/resourcePolicies/{node}'

    def _ignore_existing(self, words: Sequence[str], what: str) -> None:
        """Makes a part; one that an interrupted start left, under our own name, will do."""
        answer = self.shell.do(words)
        if answer.status != 0 and not is_there(answer):
            raise self.fleet.refusal(answer, f'creating {what}')

    def _machines(self, node: str) -> list[dict]:
        found = self.describe([*_GROUPS, 'list-instances', node, *self.fleet.place])
        return list(found or [])  # type: ignore[arg-type]

    def _each(self, commands: Sequence[Sequence[str]], *, quiet: bool = False) -> Answer:
        """Runs commands for all hosts at once: the worst status, everything that was said."""
        with ThreadPoolExecutor(1 if self.shell.dry_run else 32) as pool:
            answers = list(pool.map(self.shell.ask if quiet else self.shell.do, commands))
        return Answer(
            max((a.status for a in answers), default=0),
            ''.join(a.out for a in answers),
            ''.join(a.err for a in answers),
        )

    def _names(self, node: str) -> list[str]:
        if self.shell.dry_run:
            return [f'{node}-HOST{number}' for number in range(self.fleet.kind.hosts)]
        return sorted(str(m['instance']).rpartition('/')[2] for m in self._machines(node))
