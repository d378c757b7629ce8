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

from seqzoo.layers.step_products import Arrays as Arrays
from seqzoo.layers.step_products import Compute, Recall, kernel_gradient
from seqzoo.layers.step_products import multiply as multiply
from seqzoo.parallel.axes import constrain, target_platform
from seqzoo.parallel.loops import loop_over
from seqzoo.parallel.shards import ways

Carry = dict[str, jax.Array]  # float32 [batch, ...]; 'h' is what a step gives out
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
        vectors: small parameters that the step uses elementwise; and, with names that begin with
            `each_`, arrays `[batch, ...]` of which every example has its own.
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


_EACH = 'each_'  # begins the names of vectors that are no parameters


@dataclass(frozen=True)
class _How:
    """What is static about a scan."""

    cell: StepCell
    reverse: bool
    unroll: int
    groups: int  # of rows that stand on different devices


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
    batch, groups = carry['h'].shape[0], ways('batch')
    unroll = default_unroll() if unroll is None else unroll
    how = _How(cell, reverse, unroll, 1 if batch % groups else groups)
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
    product = Compute(terms.kernels, inputs, terms.masks)
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


class _Examples(NamedTuple):
    """What every example has of its own, `[batch, ...]`."""

    kernels: Arrays
    vectors: Arrays
    masks: Arrays


class _Back(NamedTuple):
    """The backward pass of one step.

    Gradients of shared vectors are sums over rows. Rows that stand on different devices are summed
    apart and meet once behind the loop; in it the devices would wait for each other at every step.
    """

    how: _How
    transposed: Arrays
    shared: Arrays
    examples: _Examples

    def step(
        self, d_new: Carry, free: Arrays, carry: Carry, totals: Arrays, control: Control
    ) -> tuple[Arrays, Any, Arrays]:
        """Gradients of shared vectors, of what each row has, and the values of the products."""
        rows = (self.examples, d_new, free, carry, totals, control)
        if not self._groups:
            return self._of_rows(rows)
        groups = self._groups

        def cut(x: jax.Array) -> jax.Array:
            parts = x.reshape(groups, -1, *x.shape[1:])
            return constrain(parts, 'batch', *[None] * x.ndim)

        more, *found = jax.vmap(self._of_rows)(jax.tree.map(cut, rows))
        join = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
        return more, *jax.tree.map(join, found)

    def _of_rows(self, rows: Any) -> tuple[Arrays, Any, Arrays]:
        examples, d_new, free, carry, totals, control = rows
        taps = {name: jnp.zeros(x.shape, jnp.float32) for name, x in totals.items()}
        transposed = {**self.transposed, **examples.kernels}

        def again(
            shared: Arrays, own: Arrays, free: Arrays, carry: Carry, taps: Arrays
        ) -> tuple[Carry, Arrays]:
            product = Recall(transposed, totals, taps, examples.masks)
            begun = _begin(carry, control.fresh)
            new = self.how.cell.step({**shared, **own}, free, begun, product)
            return _end(new, carry, control.keep), product.values

        _, vjp, values = jax.vjp(
            again, self.shared, examples.vectors, free, carry, taps, has_aux=True
        )
        more, *found = vjp(d_new)
        return more, found, values

    @property
    def _groups(self) -> int:
        """How many; 0 if all rows are summed at once."""
        return self.how.groups if self.how.groups > 1 and self.shared else 0

    def zeros(self) -> Arrays:
        """What the gradients of shared vectors are added to."""
        return {n: self._apart(jnp.zeros_like(v)) for n, v in self.shared.items()}

    def _apart(self, x: jax.Array) -> jax.Array:
        if not self._groups:
            return x
        apart = jnp.broadcast_to(x, (self._groups, *x.shape))
        return constrain(apart, 'batch', *[None] * x.ndim)

    def added_up(self, gradients: Arrays) -> Arrays:
        """The sums over all rows."""
        return {n: jnp.sum(g, 0) if self._groups else g for n, g in gradients.items()}


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
    back = _Back(
        how,
        {n: kernel for n, kernel in transposed.items() if kernel.ndim < 4},
        {n: v for n, v in vectors.items() if not n.startswith(_EACH)},
        _Examples(
            {n: kernel for n, kernel in transposed.items() if kernel.ndim == 4},
            {n: v for n, v in vectors.items() if n.startswith(_EACH)},
            masks,
        ),
    )

    # Gradients are written over the totals that they belong to: one array where there were two.
    def body(state: Any, now: Any) -> tuple[Any, Any]:
        d_new, d_shared, d_own, whole = state  # gradients in steps done, totals in those to come
        time, d_output, carry, free, control = now
        d_new = {**d_new, 'h': d_new['h'] + d_output}
        more, rows, values = back.step(d_new, free, carry, _at(time, whole), control)
        own, d_free, d_carry, d_totals = rows
        d_shared, d_own = jax.tree.map(jnp.add, (d_shared, d_own), (more, own))
        return (d_carry, d_shared, d_own, _put(time, whole, d_totals)), (d_free, values)

    with loop_over('time_scan'):
        (d_carry, d_shared, d_own, d_totals), (d_inputs, values) = jax.lax.scan(
            body,
            (d_last, back.zeros(), jax.tree.map(jnp.zeros_like, back.examples.vectors), totals),
            (jnp.arange(d_outputs.shape[0]), d_outputs, carries, free, control),
            reverse=not how.reverse,
            unroll=how.unroll,
        )
    d_vectors = {**back.added_up(d_shared), **d_own}
    d_kernels = {k: kernel_gradient(values[k], d_totals[k], kernels[k]) for k in kernels}
    for name, shadow in shadows.items():
        if name in kernels:
            d_inputs[name] = d_totals[name][..., : shadow.shape[-1]].astype(shadow.dtype)
    return d_kernels, d_vectors, d_inputs, None, d_carry, None


_scan.defvjp(_scan_forward, _scan_backward)
