"""How much of the gradient of the last loss is left at earlier states: vanishing and exploding.

Back-propagation through time multiplies Jacobians, one for each step back,

    d loss_T / d s_t = d loss_T / d s_T  J_T J_{T-1} ... J_{t+1},     J_t = d s_t / d s_{t-1}

and a product of many matrices dies out or blows up (Bengio, Simard, Frasconi 1994; Pascanu,
Mikolov, Bengio 2013, equations 3 to 7). `s_t` is all that recurrent layers hand on from step t to
the next: `h`, of an LSTM also `c`. Clipping (Pascanu et al., algorithm 1) scales the whole gradient
of the parameters, and so every curve by one factor: it ends an explosion and brings nothing back
that has vanished.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import meta

from seqzoo.errors import UserError
from seqzoo.layers.recurrent import Recurrence, RecurrentConfig, RecurrentStack
from seqzoo.layers.recurrent_cells import Cell
from seqzoo.tasks.base import Batch, Task


@dataclass(frozen=True)
class GradientsThroughTime:
    """Of the last loss, averaged over sequences.

    Attributes:
        norms: `[length + 1]` norm of the gradient by steps back from the end: at 0 with respect to
            the last output and the last state, at k to the state k steps before that one, so that
            the last entry is that of the state before the first step.
        parameters: norm of the gradient of the mean loss with respect to all parameters.
    """

    norms: np.ndarray
    parameters: float

    def clipped(self, norm: float) -> 'GradientsThroughTime':
        """The same after the gradient of the parameters was clipped to that norm."""
        factor = min(1.0, norm / self.parameters) if self.parameters else 1.0
        return GradientsThroughTime(self.norms * factor, self.parameters * factor)


@flax.struct.dataclass
class _Taps:
    """Zeros that are added where a gradient is wanted.

    Attributes:
        states: a tree like the carry, `[length, rows, ...]`: to the state before each step.
        last: the same, `[rows, ...]`: to the state after the last step.
        output: `[rows, hidden]`: to the last output.
    """

    states: Any
    last: Any
    output: jax.Array

    @classmethod
    def of(cls, stack: RecurrentStack, rows: int, length: int) -> '_Taps':
        last = stack.config.initial_carry(rows)
        states = jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), last)
        output = jnp.zeros((rows, stack.config.output_dims[-1]), stack.dtype)
        return cls(states, last, output)


def gradients_of_cell(
    cell: Cell,
    length: int,
    *,
    gain: float = 1.0,
    input_dim: int = 16,
    rows: int = 16,
    seed: int = 0,
) -> GradientsThroughTime:
    """Of a layer as it starts, on white noise, for a loss with gradient 1 at the last output.

    Args:
        cell: its equations.
        length: steps.
        gain: the recurrent kernels are multiplied by this; as they start, each gate's is
            orthogonal.
        input_dim: width of the input, whose numbers are standard normal.
        rows: sequences that are averaged over.
        seed: of parameters, inputs and the direction of the loss.
    """
    stack = RecurrentStack(RecurrentConfig(cell=cell), jnp.dtype('float32'))
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (rows, length, input_dim))
    params = meta.unbox(jax.jit(stack.init)(keys[1], x[:, :1]))['params']['layer_0']
    params |= {name: gain * params[name] for name in cell.recurrent_kernels}
    direction = jax.random.normal(keys[2], (rows, cell.output_dim))
    direction /= jnp.linalg.norm(direction, axis=-1, keepdims=True)
    return gradients_of_layer(cell, params, x, direction)


def gradients_of_layer(
    cell: Cell, params: Any, x: jax.Array, direction: jax.Array
) -> GradientsThroughTime:
    """Of one recurrent layer that begins from zeros.

    Args:
        cell: its equations.
        params: its parameters.
        x: `[rows, length, input]`.
        direction: `[rows, hidden]`, the gradient of each row's loss at its last output.
    """
    stack = RecurrentStack(RecurrentConfig(cell=cell), jnp.dtype('float32'))
    rows, length, _ = x.shape
    ends = jnp.full(rows, length)

    @jax.jit
    @jax.grad
    def gradients(wanted: tuple[Any, _Taps]) -> jax.Array:
        params, taps = wanted
        every = jnp.ones((rows, length), bool)
        call = _Call('', stack, {'layer_0': params}, x, every)
        found = _step_by_step(call, ends, taps)
        return jnp.sum(found.features[:, -1] * direction)

    of_params, of_taps = gradients((params, _Taps.of(stack, rows, length)))
    return _averaged(of_params, of_taps, np.asarray(ends))


def gradients_of_model(
    task: Task, model: nn.Module, variables: Any, batch: Batch, carry: Any = ()
) -> dict[str, GradientsThroughTime]:
    """Of every stack of recurrent layers that a model runs forward, by its place in the model.

    The loss is the task's own, as far as it reads the last output that it reads at all, or the last
    state.

    Args:
        task: whose loss it is.
        model: the module.
        variables: its collections.
        batch: of the task, one sequence a row, padded behind it.
        carry: the state before it, where the task has one.

    Raises:
        UserError: the model runs no such layers.
    """
    stacks: dict[str, tuple[RecurrentStack, int, int]] = {}

    def look(call: _Call) -> None:
        rows, length, _ = call.x.shape
        stacks[call.place] = (call.stack, rows, length)

    def total(params: Any, visit: Visit) -> jax.Array:
        with _Intercepted(visit):
            losses, _ = task.loss(model, {**variables, 'params': params}, batch, carry, key=None)
        return jnp.sum(jnp.stack(list(losses.terms.values())))

    jax.eval_shape(lambda: total(variables['params'], look))
    if not stacks:
        raise UserError('the model has no recurrent layers that read forward: nothing was drawn.')
    ends = _ends(stacks, lambda visit: total(variables['params'], visit))

    @jax.jit
    @jax.grad
    def gradients(wanted: tuple[Any, dict[str, _Taps]]) -> jax.Array:
        params, taps = wanted

        def tapped(call: _Call) -> Recurrence:
            return _step_by_step(call, jnp.asarray(ends[call.place]), taps[call.place])

        return total(params, tapped)

    taps = {place: _Taps.of(*stack) for place, stack in stacks.items()}
    of_params, of_taps = gradients((variables['params'], taps))
    return {place: _averaged(of_params, of_taps[place], ends[place]) for place in stacks}


def _ends(
    stacks: Mapping[str, tuple[RecurrentStack, int, int]], total: Callable[['Visit'], jax.Array]
) -> dict[str, np.ndarray]:
    """`[rows]` of each stack: the place behind the last output that the loss reads; where it reads
    none, but the last state, the place behind the last real step.
    """

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def reads(taps: dict[str, jax.Array]) -> Any:
        lengths = {}

        def tapped(call: _Call) -> Recurrence:
            lengths[call.place] = jnp.sum(call.mask, axis=1)
            found = call.run()
            features = found.features + taps[call.place]
            return Recurrence(features, found.carry, features, (*found.layers[:-1], features))

        return total(tapped), lengths

    taps = {
        place: jnp.zeros((rows, length, stack.config.output_dims[-1]), stack.dtype)
        for place, (stack, rows, length) in stacks.items()
    }
    gradients, lengths = jax.device_get(reads(taps))
    ends = {}
    for place, gradient in gradients.items():
        read = (gradient != 0).any(axis=-1)
        last = read.shape[1] - np.argmax(read[:, ::-1], axis=1)
        ends[place] = np.where(read.any(axis=1), last, lengths[place])
    return ends


def gradients_of_run(run: Any, *, rows: int = 16) -> dict[str, dict[str, GradientsThroughTime]]:
    """Of a run's model on the first sequences of its training data, by the place of the layers in
    the model and then `'untrained'` and `'trained'`.

    Args:
        run: `seqzoo.load_run(..., splits=('train',))`.
        rows: how many sequences, if a batch has as many.

    Raises:
        UserError: the model runs no recurrent layers forward.
    """
    experiment, model = run.experiment, run.runtime.model
    task, config = experiment.task, experiment.task.resolve(experiment.model, run.prepared)
    plan = task.plan(run.prepared, experiment.batch, experiment.seed)
    options = {'start_step': 0, 'row_multiple': 1, 'process_index': 0, 'process_count': 1}
    first = next(task.batches(run.prepared, plan, **options)).arrays
    batch = {name: jnp.asarray(x[:rows]) for name, x in first.items()}
    carry = task.first_carry(model, plan, row_multiple=1)
    carry = jax.tree.map(lambda x: x[:rows], carry)
    drawn = jax.jit(model.init)(jax.random.key(experiment.seed), *config.example_inputs())
    trained = jax.device_get(run.runtime.variables)  # from however many devices to one
    found = {
        'untrained': gradients_of_model(task, model, meta.unbox(drawn), batch, carry),
        'trained': gradients_of_model(task, model, trained, batch, carry),
    }
    places = found['trained']
    return {place: {when: of[place] for when, of in found.items()} for place in places}


@dataclass(frozen=True)
class _Call:
    """A call of recurrent layers inside a model.

    Attributes:
        place: where in the model.
        stack: the layers, unbound.
        params: theirs.
        x: `[rows, length, input]`.
        mask: `[rows, length]` bool, True at real steps.
        carry: the state before the first; `None`: zeros.
    """

    place: str
    stack: RecurrentStack
    params: Any
    x: jax.Array
    mask: jax.Array
    carry: Any = None

    def run(self) -> Recurrence:
        """What the layers say."""
        found: Any = self.stack.apply(
            {'params': self.params}, self.x, mask=self.mask, carry=self.carry
        )
        return found


Visit = Callable[[_Call], Recurrence | None]


class _Intercepted:
    """Hands every call of a forward `RecurrentStack` in a model to `visit`, which may answer it."""

    def __init__(self, visit: Visit) -> None:
        self._visit, self._inside = visit, False
        self._context = nn.intercept_methods(self._call)

    def __enter__(self) -> None:
        self._context.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self._context.__exit__(*exception)

    def _call(
        self, call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        ours = isinstance(module, RecurrentStack) and context.method_name == '__call__'
        if not ours or self._inside or module.config.directions != 'forward':
            return call(*args, **kwargs)
        (x,), segments, mask = args, kwargs.get('segments'), kwargs.get('mask')
        if mask is None:
            mask = jnp.ones(x.shape[:2], bool) if segments is None else segments > 0
        stack = RecurrentStack(module.config, module.dtype, parent=None)
        seen = _Call(
            '/'.join(module.path), stack, module.variables['params'], x, mask, kwargs.get('carry')
        )
        self._inside = True  # what `visit` runs is not to be visited again
        try:
            answer = self._visit(seen)
        finally:
            self._inside = False
        return call(*args, **kwargs) if answer is None else answer


def _step_by_step(call: _Call, ends: jax.Array, taps: _Taps) -> Recurrence:
    """The layers one step at a time, with taps. Of the outputs only the one before `ends`
    (`[rows]`) carries a gradient.
    """

    def step(state: Any, now: tuple[jax.Array, jax.Array, Any]) -> tuple[Any, Any]:
        x, mask, tap = now
        state = jax.tree.map(jnp.add, state, tap)
        one = replace(call, x=x[:, None], mask=mask[:, None], carry=state).run()
        return one.carry, [x[:, 0] for x in one.layers]

    rows, length = call.mask.shape
    first = call.stack.config.initial_carry(rows) if call.carry is None else call.carry
    sequences = (jnp.swapaxes(call.x, 0, 1), call.mask.T, taps.states)
    last, found = jax.lax.scan(step, first, sequences)
    last = jax.tree.map(jnp.add, last, taps.last)
    *below, outputs = (jnp.swapaxes(x, 0, 1) for x in found)
    at_end = (jnp.arange(length) == ends[:, None] - 1)[..., None]
    tapped = outputs + taps.output[:, None]
    features = jnp.where(at_end, tapped, jax.lax.stop_gradient(outputs))
    return Recurrence(features, last, features, (*below, features))


def _averaged(params: Any, taps: _Taps, ends: np.ndarray) -> GradientsThroughTime:
    """Means over rows, each aligned by its own end.

    Args:
        params: gradient of the sum over rows.
        taps: the same.
        ends: `[rows]` the place behind the last step that counts.
    """
    rows, longest = len(ends), int(ends.max())
    # [rows, length]
    states = np.sqrt(sum(_squares(x, 2) for x in jax.tree.leaves(taps.states))).T
    last = [taps.output, *jax.tree.leaves(taps.last)]
    norms = np.full((rows, longest + 1), np.nan)
    norms[:, 0] = np.sqrt(sum(_squares(x, 1) for x in last))
    for row, end in enumerate(ends):
        norms[row, 1 : end + 1] = states[row, :end][::-1]
    squares = sum(float(np.sum(_squares(x, 0))) for x in jax.tree.leaves(params))
    return GradientsThroughTime(np.nanmean(norms, axis=0), squares**0.5 / rows)


def _squares(x: jax.Array, kept: int) -> np.ndarray:
    """Sums of squares over all axes but the first `kept`; exact where float32 would be 0."""
    values = np.square(np.asarray(x, np.float64))
    return values.sum(axis=tuple(range(kept, values.ndim)))
