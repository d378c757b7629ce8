"""Slices from the Cloud TPU API: at once, or through its queue. It does not serve 7x and later."""

from collections.abc import Sequence
from pathlib import Path

from tpu.fleet import LABEL, SSH, Engine, State, is_missing, part
from tpu.shell import Answer

_VM = ['gcloud', 'compute', 'tpus', 'tpu-vm']
_QUEUE = ['gcloud', 'compute', 'tpus', 'queued-resources']

_KINDS = {
    'READY': 'ready',
    **dict.fromkeys(
        ('CREATING', 'STARTING', 'RESTARTING', 'REIMAGING', 'REPAIRING', 'DELETING'), 'coming'
    ),
    **dict.fromkeys(('PREEMPTED', 'TERMINATED', 'STOPPED', 'STOPPING', 'HIDDEN', 'HIDING'), 'lost'),
}
_IN_QUEUE = {
    'ACTIVE': 'coming',  # the node itself shows that it is there
    **dict.fromkeys(('ACCEPTED', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'CREATING'), 'coming'),
    **dict.fromkeys(('SUSPENDED', 'SUSPENDING'), 'lost'),
    'FAILED': 'failed',
    'DELETING': 'coming',
}


class TpuVm(Engine):
    """TPU VMs by `gcloud compute tpus`."""

    def state(self, node: str) -> State:
        found = self.describe([*_VM, 'describe', node, *self.fleet.place])
        if found is None and self.fleet.queued and not self.shell.dry_run:
            return self._in_queue()
        if found is None:
            return State('missing', 'MISSING')
        word = str(found.get('state', 'UNKNOWN'))
        ours = part(found, 'labels').get(LABEL) == self.fleet.resource
        why = str(found.get('healthDescription') or '')
        return State(_KINDS.get(word, 'coming'), word, ours, why)  # type: ignore[arg-type]

    def _in_queue(self) -> State:
        found = self.describe([*_QUEUE, 'describe', self.fleet.resource, *self.fleet.place])
        if found is None:
            return State('missing', 'MISSING')
        about = found.get('state')
        word = str(part(found, 'state').get('state') or about or 'UNKNOWN')
        why = part(about, 'failedData', 'error').get('message') or part(about).get('failedData')
        why = why if isinstance(why, str) else ''
        nodes = part(found, 'tpu').get('nodeSpec')
        labels = [
            part(spec, 'node', 'labels') for spec in (nodes if isinstance(nodes, list) else ())
        ]
        ours = all(own.get(LABEL) == self.fleet.resource for own in labels) and bool(labels)
        return State(_IN_QUEUE.get(word, 'coming'), word, ours, why)  # type: ignore[arg-type]

    def create(self, nodes: Sequence[str]) -> None:
        fleet, kind = self.fleet, self.fleet.kind
        common = [
            *fleet.place,
            *(
                [f'--accelerator-type={kind.accelerator_type}']
                if kind.usual
                else [f'--type={kind.facts.api}', f'--topology={kind.shape}']
            ),
            f'--labels={LABEL}={fleet.resource}',
            *(['--spot'] if fleet.spot else []),
        ]
        if fleet.service_account:
            common.append(f'--service-account={fleet.service_account}')
        runtime = fleet.runtime or kind.facts.runtime
        if not fleet.queued:
            for node in nodes:
                words = [*_VM, 'create', node, *common, f'--version={runtime}']
                self.made(self.shell.do(words), f'creating {node}')
            return
        which = [f'--node-id={fleet.resource}']
        if fleet.count > 1:
            which = [f'--node-count={fleet.count}', f'--node-prefix={fleet.resource}']
        words = [*_QUEUE, 'create', fleet.resource, *which, *common, f'--runtime-version={runtime}']
        self.made(self.shell.do(words), f'queueing {fleet.resource}')

    def delete(self, node: str) -> None:
        quiet = [*self.fleet.place, '--quiet']
        if self.fleet.queued:  # which takes its nodes along
            words = [*_QUEUE, 'delete', self.fleet.resource, *quiet, '--force']
            answer = self.shell.do(words)
            self.gone(answer, f'deleting {self.fleet.resource}', self.fleet.resource)
            if answer.status == 0 or not is_missing(answer, self.fleet.resource):
                return
        self.gone(self.shell.do([*_VM, 'delete', node, *quiet]), f'deleting {node}', node)

    def run(
        self, node: str, command: str, worker: int | None = None, *, quiet: bool = False
    ) -> Answer:
        which = 'all' if worker is None else str(worker)
        words = [*_VM, 'ssh', node, *self.fleet.place, *SSH, f'--worker={which}']
        words.append(f'--command={command}')
        return (self.shell.ask if quiet else self.shell.do)(words)

    def copy(self, node: str, file: Path, name: str) -> Answer:
        words = [*_VM, 'scp', str(file), f'{node}:{name}', *self.fleet.place, *SSH, '--worker=all']
        return self.shell.do(words)
