"""What is asked for, what there is of it, and what every engine can do."""

import abc
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tpu.shell import Answer, NoCapacity, Passing, Refusal, Shell
from tpu.slices import Slice, parse

LABEL = 'seqzoo-fleet'
# Nobody sees a question of ssh; and a slice that is made anew has other keys than the one before.
SSH = ['--quiet', '--strict-host-key-checking=no']
ENGINES = ('tpu-vm', 'gce', 'gke', 'slurm')

_PLACES = r'(?:zone|project|region|location|cluster)s?$'

# What may be over in a while, of servers and of the way to them.
_PASSING = re.compile(
    r'\b(?:429|50[0234])\b|service.{,20}unavailable|\bunavailable:|deadline|timed? ?out|temporar'
    r'|try again|internal error|connection (?:refused|reset|closed|aborted|timed)|broken pipe'
    r'|name resolution|unreachable|unable to connect|backend error'
)

# A phrase of gcloud's complaint, and what it means; the first one that fits counts.
_REASONS = (
    (
        ('per minute', 'rate limit', 'rate_limit', 'too many requests'),
        'Google was asked too often: give the same command again in a minute',
    ),
    (
        ('quota',),
        'no quota for {what} in {zone}: ask for quota, or take another --zone, --slice or --spot',
    ),
    (
        ('no more capacity', 'stockout', 'resource_exhausted', 'does not have enough resources'),
        '{zone} has no {what} to give now: wait in the queue with --queued, or take another --zone',
    ),
    (
        ('permission_denied', 'permission denied', 'required permission', 'forbidden'),
        'this account may not do that in project {project}: see `gcloud auth list`',
    ),
    (
        ('reauthentication', 'gcloud auth login', 'not currently have an active account'),
        'gcloud knows no account: run `gcloud auth login`',
    ),
    (
        ('not available in zone', 'unavailable in zone', 'does not exist in zone'),
        '{zone} has no {what}: take another --zone',
    ),
)


def resource_name(name: str) -> str:
    """A name that Google takes, of any text; other texts have other names."""
    plain = re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')
    if plain == name and plain[:1].isalpha() and len(plain) <= 40:
        return plain
    mark = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f'{("r-" + plain if not plain[:1].isalpha() else plain)[:33].rstrip("-")}-{mark}'


@dataclass(frozen=True)
class Fleet:
    """Slices for one job.

    Attributes:
        name: as the user says it.
        slice: of which kind.
        count: how many slices.
        engine: who makes them: `'tpu-vm'`, `'gce'`, `'gke'` or `'slurm'`.
        zone, project: where.
        spot: whether Google may take them away.
        queued: whether to wait in Cloud TPU's queue.
        runtime: software version of a TPU VM, or family of images of Compute Engine.
        service_account: as whom the machines act; empty is the project's default.
        cluster, image: of GKE: where, and the container.
        jobs: of SLURM: the numbers of what was handed in.
    """

    name: str
    slice: str
    zone: str = ''
    project: str = ''
    engine: str = 'tpu-vm'
    count: int = 1
    spot: bool = False
    queued: bool = False
    runtime: str = ''
    service_account: str = ''
    cluster: str = ''
    image: str = ''
    jobs: str = ''

    @property
    def kind(self) -> Slice:
        """What its slices are."""
        return parse(self.slice)

    @property
    def resource(self) -> str:
        """Its name for Google."""
        return resource_name(self.name)

    @property
    def nodes(self) -> list[str]:
        """The names of its slices."""
        if self.count == 1:
            return [self.resource]
        return [f'{self.resource}-{number}' for number in range(self.count)]

    @property
    def place(self) -> list[str]:
        """The options of gcloud that say where."""
        return [f'--zone={self.zone}', *self.own_project]

    @property
    def own_project(self) -> list[str]:
        """The option of gcloud that says whose."""
        return [f'--project={self.project}'] if self.project else []

    def refusal(self, answer: Answer, what: str) -> Refusal:
        """What a failure of gcloud means, in a sentence."""
        text = f'{answer.err} {answer.out}'.lower()
        for phrases, meaning in _REASONS:
            if any(phrase in text for phrase in phrases):
                said = meaning.format(
                    what=self.slice, zone=self.zone, project=self.project or 'of gcloud'
                )
                kind = NoCapacity if 'to give now' in meaning else Refusal
                kind = Passing if 'too often' in meaning else kind
                return kind(f'{what}: {said} ({answer.said})')
        kind = Passing if _PASSING.search(text) else Refusal
        return kind(f'{what} failed with status {answer.status}: {answer.said}')


Kind = Literal['missing', 'coming', 'ready', 'lost', 'failed']


@dataclass(frozen=True)
class State:
    """What there is of a slice.

    Attributes:
        kind: `'coming'` while it is made or repaired, `'lost'` when Google took it away.
        word: what Google calls it.
        ours: whether this tool made it, by its label; True where there is nothing.
        why: more, if anybody said.
    """

    kind: Kind
    word: str
    ours: bool = True
    why: str = ''


class Google:
    """What gcloud says of a fleet, understood."""

    def __init__(self, fleet: Fleet, shell: Shell) -> None:
        self.fleet, self.shell = fleet, shell

    def describe(self, words: Sequence[str]) -> Mapping[str, Any] | None:
        """What gcloud says about something, or None if there is no such thing."""
        found = self._answered(words, words[words.index('describe') + 1])
        if found is not None and not isinstance(found, dict):
            raise self._no_sense(words, found)
        return found

    def listed(self, words: Sequence[str], name: str) -> list[Mapping[str, Any]]:
        """What gcloud lists of something; nothing if there is no such thing."""
        found = self._answered(words, name)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise self._no_sense(words, found)
        return found

    def _answered(self, words: Sequence[str], name: str) -> Any:
        answer = self.shell.ask([*words, '--format=json'])
        if self.shell.dry_run:
            return None
        if answer.status != 0:
            if is_missing(answer, name):
                return None
            raise self.fleet.refusal(answer, ' '.join(words[1:6]))
        try:
            found = json.loads(answer.out)
        except ValueError as error:
            raise self._no_sense(words, answer.said) from error
        # An empty answer is no proof that there is nothing.
        if found is None:
            raise self._no_sense(words, 'null')
        return found

    def _no_sense(self, words: Sequence[str], found: Any) -> Passing:
        return Passing(
            f'{" ".join(words[:6])} answered what makes no sense ({str(found)[:80]!r}); is gcloud '
            'current? Give the same command again'
        )

    def made(self, answer: Answer, what: str) -> None:
        """Raises what a failed creation means."""
        if answer.status != 0:
            if is_there(answer):
                raise AlreadyThere(what)
            raise self.fleet.refusal(answer, what)

    def gone(self, answer: Answer, what: str, name: str) -> None:
        """Raises what a failed deletion means; what is not there is gone."""
        if answer.status != 0 and not is_missing(answer, name):
            raise self.fleet.refusal(answer, what)


class Engine(Google, abc.ABC):
    """Who makes slices. `state` and `run` speak of one slice, the others of all."""

    @abc.abstractmethod
    def state(self, node: str) -> State:
        """What there is of a slice."""

    @abc.abstractmethod
    def create(self, nodes: Sequence[str]) -> None:
        """Asks for slices of which there is nothing.

        Raises:
            Refusal: Google said no.
            AlreadyThere: somebody was faster.
        """

    @abc.abstractmethod
    def delete(self, node: str) -> None:
        """Gives a slice back; nothing if there is none."""

    @abc.abstractmethod
    def run(
        self, node: str, command: str, worker: int | None = None, *, quiet: bool = False
    ) -> Answer:
        """Runs a line of sh on one host of a slice, or on all at once; `quiet` does not say so."""

    @abc.abstractmethod
    def copy(self, node: str, file: Path, name: str) -> Answer:
        """Puts a file into the home folder of all hosts of a slice."""


class AlreadyThere(Exception):
    """Something of that name exists."""


def is_missing(answer: Answer, name: str) -> bool:
    """Whether gcloud says that there is nothing of this name.

    A zone, a project or a cluster that is not found says nothing of what may run elsewhere.
    """
    quoted = '[\'"]?'
    # A word before the name, as in `Resource r`, or the path to it, as in `zones/z/nodes/r`.
    thing = rf'(?:([\w-]+)\s+)?{quoted}(?:[^\s\'"]*?([\w-]+)/)?(?<![\w.-]){re.escape(name)}{quoted}'
    text = f'{answer.err} {answer.out}'.lower()
    found = [
        *re.findall(rf'{thing} (?:was |is )?not found', text),
        *re.findall(rf'not[ _]found:\s*{thing}\.?(?:\s|$)', text),
    ]
    return bool(found) and not any(re.match(_PLACES, kind) for pair in found for kind in pair)


def part(found: Any, *keys: str) -> Mapping[str, Any]:
    """What lies in an answer under these keys; empty where it is not as it should be."""
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def is_there(answer: Answer) -> bool:
    """Whether gcloud says that there is such a thing already."""
    text = f'{answer.err} {answer.out}'.lower()
    return 'already_exists' in text or 'already exists' in text


# What was asked for is kept, so that later commands need only the name.


def records() -> Path:
    """The folder of what was asked for: `SEQZOO_TPU_RECORDS`, or in the user's state folder."""
    if stated := os.environ.get('SEQZOO_TPU_RECORDS'):
        return Path(stated)
    home = os.environ.get('XDG_STATE_HOME') or Path.home() / '.local' / 'state'
    return Path(home) / 'seqzoo' / 'tpu'


def remember(fleet: Fleet) -> None:
    """Keeps what was asked for; no credential is among it."""
    file = records() / f'{fleet.resource}.json'
    partial = file.with_suffix('.part')
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(asdict(fleet), indent=2) + '\n', encoding='utf-8')
        partial.replace(file)
    except OSError as error:
        raise Refusal(
            f'{file} cannot be written ({error.strerror or error}): name another folder with '
            'SEQZOO_TPU_RECORDS, and give the same command again'
        ) from error


def forget(fleet: Fleet) -> None:
    """Drops what was kept."""
    (records() / f'{fleet.resource}.json').unlink(missing_ok=True)


def recall(name: str) -> dict[str, Any]:
    """What was kept under a name; empty if nothing."""
    file = records() / f'{resource_name(name)}.json'
    try:
        found = json.loads(file.read_text(encoding='utf-8'))
        _check_record(Fleet(**found))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Refusal(
            f'{file} cannot be read ({error.strerror or error}): name another folder with '
            'SEQZOO_TPU_RECORDS'
        ) from error
    except (ValueError, TypeError, Refusal) as error:
        raise Refusal(f'{file} is damaged ({error}); delete it and give all options') from error
    return found


def _check_record(fleet: Fleet) -> None:
    for field in fields(Fleet):
        if type(value := getattr(fleet, field.name)) is not field.type:
            raise TypeError(f'{field.name} is {value!r}')
    if fleet.engine not in ENGINES or fleet.count < 1:
        raise ValueError(f'engine is {fleet.engine!r}, count is {fleet.count}')
    parse(fleet.slice)
