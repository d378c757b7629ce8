"""The same job where there is a scheduler: GKE with JobSet or XPK, and SLURM.

They restart, queue and place by themselves; here is only what they are told.
"""

import json
import shlex
import string
from collections.abc import Sequence
from pathlib import Path

from tpu.fleet import LABEL, Fleet, State, is_missing, is_there
from tpu.job import ROOT, seqzoo_command
from tpu.shell import Answer, Refusal, Shell

_HERE = Path(__file__).resolve().parent
KINDS = ('jobset', 'xpk', 'slurm')


def manifest(fleet: Fleet, kind: str, words: Sequence[str]) -> str:
    """The job as a scheduler takes it.

    Args:
        fleet: name, kind and number of slices, container.
        kind: `'jobset'` (YAML), `'xpk'` (a command line) or `'slurm'` (a batch script).
        words: of `seqzoo WORDS`.
    """
    command = seqzoo_command(words)
    if kind == 'slurm':
        hosts = fleet.kind.hosts * fleet.count
        fields = {'name': fleet.resource, 'hosts': hosts, 'command': shlex.join(command)}
        return _filled('job.slurm', fields)
    _needs_gke(fleet)
    if kind == 'xpk':
        return _xpk(fleet, command)
    spot = '\n                cloud.google.com/gke-spot: "true"' if fleet.spot else ''
    return _filled(
        'jobset.yaml',
        {
            'name': fleet.resource,
            'slices': fleet.count,
            'hosts': fleet.kind.hosts,
            'topology': fleet.kind.shape,
            'accelerator': fleet.kind.facts.gke,
            'spot': spot,
            'image': json.dumps(fleet.image),  # YAML reads strings of JSON
            'command': json.dumps(command),
            'chips': fleet.kind.chips // fleet.kind.hosts,
        },
    )


def _xpk(fleet: Fleet, command: Sequence[str]) -> str:
    kind = fleet.kind
    named = kind.accelerator_type if kind.facts.api else f'tpu7x-{kind.chips}'
    words = ['xpk', 'workload', 'create', f'--workload={fleet.resource}']
    words += [f'--cluster={fleet.cluster or "CLUSTER"}', f'--zone={fleet.zone}', *fleet.own_project]
    words += [f'--tpu-type={named}', f'--num-slices={fleet.count}']
    words += [f'--docker-image={fleet.image}', '--max-restarts=100']
    return shlex.join([*words, f'--command={shlex.join(command)}']) + '\n'


def _filled(name: str, fields: dict[str, object]) -> str:
    return string.Template((_HERE / name).read_text(encoding='utf-8')).substitute(fields)


def _needs_gke(fleet: Fleet) -> None:
    if not fleet.kind.facts.gke:
        raise Refusal(f'GKE has no TPU {fleet.kind.generation}; take --engine tpu-vm')
    if not fleet.image:
        raise Refusal('a container is needed: --image REGION-docker.pkg.dev/PROJECT/REPO/seqzoo')


class Gke:
    """Node pools and a JobSet; GKE makes lost nodes anew, and JobSet starts the job again."""

    def __init__(self, fleet: Fleet, shell: Shell) -> None:
        self.fleet, self.shell = fleet, shell

    def create(self) -> None:
        """One node pool for each slice."""
        fleet, kind = self.fleet, self.fleet.kind
        _needs_gke(fleet)
        for node in fleet.nodes:
            if (state := self.state(node)).kind != 'missing':
                if not state.ours:
                    raise Refusal(f'node pool {node} is there, and was not made by this tool')
                self.shell.say(f'{node} is there already')
                continue
            words = [*self._pools('create', node), f'--machine-type={kind.machine_type}']
            words += [f'--num-nodes={kind.hosts}', f'--node-labels={LABEL}={fleet.resource}']
            words += [f'--tpu-topology={kind.shape}'] if kind.hosts > 1 else []
            words += ['--spot'] if fleet.spot else []
            answer = self.shell.do(words)
            if answer.status != 0 and not is_there(answer):
                raise fleet.refusal(answer, f'creating node pool {node}')

    def state(self, node: str) -> State:
        """What there is of a node pool."""
        answer = self.shell.ask([*self._pools('describe', node), '--format=json'])
        if self.shell.dry_run or (answer.status != 0 and is_missing(answer)):
            return State('missing', 'MISSING')
        if answer.status != 0:
            raise self.fleet.refusal(answer, f'looking at node pool {node}')
        found = json.loads(answer.out)
        labels = (found.get('config') or {}).get('labels') or {}
        word = str(found.get('status', 'UNKNOWN'))
        kind = {'RUNNING': 'ready', 'ERROR': 'failed'}.get(word, 'coming')
        ours = labels.get(LABEL) == self.fleet.resource
        return State(kind, word, ours, str(found.get('statusMessage', '')))  # type: ignore[arg-type]

    def push(self) -> None:
        """Builds the container from the files of this checkout."""
        _needs_gke(self.fleet)
        words = ['gcloud', 'builds', 'submit', str(ROOT), *self.fleet.own_project]
        config = {
            'steps': [
                {
                    'name': 'gcr.io/cloud-builders/docker',
                    'args': ['build', '-f', 'tpu/Dockerfile', '-t', self.fleet.image, '.'],
                }
            ],
            'images': [self.fleet.image],
        }
        if self.shell.dry_run:
            words[3] = '.'
        self._done(
            self.shell.do([*words, '--config=/dev/stdin'], stdin=json.dumps(config)), 'building'
        )

    def launch(self, words: Sequence[str]) -> int:
        """Hands the JobSet in; the same one twice changes nothing."""
        text = manifest(self.fleet, 'jobset', words)
        self._done(self.shell.do(['kubectl', 'apply', '-f', '-'], stdin=text), 'handing in the job')
        return 0

    def status(self) -> str:
        """What Kubernetes says of the job and its pods."""
        chosen = f'-l=jobset.sigs.k8s.io/jobset-name={self.fleet.resource}'
        job = self.shell.ask(['kubectl', 'get', 'jobset', self.fleet.resource])
        pods = self.shell.ask(['kubectl', 'get', 'pods', chosen, '-o=wide'])
        return f'{job.out}{job.err}{pods.out}'

    def log(self, lines: int) -> str:
        """The end of what every host printed."""
        chosen = f'-l=jobset.sigs.k8s.io/jobset-name={self.fleet.resource}'
        words = ['kubectl', 'logs', chosen, f'--tail={lines}', '--prefix', '--max-log-requests=100']
        return self._done(self.shell.ask(words), 'reading the logs').out

    def delete(self, *, yes: bool = False) -> None:
        """The JobSet and the node pools; asks before a pool that this tool did not make."""
        states = {node: self.state(node) for node in self.fleet.nodes}
        for node, state in states.items():
            foreign = f'node pool {node} was not made by this tool; delete it all the same?'
            if not state.ours and not yes and not self.shell.confirm(foreign):
                raise Refusal(f'{node} stays, and nothing was deleted')
        words = ['kubectl', 'delete', 'jobset', self.fleet.resource, '--ignore-not-found']
        self._done(self.shell.do(words), 'deleting the job')
        for node, state in states.items():
            if state.kind != 'missing' or self.shell.dry_run:
                answer = self.shell.do([*self._pools('delete', node), '--quiet'])
                if not is_missing(answer):
                    self._done(answer, f'deleting node pool {node}')

    def _pools(self, what: str, node: str) -> list[str]:
        if not self.fleet.cluster:
            raise Refusal('GKE needs the name of a cluster: --cluster NAME')
        words = ['gcloud', 'container', 'node-pools', what, node]
        place = f'--location={self.fleet.zone}'
        return [*words, f'--cluster={self.fleet.cluster}', place, *self.fleet.own_project]

    def _done(self, answer: Answer, what: str) -> Answer:
        if answer.status != 0:
            raise self.fleet.refusal(answer, what)
        return answer


class Slurm:
    """A batch job on machines that a cluster has; there is nothing to make or to give back."""

    def __init__(self, fleet: Fleet, shell: Shell) -> None:
        self.fleet, self.shell = fleet, shell

    def launch(self, words: Sequence[str]) -> int:
        """Hands the script in, unless a job of this name waits or runs."""
        there = self._done(self.shell.ask(self._mine()), 'squeue').out.strip()
        if there:
            self.shell.say(f'{self.fleet.resource} is in the queue already: {there}')
            return 0
        script = manifest(self.fleet, 'slurm', words)
        answer = self._done(self.shell.do(['sbatch', '--parsable'], stdin=script), 'sbatch')
        self.shell.say(f'job {answer.out.strip() or "ID"}')
        return 0

    def status(self) -> str:
        """What the queue says."""
        return self._done(self.shell.ask(self._mine()), 'squeue').out

    def delete(self) -> None:
        """Takes the job out of the queue; SLURM lets only its owner."""
        self._done(self.shell.do(['scancel', f'--name={self.fleet.resource}', '--me']), 'scancel')

    def _mine(self) -> list[str]:
        return ['squeue', '--me', '--noheader', f'--name={self.fleet.resource}']

    def _done(self, answer: Answer, what: str) -> Answer:
        if answer.status != 0:
            raise Refusal(f'{what} failed with status {answer.status}: {answer.said}')
        return answer
