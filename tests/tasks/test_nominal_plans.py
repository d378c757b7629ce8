"""What tasks say of their batches without data is what the data then gives."""

import dataclasses
import importlib
import inspect
import pkgutil

import jax
import numpy as np
import pytest
from flax.core import meta

import seqzoo.tasks
from seqzoo.configuration import load_config
from seqzoo.data.labelled import Labelled, Tagged
from seqzoo.errors import UserError
from seqzoo.tasks.angle_regression import AngleRegression
from seqzoo.tasks.base import Task
from seqzoo.tasks.captioning import Captioning
from seqzoo.tasks.classification import SeriesClassification, TextClassification
from seqzoo.tasks.column_task import ColumnTask
from seqzoo.tasks.forecasting import Forecasting
from seqzoo.tasks.labeling import TokenInput
from seqzoo.tasks.memory import AddingTask, CopyTask
from seqzoo.tasks.tagging import Tagging


def concrete_tasks():
    found = set()
    for info in pkgutil.iter_modules(seqzoo.tasks.__path__, 'seqzoo.tasks.'):
        for value in vars(importlib.import_module(info.name)).values():
            if inspect.isclass(value) and issubclass(value, Task) and not inspect.isabstract(value):
                found.add(value)
    return sorted(found, key=lambda task: task.__qualname__)


@pytest.mark.parametrize('task', concrete_tasks(), ids=lambda task: task.__qualname__)
def test_every_task_knows_its_batches_before_it_has_data(task):
    if issubclass(task, ColumnTask):
        assert task.nominal_table is not ColumnTask.nominal_table
    assert task.nominal_plan is not Task.nominal_plan


def words(*lines):
    return [line.split() for line in lines]


TOKENS = TokenInput(characters=5)
LENGTHS = (2, 3)
TAGGED = Tagged(
    words('a b', 'c d e'),
    [np.zeros(n, np.int32) for n in LENGTHS],
    [np.ones(n, bool) for n in LENGTHS],
)
LEARNT = {'words': ['<unk>', 'a', 'b'], 'characters': ['<unk>', 'a'], 'image_size': 32}
MEMORY = dataclasses.replace(AddingTask().corpus, length=4, train_size=2)


def examples():
    """Of each kind of table: the task, and two examples of it as the task reads them."""
    series = [np.zeros((n, 1), np.float32) for n in LENGTHS]
    labels = np.zeros(2, np.int32)
    yield Tagging(tokens=TOKENS), TAGGED
    yield TextClassification(), Labelled(['a b', 'c d e'], labels)
    yield SeriesClassification(), Labelled(series, labels)
    yield AddingTask(corpus=MEMORY), MEMORY.draw('train')
    copying = dataclasses.replace(CopyTask().corpus, length=4, train_size=2)
    yield CopyTask(corpus=copying), copying.draw('train')


@pytest.mark.parametrize('pair', examples(), ids=lambda pair: type(pair[0]).__name__)
def test_columns_without_data_are_those_of_encoded_examples(pair):
    task, found = pair
    real, nominal = task.encode(found, LEARNT), task.nominal_table(LENGTHS)
    assert kinds(nominal) == kinds(real)


def test_generated_tables_are_as_they_were_said_to_be():
    config = load_config('bilstm_angles_generated')
    task = config.task
    assert isinstance(task, AngleRegression)
    few = dataclasses.replace(task, corpus=dataclasses.replace(task.corpus, train_size=3))
    found = few.read('train', None)
    assert kinds(few.nominal_table((4, 8))) == kinds(few.encode(found, few.learn(found)))


def kinds(table):
    """The columns of a table, each with what it holds and what of."""
    return {
        name: (type(column).__name__, column.values.dtype.name, column.values.shape[1:])
        for name, column in table.columns.items()
    }


def test_a_window_is_as_long_as_the_forecast_says():
    table = Forecasting(window=20, context=4).nominal_table((128,))
    assert set(table.lengths) == {20}
    assert set(table.columns) == {'values', 'scored', 'unit'}


@pytest.mark.parametrize(
    'name', ['transformer_tiny_numerals', 'lstm_ptb', 'bert_small_wikitext', 'captions_digits']
)
def test_a_nominal_plan_has_all_buckets_and_whole_rows_for_every_device(name):
    experiment = load_config(name)
    task = experiment.task
    plan = task.nominal_plan(experiment.batch)
    specs = task.batch_specs(plan, row_multiple=16, process_count=1)
    assert max(shape.target_length for shape in plan.shapes) == experiment.batch.max_length
    for shape, arrays in zip(plan.shapes, specs, strict=True):
        assert {spec.shape[0] for spec in arrays.values()} == {-(-shape.rows // 16) * 16}


@pytest.mark.parametrize('name', ['transformer_tiny_numerals', 'lstm_ptb', 'captions_digits'])
def test_a_nominal_search_takes_the_arrays_that_it_names(name):
    experiment = load_config(name)
    decoding = dataclasses.replace(experiment.decode, rows=2, extra_length=3)
    config = experiment.nominal_model()
    model = config.build()
    search, specs = experiment.task.nominal_search(model, config, experiment.batch, decoding)
    variables = jax.eval_shape(model.init, jax.random.key(0), *config.example_inputs())
    batch = {n: jax.ShapeDtypeStruct(s.shape, s.dtype) for n, s in specs.items()}
    found = jax.eval_shape(search, meta.unbox({'params': variables['params']}), batch)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(found) if leaf.shape} == {2}


def test_what_searches_for_nothing_says_so():
    with pytest.raises(UserError, match='leave --decode out'):
        Tagging().nominal_search(None, None, None, None)
    assert Captioning.nominal_search is not Task.nominal_search
