"""What a run folder refuses, in words."""

import json

import pytest

from seqzoo.errors import UserError
from seqzoo.experiment import TrainConfig, defines_run
from seqzoo.training.run import load_run
from seqzoo.training.run_folder import IDENTITY, RESULTS, record_result, refuse_other_data


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        ({'early_stopping': 0}, 'early_stopping'),
        ({'plateau_factor': -1.0}, 'plateau_factor'),
        ({'plateau_patience': 0}, 'plateau_patience'),
        ({'max_minutes': -1.0}, 'max_minutes'),
        ({'keep_best': -1}, 'keep_best'),
        ({'snapshot_every': -1}, 'snapshot_every'),
        ({'evaluate_every': -5}, 'evaluate_every'),
        ({'keep_snapshots': 0}, 'keep_snapshots'),
        ({'snapshot_patience': 0}, 'snapshot_patience'),
    ],
)
def test_a_cadence_that_cannot_be_is_refused_by_name(change, named):
    with pytest.raises(UserError, match=f'train.{named} must be'):
        TrainConfig(**change)


def test_how_recurrent_layers_are_computed_may_change_and_what_they_compute_may_not():
    may = ('model.layers.unroll', 'model.encoder.layers.remat_steps', 'model.scan_layers')
    may += ('batch.evaluation_rows', 'train.steps', 'model.mixture.evaluation_dispatch')
    may_not = ('model.layers.cell.hidden_dim', 'model.mixture.dispatch', 'batch.tokens', 'seed')
    assert [path for path in may + may_not if defines_run(path)] == list(may_not)


@pytest.mark.parametrize('address', ['s3://bucket/run', 'gs://bucket', 'gs:///run'])
def test_an_address_of_another_store_or_of_no_folder_is_refused(address):
    with pytest.raises(UserError, match='is not the address of a folder in a bucket'):
        load_run(address)


def test_damaged_small_files_are_named(tmp_path):
    class Data:
        identity = {'tokenizer': 'a'}  # noqa: RUF012

    (tmp_path / IDENTITY).write_text('{"half": ')
    with pytest.raises(UserError, match=f'{IDENTITY} is damaged'):
        refuse_other_data(Data(), tmp_path)


def test_damaged_results_are_set_aside_and_nothing_is_lost(tmp_path):
    file = tmp_path / RESULTS
    for number, damaged in enumerate(('{"half": ', '{"no": "list"}', b'\xff'.decode('latin-1'))):
        file.write_text(damaged, encoding='latin-1')
        aside = record_result(tmp_path, {'step': number})
        assert aside is not None
        assert aside.read_text(encoding='latin-1') == damaged
        assert json.loads(file.read_text()) == [{'step': number}]
    assert record_result(tmp_path, {'step': 3}) is None
    assert json.loads(file.read_text()) == [{'step': 2}, {'step': 3}]
    assert len(list(tmp_path.iterdir())) == 4
