"""Attention of a recurrent decoder's state to an encoded source, one step or all steps at once.

With a query `h` (a state of the decoder), memory `m_1 .. m_S` (the encoder's features) and
`a = softmax(score(h, m_s))` the context is `c = sum over s of a_s m_s`. The scores are

    additive   v^T tanh(W h + U m_s)    Bahdanau, Cho, Bengio 2014, section A.1.2; the same function
                                        as the `concat` of Luong, Pham, Manning 2015
    dot        h^T m_s                  Luong et al. 2015, section 3.1
    general    h^T W m_s                the same

and what of the source is seen (Luong et al. 2015, section 3.2) is

    global     everything
    local-m    s within D of p = t, the number of the step, or of the last word where that is less
    local-p    s within D of p = S sigmoid(v_p^T tanh(W_p h)), the weights then multiplied by
               exp(-(s - p)^2 / 2 sigma^2) with sigma = D / 2, so that they no longer sum to 1

`U m` and `W m` do not depend on the step and are computed once for a source (`project`); for the
others, an `Attention` is written like a cell: every matrix product of a step goes through
`product(name, value)`, so that it runs inside `time_scan` with its gradient by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.errors import ConfigError
from seqzoo.layers.linear import product as dense_product
from seqzoo.layers.masks import MASKED
from seqzoo.layers.recurrent import declare
from seqzoo.layers.recurrent_cells import Weight
from seqzoo.layers.recurrent_initializers import per_gate_glorot, uniform
from seqzoo.layers.time_scan import Arrays, Product, multiply

Score = Literal['additive', 'dot', 'general']
Span = Literal['global', 'local-m', 'local-p']


@flax.struct.dataclass
class Attended:
    """A source made ready for any number of decoding steps and beams.

    Attributes:
        keys: `[batch, source_length, dim]` float32 for additive scores, otherwise in the dtype of
            the computation; `None` where the values are the keys.
        values: `[batch, source_length, memory]`.
        mask: `[batch, source_length]` bool, True at real positions.
    """

    keys: jax.Array | None
    values: jax.Array
    mask: jax.Array


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Hyperparameters of one attention, and its step.

    Attributes:
        score: how a query is compared with the memory.
        query_dim: width of the query.
        memory_dim: width of the memory.
        dim: hidden width of additive scores; the others have none.
        span: what of the source is seen.
        window: D, how far local attention sees to either side.
    """

    score: Score
    query_dim: int
    memory_dim: int
    dim: int
    span: Span = 'global'
    window: int = 10

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.score == 'dot' and self.query_dim != self.memory_dim:
            raise ConfigError(
                f"score 'dot' compares a state of {self.query_dim} with a memory of "
                f"{self.memory_dim}: make them equal, or take 'general'"
            )

    def weights(self) -> dict[str, Weight]:
        """The parameters, by name; no biases, as in the papers."""
        result = {}
        if self.score == 'additive':
            result['query_kernel'] = _matrix(self.query_dim, self.dim, 'hidden')
            result['memory_kernel'] = _matrix(self.memory_dim, self.dim, 'embed')
            result['score_vector'] = _vector(self.dim)
        if self.score == 'general':
            result['memory_kernel'] = _matrix(self.memory_dim, self.query_dim, 'embed')
        if self.span == 'local-p':
            result['place_kernel'] = _matrix(self.query_dim, self.query_dim, 'hidden')
            result['place_vector'] = _vector(self.query_dim)
        return result

    def project(
        self, params: Mapping[str, jax.Array], memory: jax.Array, mask: jax.Array
    ) -> Attended:
        """Everything about a source that no step changes; see `Attended`."""
        if self.score == 'dot':
            return Attended(None, memory, mask)
        keys: Any = dense_product(memory, params['memory_kernel'].astype(memory.dtype), 1)
        # Additive keys are added, not multiplied, and their gradient adds up over the steps.
        dtype = jnp.float32 if self.score == 'additive' else memory.dtype
        return Attended(keys.astype(dtype), memory, mask)

    def terms(self, params: Mapping[str, jax.Array], source: Attended) -> tuple[Arrays, Arrays]:
        """Kernels and vectors of a scan; see `time_scan.Terms`."""
        dtype = source.values.dtype
        # [batch, source, memory] -> [batch, 1, source, memory]: a kernel for each example
        kernels = {'context': source.values[:, None]}
        vectors = {'each_hidden_scores': jnp.where(source.mask, 0.0, MASKED)}
        if self.score == 'additive' and source.keys is not None:
            kernels['query'] = params['query_kernel'].astype(dtype)
            vectors['each_keys'], vectors['score_vector'] = source.keys, params['score_vector']
        else:
            keys = source.values if source.keys is None else source.keys
            kernels['scores'] = keys.swapaxes(1, 2)[:, None]
        if self.span != 'global':
            counts = jnp.cumsum(source.mask, axis=1).astype(jnp.float32)
            vectors['each_places'], vectors['each_length'] = counts - 1.0, counts[:, -1:]
        if self.span == 'local-p':
            kernels['place'] = params['place_kernel'].astype(dtype)
            vectors['place_vector'] = params['place_vector']
        return kernels, vectors

    def step(
        self, vectors: Arrays, time: jax.Array | None, query: jax.Array, product: Product
    ) -> tuple[jax.Array, jax.Array]:
        """One query for each example.

        Args:
            vectors: from `terms`.
            time: `[batch, 1]` float32, the number of the step; `'local-m'` reads it.
            query: `[batch, query]`.
            product: `product(name, value)` is `value @ kernels[name]` in float32.

        Returns:
            Context `[batch, memory]` and weights `[batch, source_length]`, float32.
        """
        if self.score == 'additive':
            hidden = jnp.tanh(vectors['each_keys'] + product('query', query)[:, None])
            scores = jnp.einsum('bsd,d->bs', hidden, vectors['score_vector'])
        else:
            scores = product('scores', query)
        scores = scores + vectors['each_hidden_scores']
        if self.span == 'global':
            weights = jax.nn.softmax(scores)
        else:
            if self.span == 'local-m':
                assert time is not None
                centre = jnp.minimum(time, vectors['each_length'] - 1.0)
            else:
                hidden = jnp.tanh(product('place', query)) * vectors['place_vector']
                centre = vectors['each_length'] * nn.sigmoid(jnp.sum(hidden, -1, keepdims=True))
            distance = vectors['each_places'] - centre
            weights = jax.nn.softmax(jnp.where(jnp.abs(distance) <= self.window, scores, MASKED))
            if self.span == 'local-p':
                weights *= jnp.exp(-jnp.square(distance) / (2 * (self.window / 2) ** 2))
        return product('context', weights), weights


def _matrix(rows: int, columns: int, name: str) -> Weight:
    return Weight((rows, columns), (name, 'hidden'), per_gate_glorot)


def _vector(width: int) -> Weight:
    return Weight((width,), ('hidden',), uniform((6 / (width + 1)) ** 0.5))  # Glorot, one output


class CrossAttention(nn.Module):
    """An `Attention` with its parameters.

    When the collection `'intermediates'` is mutable, the weights `[batch, 1, query_length,
    source_length]` come out of it as `'attention_weights'`: one head.

    Attributes:
        attention: what it computes.
    """

    attention: Attention

    def setup(self) -> None:
        """Declares the parameters."""
        self.values = declare(self, self.attention.weights())

    def project(self, memory: jax.Array, mask: jax.Array) -> Attended:
        """Makes `memory` `[batch, source_length, memory]` ready; `mask` is True where it counts."""
        return self.attention.project(self.values, memory, mask)

    def terms(self, source: Attended) -> tuple[Arrays, Arrays]:
        """Kernels and vectors of a scan."""
        return self.attention.terms(self.values, source)

    def __call__(self, queries: jax.Array, source: Attended, time: jax.Array) -> jax.Array:
        """All queries at once, where none waits for the context of another.

        Args:
            queries: `[batch, length, query]`.
            source: from `project`.
            time: `[length, batch or 1, 1]` float32, the number of each step.

        Returns:
            Contexts `[batch, length, memory]` in the dtype of the memory.
        """
        kernels, vectors = self.terms(source)

        def one(time: jax.Array, query: jax.Array) -> tuple[jax.Array, jax.Array]:
            product = lambda name, value: multiply(value, kernels[name])  # noqa: E731
            return self.attention.step(vectors, time, query, product)

        contexts, weights = jax.vmap(one, (0, 1), 1)(time, queries)
        self.publish(weights)
        return contexts.astype(source.values.dtype)

    def publish(self, weights: jax.Array) -> None:
        """Offers `[batch, query_length, source_length]` weights to whoever asks for them."""
        self.sow('intermediates', 'attention_weights', weights[:, None])
