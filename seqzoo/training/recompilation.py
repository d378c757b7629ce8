"""A step is compiled once for each shape that the plan of the batches announced, and never again.

A batch of another shape, a Python number among arrays, a state that changed its type: each would
silently compile the step anew, for seconds or minutes. The guard looks at everything by which a
compiled function is chosen, before the call, and names the argument that differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from seqzoo.data.batching import ArraySpec


@dataclass(frozen=True)
class _Leaf:
    """What a compiled function is chosen by, of one array."""

    shape: tuple[int, ...]
    dtype: str
    weak: bool = False
    sharding: Any = None

    @classmethod
    def of(cls, value: Any) -> '_Leaf':
        if isinstance(value, ArraySpec):
            return cls(value.shape, value.dtype)
        if isinstance(value, np.ndarray):
            return cls(value.shape, value.dtype.name)
        aval = jax.typeof(value)
        weak = bool(getattr(aval, 'weak_type', False))
        return cls(aval.shape, str(aval.dtype), weak, getattr(value, 'sharding', None))

    def fits(self, other: '_Leaf') -> bool:
        if (self.shape, self.dtype, self.weak) != (other.shape, other.dtype, other.weak):
            return False
        ours, theirs = self.sharding, other.sharding
        if ours is None or theirs is None or ours == theirs:
            return (ours is None) == (theirs is None)
        return ours.is_equivalent_to(theirs, len(self.shape))

    def __str__(self) -> str:
        return f'{list(self.shape)} {self.dtype}' + (
            ' (weakly typed, as Python numbers are)' * self.weak
        )


_Leaves = dict[str, _Leaf]


@dataclass
class StepGuard:
    """Knows the arguments that the step may be called with.

    ```
    if complaint := guard.before(state, batch.arrays, placed): ...
    state, metrics = step(state, placed)
    if complaint := guard.after(state): ...
    ```

    Attributes:
        specs: the arrays of this process in each kind of batch of the plan, by name; empty if the
            task does not know them: then every new shape is welcome.
    """

    specs: Sequence[Mapping[str, ArraySpec]]
    _seen: dict[Any, _Leaves] = field(default_factory=dict)
    _types: dict[Any, Any] = field(default_factory=dict)
    _state: _Leaves = field(default_factory=dict)
    _last_state: Any = None
    _is_new: bool = False

    @property
    def shapes(self) -> int:
        """How many kinds of batches the step was called with: one compilation each."""
        return len(self._seen)

    def before(self, state: Any, arrays: Mapping[str, Any], placed: Any) -> str:
        """What would compile the step anew though the plan announced nothing of it; or ''.

        Args:
            state: about to be given to the step.
            arrays: this process's rows of the batch, on the host.
            placed: the same on the devices, about to be given to the step.
        """
        # Looking at hundreds of leaves takes longer than a small step; what the step itself
        # returned has been looked at.
        changed = '' if state is self._last_state else self._state_complaint(state)
        return changed or self._batch_complaint(arrays, placed)

    def after(self, state: Any) -> str:
        """Takes what the step returned: its types must be those that went in; the same answer."""
        self._last_state = state
        if not self._is_new:  # the same program returns the same types
            return ''
        self._is_new = False
        return self._state_complaint(state)

    def _state_complaint(self, state: Any) -> str:
        leaves = _leaves(state, 'state')
        wanted, self._state = self._state, leaves
        if wanted:
            return _sentence(leaves, wanted)
        # The step will return arrays with types of their own, and be compiled again for those.
        strong = {name: _Leaf(leaf.shape, leaf.dtype) for name, leaf in leaves.items() if leaf.weak}
        return _sentence({name: leaves[name] for name in strong}, strong)

    def _batch_complaint(self, arrays: Mapping[str, Any], placed: Any) -> str:
        kind = tuple(
            (name, getattr(x, 'shape', ()), getattr(x, 'dtype', type(x)))
            for name, x in arrays.items()
        )
        # Nearly always all is as it was: that must take no time.
        types = [_type(x) for x in jax.tree.leaves(placed)]
        if types == self._types.get(kind):
            return ''
        self._types[kind] = types
        on_device = _leaves(placed, 'batch')
        if kind in self._seen:
            wanted, self._seen[kind] = self._seen[kind], on_device
            return _sentence(on_device, wanted)
        self._seen[kind] = on_device
        self._is_new = True
        if not self.specs:
            return ''
        found = _leaves(dict(arrays), 'batch')
        # The nearest of the announced batches tells which arrays are the odd ones.
        nearest = min(
            (_leaves(dict(spec), 'batch') for spec in self.specs),
            key=lambda spec: len(_differing(found, spec)),
        )
        return _sentence(found, nearest)


def _type(value: Any) -> Any:
    """What tells arrays apart, quickly compared."""
    aval = getattr(value, 'aval', None)
    return _Leaf.of(value) if aval is None else (aval, value.sharding)


def _leaves(tree: Any, root: str) -> _Leaves:
    """Every array of a tree by its name as Python would spell it."""
    if isinstance(tree, dict) and all(hasattr(leaf, 'shape') for leaf in tree.values()):
        return {f'{root}[{name!r}]': _Leaf.of(leaf) for name, leaf in tree.items()}
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {root + jax.tree_util.keystr(path): _Leaf.of(leaf) for path, leaf in found}


def _differing(found: _Leaves, wanted: _Leaves) -> list[str]:
    return [
        name
        for name in dict.fromkeys([*found, *wanted])
        if name not in found or name not in wanted or not found[name].fits(wanted[name])
    ]


def _sentence(found: _Leaves, wanted: _Leaves) -> str:
    """`batch['source'] is [8, 40] int32 instead of [8, 16] int32`, or '' where nothing differs."""
    names = _differing(found, wanted)
    parts = []
    for name in names[:3]:
        if name not in found:
            parts.append(f'{name} is missing')
        elif name not in wanted:
            parts.append(f'{name} is {found[name]} and was never announced')
        elif str(found[name]) != str(wanted[name]):
            parts.append(f'{name} is {found[name]} instead of {wanted[name]}')
        else:
            ours, theirs = (leaves[name].sharding for leaves in (found, wanted))
            parts.append(f'{name} lies at {ours} instead of {theirs}')
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return ', '.join(parts) + more
