"""The state of a run between two steps, born sharded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from seqzoo.models.base import ModelConfig
from seqzoo.parallel.axes import DEFAULT_RULES, Rules, axis_rules
from seqzoo.parallel.mesh import replicated, rows_sharding, shardings_of


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
        step: `[]` int32, updates done; also the position in the data.
        params: trained arrays, float32.
        variables: other collections of the model, such as batch statistics; empty for most.
        carry: recurrent state that crosses batches, every leaf `[rows, ...]` and split over devices
            like the rows of the batch; `()` for most.
        opt_state: of the optax transformation.
        key: the typed key of the run; a step folds its number in, so it never changes.
        learning_rate_scale: `[]` float32, lowered by reduce-on-plateau.
    """

    step: jax.Array
    params: Any
    variables: Any
    carry: Any
    opt_state: Any
    key: jax.Array
    learning_rate_scale: jax.Array

    @classmethod
    def first(
        cls,
        params: Any,
        transformation: optax.GradientTransformation,
        key: jax.Array,
        *,
        variables: Any = None,
        carry: Any = (),
    ) -> Self:
        """Before the first update of `params`; `variables`: other collections, `None`: none."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            variables={} if variables is None else variables,
            carry=carry,
            opt_state=transformation.init(params),
            key=key,
            learning_rate_scale=jnp.ones((), jnp.float32),
        )


@dataclass(frozen=True)
class StateFactory:
    """Makes the first state on a mesh, and tells its shapes and shardings without making it.

    Attributes:
        model_config, model: the architecture, and the module that it built.
        transformation: of the optimizer.
        mesh: where the state lives.
        seed: of the first parameters and of every random choice of the run.
        rules: which mesh axes the axes of parameters are laid over.
        first_carry: makes the recurrent state before the first batch; `()` for most.
    """

    model_config: ModelConfig
    model: nn.Module
    transformation: optax.GradientTransformation
    mesh: Mesh
    seed: int
    rules: Rules = DEFAULT_RULES
    first_carry: Callable[[], Any] = tuple

    def _variables(self, key: jax.Array) -> Any:
        with axis_rules(None):  # shapes of the example need not divide the mesh
            return self.model.init(key, *self.model_config.example_inputs())

    def _make(self) -> TrainState:
        run_key = jax.random.key(self.seed)
        init_key, step_key = jax.random.split(run_key)
        variables = nn.unbox(self._variables(init_key))
        params = variables.pop('params')
        variables.pop('intermediates', None)
        return TrainState.first(
            params,
            self.transformation,
            step_key,
            variables=variables,
            carry=self.first_carry(),
        )

    def shardings(self) -> TrainState:
        """One `NamedSharding` per leaf of the state; moments follow their parameters, a carry the
        rows of the batch, and everything else is whole on every device.
        """
        everywhere, rows = replicated(self.mesh), rows_sharding(self.mesh)
        boxed = jax.eval_shape(self._variables, jax.random.key(0))
        params = shardings_of(boxed['params'], self.mesh, self.rules)
        abstract = jax.eval_shape(self._make)
        opt_state = optax.tree_utils.tree_map_params(
            self.transformation,
            lambda _, sharding: sharding,
            abstract.opt_state,
            params,
            transform_non_params=lambda _: everywhere,
        )
        whole = jax.tree.map(lambda _: everywhere, abstract)
        carry = jax.tree.map(lambda _: rows, abstract.carry)
        return whole.replace(params=params, opt_state=opt_state, carry=carry)

    def abstract(self) -> TrainState:
        """Shapes, dtypes and shardings of the state: what a checkpoint is restored into."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(self._make),
            self.shardings(),
        )

    def create(self) -> TrainState:
        """The first state; no device ever holds more than its share."""
        make: Callable[[], TrainState] = jax.jit(self._make, out_shardings=self.shardings())
        return make()
