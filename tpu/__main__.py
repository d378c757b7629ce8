"""`python -m tpu`: the command line."""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from tpu import fleet as fleets
from tpu.fleet import ENGINES, Fleet
from tpu.job import Job, check_run_folder, engine_of, seqzoo_command
from tpu.life import Life
from tpu.schedulers import KINDS, Gke, Slurm, manifest
from tpu.shell import Refusal, Shell

_HELP = """\
Cloud TPU slices for seqzoo: one host, many hosts, several slices.

  create NAME --slice v5e-8 --zone Z   make it; on demand, --spot, or --queued until there is one
  push NAME                            bring this checkout to every host and install it
  launch NAME -- train CONFIG --run gs://BUCKET/RUN ...
                                       run a seqzoo command on every host, to its end: what is
                                       preempted is made anew and goes on in the same run folder
  status NAME                          slices and hosts
  logs NAME                            what a host printed
  stop NAME                            save and end the command
  smoke NAME                           ten minutes on the slice: device facts, first figures
  delete NAME                          give it back
  manifest NAME KIND -- train ...      the job as a JobSet (GKE), an xpk command, a SLURM script

Every command may be given again. --dry-run prints the commands of gcloud, kubectl and sbatch that
it would run. Engines (--engine): tpu-vm, the Cloud TPU API, up to v6e; gce, Compute Engine, for
v5p, v6e, 7x and what follows; gke and slurm, for those who have a scheduler.
Exit status: that of the launched command; 2 where something is wrong, and one line says what.
"""
# What tells one fleet from another, and how it is said.
_PLACE = {
    **{name: f'--{name}' for name in ('slice', 'zone', 'project', 'engine', 'queued', 'cluster')},
    'count': '--slices',
}
_NEEDS_SLICE = ('create', 'push', 'launch', 'status', 'logs', 'stop', 'smoke', 'delete')


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """One sentence, like every other failure."""
        raise Refusal(f'{message} (see `python -m tpu --help`)')


def _parser() -> _Parser:
    parser = _Parser(
        'python -m tpu',
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('command', choices=(*_NEEDS_SLICE, 'manifest'), metavar='COMMAND')
    parser.add_argument('name', metavar='NAME')
    parser.add_argument('kind', nargs='?', metavar='KIND', help=f'of manifest: {", ".join(KINDS)}')
    parser.add_argument('--dry-run', action='store_true', help='print the commands, run none')
    parser.add_argument('--yes', action='store_true', help='do not ask')
    what = parser.add_argument_group('the slices (remembered by name after `create`)')
    what.add_argument('--slice', help='v5e-8, v6e-16, v5p:2x2x4, 7x:2x2x1, ...')
    what.add_argument('--slices', dest='count', type=_positive, metavar='N', help='how many')
    what.add_argument('--engine', choices=('auto', *ENGINES), help='(default: what has the chip)')
    what.add_argument('--zone')
    what.add_argument('--project', help="(default: gcloud's)")
    what.add_argument('--spot', action='store_true', default=None)
    what.add_argument('--on-demand', dest='spot', action='store_false')
    what.add_argument('--queued', action='store_true', default=None, help='wait in the queue')
    what.add_argument('--runtime', help='TPU software version, or family of images (gce)')
    what.add_argument('--service-account', help='as whom the hosts reach the bucket')
    what.add_argument('--cluster', help='of GKE')
    what.add_argument('--image', help='container, for GKE')
    how = parser.add_argument_group('how')
    how.add_argument('--wait', type=_seconds, default=3600.0, metavar='S', help='(default: 3600)')
    how.add_argument('--poll', type=_seconds, metavar='S', help='seconds between two looks')
    how.add_argument('--job', default='job', metavar='NAME', help='several jobs on one fleet')
    how.add_argument('--restarts', type=_count, default=50, metavar='N', help='(default: 50)')
    how.add_argument('--detach', action='store_true', help='return when it runs')
    how.add_argument('--worker', type=_count, default=0, metavar='N', help='of logs')
    how.add_argument('--of-slice', type=_count, default=0, metavar='N', help='of logs')
    how.add_argument('--lines', type=_positive, default=50, metavar='N', help='of logs')
    how.add_argument('--output', metavar='F', help='of smoke: gs://BUCKET/F.json')
    how.add_argument(
        '--estimate', type=Path, metavar='F', help='of smoke: what `seqzoo compile --json` printed'
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, command = words, []
    if '--' in words:
        own, command = words[: words.index('--')], words[words.index('--') + 1 :]
    try:
        for word in words:
            if word != word.encode('utf-8', 'replace').decode():  # a name with stray bytes
                raise Refusal(f'{word!a} is not UTF-8; write it in UTF-8')
        return _run(_parser().parse_args(own), command)
    except Refusal as refusal:
        print(f'tpu: {" ".join(str(refusal).split())}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            'tpu: interrupted; what runs goes on, and the same command takes it up', file=sys.stderr
        )
        return 130


def _run(arguments: argparse.Namespace, command: list[str]) -> int:
    fleet, shell = _fleet(arguments), Shell(dry_run=arguments.dry_run)
    if arguments.command in ('launch', 'manifest') and not command:
        raise Refusal(f'what shall run? {arguments.command} {shlex.quote(fleet.name)} -- train ...')
    if arguments.command not in ('launch', 'manifest') and command:
        raise Refusal(f'{arguments.command} runs no command; leave out what follows `--`')
    if arguments.command == 'manifest':
        if arguments.kind not in KINDS:
            raise Refusal(f'manifest of which kind? One of {", ".join(KINDS)}')
        print(manifest(fleet, arguments.kind, command), end='')
        return 0
    if arguments.kind is not None:
        raise Refusal(f'too many words: {arguments.kind!r} (see `python -m tpu --help`)')
    if fleet.engine in ('gke', 'slurm'):
        return _scheduled(arguments, fleet, shell, command)
    return _on_slices(arguments, fleet, shell, command)


def _on_slices(
    arguments: argparse.Namespace, fleet: Fleet, shell: Shell, command: list[str]
) -> int:
    pace: dict[str, Any] = {} if arguments.poll is None else {'poll': arguments.poll}
    life = Life(engine_of(fleet.engine)(fleet, shell), wait=arguments.wait, **pace)
    job = Job(life, arguments.job, **pace)
    hosts = fleet.kind.hosts * fleet.count
    if arguments.command == 'launch':
        check_run_folder(command, spot=fleet.spot, hosts=hosts)
        return job.launch(
            seqzoo_command(command), restarts=arguments.restarts, detach=arguments.detach
        )
    if arguments.command == 'smoke':
        return _smoke(arguments, life, pace)
    simple: dict[str, Callable[[], Any]] = {
        'create': life.create,
        'push': job.push,
        'stop': job.stop,
        'delete': lambda: life.delete(yes=arguments.yes),
        'status': lambda: _status(life, job),
        'logs': lambda: print(_log(arguments, job), end=''),
    }
    simple[arguments.command]()
    return 0


def _smoke(arguments: argparse.Namespace, life: Life, pace: dict[str, Any]) -> int:
    job = Job(life, 'smoke', **pace)
    words = ['.venv/bin/python', '-m', 'tpu.smoke', f'--expect={life.fleet.kind}']
    words.append(f'--slices={life.fleet.count}')
    words += [f'--output={arguments.output}'] if arguments.output else []
    if arguments.estimate:
        words += _estimated(arguments.estimate, life.fleet)
    status = job.launch(words, restarts=0)
    print(job.log(slice_number=0, worker=0, lines=200), end='')
    return status


def _estimated(file: Path, fleet: Fleet) -> list[str]:
    """What `seqzoo compile --json` said of the step, for the same batch on the same slice."""
    try:
        told = json.loads(file.read_text(encoding='utf-8'))
        seconds, config = [*map(str, told['estimate']['step_seconds'])], told['config']
        topology, tokens = told['topology'], told['batch']['tokens']
    except OSError as error:
        raise Refusal(f'{file} cannot be read: {error.strerror or error}') from error
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(f'{file} is not what seqzoo compile --json prints ({error!r})') from error
    if topology != str(fleet.kind) or fleet.count > 1:
        raise Refusal(f'{file} is about {topology}, not about {fleet.count} x {fleet.kind}')
    words = [f'--config={config}', f'--batch.tokens={tokens}']
    return [*words, '--estimated', *seconds]


def _log(arguments: argparse.Namespace, job: Job) -> str:
    if arguments.of_slice >= job.fleet.count or arguments.worker >= job.fleet.kind.hosts:
        raise Refusal(
            f'{job.fleet.name} has {job.fleet.count} slices of {job.fleet.kind.hosts} hosts, '
            'counted from 0'
        )
    return job.log(slice_number=arguments.of_slice, worker=arguments.worker, lines=arguments.lines)


def _status(life: Life, job: Job) -> None:
    states = life.states()
    for node, state in states.items() if not life.shell.dry_run else ():
        why = f'  {state.why}' if state.why else ''
        print(f'{node}  {state.word}{"" if state.ours else "  not made by this tool"}{why}')
    if all(state.kind == 'ready' for state in states.values()) or life.shell.dry_run:
        hosts = job.hosts()
        for host in hosts:
            print(f'{host.host}  {host.what} {host.number}')
        expected = life.fleet.kind.hosts * life.fleet.count
        if len(hosts) < expected and not life.shell.dry_run:
            print(f'{len(hosts)} of {expected} hosts answer')


def _scheduled(
    arguments: argparse.Namespace, fleet: Fleet, shell: Shell, command: list[str]
) -> int:
    what: str = arguments.command
    if what == 'launch':
        check_run_folder(
            command,
            spot=fleet.spot and fleet.engine == 'gke',
            hosts=2 if fleet.engine == 'gke' else 1,  # hosts of a SLURM cluster share a disk
        )
    engine: Any = Gke(fleet, shell) if fleet.engine == 'gke' else Slurm(fleet, shell)
    if what == 'launch':
        return engine.launch(command)
    if not hasattr(engine, {'logs': 'log'}.get(what, what)):
        raise Refusal(f'--engine {fleet.engine} has no {what}; the scheduler itself does that')
    if what in ('status', 'logs'):
        print(engine.status() if what == 'status' else engine.log(arguments.lines), end='')
    elif what == 'delete':
        engine.delete(yes=arguments.yes)
    else:
        getattr(engine, what)()
    if not shell.dry_run:
        (fleets.forget if what == 'delete' else fleets.remember)(fleet)
    return 0


def _fleet(arguments: argparse.Namespace) -> Fleet:
    """What is meant: what was said now, else what was said at `create`."""
    if not arguments.name.strip():
        raise Refusal('NAME is empty')
    if not arguments.job.strip():
        raise Refusal('--job is empty; give the job a name, or leave it out')
    known = fleets.recall(arguments.name)
    said = {
        field.name: value
        for field in fields(Fleet)
        if (value := getattr(arguments, field.name, None)) is not None
    }
    if said.get('engine') == 'auto':
        del said['engine']
    asked = {**known, **said}
    if 'slice' not in asked:
        raise Refusal(
            f'there is no record of {arguments.name!r} here: say what it is, --slice v5e-8 --zone Z'
        )
    fleet = Fleet(**asked)
    kind = fleet.kind  # refuses what does not exist
    if 'engine' not in asked:
        fleet = Fleet(**asked, engine='tpu-vm' if kind.facts.api else 'gce')
    _check(fleet)
    if arguments.command in ('create', 'launch', 'smoke'):
        _check_shape(fleet)
    _same_as_made(arguments, known, said)
    return fleet


def _same_as_made(
    arguments: argparse.Namespace, known: dict[str, Any], said: dict[str, Any]
) -> None:
    """Refuses to speak of another slice than the record does; `delete` would lose sight of one."""
    for name, option in _PLACE.items():
        if not known or name not in said or known.get(name) == said[name]:
            continue
        made = known.get(name)
        made = f'without {option}' if made in ('', False, None) else f'with {option} {made}'
        made = made.removesuffix(' True')
        what = '`delete` it first, or take another name'
        if arguments.command == 'delete':
            what = f'leave out {option} to delete that one'
        if arguments.command != 'manifest':
            raise Refusal(f'{arguments.name!r} was made {made}; {what}')


def _check(fleet: Fleet) -> None:
    facts, kind = fleet.kind.facts, fleet.kind
    if fleet.engine == 'tpu-vm' and not facts.api:
        raise Refusal(f'the Cloud TPU API has no TPU {kind.generation}: take --engine gce or gke')
    if fleet.engine == 'gce' and not facts.image:
        raise Refusal(f'Compute Engine has no TPU {kind.generation}: take --engine tpu-vm')
    if fleet.engine in ('tpu-vm', 'gce', 'gke') and not fleet.zone:
        raise Refusal('--zone is missing, such as --zone us-west4-a')
    if fleet.queued and fleet.engine != 'tpu-vm':
        raise Refusal('--queued is of the Cloud TPU API; leave it out with this engine')
    if fleet.count > 1 and fleet.engine == 'tpu-vm' and not fleet.queued:
        raise Refusal(
            'Cloud TPU joins several slices only if they come from one queued request: add --queued'
        )


def _check_shape(fleet: Fleet) -> None:
    kind = fleet.kind
    if fleet.engine == 'tpu-vm' and kind.facts.axes == 2 and not kind.usual:
        raise Refusal(
            f'--slice {fleet.slice}: the Cloud TPU API knows slices of TPU {kind.generation} by '
            f'their size, and gives {kind.accelerator_type} another shape than {kind.shape}; give '
            f'the size, such as --slice {kind.generation}-16'
        )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1 on')
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number')
    return int(text)


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number of seconds')
    return found


if __name__ == '__main__':
    sys.exit(main())
