"""What `seqzoo compile --json` says of a training step, read again for the experiment it is of.

The name of a configuration does not say it: overrides make another model of it, or another batch.
The report carries a digest of what an update computes. How that is laid out (mesh, `remat`,
accumulation) is not in it: the seconds are those of the layout that was compiled.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqzoo.configuration import to_json
from seqzoo.errors import UserError
from seqzoo.experiment import Experiment, defines_run

_OF_A_STEP = ('model', 'task', 'batch', 'optimizer')


@dataclass(frozen=True, kw_only=True)
class CompiledStep:
    """A training step as it was compiled.

    Attributes:
        topology: chip and slice.
        chips: how many.
        seconds: of one update, from the best to the worst that is expected.
    """

    topology: str
    chips: int
    seconds: tuple[float, float]


def step_digest(experiment: Experiment) -> str:
    """Identifies what an update of an experiment computes."""
    saved = json.loads(to_json(experiment))
    parts = {name: _defining(saved[name], name) for name in _OF_A_STEP}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def read_step(config: str, experiment: Experiment, report: Mapping[str, Any]) -> CompiledStep:
    """The step of an experiment from its report.

    Args:
        config: what the experiment is called.
        experiment: that the step has to be of.
        report: from `seqzoo compile CONFIG --json`.

    Raises:
        UserError: it is of another experiment or not of its longest batch, does not fit, says no
            time, or is damaged.
    """
    if report.get('config') != config:
        raise UserError(
            f'the compiled step is of {report.get("config")}, not of {config}; compile {config}'
        )
    if report.get('fits') is not True:
        raise UserError(f'the compiled step does not fit: {report.get("remedy")}')
    if 'estimate' not in report:
        raise UserError('the file says no time of a training step; compile without --decode')
    if 'experiment' not in report:
        raise UserError(
            f'the file does not say which options its step was compiled with; compile {config} '
            'again'
        )
    if report['experiment'] != step_digest(experiment):
        raise UserError(
            f'the compiled step is of {config} with another model, task, batch or optimizer; '
            'compile it with the same options'
        )
    plan = experiment.task.nominal_plan(experiment.batch)
    length, longest = _part(report, 'batch', 'length'), max(s.target_length for s in plan.shapes)
    if length != longest:
        raise UserError(
            f'the compiled step has rows of {length}, and the longest batch rows of {longest}; '
            'compile without --length'
        )
    chips, topology = _part(report, 'chips'), _part(report, 'topology')
    if not isinstance(chips, int) or isinstance(chips, bool) or chips < 1:
        raise _damaged('chips', chips)
    if not isinstance(topology, str):
        raise _damaged('topology', topology)
    seconds = _part(report, 'estimate', 'step_seconds')
    if not _is_range(seconds):
        raise _damaged('step_seconds', seconds)
    best, worst = map(float, seconds)
    return CompiledStep(topology=topology, chips=chips, seconds=(best, worst))


def _defining(value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {name: f'{path}.{name}' for name in value}
    return {name: _defining(value[name], at) for name, at in inner.items() if defines_run(at)}


def _part(report: Mapping[str, Any], *names: str) -> Any:
    found: Any = report
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _is_range(seconds: Any) -> bool:
    if not isinstance(seconds, list) or len(seconds) != 2:
        return False
    if any(isinstance(s, bool) or not isinstance(s, int | float) for s in seconds):
        return False
    return 0 < seconds[0] <= seconds[1] < math.inf


def _damaged(name: str, value: Any) -> UserError:
    return UserError(
        f'the file of the compiled step has {value!r} for {name}, which `seqzoo compile --json` '
        'never prints; compile again'
    )
