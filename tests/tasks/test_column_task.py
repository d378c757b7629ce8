"""A pass over a table gives each example its own answer, wherever its row lay."""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from seqzoo.data.batching import BatchConfig
from seqzoo.data.columns import Columns, Ragged
from seqzoo.errors import UserError
from seqzoo.parallel.mesh import MeshConfig, build_mesh, replicated
from seqzoo.tasks.base import Losses, Runtime, Sums
from seqzoo.tasks.column_task import Answers, ColumnTask

BATCH = BatchConfig(tokens=64, max_length=8, buckets=(4, 8))


class Scale(nn.Module):
    """One number."""

    @nn.compact
    def __call__(self, x):
        return x * self.param('scale', nn.initializers.ones, ())


@dataclass(frozen=True, kw_only=True)
class Shares(ColumnTask):
    """Each number as a share of the total of its example, in units of the largest of training."""

    sizes: tuple[int, ...] = (3, 8, 1, 30, 5, 2, 7, 4, 6, 8, 8)
    data_name = 'numbers'
    best_metric = ('error', 'min')

    def read(self, split, data_dir):
        first = 1 if split == 'train' else 5
        return [first + np.arange(n, dtype=np.float32) for n in self.sizes]

    def learn(self, examples):
        return {'largest': float(max(x.max() for x in examples))}

    def encode(self, examples, learnt):
        return Columns({'x': Ragged.of([x / learnt['largest'] for x in examples], np.float32)})

    def answers(self, model, variables, batch):
        y = model.apply(variables, batch['x'])
        total = jnp.sum(y, axis=1)
        return Answers({'total': total}, {'share': y / jnp.maximum(total, 1e-9)[:, None]})

    def loss(self, model, variables, batch, carry, *, key):
        total = jnp.sum(self.answers(model, variables, batch).examples['total'])
        return Losses({'loss': total}, {'loss': Sums(total, jnp.sum(batch['weight']))}), carry

    def measure(self, table, answers, learnt):
        total = answers.columns['total'].values
        wanted = [table.columns['x'][i].sum() for i in range(len(table))]
        return {'error': float(np.abs(total - wanted).max()), 'examples': len(total)}

    def resolve(self, model, prepared):
        return model

    def predict(self, *args, **options):
        raise NotImplementedError


def prepared_and_runtime(tmp_path, devices):
    mesh, model = build_mesh(MeshConfig(), jax.devices()[:devices]), Scale()
    variables = {'params': {'scale': jnp.asarray(1.0)}}
    shardings = jax.tree.map(lambda _: replicated(mesh), variables)
    prepared = Shares().prepare(BATCH, data_dir=None, cache_dir=tmp_path)
    return prepared, Runtime(model, jax.device_put(variables, shardings), shardings, mesh)


@pytest.mark.parametrize('devices', [1, 8])
def test_answers_come_in_the_order_of_the_examples_each_once(tmp_path, devices):
    prepared, runtime = prepared_and_runtime(tmp_path, devices)
    table, seen = prepared.splits['dev'], []
    answers = Shares().answers_for(runtime, table, BATCH, lambda *done: seen.append(done))
    x, share = table.columns['x'], answers.columns['share']
    assert answers.columns['total'].values.shape == (11,)
    for i in range(len(table)):  # one of them is longer than any of training may be
        np.testing.assert_allclose(answers.columns['total'].values[i], x[i].sum(), rtol=1e-6)
        np.testing.assert_allclose(share[i], x[i] / x[i].sum(), rtol=1e-5)
    assert seen[-1] == (11, 11)
    metrics = Shares().evaluate(runtime, prepared, 'dev', BATCH, None)
    assert metrics == {'error': pytest.approx(0, abs=1e-4), 'examples': 11}


def test_what_was_learnt_is_stored_in_the_run_and_used_again(tmp_path):
    first = Shares().prepare(BATCH, data_dir=None, cache_dir=tmp_path)
    first.save(tmp_path)
    (tmp_path / 'learnt.json').write_text(json.dumps({'largest': 60.0}))
    again = Shares().prepare(
        BATCH, data_dir=None, cache_dir=tmp_path, run_dir=tmp_path, splits=('dev',)
    )
    np.testing.assert_allclose(
        again.splits['dev'].columns['x'].values * 60,
        first.splits['dev'].columns['x'].values * 30,
        rtol=1e-6,
    )
    assert again.identity['vocabulary'] != first.identity['vocabulary']
    assert 'training data' in first.identity
    assert 'training data' not in again.identity


def test_batches_are_those_that_were_announced(tmp_path):
    task = Shares()
    prepared = task.prepare(BATCH, data_dir=None, cache_dir=tmp_path)
    plan = task.plan(prepared, BATCH, 0)
    specs = task.batch_specs(plan, row_multiple=8, process_count=1)
    options = {'row_multiple': 8, 'process_index': 0, 'process_count': 1}
    batch = next(task.batches(prepared, plan, start_step=3, **options))
    found = {k: (a.shape, str(a.dtype)) for k, a in batch.arrays.items()}
    assert found == {k: (s.shape, s.dtype) for k, s in specs[batch.bucket].items()}


def test_packing_is_refused_in_words(tmp_path):
    prepared = Shares().prepare(BATCH, data_dir=None, cache_dir=tmp_path)
    with pytest.raises(UserError, match='one example a row'):
        Shares().plan(prepared, BatchConfig(tokens=64, max_length=8, packing=True), 0)
