"""Problems of memory: losses and scores by formula, any labeler, lines in and answers out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.data.batching import BatchConfig
from seqzoo.data.columns import Columns, Fixed, Ragged
from seqzoo.data.memory_problems import Adding, CopyMemory
from seqzoo.errors import UserError
from seqzoo.layers.inputs import Numbers, Tokens
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import GRU
from seqzoo.models.dense import DenseConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.parallel.mesh import MeshConfig, build_mesh, replicated
from seqzoo.tasks.base import Decoding, Runtime
from seqzoo.tasks.memory import AddingTask, CopyTask

# A bucket longer than the sequences: what is padded does not count.
BATCH = BatchConfig(tokens=128, max_length=32, buckets=(32,))
SIZES = {'train_size': 6, 'dev_size': 5, 'test_size': 5}
ADDING = AddingTask(corpus=Adding(length=9, **SIZES))
COPY = CopyTask(corpus=CopyMemory(length=3, **SIZES))


def model_for(task, inputs):
    layers = RecurrentConfig(cell=GRU(hidden_dim=4))
    encoder = RecurrentEncoderConfig(inputs=inputs, layers=layers)
    per = 'sequence' if task is ADDING else 'step'
    return LabelerConfig(encoder=encoder, per=per)


def prepared_and_runtime(task, model, folder):
    prepared = task.prepare(BATCH, data_dir=None, cache_dir=folder)
    config = task.resolve(model, prepared)
    mesh, module = build_mesh(MeshConfig(), jax.devices()[:1]), config.build()
    drawn = meta.unbox(jax.jit(module.init)(jax.random.key(0), *config.example_inputs()))
    shardings = jax.tree.map(lambda _: replicated(mesh), drawn)
    return prepared, Runtime(module, jax.device_put(drawn, shardings), shardings, mesh)


@pytest.mark.parametrize(('task', 'inputs'), [(ADDING, Numbers()), (COPY, Tokens(embed_dim=4))])
def test_the_loss_of_a_batch_is_that_of_evaluation(tmp_path, task, inputs):
    model = model_for(task, inputs)
    prepared, runtime = prepared_and_runtime(task, model, tmp_path)
    plan = task.plan(prepared, BATCH, 0)
    total = weight = 0.0
    options = {'row_multiple': 8, 'process_index': 0, 'process_count': 1}
    batches = task.batches(prepared, plan, start_step=0, **options)
    step = jax.jit(lambda v, b: task.loss(runtime.model, v, b, (), key=None)[0].terms['loss'])
    for _ in range(plan.steps_per_epoch):
        batch = next(batches).arrays
        total += float(step(runtime.variables, batch))
        weight += float(task.weights(batch)['loss'])
    assert weight == (6 if task is ADDING else 6 * 23)
    found = task.evaluate(runtime, prepared, 'train', BATCH, None)
    np.testing.assert_allclose(found['loss'], total / weight, rtol=1e-5)
    assert found['baseline'] == task.corpus.baseline


def test_sums_are_judged_by_their_squared_error():
    table = Columns({'target': Fixed(np.array([0.5, 1.0, 1.5, 1.25], np.float32))})
    answers = Columns({'sum': Fixed(np.array([0.5, 1.03, 1.4, 1.0], np.float32))})
    found = ADDING.measure(table, answers, {})
    assert found['loss'] == pytest.approx((0 + 0.03**2 + 0.1**2 + 0.25**2) / 4, rel=1e-5)
    assert found['accuracy'] == 50.0  # the first two are off by less than 0.04


def test_only_the_word_counts_as_right():
    _, say = COPY.corpus.draw('dev')
    said = say.copy()
    said[:, 0] = 7  # a mistake before the word
    said[1, -1] = said[1, -1] % 8 + 1
    said[2, -3:] = 9
    table = COPY.encode(COPY.corpus.draw('dev'), {})
    nll = Ragged(np.full(say.size, 0.25, np.float32), table.columns['target'].offsets)
    symbols = Ragged(said.reshape(-1), table.columns['target'].offsets)
    found = COPY.measure(table, Columns({'symbols': symbols, 'nll': nll}), {})
    assert found['loss'] == 0.25
    assert found['accuracy'] == pytest.approx(100 * (50 - 4) / 50)
    assert found['exact_match'] == pytest.approx(60.0)


def test_a_network_without_recurrence_is_held_to_the_same_problem(tmp_path):
    model = DenseConfig(inputs=Numbers(), max_length=32, hidden_dims=(4,))
    prepared, runtime = prepared_and_runtime(ADDING, model, tmp_path)
    found = ADDING.evaluate(runtime, prepared, 'dev', BATCH, None)
    assert np.isfinite(found['loss'])


def test_lines_come_back_as_sums_and_symbols(tmp_path):
    prepared, runtime = prepared_and_runtime(ADDING, model_for(ADDING, Numbers()), tmp_path)
    records = ['0.3 1, 0.5 0, 0.2 1', '', '0.1 1 0.9 1']
    found = ADDING.predict(runtime, prepared, records, BATCH, Decoding())
    assert found[1].text == ''
    for prediction, numbers in (
        (found[0], [[0.3, 1], [0.5, 0], [0.2, 1]]),
        (found[2], [[0.1, 1], [0.9, 1]]),
    ):
        alone = runtime.model.apply(runtime.variables, jnp.array([numbers])).outputs[0, 0]
        assert prediction.details['sum'] == pytest.approx(float(alone), abs=1e-5)
        assert prediction.text == f'{prediction.details["sum"]:.4f}'
    prepared, runtime = prepared_and_runtime(COPY, model_for(COPY, Tokens(embed_dim=4)), tmp_path)
    (said,) = COPY.predict(runtime, prepared, ['1 2,3 0 9'], BATCH, Decoding())
    assert len(said.details['symbols']) == 5
    assert said.text == ' '.join(map(str, said.details['symbols']))


@pytest.mark.parametrize(
    ('task', 'line', 'words'),
    [
        (ADDING, '0.3 1 0.5', 'a number without a mark'),
        (ADDING, '0.3 one', 'not a line of numbers'),
        (COPY, '1 2 10', 'from 0 to 9'),
        (COPY, '1 2.5', 'not a line of numbers'),
    ],
)
def test_a_line_that_is_no_input_is_shown(task, line, words):
    with pytest.raises(UserError, match=f'{line!r}.*{words}'):
        task.read_line(line)
