"""The table of slices: its rows, what it writes, and that it goes on where it stopped."""

import json
import math
import sys

import pytest

from seqzoo.analysis.apart import Outcome
from seqzoo.analysis.slices import parse_topology
from seqzoo.errors import UserError


@pytest.fixture
def table(benchmark_program, monkeypatch, tmp_path):
    module = benchmark_program('tpu_table')
    monkeypatch.setattr(module, 'JSON', tmp_path / 'slices.json')
    monkeypatch.setattr(module, 'MARKDOWN', tmp_path / 'slices.md')
    return module


def fitting(row):
    return {
        'name': row.name, 'what': row.what, 'fits': True, 'parameters': 65_000_000,
        'batch': {'rows': 112, 'length': 256}, 'topology': 'v5e:2x2', 'chips': 4,
        'mesh': {'data': 1, 'fsdp': 4}, 'memory': {'total': 8 * 2**30, 'room': 16 * 2**30},
        'estimate': {'step_seconds': [0.02, 0.05], 'mfu': [0.2, 0.5]},
        'too_small': [{'topology': 'v5e:1x1', 'needs_bytes': 30 * 2**30}],
    }  # fmt: skip


def test_rows_have_names_of_their_own_and_slices_that_exist_from_small_to_large(table):
    rows = list(table.rows())
    assert len({row.name for row in rows}) == len(rows)
    assert {'transformer_big', 'gpt2_xl', 'gpt3_175b', 'bert_large', 'lstm_large'} <= {
        row.name for row in rows
    }
    for row in rows:
        for topology, mesh in row.slices:
            chip, shape = parse_topology(topology)
            split = math.prod(int(n) for n in mesh[1::2])
            assert not mesh or split == math.prod(shape) * chip.devices, topology


def run(table, monkeypatch, *words):
    monkeypatch.setattr(sys, 'argv', ['tpu_table.py', *words])
    assert table.main() == 0


def test_it_goes_on_where_it_was_stopped_and_leaves_out_what_is_missing(table, monkeypatch, capsys):
    compiled = []

    def compile_row(row, tried, keep):
        assert tried == []
        if row.name == 'transformer_big':
            raise UserError('there is no such configuration')
        compiled.append(row.name)
        return fitting(row)

    monkeypatch.setattr(table, 'compile_row', compile_row)
    run(table, monkeypatch, 'transformer')
    run(table, monkeypatch, 'transformer', 'lstm_large')
    assert compiled == ['transformer_base', 'lstm_large']
    assert 'transformer_big is left out: there is no such' in capsys.readouterr().err
    names = [row['name'] for row in json.loads(table.JSON.read_text())['rows']]
    assert names == ['transformer_base', 'lstm_large']
    line = next(x for x in table.MARKDOWN.read_text().splitlines() if 'LSTM large' in x)
    assert '| 65M | 112 x 256 | v5e:2x2 | 4 | fsdp 4 | 8.0 of 16.0 GiB |' in line
    assert 'v5e:1x1 would need 30.0 GiB' in line


def test_a_slice_that_is_too_small_is_not_tried_again(table, monkeypatch):
    def stopped(row, tried, keep):
        keep([*tried, {'topology': 'v5e:1x1', 'needs_bytes': 30 * 2**30}])
        raise KeyboardInterrupt

    monkeypatch.setattr(table, 'compile_row', stopped)
    with pytest.raises(KeyboardInterrupt):
        run(table, monkeypatch, 'transformer_base')
    assert '| Transformer base' not in table.MARKDOWN.read_text()
    known = []

    def compile_row(row, tried, keep):
        known.extend(one['topology'] for one in tried)
        return fitting(row)

    monkeypatch.setattr(table, 'compile_row', compile_row)
    run(table, monkeypatch, 'transformer_base')
    assert known == ['v5e:1x1']
    assert '| Transformer base' in table.MARKDOWN.read_text()


def test_what_no_slice_holds_is_said(table):
    row = {
        'what': 'Large', 'fits': False,
        'too_small': [{'topology': 'v5e:1x1', 'refused': 'uneven'}],
    }  # fmt: skip
    assert 'none of v5e:1x1' in table.markdown([row])


def test_where_the_compiler_aborts_or_refuses_the_next_slice_is_tried(table, monkeypatch):
    answers = iter(
        [
            UserError('the compiler gave up'),
            Outcome(2, '', 'seqzoo: the rows do not divide'),
            Outcome(2, json.dumps({'fits': False, 'memory': {'total': 2}, 'remedy': ''}), ''),
            Outcome(0, json.dumps({'fits': True, 'topology': 'v5p:2x4x4'}), ''),
        ]
    )

    def run_apart(words):
        assert words[0] == 'compile'
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(table, 'run_apart', run_apart)
    (row,) = (row for row in table.rows() if row.name == 'gpt3_2_7b')
    kept = []
    found = table.compile_row(row, [], lambda tried: kept.append(len(tried)))
    assert kept == [1, 2, 3]
    assert [one.get('refused') for one in found['too_small']] == [
        'the compiler gave up', 'the rows do not divide', None,
    ]  # fmt: skip
    assert found['topology'] == 'v5p:2x4x4'
    assert found['parameters'] > 2.6e9
