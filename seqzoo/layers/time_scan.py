"""The scan over time, written once for every recurrent cell, with its gradient written by hand.

A cell says what one step computes and sends every matrix product of the step through a function
`product(name, value)`. That is all the scan needs to know for back-propagation through time:

    forward    total_t = inputs[name]_t + value_t K       saved: total_t and the carry before step t
    backward   d value_t = d total_t K^T                   K is transposed once, before the loop
               d K = sum over t of value_t^T d total_t     one product over time and batch, after it
               d inputs[name]_t = d total_t                the same array: nothing stored twice

Between the products a cell is elementwise and is differentiated by jax, step by step, from the
saved totals; no product is computed a second time. What autodiff would make of the same scan adds
to a gradient of the size of the kernel at every step, and turns the kernel around at every step.

Only reverse mode of first order exists (`jax.custom_vjp`): no `jvp`, no gradient of a gradient.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from seqzoo.parallel.axes import constrain, target_platform
from seqzoo.parallel.loops import loop_over

Carry = dict[str, jax.Array]  # float32 [batch, ...]; 'h' is what a step gives out
Arrays = dict[str, jax.Array]
Product = Callable[[str, jax.Array], jax.Array]


class StepCell(Protocol):
    """What the scan needs of a cell; hashable, because it is static under `jit`."""

    def step(self, vectors: Arrays, inputs: Arrays, carry: Carry, product: Product) -> Carry:
        """One step, elementwise but for `product`, which it calls at most once with each name.

        `product(name, value)` is `value @ kernels[name]`, plus `inputs[name]` where there is one
        (if that is narrower, to the first columns), in float32.
        """
        ...


class Terms(NamedTuple):
    """A cell's share in a scan, made ready by `Cell.prepare`.

    Attributes:
        kernels: by product, `[in, out]`, or `[groups, in / groups, out / groups]`, or that with the
            batch in front: each example has its own, as attention to a memory needs it.
        vectors: small parameters that the step uses elementwise.
        inputs: `[length, batch, ...]`, what does not depend on the carry: projections of the input
            for all steps at once. Those called like a product are added to it.
        masks: by product, `[batch, in]`, multiplied into its value at every step; no gradient.
    """

    kernels: Arrays
    vectors: Arrays
    inputs: Arrays
    masks: Arrays


class Control(NamedTuple):
    """Which steps count.

    Attributes:
        keep: `[length, batch]` bool; elsewhere the carry stays as it is. `None`: everywhere.
        fresh: `[length, batch]` bool; the steps that begin from a zero carry. `None`: nowhere.
    """

    keep: jax.Array | None = None
    fresh: jax.Array | None = None


@dataclass(frozen=True)
class _How:
    """What is static about a scan."""

    cell: StepCell
    reverse: bool
    unroll: int


# Steps per turn of the compiled loop. CPU: measured (benchmarks/results/recurrent.md); unrolling
# copies the gates of several steps into one fusion and loses. The others are not measured: there a
# turn of the loop costs a few microseconds beside a product that takes as long, so that a few steps
# per turn should pay.
_UNROLL = {'cpu': 1, 'gpu': 4, 'tpu': 4}


def default_unroll() -> int:
    """Steps per turn of the loop on the devices that the program is for."""
    return _UNROLL.get(target_platform(), 1)


def time_scan(
    cell: StepCell,
    terms: Terms,
    carry: Carry,
    control: Control | None = None,
    *,
    reverse: bool = False,
    unroll: int | None = None,
) -> tuple[jax.Array, Carry]:
    """Runs `cell` over time.

    Args:
        cell: its step.
        terms: its kernels, vectors and inputs.
        carry: where it begins, float32.
        control: which steps are padding, and which begin a segment; `None`: all are real.
        reverse: from the last step to the first; outputs stay in the order of the inputs.
        unroll: steps per turn of the loop; `None`: what is best on this backend.

    Returns:
        `[length, batch, hidden]` float32 outputs, zero at padding, and the last carry.
    """
    how = _How(cell, reverse, default_unroll() if unroll is None else unroll)
    control = Control() if control is None else control
    terms = terms._replace(kernels={n: _gathered(kernel) for n, kernel in terms.kernels.items()})
    scan: Any = _scan  # pyright does not see through custom_vjp
    outputs, last = scan(how, *terms, carry, control)
    if control.keep is not None:
        outputs = jnp.where(control.keep[..., None], outputs, 0.0)
    return outputs, last


def _gathered(kernel: jax.Array) -> jax.Array:
    """A kernel that every device has in full before the loop begins, whatever splits its parameter:
    otherwise each step would wait for its parts. Examples with kernels of their own keep them.
    """
    if kernel.ndim > 3:
        return constrain(kernel, 'batch', *[None] * (kernel.ndim - 1))
    return constrain(kernel, *[None] * kernel.ndim)


def boundaries(segments: jax.Array, *, reverse: bool = False) -> Control:
    """The steps to keep, and those that begin a segment, of packed rows.

    Args:
        segments: `[batch, length]` int32, 1, 2, ... with 0 for padding, wherever it lies.
        reverse: in which direction the scan will run.

    The first segment of a row goes on from the carry that the scan is given; every later one begins
    from zeros.
    """
    real = segments > 0
    last = jax.lax.associative_scan(
        lambda before, here: jnp.where(here > 0, here, before), segments, axis=1, reverse=reverse
    )
    edge = jnp.zeros_like(last[:, :1])
    seen = [last[:, 1:], edge] if reverse else [edge, last[:, :-1]]
    before = jnp.concatenate(seen, axis=1)
    return Control(real.T, (real & (before > 0) & (before != segments)).T)


def in_chunks(
    run: Callable[[Any, Carry], tuple[Any, Carry]],
    sequences: Any,
    carry: Carry,
    steps: int,
    *,
    reverse: bool = False,
) -> tuple[Any, Carry]:
    """Applies `run` to `steps` steps at a time and saves only the carries in between.

    The backward pass runs every chunk again. What it holds at once is `length / steps` carries, the
    inputs and outputs of the scan, and all that one chunk of `steps` steps needs; `steps` near
    `sqrt(length)` makes that least.

    Args:
        run: `(sequences of a chunk, carry) -> (outputs of the chunk, carry)`.
        sequences: a tree of `[length, ...]`.
        carry: where it begins.
        steps: length of a chunk; what is left over is a shorter one at the end of the scan.
        reverse: whether the last chunk comes first.
    """
    again = jax.checkpoint(run, prevent_cse=False)

    def body(carry: Carry, part: Any) -> tuple[Carry, Any]:
        outputs, carry = again(part, carry)
        return carry, outputs

    (length,) = {leaf.shape[0] for leaf in jax.tree.leaves(sequences)}
    rest = length % steps
    first, second = (rest, length) if reverse else (0, length - rest)
    whole = jax.tree.map(lambda x: x[first:second], sequences)
    left_over = jax.tree.map(lambda x: x[:first] if reverse else x[second:], sequences)
    chunks = jax.tree.map(lambda x: x.reshape(-1, steps, *x.shape[1:]), whole)
    with loop_over('time_scan'):
        carry, outputs = jax.lax.scan(body, carry, chunks, reverse=reverse)
    outputs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)
    if rest:
        carry, more = jax.checkpoint(body)(carry, left_over)
        parts = (more, outputs) if reverse else (outputs, more)
        outputs = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    return outputs, carry


# The products


def multiply(value: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[..., in] -> [..., out]` float32; a kernel of rank 3 maps each group of columns by itself,
    one of rank 4 those of each example.
    """
    value = value.astype(kernel.dtype)
    if kernel.ndim == 2:
        return jnp.matmul(value, kernel, preferred_element_type=jnp.float32)
    groups = value.reshape(*value.shape[:-1], kernel.shape[-3], -1)
    # [..., groups, in] -> [..., groups, out]
    out = jnp.einsum('...ki,...kio->...ko', groups, kernel, preferred_element_type=jnp.float32)
    return out.reshape(*value.shape[:-1], -1)


def _kernel_gradient(values: jax.Array, gradients: jax.Array, kernel: jax.Array) -> jax.Array:
    """`sum over time and batch of value^T gradient`, in the shape of the kernel."""
    gradients = gradients.astype(kernel.dtype)
    if kernel.ndim == 2:
        over = (((0, 1), (0, 1)), ((), ()))
        result = jax.lax.dot_general(values, gradients, over, preferred_element_type=jnp.float32)
        return result.astype(kernel.dtype)
    split = (kernel.shape[-3], -1)
    result = jnp.einsum(
        'tbki,tbko->kio' if kernel.ndim == 3 else 'tbki,tbko->bkio',
        values.reshape(*values.shape[:2], *split),
        gradients.reshape(*gradients.shape[:2], *split),
        preferred_element_type=jnp.float32,
    )
    return result.astype(kernel.dtype)


class _Compute:
    """`product` of the forward pass: computes, and remembers the totals."""

    def __init__(self, kernels: Arrays, inputs: Arrays, masks: Arrays) -> None:
        self.kernels, self.inputs, self.masks = kernels, inputs, masks
        self.totals: Arrays = {}

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        total = multiply(_masked(value, self.masks.get(name)), self.kernels[name])
        if name in self.inputs:
            added = self.inputs[name].astype(jnp.float32)
            missing = total.shape[-1] - added.shape[-1]
            total += jnp.pad(added, ((0, 0), (0, missing))) if missing else added
        assert name not in self.totals, f'a step uses the product {name!r} twice'
        self.totals[name] = total.astype(self.kernels[name].dtype)
        return total


class _Recall:
    """`product` of the backward pass: the saved totals, whose gradients come out at the taps."""

    def __init__(self, transposed: Arrays, totals: Arrays, taps: Arrays, masks: Arrays) -> None:
        self.transposed, self.totals, self.taps, self.masks = transposed, totals, taps, masks
        self.values: Arrays = {}

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        value = _masked(value, self.masks.get(name))
        self.values[name] = value.astype(self.transposed[name].dtype)
        total = self.totals[name].astype(jnp.float32)
        return _recall(value, self.taps[name], total, self.transposed[name])


def _masked(value: jax.Array, mask: jax.Array | None) -> jax.Array:
    return value if mask is None else value * mask


@jax.custom_vjp
def _recall(value: jax.Array, tap: jax.Array, total: jax.Array, transposed: jax.Array) -> jax.Array:
    """The known value of `tap + value @ transposed.T`."""
    return total


def _recall_forward(
    value: jax.Array, tap: jax.Array, total: jax.Array, transposed: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return total, transposed


def _recall_backward(transposed: jax.Array, gradient: jax.Array) -> tuple[Any, ...]:
    return multiply(gradient, transposed), gradient, None, None


_recall.defvjp(_recall_forward, _recall_backward)


# The scan and its gradient


def _begin(carry: Carry, fresh: jax.Array | None) -> Carry:
    if fresh is None:
        return carry
    return {name: jnp.where(fresh[:, None], 0.0, x) for name, x in carry.items()}


def _end(new: Carry, old: Carry, keep: jax.Array | None) -> Carry:
    if keep is None:
        return new
    return {name: jnp.where(keep[:, None], x, old[name]) for name, x in new.items()}


def _unattached(inputs: Arrays, kernels: Arrays) -> Arrays:
    """The inputs that the step reads itself; the others are added to a product."""
    return {name: x for name, x in inputs.items() if name not in kernels}


def _step(
    how: _How, terms: Terms, carry: Carry, inputs: Arrays, control: Control
) -> tuple[Carry, Arrays]:
    """One step forward: the carry and the totals of the products."""
    product = _Compute(terms.kernels, inputs, terms.masks)
    free = _unattached(inputs, terms.kernels)
    new = how.cell.step(terms.vectors, free, _begin(carry, control.fresh), product)
    return _end(new, carry, control.keep), product.totals


def _at(time: jax.Array, sequences: Arrays) -> Arrays:
    """One step of `[length, ...]`."""
    take = functools.partial(jax.lax.dynamic_index_in_dim, index=time, keepdims=False)
    return {name: take(x) for name, x in sequences.items()}


def _put(time: jax.Array, sequences: Arrays, step: Arrays) -> Arrays:
    """`sequences` with one step replaced; in a loop that carries them nothing is copied."""
    put = jax.lax.dynamic_update_index_in_dim
    return {n: put(x, step[n].astype(x.dtype), time, axis=0) for n, x in sequences.items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(
    how: _How,
    kernels: Arrays,
    vectors: Arrays,
    inputs: Arrays,
    masks: Arrays,
    carry: Carry,
    control: Control,
) -> tuple[jax.Array, Carry]:
    """`h` after every step, and the last carry; nothing is saved for a backward pass."""
    terms = Terms(kernels, vectors, inputs, masks)

    def body(carry: Carry, now: Any) -> tuple[Carry, jax.Array]:
        carry, _ = _step(how, terms, carry, *now)
        return carry, carry['h']

    now = (inputs, control)
    if {x.shape[0] for x in jax.tree.leaves(now)} == {1}:  # decoding: no loop around one step
        last, output = body(carry, jax.tree.map(lambda x: x[0], now))
        return output[None], last
    with loop_over('time_scan'):
        last, outputs = jax.lax.scan(body, carry, now, reverse=how.reverse, unroll=how.unroll)
    return outputs, last


def _scan_forward(
    how: _How,
    kernels: Arrays,
    vectors: Arrays,
    inputs: Arrays,
    masks: Arrays,
    carry: Carry,
    control: Control,
) -> tuple[tuple[jax.Array, Carry], Any]:
    terms = Terms(kernels, vectors, inputs, masks)

    def body(carry: Carry, now: Any) -> tuple[Carry, Any]:
        new, totals = _step(how, terms, carry, *now)
        return new, (new['h'], carry, totals)

    with loop_over('time_scan'):
        last, (outputs, carries, totals) = jax.lax.scan(
            body, carry, (inputs, control), reverse=how.reverse, unroll=how.unroll
        )
    # Of an input that was added to a product, only the width and the dtype matter from here on.
    shadows = {name: jnp.zeros((0, x.shape[-1]), x.dtype) for name, x in inputs.items()}
    free = _unattached(inputs, kernels)
    return (outputs, last), (kernels, vectors, free, shadows, masks, control, carries, totals)


def _scan_backward(how: _How, saved: Any, gradient: tuple[jax.Array, Carry]) -> tuple[Any, ...]:
    kernels, vectors, free, shadows, masks, control, carries, totals = saved
    d_outputs, d_last = gradient
    transposed = {name: jnp.swapaxes(kernel, -1, -2) for name, kernel in kernels.items()}

    # Gradients are written over the totals that they belong to: one array where there were two.
    def body(state: Any, now: Any) -> tuple[Any, Any]:
        d_new, d_vectors, whole = state  # gradients in the steps done, totals in those to come
        time, d_output, carry, free, control = now
        d_new = {**d_new, 'h': d_new['h'] + d_output}
        totals = _at(time, whole)
        taps = {name: jnp.zeros(x.shape, jnp.float32) for name, x in totals.items()}

        def again(
            vectors: Arrays, free: Arrays, carry: Carry, taps: Arrays
        ) -> tuple[Carry, Arrays]:
            product = _Recall(transposed, totals, taps, masks)
            new = how.cell.step(vectors, free, _begin(carry, control.fresh), product)
            return _end(new, carry, control.keep), product.values

        _, vjp, values = jax.vjp(again, vectors, free, carry, taps, has_aux=True)
        more, d_free, d_carry, d_totals = vjp(d_new)
        d_vectors = jax.tree.map(jnp.add, d_vectors, more)
        return (d_carry, d_vectors, _put(time, whole, d_totals)), (d_free, values)

    none = jax.tree.map(jnp.zeros_like, vectors)
    with loop_over('time_scan'):
        (d_carry, d_vectors, d_totals), (d_inputs, values) = jax.lax.scan(
            body,
            (d_last, none, totals),
            (jnp.arange(d_outputs.shape[0]), d_outputs, carries, free, control),
            reverse=not how.reverse,
            unroll=how.unroll,
        )
    d_kernels = {k: _kernel_gradient(values[k], d_totals[k], kernels[k]) for k in kernels}
    for name, shadow in shadows.items():
        if name in kernels:
            d_inputs[name] = d_totals[name][..., : shadow.shape[-1]].astype(shadow.dtype)
    return d_kernels, d_vectors, d_inputs, None, d_carry, None


_scan.defvjp(_scan_forward, _scan_backward)
