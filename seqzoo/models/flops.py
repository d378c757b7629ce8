"""Floating-point operations of a forward pass, by formula and by part of the model.

One multiplication and one addition are two operations, so a product of `[m, k]` and `[k, n]` costs
`2 m n k`. Only matrix products and convolutions are counted, as the literature does: normalization,
softmax, activations and table look-ups are a few percent at the usual widths and bound by memory.
Attention is charged for the whole rectangle of queries and keys, masked or not, which is what a
dense kernel computes.

These are formulas because XLA's cost analysis counts the body of a scan once, however often it
runs.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqzoo.layers.banded_attention import keys_in_reach
from seqzoo.layers.inputs import Inputs, Numbers, Spelling
from seqzoo.layers.spelling import ByteSpelling

if TYPE_CHECKING:
    from seqzoo.layers.mixture import MixtureConfig
    from seqzoo.layers.recurrent import RecurrentConfig
    from seqzoo.layers.transformer_layers import LayerConfig


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations of one forward pass over one batch; parts that a model lacks stay 0.

    Attributes:
        embedding: input projections; a table look-up multiplies nothing and costs 0.
        attention_projections: queries, keys, values and outputs.
        attention_scores: queries times keys, and weights times values; the part that grows with
            length squared.
        feed_forward: the position-wise layers, experts and their gates among them.
        recurrent: input and state products of recurrent cells.
        convolution: convolutions inside the body of the model.
        logits: the output projection.
    """

    embedding: int = 0
    attention_projections: int = 0
    attention_scores: int = 0
    feed_forward: int = 0
    recurrent: int = 0
    convolution: int = 0
    logits: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """The parts in the order of the model, zeros included."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def forward(self) -> int:
        """Operations of one forward pass."""
        return sum(self.parts.values())

    @property
    def layers(self) -> int:
        """The forward pass between embeddings and logits: what rematerialisation runs again."""
        return self.forward - self.embedding - self.logits

    def training(self, *, remat: bool = False) -> int:
        """Operations of one training step.

        The backward pass has two products for each one forward (for the inputs and for the
        weights), hence three times the forward pass; with `remat` the layers run forward once more.
        """
        return 3 * self.forward + (self.layers if remat else 0)

    def __add__(self, other: 'Flops') -> 'Flops':
        return Flops(**{name: count + other.parts[name] for name, count in self.parts.items()})

    def __mul__(self, times: int) -> 'Flops':
        return Flops(**{name: count * times for name, count in self.parts.items()})

    __rmul__ = __mul__


def matmul_flops(m: int, n: int, k: int) -> int:
    """`[m, k] @ [k, n]`: one multiplication and one addition for each of `m n k` terms."""
    return 2 * m * n * k


def attention_flops(
    *,
    batch: int,
    query_length: int,
    key_length: int,
    embed_dim: int,
    num_heads: int,
    key_dim: int,
    value_dim: int,
    num_kv_heads: int | None = None,
) -> Flops:
    """One multi-head attention layer; keys and values are projected from `key_length` positions.

    Args:
        batch: rows.
        query_length: positions that attend.
        key_length: positions attended to; equal to `query_length` in self-attention.
        embed_dim: width of the residual stream.
        num_heads: heads of the queries.
        key_dim: width of one head's queries and keys.
        value_dim: width of one head's values.
        num_kv_heads: heads of keys and values where groups of queries share them; default
            `num_heads`.
    """
    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    queries, keys = batch * query_length, batch * key_length
    query = matmul_flops(queries, num_heads * key_dim, embed_dim)
    key_value = matmul_flops(keys, kv_heads * (key_dim + value_dim), embed_dim)
    output = matmul_flops(queries, embed_dim, num_heads * value_dim)
    scores = batch * num_heads * matmul_flops(query_length, key_length, key_dim)
    mixture = batch * num_heads * matmul_flops(query_length, value_dim, key_length)
    return Flops(
        attention_projections=query + key_value + output, attention_scores=scores + mixture
    )


def feed_forward_flops(*, tokens: int, embed_dim: int, mlp_dim: int, gated: bool = False) -> Flops:
    """A position-wise layer in and out of `mlp_dim`; `gated` ones have two matrices in."""
    products = 3 if gated else 2
    return Flops(feed_forward=products * matmul_flops(tokens, mlp_dim, embed_dim))


def attention_layer_flops(config: 'LayerConfig', *, batch: int, length: int) -> Flops:
    """Self-attention, all pairs of positions or the blocks of a band, and a feed-forward layer."""
    attention = attention_flops(
        batch=batch,
        query_length=length,
        key_length=length,
        embed_dim=config.embed_dim,
        num_heads=config.num_heads,
        key_dim=config.key_dim,
        value_dim=config.value_dim,
    )
    reach = length if config.band is None else keys_in_reach(length, config.band)
    # A last block that is not full is computed as if it were.
    queries = length if reach == length else -(-length // (reach // 2)) * (reach // 2)
    scores = attention.attention_scores // length**2 * queries * reach
    feed_forward = feed_forward_flops(
        tokens=batch * length, embed_dim=config.embed_dim, mlp_dim=config.mlp_dim
    )
    return dataclasses.replace(attention, attention_scores=scores) + feed_forward


def logits_flops(*, tokens: int, embed_dim: int, vocab_size: int) -> Flops:
    """The output projection at `tokens` positions."""
    return Flops(logits=matmul_flops(tokens, vocab_size, embed_dim))


def recurrent_flops(config: 'RecurrentConfig', *, tokens: int, input_dim: int) -> Flops:
    """A stack of recurrent layers: every kernel of every cell is multiplied once a step."""
    terms, width = 0, input_dim
    for i, (cell, output_dim) in enumerate(zip(config.cells, config.output_dims, strict=True)):
        kernels = [w for name, w in cell.weights(width).items() if name.endswith('_kernel')]
        directions = 2 if config.is_bidirectional(i) else 1
        terms += directions * sum(math.prod(kernel.shape) for kernel in kernels)
        width = output_dim
    return Flops(recurrent=2 * tokens * terms)


def inputs_flops(config: Inputs, *, tokens: int) -> Flops:
    """What turns an input into vectors; a table multiplies nothing.

    Raises:
        ValueError: the configuration leaves a size open.
    """
    if isinstance(config, Spelling):
        if config.max_characters is None:
            raise ValueError('max_characters is still open; FLOPs need the width of a word')
        characters, width = tokens * config.max_characters, config.character_dim
        if config.network == 'lstm':
            return recurrent_flops(config.layers, tokens=characters, input_dim=width)
        taps = config.window * width
        return Flops(convolution=matmul_flops(characters, config.features, taps))
    if isinstance(config, ByteSpelling):
        return _byte_spelling_flops(config, tokens)
    if isinstance(config, Numbers) and config.embed_dim is not None:
        if config.input_dim is None:
            raise ValueError('input_dim is still open; FLOPs need the width of the input')
        return Flops(embedding=matmul_flops(tokens, config.embed_dim, config.input_dim))
    return Flops()


def _byte_spelling_flops(config: ByteSpelling, tokens: int) -> Flops:
    """Filters where they fit the word, highway layers and projection."""
    if config.max_bytes is None:
        raise ValueError('max_bytes is still open; FLOPs need the width of a word')
    filters = sum(
        matmul_flops(tokens * (config.max_bytes - width + 1), number, width * config.byte_dim)
        for width, number in config.filters
    )
    wide = config.filters_dim
    highway = config.highway_layers * matmul_flops(tokens, 2 * wide, wide)
    projection = matmul_flops(tokens, config.embed_dim, wide)
    return Flops(convolution=filters, feed_forward=highway, embedding=projection)


def mixture_flops(config: 'MixtureConfig', *, batch: int, length: int, embed_dim: int) -> Flops:
    """A mixture of experts while training: the two products of the gates, and the places that its
    experts compute, of which a dense dispatch has one for each token and expert.
    """
    if config.dispatch == 'dense':
        places = batch * length
    elif config.group == 'row':
        places = batch * config.capacity(length)
    else:
        places = config.capacity(batch * length)
    experts = feed_forward_flops(
        tokens=config.num_experts * places, embed_dim=embed_dim, mlp_dim=config.mlp_dim
    )
    gates = 2 * matmul_flops(batch * length, config.num_experts, embed_dim)
    return experts + Flops(feed_forward=gates)
