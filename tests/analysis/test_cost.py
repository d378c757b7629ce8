"""What a whole training needs, against arithmetic by hand."""

import json

import pytest

from seqzoo.__main__ import main
from seqzoo.analysis.audit import audit_experiment
from seqzoo.analysis.compiled_step import step_digest
from seqzoo.analysis.cost import cost_as_compiled, cost_by_formula, disk_of
from seqzoo.configuration import load_config
from seqzoo.errors import UserError

BASE = 'transformer_base_wmt14_ende'
COMPILED = {
    'config': BASE,
    'experiment': step_digest(load_config(BASE)),
    'batch': {'rows': 112, 'length': 256},
    'topology': 'v5e:2x4',
    'chips': 8,
    'fits': True,
    'estimate': {'step_seconds': [0.036, 0.09]},
}


def test_hours_are_operations_over_what_the_chips_do():
    experiment = load_config(BASE)
    found = cost_by_formula(BASE, experiment, kind='v5e', chips=16, peak=197e12, mfu=0.4, price=1.5)
    flops = audit_experiment(BASE, experiment).training_flops
    hours = flops / (16 * 197e12 * 0.4) / 3600
    assert found.hours == pytest.approx((hours, hours))
    assert found.chip_hours[0] == pytest.approx(16 * hours)
    assert found.money == pytest.approx((24 * hours, 24 * hours))
    assert 'assumed MFU of 40 %' in found.basis
    twice = cost_by_formula(BASE, experiment, kind='v5e', chips=32, peak=197e12, mfu=0.4)
    assert twice.hours[0] == pytest.approx(hours / 2)
    assert twice.money is None
    with pytest.raises(UserError, match='between 0 and 1'):
        cost_by_formula(BASE, experiment, kind='v5e', chips=1, peak=1.0, mfu=40)


def test_the_compiled_step_gives_a_range():
    found = cost_as_compiled(BASE, load_config(BASE), COMPILED, 1.0)
    assert found.hours == pytest.approx((1.0, 2.5))
    assert found.money == pytest.approx((8.0, 20.0))
    for change, message in (
        ({'config': 'gnmt_wmt14_ende'}, 'not of transformer_base'),
        ({'fits': False, 'remedy': 'take two chips'}, 'take two chips'),
        ({'estimate': None}, None),
    ):
        wrong = {**COMPILED, **change}
        if message is None:
            del wrong['estimate']
            message = 'without --decode'
        with pytest.raises(UserError, match=message):
            cost_as_compiled(BASE, load_config(BASE), wrong)


@pytest.mark.parametrize(
    'changed',
    [
        {'model.embed_dim': 4096},
        {'task.tokenizer.vocab_size': 32000},
        {'batch.tokens': 50_000},
        {'optimizer.clip_norm': 1.0},
    ],
)
def test_a_step_that_computes_something_else_is_refused(changed):
    with pytest.raises(UserError, match='with another model, task, batch or optimizer; compile it'):
        cost_as_compiled(BASE, load_config(BASE, changed), COMPILED)


def test_how_a_step_was_laid_out_and_how_many_there_are_are_free():
    ways = {'model.remat': 'full', 'mesh.fsdp': 8, 'train.accumulation': 2, 'decode.beams': 1}
    experiment = load_config(BASE, {**ways, 'train.steps': 50_000})
    assert cost_as_compiled(BASE, experiment, COMPILED).hours == pytest.approx((0.5, 1.25))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'experiment': ...}, 'does not say which options'),
        ({'batch': {'rows': 448, 'length': 64}}, 'rows of 64, and the longest .* 256'),
        ({'batch': ...}, 'rows of None'),
        ({'batch': [112, 256]}, 'rows of None'),
        ({'fits': 'yes'}, 'does not fit'),
        ({'chips': ...}, 'None for chips'),
        ({'chips': '8'}, "'8' for chips"),
        ({'chips': True}, 'True for chips'),
        ({'topology': ...}, 'None for topology'),
        ({'estimate': None}, 'None for step_seconds'),
        ({'estimate': {'step_seconds': [0.1]}}, r'\[0.1\] for step_seconds'),
        ({'estimate': {'step_seconds': ['0.1', 0.2]}}, 'for step_seconds'),
        ({'estimate': {'step_seconds': [0.2, 0.1]}}, 'for step_seconds'),
        ({'estimate': {'step_seconds': [float('nan'), 0.1]}}, 'for step_seconds'),
    ],
)
def test_a_damaged_report_is_refused_by_what_is_wrong_with_it(change, message):
    wrong = {name: value for name, value in {**COMPILED, **change}.items() if value is not ...}
    with pytest.raises(UserError, match=message):
        cost_as_compiled(BASE, load_config(BASE), wrong)


def test_disk_is_what_a_run_keeps_and_fetches():
    disk = disk_of(load_config(BASE))
    weights = 4 * 63_045_632
    assert disk['snapshots'] == 5 * weights
    # Two newest and the best checkpoint, each with both moments of Adam (and its counters).
    assert disk['checkpoints'] == pytest.approx(3 * 3 * weights, rel=1e-6)
    assert 1e9 < disk['downloads'] < 3e9
    assert disk_of(load_config('transformer_base_text'))['downloads'] is None


def test_the_command_says_that_it_estimates(capsys, tmp_path):
    assert main(['cost', BASE, '--topology', 'v5e:4x4', '--price', '1.2']) == 0
    text = capsys.readouterr().out
    assert text.startswith('ESTIMATE for transformer_base_wmt14_ende on 16 chips of v5e')
    assert 'assumed MFU of 35 %' in text
    file = tmp_path / 'step.json'
    file.write_text(json.dumps(COMPILED))
    assert main(['cost', BASE, '--compiled', str(file), '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['estimate'] is True
    assert found['chips'] == 8
    assert found['money'] is None


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ([], 'either --topology or --compiled'),
        (['--topology', 'v9:2x2'], 'no TPU called'),
        (['--topology', 'v5e:2x2', '--price', '-1'], 'below 0'),
        (['--topology', 'v5e:2x2', '--price', 'inf'], 'a price is a number'),
        (['--topology', 'v5e:0x2'], 'no slice of no chips'),
        (['--compiled', 'x', '--mfu', '0.3'], 'give one of them'),
        (['--compiled', __file__], 'is not what'),
    ],
)
def test_what_makes_no_sense_is_refused(words, message, capsys):
    assert main(['cost', BASE, *words]) == 2
    assert message in capsys.readouterr().err
