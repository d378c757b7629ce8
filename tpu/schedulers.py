"""The same job where there is a scheduler: GKE with JobSet or XPK, and SLURM.

They restart, queue and place by themselves; here is only what they are told.
"""

import json
import re
import shlex
import string
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tpu.fleet import LABEL, Fleet, Google, State, is_missing, is_there, part, remember
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
            'name': _yaml(fleet.resource),
            'slices': fleet.count,
            'hosts': fleet.kind.hosts,
            'topology': fleet.kind.shape,
            'accelerator': fleet.kind.facts.gke,
            'spot': spot,
            'image': _yaml(fleet.image),
            # Kubernetes would put variables in for $(NAME), and reads `$$` as `$`.
            'command': _yaml([word.replace('$', '$$') for word in command]),
            'chips': fleet.kind.chips // fleet.kind.hosts,
        },
    )


def _xpk(fleet: Fleet, command: Sequence[str]) -> str:
    kind = fleet.kind
    if kind.facts.api and not kind.usual:
        raise Refusal(f'xpk has no name for {kind}: its {kind.accelerator_type} has another shape')
    named = kind.accelerator_type if kind.facts.api else f'tpu7x-{kind.chips}'
    words = ['xpk', 'workload', 'create', f'--workload={fleet.resource}']
    words += [f'--cluster={fleet.cluster or "CLUSTER"}', f'--zone={fleet.zone}', *fleet.own_project]
    words += [f'--tpu-type={named}', f'--num-slices={fleet.count}']
    words += [f'--docker-image={fleet.image}', '--max-restarts=100']
    return shlex.join([*words, f'--command={shlex.join(command)}']) + '\n'


def _yaml(value: object) -> str:
    """YAML reads JSON, but knows no surrogate pairs, and takes some characters only escaped."""
    return re.sub(
        '[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]',
        lambda found: f'\\u{ord(found[0]):04x}',
        json.dumps(value, ensure_ascii=False),
    )


def _filled(name: str, fields: dict[str, object]) -> str:
    return string.Template((_HERE / name).read_text(encoding='utf-8')).substitute(fields)


def _needs_gke(fleet: Fleet) -> None:
    if not fleet.kind.facts.gke:
        raise Refusal(f'GKE has no TPU {fleet.kind.generation}; take --engine tpu-vm')
    if not fleet.image:
        raise Refusal('a container is needed: --image REGION-docker.pkg.dev/PROJECT/REPO/seqzoo')


class Gke(Google):
    """Node pools and a JobSet; GKE makes lost nodes anew, and JobSet starts the job again."""

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
            if not self.shell.dry_run:
                remember(fleet)  # before anything costs money: `delete` must find it
            answer = self.shell.do(words)
            if answer.status != 0 and not (is_there(answer) and self.state(node).ours):
                raise fleet.refusal(answer, f'creating node pool {node}')

    def state(self, node: str) -> State:
        """What there is of a node pool."""
        found = self.describe(self._pools('describe', node))
        if found is None:
            return State('missing', 'MISSING')
        labels = part(found, 'config', 'labels')
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
        text, name = manifest(self.fleet, 'jobset', words), self.fleet.resource
        look = ['kubectl', 'get', 'jobset', name, '--ignore-not-found', '-o=json']
        there = self._done(self.shell.ask(look), 'looking for the job').out.strip()
        if there:
            try:
                labels = part(json.loads(there), 'metadata', 'labels')
            except ValueError as error:
                raise Refusal(f'kubectl did not answer in JSON ({there[:80]!r})') from error
            if labels.get(LABEL) != name:
                raise Refusal(f'JobSet {name} is there, and is not of this tool; take another name')
        if not self.shell.dry_run:
            remember(self.fleet)
        self._done(self.shell.do(['kubectl', 'apply', '-f', '-'], stdin=text), 'handing in the job')
        return 0

    def status(self) -> str:
        """What Kubernetes says of the job and its pods."""
        chosen = f'-l=jobset.sigs.k8s.io/jobset-name={self.fleet.resource}'
        look = ['kubectl', 'get', 'jobset', self.fleet.resource, '--ignore-not-found']
        job = self._done(self.shell.ask(look), 'looking at the job').out
        look = ['kubectl', 'get', 'pods', chosen, '-o=wide']
        pods = self._done(self.shell.ask(look), 'looking at its pods').out
        if not job.strip() and not self.shell.dry_run:
            return f'no JobSet {self.fleet.resource} is there\n'
        return f'{job}{pods}'

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
        words = ['kubectl', 'delete', 'jobset', f'--selector={LABEL}={self.fleet.resource}']
        words.append('--ignore-not-found')
        self._done(self.shell.do(words), 'deleting the job')
        for node, state in states.items():
            if state.kind != 'missing' or self.shell.dry_run:
                answer = self.shell.do([*self._pools('delete', node), '--quiet'])
                if not is_missing(answer, node):
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
        if not self.shell.dry_run:
            remember(self.fleet)
        answer = self._done(self.shell.do(['sbatch', '--parsable'], stdin=script), 'sbatch')
        number = answer.out.strip().partition(';')[0]  # the name of the cluster may follow
        if not self.shell.dry_run:
            remember(replace(self.fleet, jobs=f'{self.fleet.jobs} {number}'.strip()))
        self.shell.say(f'job {number or "ID"}')
        return 0

    def status(self) -> str:
        """What the queue says."""
        return self._done(self.shell.ask(self._mine()), 'squeue').out

    def delete(self, *, yes: bool = False) -> None:
        """Takes what was handed in here out of the queue; asks before other jobs of the name."""
        name, handed_in = self.fleet.resource, self.fleet.jobs.split()
        listed = self._done(self.shell.ask([*self._mine(), '--format=%i']), 'squeue').out.split()
        if self.shell.dry_run:
            listed = handed_in = handed_in or ['ID']
        ours = [job for job in listed if job.partition('_')[0] in handed_in]
        others = [job for job in listed if job not in ours]
        if not listed:
            self.shell.say(f'no job of the name {name} is in the queue')
        elif ours and others:
            self.shell.say(f'{", ".join(others)} of the same name stay: not handed in by this tool')
        elif others and not yes:
            jobs = ', '.join(others)
            question = f'no job {name} was handed in here; cancel {jobs} of that name?'
            if not self.shell.confirm(question):
                raise Refusal(f'{jobs} stay, and nothing was cancelled')
        if listed:
            self._done(self.shell.do(['scancel', *(ours or others)]), 'scancel')

    def _mine(self) -> list[str]:
        return ['squeue', '--me', '--noheader', f'--name={self.fleet.resource}']

    def _done(self, answer: Answer, what: str) -> Answer:
        if answer.status != 0:
            raise Refusal(f'{what} failed with status {answer.status}: {answer.said}')
        return answer
