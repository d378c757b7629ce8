"""A run that was stopped and taken up again is the run that was never stopped."""

import importlib
import json
import re
import shutil

import jax
import numpy as np
import pytest

from seqzoo.training import load_run

# The package offers the function of this name.
training = importlib.import_module('seqzoo.training.train')

pytestmark = pytest.mark.filterwarnings('ignore')


def final(path):
    run = load_run(path, step='latest')
    return run.step, jax.device_get(run.params)


def events_of(run):
    return [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]


def test_a_resumed_run_ends_with_the_same_parameters_bit_for_bit(train, tmp_path):
    assert train('whole', steps=6).status == 0
    assert train('parts', steps=3).status == 0
    again = train('parts', '--train.max-gradient-norm=5000', steps=6)
    assert again.status == 0
    # What may change is named where it does.
    assert re.search('other settings: .*train.steps: .*train.max_gradient_norm', again.err)
    (step, whole), (other, parts) = final(tmp_path / 'whole'), final(tmp_path / 'parts')
    assert step == other == 6
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


@pytest.mark.slow  # beside the resumption above, and steps and restored states on other meshes
def test_another_mesh_goes_on_from_the_same_checkpoint_with_the_same_losses(train, tmp_path):
    log = '--train.log-every=1'
    assert train('whole', log, steps=6).status == 0
    assert train('parts', log, steps=3).status == 0
    mesh = ['--mesh.data=2', '--mesh.fsdp=2', '--mesh.tensor=2']
    assert train('parts', log, *mesh, steps=6).status == 0
    losses = [losses_of(tmp_path / name) for name in ('whole', 'parts')]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    seen = [
        [e['examples_digest'] for e in events_of(tmp_path / name) if e['kind'] == 'train']
        for name in ('whole', 'parts')
    ]
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 6


@pytest.mark.slow  # steps for three strategies and for one device
def test_one_run_goes_on_under_every_strategy_and_on_one_device(train, tmp_path, monkeypatch):
    log = '--train.log-every=1'
    assert train('whole', log, steps=8).status == 0
    ways = ('jit', 'pmap', 'shard_map')
    for steps, strategy in enumerate(ways, start=1):
        way = [f'--strategy={strategy}', '--mesh.data=8', '--mesh.fsdp=1']
        assert train('parts', log, *way, steps=2 * steps).status == 0
    build, one = training.build_mesh, jax.devices()[:1]
    monkeypatch.setattr(training, 'build_mesh', lambda config: build(config, one))
    assert train('parts', log, '--strategy=pmap', '--mesh.fsdp=1', steps=8).status == 0
    losses = [losses_of(tmp_path / name) for name in ('whole', 'parts')]
    assert len(losses[1]) == 8
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_mesh_that_a_strategy_cannot_do_is_refused_before_anything_is_written(train, tmp_path):
    refused = train('run', '--strategy=pmap')  # the mesh splits parameters
    assert refused.status == 2
    assert 'fsdp = 8' in refused.err
    assert '--strategy jit' in refused.err
    assert not (tmp_path / 'run').exists()
    unknown = train('run', '--strategy=pjit')
    assert unknown.status == 2
    assert 'jit or shard_map or pmap' in unknown.err


def losses_of(path):
    events = map(json.loads, (path / 'metrics.jsonl').read_text().splitlines())
    return [e['loss'] for e in events if e['kind'] == 'train']


def test_a_change_of_what_defines_the_run_is_refused_with_the_differences(train):
    assert train(steps=2).status == 0
    refused = train('run', '--model.mlp-dim=128', '--seed=3', steps=4)
    assert refused.status == 2
    assert 'mlp_dim: 64 -> 128' in refused.err
    assert 'seed: 0 -> 3' in refused.err
    assert 'Traceback' not in refused.err


def test_other_training_data_is_refused(train, write_corpus, tmp_path):
    assert train(steps=2).status == 0
    (tmp_path / 'other').mkdir()
    refused = train(data=write_corpus(tmp_path / 'other', seed=1), steps=4)
    assert refused.status == 2
    assert 'data' in refused.err


def test_each_start_says_on_what_and_by_which_source_it_trains(train, tmp_path, monkeypatch):
    monkeypatch.setattr(training.provenance, 'commit', lambda: 'abc1234-dirty')
    assert train(steps=1).status == 0
    monkeypatch.setattr(training.provenance, 'commit', lambda: None)
    assert train(steps=2).status == 0
    first, second = (e for e in events_of(tmp_path / 'run') if e['kind'] == 'start')
    assert (first['commit'], second['commit']) == ('abc1234-dirty', None)
    assert (first['devices'], first['backend']) == (8, 'cpu')
    assert first['device'].endswith(', cpu')
    assert first['versions']['jax'] == jax.__version__
    assert set(first['versions']) >= {'python', 'jaxlib', 'flax', 'optax', 'numpy', 'seqzoo'}


def test_a_fork_begins_with_the_parameters_of_the_other_run(train, tmp_path):
    assert train('first', steps=4).status == 0
    forked = train('second', '--fork-from', str(tmp_path / 'first'), '--seed=5', steps=1)
    assert forked.status == 0
    begun = next(e for e in events_of(tmp_path / 'second') if e['kind'] == 'start')
    assert begun['forked_from'] == str(tmp_path / 'first')
    assert begun['forked_step'] == 4
    first, second = final(tmp_path / 'first')[1], final(tmp_path / 'second')[1]
    distances = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), first, second)
    assert max(jax.tree.leaves(distances)) < 0.01  # one step of Adam at the start of the warm-up
    # A start over, before the first checkpoint, begins with the same parameters.
    shutil.rmtree(tmp_path / 'second' / 'checkpoints')
    again = train('second', '--seed=5', steps=1)
    assert f'beginning with the parameters of {tmp_path / "first"}, step 4' in again.err
    jax.tree.map(np.testing.assert_array_equal, second, final(tmp_path / 'second')[1])


def test_a_fork_from_another_model_writes_nothing(train, tmp_path):
    assert train('first', steps=1).status == 0
    refused = train('second', '--fork-from', str(tmp_path / 'first'), '--model.mlp-dim=32', steps=1)
    assert refused.status == 2
    assert 'belongs to another model' in refused.err
    assert not (tmp_path / 'second' / 'experiment.json').exists()


def test_the_history_of_a_resumed_run_has_no_doubles(train, tmp_path):
    train(steps=3)
    train(steps=6)
    events = map(json.loads, (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines())
    steps = [e['step'] for e in events if e['kind'] == 'train']
    assert steps == sorted(set(steps))
    assert steps[-1] == 6


def test_a_fork_takes_the_tokenizer_of_the_other_run_along(train, write_corpus, tmp_path):
    assert train('first', steps=2).status == 0
    (tmp_path / 'other').mkdir()
    other = write_corpus(tmp_path / 'other', seed=1, upper=str.title)
    forked = train('second', '--fork-from', str(tmp_path / 'first'), data=other, steps=1)
    assert forked.status == 0
    models = [(tmp_path / name / 'tokenizer.model').read_bytes() for name in ('first', 'second')]
    assert models[0] == models[1]
