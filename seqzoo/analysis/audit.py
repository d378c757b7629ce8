"""Every configuration beside what its paper prints: parameters, operations, tokens, learning rate.

Parameters are counted from the real module by shape evaluation, so that no size costs memory.
Operations are counted twice:

    analytic    3 x the forward pass by formula (`ModelConfig.flops`), over the positions that the
                configured batches hold; sentences are taken to be 32 pieces or 160 characters long,
                running text and other sequences as long as a row
    6 N D       six operations for each parameter and token (Brown et al. 2020, appendix D), what
                tables in petaFLOP/s-days have; D are the tokens of one side, as the paper states
                them or else as the configuration trains on. Of a mixture of experts it counts those
                that a token does not see.

A petaFLOP/s-day is 1e15 x 86,400 operations.
"""

import dataclasses
import fnmatch
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqzoo.analysis.flops import forward_flops
from seqzoo.analysis.parameters import ParameterRow, parameter_table
from seqzoo.configuration import Difference, config_names, find_config, load_config, variants
from seqzoo.experiment import Experiment, Published, defines_run
from seqzoo.models.base import ModelConfig

PETAFLOP_DAY = 1e15 * 86_400
_PLACES = 4096  # where a schedule is looked at


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """One configuration or variant.

    Attributes:
        config: `NAME` or `NAME:VARIANT`.
        description: its sentence.
        published: what the paper prints.
        parameters: all of them, at the vocabulary of the paper or the configuration.
        counted: those that the printed figure counts.
        vocabulary: what `parameters` was counted with, `None` for a model without one.
        matching_vocabulary: from which to which vocabulary `counted` would round to the printed
            figure; `None` where it does anyway, where nothing is printed, or where none would.
        tokens: positions of one side in all updates, as configured.
        steps: updates.
        flops: operations of the training by part of the model; `{'all': ...}` without a formula.
        peak: highest learning rate.
        changed: what is not as the paper has it, each in words; `published` holds what is left to
            compare with.
    """

    config: str
    description: str
    published: Published
    parameters: int
    counted: int
    vocabulary: int | None
    matching_vocabulary: tuple[int, int] | None
    tokens: int
    steps: int
    flops: dict[str, int]
    peak: float
    changed: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool | None:
        """Whether the count rounds to the printed figure; `None` where nothing is printed."""
        printed = self.published.printed_parameters
        return None if printed is None else _rounds_to(self.counted, *printed)

    @property
    def deviation(self) -> float | None:
        """The count against the printed figure, 0.01 being one percent more."""
        printed = self.published.printed_parameters
        return None if printed is None else self.counted / printed[0] - 1

    @property
    def training_flops(self) -> int:
        """Operations of the whole training."""
        return sum(self.flops.values())

    @property
    def petaflop_days(self) -> float:
        """The same in petaFLOP/s-days."""
        return self.training_flops / PETAFLOP_DAY

    @property
    def rule_petaflop_days(self) -> float:
        """6 N D in petaFLOP/s-days."""
        return 6 * self.parameters * (self.published.tokens or self.tokens) / PETAFLOP_DAY

    @property
    def explanation(self) -> str:
        """Why the figures differ, and what was changed, in words; `''` where neither is so."""
        said, found = '', self.matching_vocabulary
        if not self.agrees and self.published.parameters:
            said = self.published.difference
        if found is not None and (not said or '{vocabulary}' in said):
            said = said or '{parameters} is what a vocabulary of {vocabulary} has'
            said = said.format(
                parameters=self.published.parameters, vocabulary=f'{found[0]:,} to {found[1]:,}'
            )
        changed = f'changed: {", ".join(self.changed)}' if self.changed else ''
        return '; '.join(filter(None, [said, self.published.flops_difference, changed]))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, everything that is computed included."""
        row = dataclasses.asdict(self)
        for name in (
            *('agrees', 'deviation', 'training_flops', 'petaflop_days', 'rule_petaflop_days'),
            'explanation',
        ):
            row[name] = getattr(self, name)
        return row


def audit_names() -> list[str]:
    """Every configuration that comes along, followed by its variants."""
    return [
        name if variant is None else f'{name}:{variant}'
        for name in config_names()
        for variant in (None, *variants(find_config(name)))
    ]


def audit(names: Iterable[str] | None = None) -> Iterator[AuditRow]:
    """One row for each configuration, one after the other.

    Args:
        names: configurations and variants; `None`: all that come along.

    Raises:
        UserError: a configuration does not load.
    """
    for name in audit_names() if names is None else names:
        yield audit_experiment(name, load_config(name))


def audit_experiment(
    name: str, experiment: Experiment, changes: Sequence[Difference] = ()
) -> AuditRow:
    """The row of an experiment.

    Args:
        name: what to call it.
        experiment: to count.
        changes: in which it is not the configuration of the paper.
    """
    model, changes = experiment.nominal_model(), [c for c in changes if _concerns_figures(c.path)]
    published = _still_published(experiment.published, changes)
    table = _table(model)
    counted = _count(table, published.left_out)
    length = experiment.task.nominal_length(experiment.batch)
    rows = max(experiment.batch.tokens // length, 1)
    forward = _forward(model, rows, length)
    steps = experiment.train.steps
    return AuditRow(
        config=name,
        description=experiment.description,
        published=published,
        parameters=_count(table),
        counted=counted,
        vocabulary=getattr(model, 'vocab_size', None),
        matching_vocabulary=_matching_vocabulary(model, counted, published),
        tokens=rows * length * steps,
        steps=steps,
        flops={part: 3 * steps * count for part, count in forward.items() if count},
        peak=schedule_peak(experiment),
        changed=tuple(map(str, changes)),
    )


def _concerns_figures(path: str) -> bool:
    if path.endswith('vocab_size'):  # papers seldom print it: another one is what is looked for
        return False
    in_run = path.split('.')[0] in ('model', 'task', 'batch') and defines_run(path)
    return in_run or path == 'train.steps'


def _still_published(published: Published, changes: Sequence[Difference]) -> Published:
    """What a paper prints, but for the figures that changes concern."""
    kinds = {change.path.split('.')[0] for change in changes}
    if kinds:
        published = replace(published, result='', score='', flops=None, flops_difference='')
    if kinds & {'model', 'task'}:
        published = replace(published, parameters='', difference='')
    if kinds & {'task', 'batch', 'train'}:
        published = replace(published, tokens=None)
    return published


def schedule_peak(experiment: Experiment) -> float:
    """The highest learning rate of a run, found at `_PLACES` updates and the end of its warm-up."""
    steps = experiment.train.steps
    warmup = int(getattr(experiment.schedule, 'warmup_steps', 0))
    near = np.clip([warmup - 1, warmup, warmup + 1], 0, steps - 1)
    places = np.concatenate([np.linspace(0, steps - 1, _PLACES).astype(np.int32), near])
    rates = experiment.schedule.build(steps)(jnp.asarray(places, jnp.int32))
    return float(np.max(np.asarray(rates)))


@functools.cache  # variants often share a network
def _table(model: ModelConfig) -> list[ParameterRow]:
    return parameter_table(model)


@functools.cache
def _forward(model: ModelConfig, rows: int, length: int) -> dict[str, int]:
    parts = model.flops(rows, length)
    return {'all': forward_flops(model, rows, length)} if parts is None else parts.parts


def _count(table: Iterable[ParameterRow], left_out: tuple[str, ...] = ()) -> int:
    return sum(
        row.count
        for row in table
        if not any(fnmatch.fnmatchcase(row.path, pattern) for pattern in left_out)
    )


def _rounds_to(count: int, printed: int, unit: int) -> bool:
    return printed - unit / 2 <= count < printed + unit / 2


def _matching_vocabulary(
    model: ModelConfig, counted: int, published: Published
) -> tuple[int, int] | None:
    """A count is linear in the vocabulary, so that two of them say all others."""
    printed, vocabulary = published.printed_parameters, getattr(model, 'vocab_size', None)
    if printed is None or vocabulary is None or _rounds_to(counted, *printed):
        return None
    wider: Any = dataclasses.replace(model, vocab_size=vocabulary + 1)  # type: ignore[call-arg]
    each = _count(_table(wider), published.left_out) - counted
    if each <= 0:
        return None
    figure, unit = printed
    low = vocabulary + math.ceil((figure - unit / 2 - counted) / each)
    high = vocabulary + math.ceil((figure + unit / 2 - counted) / each) - 1
    return (low, high) if 0 < low <= high else None


def markdown(rows: Iterable[AuditRow]) -> str:
    """The rows as a Markdown table with what explains them."""
    lines = [
        '| configuration | parameters | printed | difference | training FLOPs | petaFLOP/s-days '
        '(6 N D) | tokens | peak rate | result in the paper | known |',
        '|---|--:|--:|--:|--:|--:|--:|--:|---|---|',
    ]
    notes: dict[str, list[str]] = {}
    for row in rows:
        lines.append(f'| {" | ".join(_cells(row))} |')
        if row.explanation:
            notes.setdefault(row.explanation, []).append(f'`{row.config}`')
    if notes:
        lines += ['', 'Where figures differ, and why:', '']
        lines += [f'- {", ".join(names)}: {note}.' for note, names in notes.items()]
    return '\n'.join(lines) + '\n'


def _cells(row: AuditRow) -> list[str]:
    published = row.published
    parameters = f'{row.parameters:,}'
    if row.counted != row.parameters:
        parameters = f'{row.counted:,} (of {row.parameters:,})'
    deviation = row.deviation
    if deviation is None:
        difference = ''
    else:
        difference = 'none' if row.agrees else f'{100 * deviation:+.1f} %'
    flops = f'{row.training_flops:.2e}'
    if published.flops:
        flops += f' (printed {published.flops:.1e})'
    return [
        f'`{row.config}`',
        parameters,
        published.parameters,
        difference,
        flops,
        f'{row.petaflop_days:.3g} ({row.rule_petaflop_days:.3g})',
        f'{published.tokens or row.tokens:.2e}',
        f'{row.peak:.3g}',
        ': '.join(filter(None, [published.paper, published.result])),
        published.source if published.paper else '',
    ]
