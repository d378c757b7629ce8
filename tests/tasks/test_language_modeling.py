"""Language modelling counts every token once, carries its state, and is the same on any devices."""

import itertools
import math
from dataclasses import replace

import jax
import numpy as np
import optax
import pytest

from seqzoo.data.batching import BatchConfig
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.data.vocabularies import Characters, Words
from seqzoo.errors import UserError
from seqzoo.models.transformer import TransformerConfig
from seqzoo.optimization.schedules import Constant
from seqzoo.parallel.compile import compile_train_step
from seqzoo.parallel.mesh import MeshConfig, build_mesh, put_rows
from seqzoo.tasks.language_modeling import LanguageModeling
from seqzoo.training.state import StateFactory
from seqzoo.training.step import make_train_step

BATCH = BatchConfig(tokens=16, max_length=4, evaluation_rows=1)
TASK = LanguageModeling(tokenizer=Characters())


@pytest.fixture
def nats(fading, prepare):
    """The loss of the whole text by hand, in streams of these lengths."""
    _, by_hand = fading

    def total(table, cuts=()):
        prepared = prepare()
        ids = prepared.splits['dev'].ids
        read = np.concatenate([[prepared.tokenizer.line_end], ids[:-1]])
        bounds = [0, *cuts, len(ids)]
        return -sum(
            by_hand(table, read[a:b])[np.arange(b - a), ids[a:b]].sum()
            for a, b in itertools.pairwise(bounds)
        )

    return total


def test_evaluation_is_the_probability_of_the_whole_text(fading, prepare, runtime_of, nats):
    prepared = prepare()
    runtime = runtime_of(fading[0](vocab_size=prepared.vocab_size))
    table, count = runtime.variables['params']['table'], len(prepared.splits['dev'].ids)
    found = TASK.evaluate(runtime, prepared, 'dev', BATCH, None)
    wanted = nats(table) / count
    assert found['loss'] == pytest.approx(wanted, rel=1e-6)
    assert found['perplexity'] == pytest.approx(math.exp(wanted), rel=1e-6)
    assert found['bits_per_character'] == pytest.approx(wanted / math.log(2), rel=1e-6)
    # The unroll changes nothing; a second stream begins once more without a past.
    longer = replace(BATCH, evaluation_max_length=13)
    other = runtime_of(fading[0](vocab_size=prepared.vocab_size))
    again = TASK.evaluate(other, prepared, 'dev', longer, None)
    assert again['loss'] == pytest.approx(wanted, rel=1e-6)
    two = TASK.evaluate(runtime, prepared, 'dev', replace(BATCH, evaluation_rows=2), None)
    assert two['loss'] == pytest.approx(nats(table, [count // 2]) / count, rel=1e-6)


def test_evaluation_does_not_depend_on_the_devices(fading, prepare, runtime_of):
    prepared = prepare()
    config = fading[0](vocab_size=prepared.vocab_size)
    batch = replace(BATCH, evaluation_rows=3)
    found = [
        TASK.evaluate(runtime_of(config, devices), prepared, 'dev', batch, None)
        for devices in (1, 8)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_windows_are_evaluated_without_a_past(fading, prepare, runtime_of, nats):
    prepared, task = prepare(), replace(TASK, order='windows')
    runtime = runtime_of(fading[0](vocab_size=prepared.vocab_size))
    count = len(prepared.splits['dev'].ids)
    found = task.evaluate(runtime, prepared, 'dev', BATCH, None)
    wanted = nats(runtime.variables['params']['table'], range(4, count, 4)) / count
    assert found['loss'] == pytest.approx(wanted, rel=1e-6)


def test_bits_are_counted_by_the_characters_of_the_text(fading, prepare, runtime_of):
    lines = ['a bad cab', 'abba']
    for config, characters in (
        (Characters(), 15),
        (Characters(letters_only=True), 15),
        (Words(), None),
    ):
        prepared = prepare(lines, config)
        runtime = runtime_of(fading[0](vocab_size=prepared.vocab_size))
        task = LanguageModeling(tokenizer=config)
        found = task.evaluate(runtime, prepared, 'dev', BATCH, None)
        if characters is None:
            assert 'bits_per_character' not in found
        else:
            total = found['loss'] * len(prepared.splits['dev'].ids)
            bits = total / math.log(2) / characters
            assert found['bits_per_character'] == pytest.approx(bits)
    # A piece may hold several characters.
    pieces = LanguageModeling(tokenizer=TokenizerConfig())
    assert pieces._characters(prepare(lines), 'dev') == 15


def trained(config, prepared, task, devices, strategy='jit', accumulation=1, steps=3):
    """The losses of some steps on some devices, and what is carried behind them."""
    mesh, model = build_mesh(MeshConfig(), jax.devices()[:devices]), config.build()
    plan, multiple = task.plan(prepared, BATCH, 0), devices * accumulation
    optimizer = optax.identity()
    factory = StateFactory(
        config,
        model,
        optimizer,
        mesh,
        seed=0,
        first_carry=lambda: task.first_carry(model, plan, row_multiple=multiple),
    )
    step = make_train_step(task, model, optimizer, Constant(rate=1.0).build(1), accumulation)
    compiled = compile_train_step(step, mesh, factory.shardings(), strategy=strategy)
    state, losses = factory.create(), []
    batches = task.batches(
        prepared, plan, start_step=0, row_multiple=multiple, process_index=0, process_count=1
    )
    for _, batch in zip(range(steps), batches, strict=False):
        state, metrics = compiled(state, put_rows(batch.arrays, mesh))
        losses.append(float(metrics['loss'].total / metrics['loss'].weight))
    return losses, jax.device_get((state.params, state.carry)), plan, metrics


def test_training_carries_the_state_until_an_epoch_is_over(fading, prepare):
    prepared = prepare()
    config = fading[0](vocab_size=prepared.vocab_size)
    ids = prepared.splits['train'].ids
    plan = TASK.plan(prepared, BATCH, 0)
    epoch = plan.steps_per_epoch
    assert epoch > 1
    for steps in (epoch, epoch + 1):
        _, (_, carry), _, _ = trained(config, prepared, TASK, 1, steps=steps)
        for row in range(plan.rows):
            # What row `row` has read since its epoch began, the token before it included.
            read = (steps - 1) % epoch * plan.length + plan.length
            first = row * epoch * plan.length
            before = [prepared.tokenizer.line_end] if first == 0 else ids[first - 1 : first]
            tokens = np.concatenate([before, ids[first : first + read - 1]])
            wanted = np.zeros(config.vocab_size)
            for token in tokens:
                wanted = 0.5 * wanted + np.eye(config.vocab_size)[token]
            np.testing.assert_allclose(carry['read'][row], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ('devices', 'strategy', 'accumulation'),
    [(2, 'jit', 2), (2, 'shard_map', 2), (4, 'pmap', 1)],
)
def test_the_run_is_the_same_on_any_devices(fading, prepare, devices, strategy, accumulation):
    prepared = prepare()
    config = fading[0](vocab_size=prepared.vocab_size, penalty=0.1)
    wanted, (params, carry), _, _ = trained(config, prepared, TASK, 1)
    losses, (found, carried), _, _ = trained(
        config, prepared, TASK, devices, strategy, accumulation
    )
    np.testing.assert_allclose(losses, wanted, rtol=2e-6)
    np.testing.assert_allclose(found['table'], params['table'], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(carried['read'], carry['read'])


def test_windows_carry_nothing_and_may_fill_rows(fading, prepare):
    prepared, task = prepare(), replace(TASK, order='windows')
    config = fading[0](vocab_size=prepared.vocab_size)
    wanted, (_, carry), _, _ = trained(config, prepared, task, 1)
    assert carry == ()
    # Four rows on eight devices.
    losses, _, plan, metrics = trained(config, prepared, task, 8)
    np.testing.assert_allclose(losses, wanted, rtol=2e-6)
    assert float(metrics['loss'].weight) == plan.rows * plan.length


def test_auxiliary_losses_join_the_objective_and_are_reported(fading, prepare, runtime_of):
    prepared = prepare()
    config = fading[0](vocab_size=prepared.vocab_size, penalty=0.25)
    runtime = runtime_of(config)
    plan = TASK.plan(prepared, BATCH, 0)
    batches = TASK.batches(
        prepared, plan, start_step=0, row_multiple=1, process_index=0, process_count=1
    )
    arrays, model = next(batches).arrays, runtime.model

    @jax.jit
    def both():
        carry = model.initial_carry(plan.rows)
        features = model.apply(runtime.variables, arrays['tokens'][:, :-1]).features
        return TASK.loss(model, runtime.variables, arrays, carry, key=None)[0], features

    losses, features = both()
    nll, penalty = losses.metrics['loss'], losses.metrics['penalty']
    assert float(penalty.total / penalty.weight) == pytest.approx(0.25 * np.mean(features**2))
    assert float(losses.terms['loss']) == pytest.approx(float(nll.total + penalty.total))
    assert float(TASK.weights(arrays)['loss']) == plan.rows * plan.length == float(nll.weight)


def test_streams_that_devices_cannot_share_are_refused(fading, prepare):
    prepared = prepare()
    config = fading[0](vocab_size=prepared.vocab_size)
    with pytest.raises(UserError, match=r'4 streams .* 8 equal parts .* multiple of 32'):
        trained(config, prepared, TASK, 8)


def test_the_vocabulary_fills_the_model_and_other_models_are_refused(fading, prepare):
    prepared = prepare()
    assert TASK.resolve(fading[0](), prepared).vocab_size == prepared.vocab_size
    with pytest.raises(UserError, match=r'model\.vocab_size is 3.* leave model\.vocab_size out'):
        TASK.resolve(fading[0](vocab_size=3), prepared)
    with pytest.raises(UserError, match='TransformerConfig is no causal language model'):
        TASK.resolve(TransformerConfig.tiny(), replace_vocab(prepared, TransformerConfig.tiny()))


def replace_vocab(prepared, config):
    entries = [*prepared.tokenizer.entries, *map(str, range(config.vocab_size))]
    tokenizer = type(prepared.tokenizer)(entries[: config.vocab_size], prepared.tokenizer.config)
    return replace(prepared, tokenizer=tokenizer)


def test_an_unknown_order_is_refused():
    with pytest.raises(UserError, match='must be streams or windows'):
        LanguageModeling(order='random')


def test_lines_kept_apart_are_segments_of_a_full_row(prepare):
    prepared, task = prepare(), replace(TASK, order='windows', documents='lines')
    plan = task.plan(prepared, BATCH, seed=0)
    (specs,) = task.batch_specs(plan, row_multiple=1, process_count=1)
    options = {'row_multiple': 1, 'process_index': 0, 'process_count': 1}
    batches = task.batches(prepared, plan, start_step=0, **options)
    end, parts = prepared.tokenizer.line_end, 0
    for item in itertools.islice(batches, plan.steps_per_epoch):
        tokens, segments = item.arrays['tokens'], item.arrays['segments']
        assert segments.shape == specs['segments'].shape
        assert (np.diff(segments, axis=1) == (tokens[:, 1:-1] == end)).all()
        parts += int(segments[:, -1].sum())
    assert parts > plan.steps_per_epoch * plan.rows  # some rows hold several lines
    # A line that begins where a batch does has no past, though the stream has one.
    task = replace(task, order='streams')
    plan = task.plan(prepared, BATCH, seed=0)
    batches = task.batches(prepared, plan, start_step=0, **options)
    begun = [x.arrays for x in itertools.islice(batches, plan.steps_per_epoch)]
    assert all((x['anew'] == (x['tokens'][:, 0] == end)).all() for x in begun[1:])
    assert sum(int(x['anew'].sum()) for x in begun[1:]) > 0
    with pytest.raises(UserError, match='folds their ends'):
        LanguageModeling(documents='lines', tokenizer=Characters(letters_only=True))
    with pytest.raises(UserError, match='must be joined or lines'):
        LanguageModeling(documents='pages')
