"""The audit: counts against integers that were found elsewhere, operations against the papers'
arithmetic, and the page in the repository against what the program says."""

import dataclasses
import functools
import json
import math
import pathlib
import re

import pytest

from seqzoo.__main__ import main
from seqzoo.analysis.audit import (
    PETAFLOP_DAY,
    AuditRow,
    audit_experiment,
    audit_names,
    markdown,
    schedule_peak,
)
from seqzoo.configuration import load_config
from seqzoo.errors import UserError
from seqzoo.experiment import Published

PAGE = (pathlib.Path(__file__).parents[2] / 'AUDIT.md').read_text('utf-8')
BASE, BIG = 'transformer_base_wmt14_ende', 'transformer_big_wmt14_ende'


@functools.cache
def row(name, vocabulary=None) -> AuditRow:
    overrides = {} if vocabulary is None else {'task.tokenizer.vocab_size': vocabulary}
    return audit_experiment(name, load_config(name, overrides))


def closed_form(layers, width, key, value, inner, heads, vocabulary):
    """Parameters of an encoder-decoder with one table, by adding up its matrices."""
    attention = width * heads * (2 * key + 2 * value)
    feed_forward = 2 * width * inner + inner + width
    norm = 2 * width
    encoder = attention + feed_forward + 2 * norm
    decoder = 2 * attention + feed_forward + 3 * norm
    return layers * (encoder + decoder) + vocabulary * width


# Table 3 of Vaswani et al. 2017: layers, width, d_k, d_v, d_ff, heads, what is printed in millions.
TABLE3 = {
    'table3': (6, 512, 64, 64, 2048, 8, 65),
    'A1': (6, 512, 512, 512, 2048, 1, None),
    'A2': (6, 512, 128, 128, 2048, 4, None),
    'A3': (6, 512, 32, 32, 2048, 16, None),
    'A4': (6, 512, 16, 16, 2048, 32, None),
    'B1': (6, 512, 16, 64, 2048, 8, 58),
    'B2': (6, 512, 32, 64, 2048, 8, 60),
    'C1': (2, 512, 64, 64, 2048, 8, 36),
    'C2': (4, 512, 64, 64, 2048, 8, 50),
    'C3': (8, 512, 64, 64, 2048, 8, 80),
    'C4': (6, 256, 32, 32, 2048, 8, 28),
    'C5': (6, 1024, 128, 128, 2048, 8, 168),
    'C6': (6, 512, 64, 64, 1024, 8, 53),
    'C7': (6, 512, 64, 64, 4096, 8, 90),
}


@pytest.mark.parametrize('variant', TABLE3)
def test_rows_of_table_3_have_the_parameters_of_their_sizes(variant):
    *sizes, printed = TABLE3[variant]
    found = row(f'{BASE}:{variant}')
    assert found.parameters == closed_form(*sizes, 37_000)
    assert found.published.parameters == ('' if printed is None else f'{printed}M')
    # The stated vocabulary misses the printed figure; one of the range that all ten share does not.
    assert found.agrees is (None if printed is None else False)
    if printed is not None:
        assert round(closed_form(*sizes, 41_100) / 1e6) == printed
        low, high = found.matching_vocabulary
        assert low <= 41_004 <= 41_208 <= high
        for vocabulary, fits in ((low - 1, False), (low, True), (high, True), (high + 1, False)):
            assert (math.floor(closed_form(*sizes, vocabulary) / 1e6 + 0.5) == printed) is fits
        assert f'{low:,} to {high:,}' in found.explanation


@pytest.mark.parametrize('vocabulary', [8192, 33_708, 41_100])
def test_another_vocabulary_is_counted_exactly(vocabulary):
    found = row(BASE, vocabulary)
    assert found.parameters == closed_form(6, 512, 64, 64, 2048, 8, vocabulary)
    assert found.agrees is (vocabulary == 41_100)
    assert ('37000' in found.explanation) is not found.agrees


def test_rows_d_and_e_change_what_they_say_and_nothing_else():
    base = load_config(f'{BASE}:table3')
    plain = dataclasses.replace(base, description='', published=Published())
    for variant, path, value in (
        ('D1', 'model.dropout_rate', 0.0),
        ('D2', 'model.dropout_rate', 0.2),
        ('D3', 'task.label_smoothing', 0.0),
        ('D4', 'task.label_smoothing', 0.2),
        ('E', 'model.positions', 'learned'),
    ):
        other = load_config(f'{BASE}:{variant}')
        group, field = path.split('.')
        assert getattr(getattr(other, group), field) == value
        undone = {path: getattr(getattr(base, group), field)}
        undone |= {'model.max_length': None} if variant == 'E' else {}
        back = load_config(
            f'{BASE}:{variant}', {**undone, 'description': '', 'published': Published()}
        )
        assert back == plain
    # Learned positions are two tables more, of source and target.
    learned = row(f'{BASE}:E').parameters - row(BASE).parameters
    assert learned == 2 * 512 * load_config(f'{BASE}:E').model.max_length


def test_big_is_counted_and_its_vocabulary_is_another_one():
    found = row(f'{BIG}:table3')
    assert found.parameters == closed_form(6, 1024, 64, 64, 4096, 16, 37_000) == 214_171_648
    assert found.matching_vocabulary == (35_368, 36_344)


@pytest.mark.parametrize(
    ('name', 'counted', 'agrees'),
    [
        ('awd_lstm_ptb', 24_221_600, True),
        ('awd_lstm_ptb:wikitext2', 33_556_078, False),
        ('bert_large', 336_226_108, False),
        ('bilstm_imdb', 2_757_761, True),
        ('elmo', 93_600_864, True),
        ('gnmt_wmt14_ende', 280_858_880, False),
        ('lstm_big_lm1b', 151_060_480, True),
        ('lstm_big_lm1b:g8', 33_619_968, True),
        ('lstm_char_shakespeare', 240_321, False),
        ('lstm_moe_lm1b', 272_891_904, True),
        ('lstm_moe_lm1b:moe_4', 8_392_704, True),
        ('lstm_ptb:large', 66_022_000, True),
        ('luong_wmt14_ende', 222_001_000, False),
        ('rnnsearch_wmt14_enfr', 80_401_000, None),
        ('seq2seq_lstm_wmt14_enfr', 384_000_000, True),
        ('transformer_tiny_multi30k_ende', 2_568_192, True),
    ],
)
def test_the_papers_counting_rule_gives_its_figure_or_the_row_says_why_not(name, counted, agrees):
    found = row(name)
    assert found.counted == counted
    assert found.agrees is agrees
    assert bool(found.explanation) is (agrees is False)


def test_operations_are_those_of_the_formula_and_of_the_rule():
    found = row(BASE)
    tokens = found.tokens
    assert tokens == 100_000 * 28_672
    parts = found.flops
    assert parts['logits'] == 3 * 2 * tokens * 512 * 37_000
    assert parts['feed_forward'] == 3 * 12 * 4 * tokens * 512 * 2048
    assert parts['attention_projections'] == 3 * 18 * 4 * 2 * tokens * 512 * 512
    assert parts['attention_scores'] == 3 * 18 * 2 * 2 * tokens * 32 * 512
    # 6 N D over the paper's 2.5 billion target tokens: 9.5e17, where the paper prints 3.3e18.
    rule = found.rule_petaflop_days * PETAFLOP_DAY
    assert rule == pytest.approx(6 * 63_045_632 * 2.5e9) == pytest.approx(9.46e17, rel=1e-3)
    assert found.published.flops == pytest.approx(12 * 3600 * 8 * 9.5e12, rel=0.01)
    assert 'assumed' in found.explanation


def test_petaflop_days_are_the_units_of_the_gpt_3_table():
    # Table D.1 of Brown et al. 2020: 174,600M parameters and 300B tokens are 3.64e3 of them.
    days = 6 * 174_600e6 * 300e9 / PETAFLOP_DAY
    assert days == pytest.approx(3640, rel=1e-3)


def test_the_peak_of_a_schedule_is_found():
    assert schedule_peak(load_config(BASE)) == pytest.approx(512**-0.5 * 4000**-0.5, rel=1e-5)
    assert schedule_peak(load_config(BIG)) == pytest.approx(1024**-0.5 * 4000**-0.5, rel=1e-5)
    assert schedule_peak(load_config('lstm_ptb')) == 20.0
    assert schedule_peak(load_config('bilstm_imdb')) == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ('printed', 'number', 'unit'),
    [
        ('65M', 65_000_000, 1_000_000),
        ('2.6M', 2_600_000, 100_000),
        ('4303.4M', 4_303_400_000, 100_000),
        ('175.0B', 175_000_000_000, 100_000_000),
        ('150K', 150_000, 1000),
        ('2,757,761', 2_757_761, 1),
    ],
)
def test_a_printed_number_knows_its_last_digit(printed, number, unit):
    assert Published(parameters=printed).printed_parameters == (number, unit)


@pytest.mark.parametrize('wrong', [{'parameters': 'about 65M'}, {'source': 'hearsay'}])
def test_figures_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UserError, match=r'published\.'):
        Published(**wrong)


def test_every_configuration_and_variant_loads():
    assert len([load_config(name) for name in audit_names()]) > 100


def test_the_page_names_every_configuration_once():
    named = re.findall(r'^\| `([^`]+)` \|', PAGE, re.MULTILINE)
    assert named == audit_names(), 'run seqzoo audit --markdown > AUDIT.md'


def test_the_page_says_what_the_program_says():
    names = [f'{BASE}:{variant}' for variant in TABLE3] + [BASE, BIG, 'awd_lstm_ptb']
    wanted = markdown(map(row, names)).splitlines()
    lines = [line for line in wanted if line.startswith('| `')]
    assert len(lines) == len(names)
    for line in lines:
        assert line in PAGE, 'run seqzoo audit --markdown > AUDIT.md'


@pytest.mark.slow
def test_the_page_is_the_programs(capsys):
    assert main(['audit', '--markdown']) == 0
    assert capsys.readouterr().out == PAGE, 'run seqzoo audit --markdown > AUDIT.md'


def test_the_command_prints_rows_as_a_table_and_as_json(capsys):
    assert main(['audit', f'{BASE}:C1', '--json']) == 0
    (found,) = json.loads(capsys.readouterr().out)['rows']
    assert found['parameters'] == 33_644_544
    assert found['published']['parameters'] == '36M'
    assert found['deviation'] == pytest.approx(-0.0654, abs=1e-4)
    assert sum(found['flops'].values()) == found['training_flops']
    assert main(['audit', f'{BASE}:C1', '--task.tokenizer.vocab-size', '41000']) == 0
    text = capsys.readouterr().out
    assert '35,692,544' in text
    assert 'agrees' in text
    assert 'feed forward' in text


def audited(capsys, *overrides):
    assert main(['audit', BASE, '--json', *overrides]) == 0
    (found,) = json.loads(capsys.readouterr().out)['rows']
    return found


def test_another_training_is_counted_by_its_own_tokens(capsys):
    paper, changed = audited(capsys), audited(capsys, '--train.steps', '300000')
    assert paper['published']['tokens'] == 2_500_000_000
    assert changed['published']['tokens'] is None
    assert changed['published']['flops'] is None
    assert changed['published']['parameters'] == '65M'
    assert changed['tokens'] == 3 * paper['tokens']
    by_rule = 6 * changed['parameters'] * changed['tokens'] / 86_400e15
    assert changed['rule_petaflop_days'] == pytest.approx(by_rule)
    assert 'changed: train.steps: 100000 -> 300000' in changed['explanation']


def test_another_model_is_not_held_against_the_printed_figure(capsys):
    found = audited(capsys, '--model.embed-dim', '384', '--model.num-layers', '3')
    assert found['published']['parameters'] == ''
    assert found['agrees'] is None
    assert found['published']['tokens'] == 2_500_000_000
    assert found['explanation'] == (
        'changed: model.num_layers: 6 -> 3, model.embed_dim: 512 -> 384'
    )
    assert main(['audit', BASE, '--model.num-layers', '3']) == 0
    text = capsys.readouterr().out
    assert '65M' not in text
    assert 'changed: model.num_layers: 6 -> 3' in text


def test_how_a_run_runs_changes_no_figure(capsys):
    ways = ('--model.remat', 'full', '--train.log-every', '7', '--mesh.fsdp', '2')
    assert audited(capsys, *ways) == audited(capsys)


def test_what_no_run_can_have_is_not_counted(capsys):
    for command in ('audit', 'show'):
        assert main([command, BASE, '--task.tokenizer.joint', 'False']) == 2
        assert 'set --model.tie decoder' in capsys.readouterr().err


def test_overrides_without_a_configuration_are_refused(capsys):
    assert main(['audit', '--model.num-layers', '2']) == 2
    assert 'say which CONFIG' in capsys.readouterr().err
