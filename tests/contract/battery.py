"""What every model promises, as checks that take a configuration: hold a model of your own to it.

    from battery import checks_for
    for check in checks_for(config):
        check(config)

Each check is named as a fact and raises `AssertionError` where it does not hold. Which checks
apply follows from the protocol that the built module satisfies; what a family cannot do (pack,
stack its layers) its configuration declares.
"""

import dataclasses
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.core import meta

import seqzoo.models
from seqzoo.layers.dropout import Dropout
from seqzoo.models.base import (
    CausalLM,
    EncoderConfig,
    EncoderOutput,
    LabelingConfig,
    LabelOutput,
    MaskedLMOutput,
    ModelConfig,
    Seq2Seq,
)
from seqzoo.optimization.schedules import Constant
from seqzoo.parallel.axes import AXES
from seqzoo.parallel.compile import Strategy, compile_train_step
from seqzoo.parallel.mesh import MeshConfig, build_mesh, put_rows
from seqzoo.tasks.base import Losses, Sums
from seqzoo.training.state import StateFactory, TrainState
from seqzoo.training.step import make_train_step

TOLERANCE = 2e-5
BATCH, LENGTH = 3, 6

Check = Callable[[ModelConfig], None]


def configurations() -> list[type[ModelConfig]]:
    """Every concrete `ModelConfig` below `seqzoo.models`."""
    found = {}
    for info in pkgutil.walk_packages(seqzoo.models.__path__, 'seqzoo.models.'):
        for value in vars(importlib.import_module(info.name)).values():
            is_config = inspect.isclass(value) and issubclass(value, ModelConfig)
            if is_config and not inspect.isabstract(value):
                found[f'{value.__module__}.{value.__qualname__}'] = value
    return [found[name] for name in sorted(found)]


def checks_for(config: ModelConfig, *, slow: bool = False) -> list[Check]:
    """The checks that the protocol of `config`'s model asks for; the `slow` ones, or the others."""
    if slow:
        return [a_step_by_another_strategy_is_that_of_one_device]
    checks: list[Check] = [
        configurations_are_hashable_and_equal_by_value,
        every_parameter_names_its_axes,
        a_finite_gradient_reaches_every_parameter,
        dropout_acts_only_when_training,
        every_dropout_hears_that_the_model_trains,
        bfloat16_computes_near_float32_with_float32_parameters_and_logits,
        unrolled_layers_equal_scanned_ones_on_the_same_parameters,
        rematerialised_gradients_equal_plain_ones,
        a_step_over_devices_is_that_of_one_device,
    ]
    if isinstance(config.build(), Seq2Seq):
        checks += [
            padding_changes_no_real_output,
            packed_sentences_equal_separate_ones,
            later_target_tokens_change_no_earlier_logit,
            a_prompt_at_once_or_step_by_step_equals_the_full_pass,
        ]
    if isinstance(config.build(), CausalLM):
        checks += [
            padding_on_either_side_changes_no_real_logit,
            packed_texts_equal_separate_ones,
            later_tokens_change_no_earlier_logit,
            prompts_of_unlike_lengths_and_single_steps_equal_the_full_pass,
            a_carry_handed_over_equals_one_long_pass,
            a_carry_knows_the_last_text_of_a_row_alone,
        ]
    if isinstance(config, (EncoderConfig, LabelingConfig)):
        checks += [
            a_batch_gives_what_each_sequence_gives_alone,
            packed_sequences_equal_separate_ones,
        ]
    return checks


@functools.cache
def module_of(config: ModelConfig) -> nn.Module:
    return config.build()


@functools.cache
def variables_of(config: ModelConfig) -> Any:
    """Parameters moved off their initial zeros and ones, which would hide a mix-up."""
    inputs = config.example_inputs(BATCH, LENGTH)
    variables = meta.unbox(jax.jit(module_of(config).init)(jax.random.key(0), *inputs))
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(0)
    return tree.unflatten([x + 0.1 * rng.normal(size=x.shape).astype(x.dtype) for x in leaves])


@functools.partial(jax.jit, static_argnums=0, static_argnames='train')
def logits_of(
    config: ModelConfig, variables: Any, *inputs: Any, train: bool = False, **packing: Any
) -> jax.Array:
    module = module_of(config)
    rngs = {'dropout': jax.random.key(1)} if train else None
    output = module.apply(variables, *inputs, train=train, rngs=rngs, **packing)
    return answer_in(module, variables, output)


def answer_in(module: nn.Module, variables: Any, output: Any) -> Any:
    """The logits of an output, or what else the model is asked for, in float32."""
    if isinstance(output, LabelOutput):
        return output.outputs
    if isinstance(output, EncoderOutput):
        return output.features.astype(jnp.float32)
    return module.apply(variables, output.features, method='unembed')


def of_the_row(output: Any) -> list[jax.Array]:
    """What else is said about a row as a whole."""
    found = []
    if isinstance(output, EncoderOutput) and output.pooled is not None:
        found.append(output.pooled)
    if isinstance(output, MaskedLMOutput) and output.next_sentence is not None:
        found.append(output.next_sentence)
    return found


@functools.partial(jax.jit, static_argnums=0)
def gradients_of(config: ModelConfig, variables: Any, *inputs: Any) -> Any:
    module = module_of(config)

    def loss(params: Any) -> jax.Array:
        given = {**variables, 'params': params}
        output = module.apply(given, *inputs)
        answers = [answer_in(module, given, output), *of_the_row(output)]
        return sum(jnp.square(jax.nn.log_softmax(x)).mean() for x in answers)

    return jax.grad(loss)(variables['params'])


def without_dropout(config: ModelConfig) -> ModelConfig:
    return with_fields(config, lambda name: name.endswith(('dropout_rate', 'drop_rate')), 0.0)


def with_fields(config: Any, chosen: Callable[[str], bool], value: Any) -> Any:
    """The configuration with other values for some fields, of those inside it too."""
    changes = {}
    for name in (field.name for field in dataclasses.fields(config)):
        if chosen(name):
            changes[name] = value
        elif dataclasses.is_dataclass(getattr(config, name)):
            changes[name] = with_fields(getattr(config, name), chosen, value)
    return dataclasses.replace(config, **changes)


def close(a: Any, b: Any, tolerance: float = TOLERANCE) -> None:
    jax.tree.map_with_path(
        lambda path, x, y: np.testing.assert_allclose(
            x,
            y,
            atol=tolerance * max(1.0, float(np.abs(y).max())),
            err_msg=jax.tree_util.keystr(path),
        ),
        a,
        b,
    )


# ---------------------------------------------------------------------------------- every model


def configurations_are_hashable_and_equal_by_value(config: ModelConfig) -> None:
    twin = dataclasses.replace(config)
    assert twin == config
    assert hash(twin) == hash(config)
    assert type(config).tiny() == type(config).tiny()


def every_parameter_names_its_axes(config: ModelConfig) -> None:
    inputs = config.example_inputs(BATCH, LENGTH)
    boxed = jax.eval_shape(module_of(config).init, jax.random.key(0), *inputs)['params']
    is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    for path, leaf in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_box):
        name = jax.tree_util.keystr(path)
        assert is_box(leaf), f'{name} has no axis names'
        assert len(leaf.names) == leaf.value.ndim, f'{name}: {leaf.names} for {leaf.value.shape}'
        assert set(leaf.names) - {None} <= AXES, f'{name}: {leaf.names} outside the vocabulary'


def a_finite_gradient_reaches_every_parameter(config: ModelConfig) -> None:
    variables = variables_of(config)
    gradients = gradients_of(config, variables, *config.example_inputs(BATCH, LENGTH))
    assert jax.tree.structure(gradients) == jax.tree.structure(variables['params'])
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all(), f'{name} has a gradient that is not finite'
        assert (gradient != 0).any(), f'{name} gets no gradient'


def dropout_acts_only_when_training(config: ModelConfig) -> None:
    inputs, variables = config.example_inputs(BATCH, LENGTH), variables_of(config)
    plain = logits_of(config, variables, *inputs)
    close(logits_of(without_dropout(config), variables, *inputs), plain)
    if without_dropout(config) != config:
        trained = logits_of(config, variables, *inputs, train=True)
        assert np.abs(trained - plain).max() > 1e-3, 'train=True drops nothing'


def every_dropout_hears_that_the_model_trains(config: ModelConfig) -> None:
    def listen(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, Dropout) and context.method_name == '__call__':
            train = kwargs['train'] if 'train' in kwargs else args[1]
            assert train is True, f'{"/".join(context.module.path)} is told train={train}'
        return call(*args, **kwargs)

    def trained(variables: Any, *inputs: Any) -> Any:
        rngs = {'dropout': jax.random.key(1)}
        return config.build().apply(variables, *inputs, train=True, rngs=rngs)

    inputs, variables = config.example_inputs(BATCH, LENGTH), variables_of(config)
    with nn.intercept_methods(listen):
        jax.eval_shape(trained, variables, *inputs)


def bfloat16_computes_near_float32_with_float32_parameters_and_logits(config: ModelConfig) -> None:
    half = with_fields(config, lambda name: name == 'dtype', 'bfloat16')
    inputs, variables = config.example_inputs(BATCH, LENGTH), variables_of(config)
    created = jax.eval_shape(module_of(half).init, jax.random.key(0), *inputs)
    assert {x.dtype for x in jax.tree.leaves(created)} == {jnp.dtype('float32')}
    rough, exact = (logits_of(c, variables, *inputs) for c in (half, config))
    assert rough.dtype == exact.dtype == jnp.float32
    error = np.abs(rough - exact).max()
    assert 0 < error < 0.1 * np.abs(exact).max(), f'bfloat16 is off by {error}'


def unrolled_layers_equal_scanned_ones_on_the_same_parameters(config: ModelConfig) -> None:
    if not config.stacks:
        return
    inputs, variables = config.example_inputs(BATCH, LENGTH), variables_of(config)
    unrolled = dataclasses.replace(config, scan_layers=not config.scan_layers)
    close(
        gradients_of(unrolled, variables, *inputs),
        gradients_of(config, variables, *inputs),
    )


def rematerialised_gradients_equal_plain_ones(config: ModelConfig) -> None:
    if not config.stacks:
        return
    inputs, variables = config.example_inputs(BATCH, LENGTH), variables_of(config)
    again = gradients_of(dataclasses.replace(config, remat='dots'), variables, *inputs)
    close(again, gradients_of(config, variables, *inputs))


def a_step_over_devices_is_that_of_one_device(config: ModelConfig) -> None:
    """The real step, with dropout, on rows of unlike weight; each device holds two rows."""
    steps_agree(config, ('jit',))


def a_step_by_another_strategy_is_that_of_one_device(config: ModelConfig) -> None:
    """`shard_map` and `pmap` run the same program on every device and differ in how a carry is cut
    and joined, so a family is compiled for one of them; the Transformer has tests for both.
    """
    steps_agree(config, ('pmap' if jax.tree.leaves(a_carry(config, 1)) else 'shard_map',))


def steps_agree(config: ModelConfig, strategies: Sequence[Strategy]) -> None:
    devices = jax.devices()
    weight = np.linspace(0.0, 3.0, 2 * len(devices), dtype=np.float32)
    inputs, tree = jax.tree.flatten(config.example_inputs(weight.size, LENGTH))
    batch = {f'input_{i}': np.asarray(x) for i, x in enumerate(inputs)}
    batch |= {'rows': np.arange(weight.size, dtype=np.int32), 'weight': weight}
    task, carry = WeightedRows(tree), a_carry(config, weight.size)
    wanted, carried, reference = one_step(config, task, 'jit', devices[:1], batch, carry)
    for strategy in strategies:
        found, after, loss = one_step(config, task, strategy, devices, batch, carry)
        np.testing.assert_allclose(loss, reference, rtol=2e-6, err_msg=strategy)
        distance = optax.global_norm(jax.tree.map(jnp.subtract, found, wanted))
        assert distance <= 1e-5 * optax.global_norm(wanted), f'{strategy}: another gradient'
        close(after, carried)


def a_carry(config: ModelConfig, rows: int) -> Any:
    """What a recurrent language model may hold after some text; `()` for the others."""
    module: Any = module_of(config)
    if not isinstance(module, CausalLM):
        return ()
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(x.dtype) / 2, module.initial_carry(rows)
    )


@dataclasses.dataclass(frozen=True)
class WeightedRows:
    """As much of a task as a step needs: a loss of whatever the model makes of its inputs.

    Attributes:
        tree: how the arrays of a batch become the model's arguments.
    """

    tree: Any

    def weights(self, batch: Any) -> dict[str, jax.Array]:
        # All rows are equally long, so that their number stands for that of their tokens.
        return {
            'loss': jnp.sum(batch['weight']),
            'auxiliary': jnp.asarray(batch['rows'].size, jnp.float32),
        }

    def loss(
        self, model: nn.Module, variables: Any, batch: Any, carry: Any, *, key: jax.Array
    ) -> tuple[Losses, Any]:
        leaves = [batch[name] for name in sorted(batch) if name.startswith('input_')]
        inputs = jax.tree.unflatten(self.tree, leaves)
        given = {'carry': carry} if jax.tree.leaves(carry) else {}
        output: Any = model.apply(variables, *inputs, train=True, rngs={'dropout': key}, **given)
        logits = answer_in(model, variables, output)
        squares = jnp.square(jax.nn.log_softmax(logits))
        total = jnp.sum(jnp.mean(squares, axis=tuple(range(1, squares.ndim))) * batch['weight'])
        weight = jnp.sum(batch['weight'])
        auxiliary = sum(getattr(output, 'losses', {}).values()) * self.weights(batch)['auxiliary']
        terms = {'loss': total, 'auxiliary': auxiliary}
        losses = Losses(terms, {'loss': Sums(jax.lax.stop_gradient(total), weight)})
        return losses, output.carry if given else carry


def one_step(
    config: ModelConfig, task: Any, strategy: Any, devices: Any, batch: Any, carry: Any
) -> tuple[Any, Any, float]:
    """Gradient, carry and loss of a step that begins with `variables_of(config)` and `carry`."""
    mesh, model = build_mesh(MeshConfig(), devices), module_of(config)
    # The state of this optimizer is the last gradient.
    remember = optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda g, state, params: (g, g)
    )
    factory = StateFactory(config, model, remember, mesh, seed=0, first_carry=lambda: carry)
    variables = jax.tree.map(jnp.copy, dict(variables_of(config)))  # a step takes them
    params = variables.pop('params')
    carry = jax.tree.map(jnp.array, carry)
    key = jax.random.key(0)
    state = TrainState.first(params, remember, key, variables=variables, carry=carry)
    shardings = factory.shardings()
    state = jax.device_put(state, shardings)
    step = make_train_step(task, model, remember, Constant(rate=0.1).build(1))
    compiled = compile_train_step(step, mesh, shardings, strategy=strategy)
    state, metrics = compiled(state, put_rows(batch, mesh))
    loss = metrics['loss']
    return *jax.device_get((state.opt_state, state.carry)), float(loss.total / loss.weight)


# ------------------------------------------------------------------------ encoders and labelers


def a_batch_gives_what_each_sequence_gives_alone(config: ModelConfig) -> None:
    """Whatever stands in the padding, and however much of it there is."""
    (inputs,), variables = config.example_inputs(BATCH, LENGTH), variables_of(config)
    lengths = (LENGTH, LENGTH - 2, 1)
    segments = (jnp.arange(LENGTH) < jnp.array(lengths)[:, None]).astype(jnp.int32)

    def disturbed(x: jax.Array) -> jax.Array:
        real = segments.reshape(*segments.shape, *(1,) * (x.ndim - 2)) > 0
        return jnp.where(real, x, jnp.ones_like(x))

    batch = logits_of(config, variables, inputs, segments=segments)
    other = jax.tree.map(disturbed, inputs)
    per_step = batch.ndim == 3
    again = logits_of(config, variables, other, segments=segments > 0)  # booleans say it as well
    for row, length in enumerate(lengths):
        own = jax.tree.map(lambda x, row=row, n=length: x[row : row + 1, :n], inputs)
        alone = logits_of(config, variables, own)[0]
        for found in (batch[row], again[row]):
            close(found[:length] if per_step else found, alone)


def packed_sequences_equal_separate_ones(config: ModelConfig) -> None:
    if not config.packs:
        return
    (inputs,), variables = config.example_inputs(1, LENGTH), variables_of(config)
    features = logits_of(config, variables, inputs, segments=jnp.array([[1, 1, 1, 1, 2, 2]]))
    first = jax.tree.map(lambda x: x[:, :4], inputs)
    second = jax.tree.map(lambda x: x[:, 4:], inputs)
    close(features[:, :4], logits_of(config, variables, first))
    close(features[:, 4:], logits_of(config, variables, second))


# -------------------------------------------------------------------------------------- Seq2Seq


def padding_changes_no_real_output(config: ModelConfig) -> None:
    source, target = config.example_inputs(BATCH, LENGTH)
    variables, kept = variables_of(config), LENGTH - 2
    real = jnp.broadcast_to(jnp.arange(LENGTH) < kept, target.shape)
    packing = {'target_segments': real.astype(int)}
    # Other tokens in the padding, and no padding at all.
    short, other = source, source
    if source.ndim == 2:  # an image has no padding
        packing['source_segments'] = real.astype(int)
        short, other = source[:, :kept], jnp.where(real, source, (source + 1) % 3)
    padded = logits_of(config, variables, source, target, **packing)
    others = jnp.where(real, target, (target + 1) % 3)
    booleans = {name: given > 0 for name, given in packing.items()}
    close(logits_of(config, variables, other, others, **booleans)[:, :kept], padded[:, :kept])
    close(padded[:, :kept], logits_of(config, variables, short, target[:, :kept]))


def packed_sentences_equal_separate_ones(config: ModelConfig) -> None:
    if not config.packs:
        return
    source, target = config.example_inputs(2, LENGTH)
    variables = variables_of(config)
    # One row holds 4 source and 2 target tokens of the first sentence, 2 and 3 of the second.
    pieces = [(source[:1, :4], target[:1, :2]), (source[1:, :2], target[1:, :3])]
    packed = [jnp.concatenate(side, axis=1) for side in zip(*pieces, strict=True)]
    segments = [jnp.array([[1, 1, 1, 1, 2, 2]]), jnp.array([[1, 1, 2, 2, 2]])]
    logits = logits_of(
        config,
        variables,
        *packed,
        source_segments=segments[0],
        target_segments=segments[1],
    )
    close(logits[:, :2], logits_of(config, variables, *pieces[0]))
    close(logits[:, 2:], logits_of(config, variables, *pieces[1]))


def later_target_tokens_change_no_earlier_logit(config: ModelConfig) -> None:
    source, target = config.example_inputs(BATCH, LENGTH)
    variables = variables_of(config)
    before = logits_of(config, variables, source, target)
    after = logits_of(config, variables, source, target.at[:, 3].add(1))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.abs(before[:, 3:] - after[:, 3:]).max() > 1e-3, 'a target token changes nothing'
    elsewhere = logits_of(config, variables, source.at[:, -1].add(1), target)
    assert np.abs(before[:, 0] - elsewhere[:, 0]).max() > 1e-4, 'the source changes nothing'


def a_prompt_at_once_or_step_by_step_equals_the_full_pass(config: ModelConfig) -> None:
    source, target = config.example_inputs(BATCH, LENGTH)
    module, variables = module_of(config), variables_of(config)
    segments = jnp.ones_like(source).at[0, LENGTH - 2 :].set(0)
    full = logits_of(config, variables, source, target, source_segments=segments)

    @functools.partial(jax.jit, static_argnums=0)
    def decode(pieces: tuple[int, ...]) -> jax.Array:
        memory = module.apply(variables, source, source_segments=segments, method='encode')
        cache = module.apply(variables, memory, LENGTH + 2, method='init_cache')
        logits, start = [], 0
        for size in pieces:
            piece = target[:, start : start + size]
            result, cache = module.apply(variables, piece, memory, cache, method='extend')
            logits.append(result)
            start += size
        return jnp.concatenate(logits, axis=1)

    close(decode((LENGTH,)), full)
    close(decode((2, *(1,) * (LENGTH - 2))), full)


# -------------------------------------------------------------------------------------- CausalLM


def padding_on_either_side_changes_no_real_logit(config: ModelConfig) -> None:
    (tokens,) = config.example_inputs(BATCH, LENGTH)
    variables, inner = variables_of(config), slice(1, LENGTH - 2)
    real = jnp.zeros_like(tokens).at[:, inner].set(1)
    padded = logits_of(config, variables, tokens, segments=real)
    other = jnp.where(real > 0, tokens, (tokens + 1) % 3)
    close(logits_of(config, variables, other, segments=real > 0)[:, inner], padded[:, inner])
    close(padded[:, inner], logits_of(config, variables, tokens[:, inner]))


def packed_texts_equal_separate_ones(config: ModelConfig) -> None:
    if not config.packs:
        return
    (tokens,) = config.example_inputs(2, LENGTH)
    variables = variables_of(config)
    pieces = tokens[:1, :2], tokens[1:, :3]
    packed = jnp.concatenate(pieces, axis=1)
    logits = logits_of(config, variables, packed, segments=jnp.array([[1, 1, 2, 2, 2]]))
    close(logits[:, :2], logits_of(config, variables, pieces[0]))
    close(logits[:, 2:], logits_of(config, variables, pieces[1]))


def later_tokens_change_no_earlier_logit(config: ModelConfig) -> None:
    (tokens,) = config.example_inputs(BATCH, LENGTH)
    variables = variables_of(config)
    before = logits_of(config, variables, tokens)
    after = logits_of(config, variables, tokens.at[:, 3].set((tokens[:, 3] + 1) % 3))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    for place in range(3, LENGTH):
        change = np.abs(before[:, place] - after[:, place]).max()
        assert change > 1e-4, f'the token at 3 changes nothing at {place}'


def prompts_of_unlike_lengths_and_single_steps_equal_the_full_pass(config: ModelConfig) -> None:
    (tokens,) = config.example_inputs(BATCH, LENGTH)
    module, variables = module_of(config), variables_of(config)
    full = logits_of(config, variables, tokens)
    prompts = jnp.array([LENGTH - 2, 2, 3])

    @jax.jit
    def decode() -> tuple[jax.Array, jax.Array]:
        empty: Any = module.apply(variables, BATCH, LENGTH + 2, method='init_cache')

        def extend(tokens: jax.Array, lengths: jax.Array, cache: Any) -> Any:
            return module.apply(variables, tokens, lengths, cache, method='extend')

        at_once, _ = extend(tokens, jnp.full(BATCH, LENGTH), empty)
        logits, cache = extend(tokens[:, : LENGTH - 2], prompts, empty)
        logits, read = jnp.pad(logits, ((0, 0), (0, 2), (0, 0))), prompts
        rows = jnp.arange(BATCH)
        for _ in range(LENGTH - 2):
            # Every row reads its own next token; one that is through reads nothing more.
            here, goes_on = jnp.minimum(read, LENGTH - 1), read < LENGTH
            new, cache = extend(tokens[rows, here][:, None], goes_on.astype(int), cache)
            new = jnp.where(goes_on[:, None], new[:, 0], logits[rows, here])
            logits, read = logits.at[rows, here].set(new), read + goes_on
        return at_once, logits

    at_once, step_by_step = decode()
    close(at_once, full)
    close(step_by_step, full)


def a_carry_handed_over_equals_one_long_pass(config: ModelConfig) -> None:
    (tokens,) = config.example_inputs(BATCH, LENGTH)
    module, variables = module_of(config), variables_of(config)
    first: Any = a_carry(config, BATCH)
    if not jax.tree.leaves(first):
        return
    assert {x.shape[0] for x in jax.tree.leaves(first)} == {BATCH}, 'a carry has its rows first'

    @jax.jit
    def both() -> Any:
        whole: Any = module.apply(variables, tokens, carry=first)
        start: Any = module.apply(variables, tokens[:, :4], carry=first)
        rest: Any = module.apply(variables, tokens[:, 4:], carry=start.carry)
        new: Any = module.apply(variables, tokens)
        zero: Any = module.apply(variables, tokens, carry=module.initial_carry(BATCH))  # pyright: ignore
        parts = jnp.concatenate([start.features, rest.features], axis=1)
        return (whole.features, whole.carry), (parts, rest.carry), new.features, zero.features

    whole, parts, new, zero = both()
    close(parts, whole)
    close(zero, new)
    assert np.abs(whole[0] - new).max() > 1e-3, 'the carry changes nothing'


def a_carry_knows_the_last_text_of_a_row_alone(config: ModelConfig) -> None:
    (tokens,) = config.example_inputs(1, LENGTH)
    module, variables = module_of(config), variables_of(config)
    before: Any = a_carry(config, 1)
    if not (config.packs and jax.tree.leaves(before)):
        return

    @jax.jit
    def both() -> Any:
        segments = jnp.array([[1, 1, 2, 2]])
        row: Any = module.apply(variables, tokens[:, :4], segments=segments, carry=before)
        last: Any = module.apply(variables, tokens[:, 2:4], carry=module.initial_carry(1))  # pyright: ignore
        rest = [module.apply(variables, tokens[:, 4:], carry=x.carry) for x in (row, last)]
        return rest[0].features, rest[1].features

    close(*both())
