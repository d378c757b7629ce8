"""Slices from Compute Engine: a managed group of machines that a workload policy wires together.

The way for TPU 7x and what follows it, which the Cloud TPU API does not serve; v5p and v6e can be
had here too.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tpu.fleet import LABEL, SSH, Engine, State, is_there, part
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
        errors = [str(e.get('message', '')) for machine in listed for e in _errors(machine)]
        why = '; '.join(errors[:1]) or f'{running} of {self.fleet.kind.hosts} hosts run'
        return State('coming', words[0] if words else 'CREATING', ours, why)

    def create(self, nodes: Sequence[str]) -> None:
        fleet, kind = self.fleet, self.fleet.kind
        for node in nodes:
            self._make_part(self._template(node), node, 'template')
            policy = []
            if kind.hosts > 1:
                words = [*_COMPUTE, 'resource-policies', 'create', 'workload-policy', node]
                words += [f'--region={self.region}', *fleet.own_project, '--type=HIGH_THROUGHPUT']
                words.append(f'--accelerator-topology={kind.shape}')
                words.append(f'--description={self._mark}')
                self._make_part(words, node, 'workload policy')
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
        self.gone(self.shell.do([*_GROUPS, 'delete', node, *place]), f'deleting {node}', node)
        for kind in ('template', 'workload policy')[: 1 + (self.fleet.kind.hosts > 1)]:
            ours = self._owned(node, kind)
            if ours is False:
                self.shell.say(f'{kind} {node} was not made by this tool: it stays')
            elif ours or self.shell.dry_run:
                answer = self.shell.do([*self._part(node, kind, 'delete'), '--quiet'])
                self.gone(answer, f'deleting {kind} {node}', node)

    def _part(self, node: str, kind: str, what: str) -> list[str]:
        if kind == 'template':
            return [*_COMPUTE, 'instance-templates', what, node, *self.fleet.own_project]
        words = [*_COMPUTE, 'resource-policies', what, node, f'--region={self.region}']
        return [*words, *self.fleet.own_project]

    def _owned(self, node: str, kind: str) -> bool | None:
        """Whether a part is of this tool, by its label or description; None if there is none."""
        found = self.describe(self._part(node, kind, 'describe'))
        if found is None:
            return None
        if kind == 'template':
            return part(found, 'properties', 'labels').get(LABEL) == self.fleet.resource
        return found.get('description') == self._mark

    def run(
        self, node: str, command: str, worker: int | None = None, *, quiet: bool = False
    ) -> Answer:
        names = self._names(node)
        chosen = names if worker is None else names[worker : worker + 1]
        if not names:
            return Answer(255, '', f'{node} has no hosts')
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
        if self.shell.dry_run:
            return f'ADDRESS-OF-{node}'
        first = [*self._names(node), ''][0]
        words = [*_COMPUTE, 'instances', 'describe', first, *self.fleet.place]
        found = self.describe(words) if first else None
        cards = part(found).get('networkInterfaces')
        card = cards[0] if isinstance(cards, list) and cards else None
        if not (address := part(card).get('networkIP')):
            raise Refusal(
                f'Compute Engine shows no address of the first host of {node}, by which the slices '
                'find each other: see `status`, and give the same command again'
            )
        return str(address)

    @property
    def _mark(self) -> str:
        return f'{LABEL}={self.fleet.resource}'

    def _policy(self, node: str) -> str:
        owner = f'projects/{self.fleet.project}/' if self.fleet.project else ''
        return f'{owner}regions/{self.region}/resourcePolicies/{node}'

    def _make_part(self, words: Sequence[str], node: str, kind: str) -> None:
        """Makes a part; one of ours that an interrupted start left will do."""
        answer = self.shell.do(words)
        if answer.status != 0:
            if not is_there(answer):
                raise self.fleet.refusal(answer, f'creating {kind} {node}')
            if not self._owned(node, kind):
                raise Refusal(
                    f'{kind} {node} is there already, and was not made by this tool; take another '
                    'name'
                )

    def _machines(self, node: str) -> list[Mapping[str, Any]]:
        return self.listed([*_GROUPS, 'list-instances', node, *self.fleet.place], node)

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
        return sorted(str(m.get('instance', '')).rpartition('/')[2] for m in self._machines(node))


def _errors(machine: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = part(machine, 'lastAttempt', 'errors').get('errors')
    return [e for e in found if isinstance(e, dict)] if isinstance(found, list) else []
