"""The closed vocabulary of axis names, parameters that carry them, and constraints on activations.

Models speak only of the *names* of axes (`'embed'`, `'heads'`). Which mesh axis a name is laid over
is data, a table of rules, and is known only to `parallel/mesh.py` and to the code that compiles a
step.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = frozenset(
    {
        'batch',  # rows of a batch
        'length',  # time or token axis of an activation
        'position',  # rows of a learned position table
        'vocab',  # rows of an embedding table, columns of logits
        'embed',  # the residual stream
        'heads',  # attention heads
        'kv',  # width of one head
        'mlp',  # hidden width of a feed-forward layer
        'hidden',  # state of a recurrent layer
        'gates',  # stacked gates of a recurrent layer
        'window',  # taps of a convolution
        'channels_in',
        'channels_out',
        'experts',
        'groups',  # rows of a batch beside 'experts', which split a part of the same devices
        'classes',
        'layers',  # stacked equal layers
    }
)

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

DEFAULT_RULES: Rules = (
    ('batch', ('data', 'fsdp', 'expert')),
    ('groups', ('data', 'fsdp')),
    ('length', 'sequence'),
    ('vocab', 'tensor'),
    ('heads', 'tensor'),
    ('mlp', 'tensor'),
    ('experts', ('expert', 'tensor')),
    ('embed', 'fsdp'),
)


def check_names(names: Sequence[str | None]) -> None:
    """Raises `ValueError` for a name outside the vocabulary."""
    for name in names:
        if name is not None and name not in AXES:
            raise ValueError(f'unknown axis name {name!r}; the vocabulary is {sorted(AXES)}')


def named(init: Callable[..., jax.Array], *names: str | None) -> Callable[..., Any]:
    """An initializer whose parameter carries one axis name per dimension.

    Args:
        init: any `init(key, shape, dtype)`.
        *names: one name of `AXES` for each dimension of the parameter; `None` for a dimension never
            sharded.

    Raises:
        ValueError: a name outside the vocabulary, or (at init) a rank that differs from the number
            of names.
    """
    check_names(names)

    def checked(key: jax.Array, shape: Sequence[int], *args: Any) -> jax.Array:
        if len(shape) != len(names):
            raise ValueError(f'parameter of shape {tuple(shape)} was given the axis names {names}')
        return init(key, shape, *args)

    return nn.with_logical_partitioning(checked, names)


def partition_spec(names: Sequence[str | None], rules: Rules, mesh: Mesh) -> PartitionSpec:
    """The `PartitionSpec` of an array whose dimensions are called `names`.

    The first rule for a name wins; a mesh axis of size 1, or already used by an earlier dimension,
    is left out.
    """
    check_names(names)
    table = dict(reversed(rules))
    used: set[str] = set()
    spec: list[str | tuple[str, ...] | None] = []
    for name in names:
        wanted = table.get(name) if name is not None else None
        wanted = (wanted,) if isinstance(wanted, str) else (wanted or ())
        axes = tuple(a for a in wanted if mesh.shape.get(a, 1) > 1 and a not in used)
        used.update(axes)
        spec.append(None if not axes else axes[0] if len(axes) == 1 else axes)
    return PartitionSpec(*spec)


@dataclass(frozen=True)
class Layout:
    """What an enclosing `axis_rules` says.

    Attributes:
        mesh: where arrays lie; `None` inside `shard_map` or `pmap`, where every array is local.
        rules: which mesh axes a name is laid over.
        manual: the axes of `shard_map` or `pmap` over which the rows of the batch are cut; empty
            where arrays are global.
        platform: of the devices that the program is compiled for; `None` if nobody has said.
    """

    mesh: Mesh | None
    rules: Rules
    manual: tuple[str, ...] = ()
    platform: str | None = None


_context: contextvars.ContextVar[Layout | None] = contextvars.ContextVar('axis_rules', default=None)


@contextlib.contextmanager
def axis_rules(
    mesh: Mesh | None,
    rules: Rules = DEFAULT_RULES,
    *,
    manual: tuple[str, ...] = (),
    platform: str | None = None,
) -> Iterator[None]:
    """Traces under this context lay named activations over `mesh`; `mesh=None` says that every
    array is local, and `manual` over which axes the rows of the batch are then cut.

    `platform` is that of the devices of the mesh; without one, that of the enclosing context.
    """
    if platform is None and mesh is not None:
        platform = platform_of(mesh)
    if platform is None and (outer := _context.get()) is not None:
        platform = outer.platform
    token = _context.set(Layout(mesh, rules, manual, platform))
    try:
        yield
    finally:
        _context.reset(token)


def platform_of(mesh: Mesh) -> str | None:
    """`'cpu'`, `'gpu'` or `'tpu'`; `None` of a mesh without devices."""
    devices = getattr(mesh, 'devices', None)
    if devices is None:
        return None
    platform = devices.flat[0].platform
    return 'gpu' if platform in ('cuda', 'rocm') else platform  # as jax.default_backend() has it


def target_platform() -> str:
    """Where the program that is being traced will run: on the devices of the enclosing
    `axis_rules`, which need not be those of this machine, or else on JAX's default ones.
    """
    layout = _context.get()
    if layout is None or layout.platform is None:
        return jax.default_backend()
    return layout.platform


def current_layout() -> Layout | None:
    """The layout of the enclosing `axis_rules`, or `None` outside one."""
    return _context.get()


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Lays the activation `x` over the mesh of the enclosing `axis_rules`.

    Outside any `axis_rules` it returns `x`, so that a bare `model.apply` works on one device; but
    if a mesh of several devices is ambient (`jax.set_mesh`), the missing rules would silently
    replicate `x`, and it raises.
    """
    if len(names) != x.ndim:
        raise ValueError(f'array of shape {x.shape} was given the axis names {names}')
    context = _context.get()
    if context is None:
        if jax.sharding.get_abstract_mesh().size > 1:
            raise ValueError(
                'a mesh is set but no axis rules are: trace inside seqzoo.parallel.axes.axis_rules'
            )
        return x
    if context.mesh is None or context.mesh.size == 1:
        return x
    spec = partition_spec(names, context.rules, context.mesh)
    return jax.lax.with_sharding_constraint(x, NamedSharding(context.mesh, spec))


def sum_over_shards(x: Any) -> Any:
    """The sum of `x`, a tree of arrays, over the parts into which devices cut the batch.

    Under `jit` arrays are global and this is the identity; inside `shard_map` and `pmap`, where a
    function sees only the rows of its own device, it is a `psum`. With it a statistic that is not
    linear in the batch (a batch variance, the balance of experts) is the same everywhere:

        mean = sum_over_shards(jnp.sum(values)) / sum_over_shards(jnp.sum(weights))

    Gradients flow through it, as those of the *sum* over shards of what each computes. A term of
    the loss that is made from such sums is therefore the same number on every shard, and must be
    multiplied by the shard's own weight, to be divided by the global weight with the others. Parts
    of a batch that are accumulated one after the other are not summed.

    Raises:
        ValueError: inside a `shard_map` or `pmap` of somebody who did not say so with `axis_rules`.
    """
    context = _context.get()
    if context is None and jax.sharding.get_abstract_mesh().manual_axes:
        raise ValueError(
            'arrays are local but no axis rules say over which axes: trace inside '
            'seqzoo.parallel.axes.axis_rules(None, manual=...)'
        )
    if context is None or not context.manual:
        return x
    return jax.lax.psum(x, context.manual)
