"""What a trained model attends to: the weights that its layers sow, sorted by where they arise."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
from flax import linen as nn

from seqzoo.errors import UserError

Kind = Literal['encoder', 'decoder', 'cross']


@dataclass(frozen=True)
class AttentionWeights:
    """Attention of one batch, each `[layers, batch, heads, queries, keys]`; rows sum to 1.

    Attributes:
        encoder: self-attention of the encoder.
        decoder: self-attention of the decoder, or of a language model.
        cross: attention of the decoder to the encoder.
    """

    encoder: np.ndarray | None = None
    decoder: np.ndarray | None = None
    cross: np.ndarray | None = None

    def heads(
        self,
        kind: Kind,
        *,
        layer: int = -1,
        row: int = 0,
        num_queries: int | None = None,
        num_keys: int | None = None,
    ) -> np.ndarray:
        """`[heads, queries, keys]` of one layer and one sentence.

        Args:
            kind: which attention.
            layer: counted from 0, or from the top with -1, -2, ...
            row: the sentence within the batch.
            num_queries: tokens of the sentence that attend; the rest is padding and is cut off.
            num_keys: tokens attended to.

        Raises:
            UserError: the model has no such attention or no such layer.
        """
        weights = self._of_kind(kind)
        depth = weights.shape[0]
        if not -depth <= layer < depth:
            raise UserError(
                f'there is no layer {layer} in the {kind} attention: '
                f'choose one from 0 to {depth - 1}'
            )
        return weights[layer, row, :, :num_queries, :num_keys]

    def mean(
        self,
        kind: Kind,
        *,
        layer: int | None = None,
        row: int = 0,
        num_queries: int | None = None,
        num_keys: int | None = None,
    ) -> np.ndarray:
        """`[queries, keys]`: the mean over the heads of `layer`, or of all layers."""
        layers = range(self._of_kind(kind).shape[0]) if layer is None else (layer,)
        cut = {'row': row, 'num_queries': num_queries, 'num_keys': num_keys}
        return np.mean([self.heads(kind, layer=i, **cut) for i in layers], axis=(0, 1))

    def _of_kind(self, kind: Kind) -> np.ndarray:
        weights = getattr(self, kind)
        if weights is None:
            raise UserError(f'this model has no {kind} attention to draw')
        return weights


def attention_weights(
    model: nn.Module,
    params: Any,
    *inputs: jax.Array | np.ndarray,
    **segments: jax.Array | np.ndarray | None,
) -> AttentionWeights:
    """Runs `model` on one batch without dropout and collects every attention weight.

    Args:
        model: any model of the zoo that attends.
        params: its parameters, unboxed.
        *inputs: what the model reads: source and target token ids, or tokens alone. A target is
            what the decoder reads, shifted already: its row t is the distribution while token t of
            the *output* is predicted.
        **segments: `source_segments`, `target_segments` or `segments`, `[batch, length]` with 0 for
            padding.

    Raises:
        UserError: the model does not attend.
    """
    return collect(_sown(model, params, inputs, segments))


def cross_attention(
    model: nn.Module,
    params: Any,
    source: jax.Array | np.ndarray,
    target: jax.Array | np.ndarray,
    *,
    source_segments: jax.Array | np.ndarray | None = None,
    target_segments: jax.Array | np.ndarray | None = None,
    layer: int | None = None,
) -> np.ndarray:
    """`[batch, target_length, source_length]`: where the decoder looks, averaged over heads.

    Args:
        model: an encoder-decoder.
        params: its parameters, unboxed.
        source: `[batch, source_length]` token ids.
        target: `[batch, target_length]` token ids as the decoder reads them.
        source_segments: `[batch, source_length]`, 0 for padding.
        target_segments: `[batch, target_length]`, 0 for padding.
        layer: counted from 0, or from the top with -1; `None` averages over all layers too.

    Raises:
        UserError: the model has no such attention or no such layer.
    """
    weights = attention_weights(
        model,
        params,
        source,
        target,
        source_segments=source_segments,
        target_segments=target_segments,
    )
    return np.stack(
        [weights.mean('cross', layer=layer, row=row) for row in range(np.shape(source)[0])]
    )


def collect(intermediates: Mapping[str, Any]) -> AttentionWeights:
    """Sorts sown `attention_weights` by the modules they come from.

    What was sown below `cross_attention` is cross attention, below `encoder` the encoder's,
    anything else the decoder's. Layers come stacked from a scan or one by one; `layer_10` follows
    `layer_9`.

    Raises:
        UserError: nothing was sown.
    """
    found: dict[Kind, list[tuple[list[Any], np.ndarray]]] = {}
    for path, value in jax.tree_util.tree_leaves_with_path(intermediates):
        names = [str(getattr(key, 'key', getattr(key, 'idx', key))) for key in path]
        if 'attention_weights' not in names:
            continue
        kind: Kind = 'decoder'
        if 'cross_attention' in names:
            kind = 'cross'
        elif any(name.startswith('encoder') for name in names):
            kind = 'encoder'
        array = np.asarray(value, dtype=np.float32)
        # [batch, heads, queries, keys] -> [layers, batch, heads, queries, keys]
        array = array[None] if array.ndim == 4 else array
        found.setdefault(kind, []).append((_natural_order('/'.join(names)), array))
    if not found:
        raise UserError(
            'this model has no attention to draw: its layers publish no attention weights'
        )
    return AttentionWeights(
        **{
            kind: np.concatenate([array for _, array in sorted(layers, key=lambda item: item[0])])
            for kind, layers in found.items()
        }
    )


@partial(jax.jit, static_argnums=0)
def _sown(model: nn.Module, params: Any, inputs: Any, segments: Any) -> Any:
    _, state = model.apply(
        {'params': params}, *inputs, **segments, train=False, mutable=['intermediates']
    )
    return state.get('intermediates', {})


def _natural_order(path: str) -> list[Any]:
    parts = re.split(r'(\d+)', path)
    return [int(part) if part.isdigit() else part for part in parts]
