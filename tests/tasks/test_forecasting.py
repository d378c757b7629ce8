"""Forecasts look at the past alone, are counted once, and are set beside the simple ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.data.batching import BatchConfig
from seqzoo.data.columns import Columns, Ragged
from seqzoo.data.time_series import Scale, SeriesFile
from seqzoo.errors import UserError
from seqzoo.layers.inputs import Numbers
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import GRU
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.parallel.mesh import MeshConfig, build_mesh, replicated
from seqzoo.tasks.base import Decoding, Runtime
from seqzoo.tasks.forecasting import Forecasting

BATCH = BatchConfig(tokens=128, max_length=16, buckets=(16,))
SAMPLE = Decoding(method='sample', extra_length=5, rows=4)
GREEDY = Decoding(method='greedy', extra_length=5, rows=4)
SERIES = np.random.default_rng(0).normal(size=160).cumsum() + 100


def task_on(folder, values=SERIES, **changes):
    rows = '\n'.join(f'{i},{value!r}' for i, value in enumerate(np.asarray(values).tolist()))
    (folder / 'a.csv').write_text(f'time,value\n{rows}\n')
    corpus = SeriesFile(file='a.csv', period=7)
    return Forecasting(corpus=corpus, context=10, window=16, stride=4, **changes)


def prepared(task, folder, *splits):
    splits = splits or ('train', 'dev', 'test')
    return task.prepare(BATCH, data_dir=folder, cache_dir=folder, splits=splits)


def model_for(task, prepared, directions='forward'):
    layers = RecurrentConfig(cell=GRU(hidden_dim=4), directions=directions)
    encoder = RecurrentEncoderConfig(inputs=Numbers(), layers=layers)
    return task.resolve(LabelerConfig(encoder=encoder, per='step'), prepared)


def runtime_of(task, prepared, change):
    """The model with parameters that `change` makes of drawn ones, on one device."""
    config = model_for(task, prepared)
    mesh, model = build_mesh(MeshConfig(), jax.devices()[:1]), config.build()
    drawn = jax.jit(model.init)(jax.random.key(0), *config.example_inputs())
    variables = jax.tree.map(change, meta.unbox(drawn))
    shardings = jax.tree.map(lambda _: replicated(mesh), variables)
    return Runtime(model, jax.device_put(variables, shardings), shardings, mesh)


@pytest.fixture
def still(tmp_path):
    """A model whose outputs are 0: nothing changes, with the deviation of a change in training."""
    task = task_on(tmp_path)
    found = prepared(task, tmp_path)
    return task, found, runtime_of(task, found, jnp.zeros_like)


def test_a_model_that_says_nothing_is_persistence(still):
    task, found, runtime = still
    metrics = task.evaluate(runtime, found, 'test', BATCH, SAMPLE)
    last, actual = SERIES[127:159], SERIES[128:]
    assert metrics['values'] == 32
    rmse = np.sqrt(np.mean((actual - last) ** 2))
    np.testing.assert_allclose(metrics['rmse'], rmse, rtol=1e-5)
    np.testing.assert_allclose(metrics['persistence_rmse'], rmse, rtol=1e-5)
    mae = np.mean(np.abs(actual - last))
    np.testing.assert_allclose(metrics['persistence_mae'], mae, rtol=1e-5)
    season = np.sqrt(np.mean((actual - SERIES[121:153]) ** 2))
    np.testing.assert_allclose(metrics['season_rmse'], season, rtol=1e-5)
    # The density of a normal distribution, by formula.
    train = SERIES[:112]
    unit = np.diff(train).std()
    z = (actual - last) / unit
    nll = np.mean(z**2 / 2 + np.log(unit / train.std()) + np.log(2 * np.pi) / 2)
    np.testing.assert_allclose(metrics['loss'], nll, rtol=1e-5)
    np.testing.assert_allclose(metrics['coverage'], 100 * np.mean(np.abs(z) <= 1.6448536))
    np.testing.assert_allclose(metrics['interval_width'], 2 * 1.6448536 * unit, rtol=1e-5)
    # Five steps from every fifth place: the last value, held.
    ahead = np.concatenate([SERIES[o : o + 5] - SERIES[o - 1] for o in range(128, 156, 5)])
    assert metrics['ahead_steps'] == 5
    held = np.sqrt(np.mean(ahead**2))
    np.testing.assert_allclose(metrics['ahead_persistence_rmse'], held, rtol=1e-5)
    np.testing.assert_allclose(metrics['ahead_rmse'], held, rtol=0.1)  # the mean of drawn paths


def test_a_season_ahead_repeats_what_is_known_at_its_beginning(still):
    task, found, runtime = still
    ten, seen = Decoding(method='greedy', extra_length=10, rows=4), []  # a period is seven
    metrics = task.evaluate(runtime, found, 'test', BATCH, ten, lambda *step: seen.append(step))
    total = len(found.splits['test']) + 3
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {of for _, of in seen} == {total} == {seen[-1][0]}
    errors = [
        SERIES[o + step] - SERIES[o + step % 7 - 7] for o in (128, 138, 148) for step in range(10)
    ]
    expected = np.sqrt(np.mean(np.square(errors)))
    np.testing.assert_allclose(metrics['ahead_season_rmse'], expected, rtol=1e-5)


def test_drawn_paths_walk_at_random_and_fed_back_means_stand_still(still):
    task, found, runtime = still
    scale, contexts = Scale(**found.learnt), [np.array([0.5, 0.3]), np.array([-1.0])]
    drawn = task.forecast(runtime, scale, contexts, BATCH, SAMPLE)
    unit = np.diff(SERIES[:112]).std()
    # The interval of a random walk grows with the square root of time.
    width = 2 * 1.645 * unit * np.sqrt(np.arange(1, 6))
    np.testing.assert_allclose(drawn.high - drawn.low, np.tile(width, (2, 1)), rtol=0.25)
    last = scale.restored([[0.3], [-1.0]])
    assert (np.abs(drawn.mean - last) < 4 * unit * np.sqrt(5 / 200)).all()
    assert np.abs(drawn.mean[0] - last[0] - drawn.mean[1] + last[1]).max() > 1e-3  # own noise
    again = task.forecast(runtime, scale, contexts, BATCH, Decoding(**{**vars(SAMPLE), 'rows': 1}))
    np.testing.assert_allclose(again.mean, drawn.mean, rtol=1e-6)
    fed_back = task.forecast(runtime, scale, contexts, BATCH, GREEDY)
    np.testing.assert_allclose(fed_back.mean, np.tile(last, 5), rtol=1e-6)
    assert fed_back.low is None


@pytest.mark.parametrize('reads', ['values', 'changes', 'both'])
def test_fed_back_means_are_those_of_one_call_after_another(tmp_path, reads):
    task = task_on(tmp_path, reads=reads)
    found = prepared(task, tmp_path, 'train')
    runtime = runtime_of(task, found, lambda x: 3 * x)
    scale = Scale(**found.learnt)
    context = scale.standardised(SERIES[20:27])
    fast = task.forecast(runtime, scale, [context], BATCH, GREEDY).mean[0]
    values, apply = list(context), jax.jit(runtime.model.apply)
    for _ in range(5):
        now, change = np.array(values), np.diff(values, prepend=values[0]) / scale.change
        inputs = {'values': [now], 'changes': [change], 'both': [now, change]}[reads]
        filled = np.pad(np.stack(inputs, -1), ((0, 12 - len(values)), (0, 0)))
        mean = float(apply(runtime.variables, filled[None]).outputs[0, len(values) - 1, 0])
        values.append(mean if reads == 'values' else values[-1] + scale.change * mean)
    np.testing.assert_allclose(fast, scale.restored(values[-5:]), rtol=1e-5)


def test_a_later_value_changes_no_earlier_forecast_and_none_is_left_out(tmp_path):
    task = task_on(tmp_path)
    found = prepared(task, tmp_path)
    runtime = runtime_of(task, found, lambda x: 3 * x)
    before = forecasts_of_test(task, runtime, found)
    other = SERIES.copy()
    other[150] += 10.0
    task_on(tmp_path, other)
    after = forecasts_of_test(task, runtime, prepared(task, tmp_path))
    place = 150 - 128
    np.testing.assert_array_equal(after[: place + 1], before[: place + 1])
    assert (np.abs(after - before)[place + 1 : place + 4] > 1e-4).all()
    assert len(before) == 32


def forecasts_of_test(task, runtime, found):
    table = found.splits['test']
    answers = task.answers_for(runtime, table, BATCH)
    return task.one_step_ahead(table, answers, found.learnt).mean


def test_nothing_is_learnt_from_dev_or_test(tmp_path):
    first = prepared(task_on(tmp_path), tmp_path)
    other = np.concatenate([SERIES[:112], 5 * SERIES[112:]])
    second = prepared(task_on(tmp_path, other), tmp_path)
    assert first.learnt == second.learnt
    assert first.identity == second.identity
    assert first.splits['test'].fingerprint != second.splits['test'].fingerprint
    assert first.learnt['mean'] == pytest.approx(SERIES[:112].mean())


def test_the_loss_is_the_mean_over_values_that_count(tmp_path):
    task = task_on(tmp_path)
    found = prepared(task, tmp_path, 'train', 'dev')
    runtime = runtime_of(task, found, lambda x: 2 * x)
    plan = task.plan(found, BATCH, 0)
    options = {'row_multiple': 8, 'process_index': 0, 'process_count': 1}
    batch = next(task.batches(found, plan, start_step=0, **options)).arrays

    @jax.jit
    def both(variables, batch):
        losses, _ = task.loss(runtime.model, variables, batch, (), key=None)
        return losses, task.answers(runtime.model, variables, batch).positions

    losses, answers = both(runtime.variables, batch)
    rows = int(batch['weight'].sum())
    assert float(task.weights(batch)['loss']) == rows * 15  # the first value of a window is given
    z = (batch['values'] - answers['mean']) / np.exp(answers['log_scale'])
    nll = (z**2 / 2 + answers['log_scale'] + np.log(2 * np.pi) / 2)[:rows, 1:]
    np.testing.assert_allclose(losses.terms['loss'], nll.sum(), rtol=1e-5)


def test_logarithms_give_intervals_above_zero_and_the_mean_of_a_log_normal(tmp_path):
    task = task_on(tmp_path, np.exp(SERIES / 50), logarithm=True)
    found = prepared(task, tmp_path)
    table = found.splits['test']
    zeros = Ragged(np.zeros_like(table.columns['values'].values), table.columns['values'].offsets)
    answers = Columns({'mean': zeros, 'log_scale': zeros})
    ahead = task.one_step_ahead(table, answers, found.learnt)
    scale = Scale(**found.learnt)
    assert (ahead.low > 0).all()
    np.testing.assert_allclose(ahead.actual, np.exp(SERIES[128:] / 50), rtol=1e-5)
    np.testing.assert_allclose(ahead.mean, np.exp(scale.mean + scale.deviation**2 / 2), rtol=1e-5)
    task_on(tmp_path, SERIES - 150)
    with pytest.raises(UserError, match='not positive'):
        prepared(task, tmp_path)


def test_lines_of_numbers_come_back_as_forecasts_in_order(still):
    task, found, runtime = still
    records = ['100, 101', '', '90']
    drawn = task.predict(runtime, found, records, BATCH, SAMPLE)
    assert [p.text.count(' to ') for p in drawn] == [5, 0, 5]
    assert drawn[0].text.startswith(f'{drawn[0].details["mean"][0]:.4g} (')
    assert set(drawn[0].details) == {'mean', 'low', 'high', 'interval'}
    fed_back = task.predict(runtime, found, records, BATCH, GREEDY)
    assert [p.text for p in fed_back] == [', '.join(['101'] * 5), '', ', '.join(['90'] * 5)]
    assert task.predict(runtime, found, [''], BATCH, GREEDY)[0].text == ''
    with pytest.raises(UserError, match="record 3: 'x' is not a number"):
        task.predict(runtime, found, [*records[:2], '1,x'], BATCH, GREEDY)
    with pytest.raises(UserError, match='sample or greedy'):
        task.predict(runtime, found, records, BATCH, Decoding(method='beam'))


def test_a_model_that_sees_the_future_is_refused(tmp_path):
    task = task_on(tmp_path)
    found = prepared(task, tmp_path, 'train')
    with pytest.raises(UserError, match='would see what it should forecast'):
        model_for(task, found, directions='concatenated')
    with pytest.raises(UserError, match='would see'):
        task.resolve(LabelerConfig(encoder=RecurrentEncoderConfig(inputs=Numbers())), found)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'context': 16, 'window': 16}, 'less than task.window'),
        ({'stride': 0}, 'stride'),
        ({'reads': 'all'}, 'must be values or changes or both'),
        ({'interval': 1.0}, 'between 0 and 1'),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        Forecasting(**changes)
