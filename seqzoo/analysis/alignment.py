"""Where a translation model looked while it wrote given outputs: soft alignments of pieces."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqzoo.analysis.attention import AttentionWeights, attention_weights
from seqzoo.data.tokenizers import TokenizerPair
from seqzoo.errors import UserError

_ROWS, _MULTIPLE = 32, 16  # few shapes, so few compilations


@dataclass(frozen=True)
class AlignedPair:
    """A source, an output, and the attention between and within them.

    Attributes:
        source_tokens: pieces of the source and its end mark.
        target_tokens: pieces of the output and its end mark, which the rows of attention predict.
        weights: of a whole batch, padding included.
        row: of this pair in that batch.
    """

    source_tokens: tuple[str, ...]
    target_tokens: tuple[str, ...]
    weights: AttentionWeights
    row: int

    def cross(self, layer: int | None = None) -> np.ndarray:
        """`[target, source]`: mean over the heads of a layer, or of all layers; rows sum to 1."""
        return self.weights.mean(
            'cross',
            layer=layer,
            row=self.row,
            num_queries=len(self.target_tokens),
            num_keys=len(self.source_tokens),
        )

    def encoder_heads(self, layer: int = -1) -> np.ndarray:
        """`[heads, source, source]`: self-attention of a layer of the encoder."""
        length = len(self.source_tokens)
        return self.weights.heads(
            'encoder', layer=layer, row=self.row, num_queries=length, num_keys=length
        )


def align(run: Any, sources: Sequence[str], targets: Sequence[str]) -> Iterator[AlignedPair]:
    """One `AlignedPair` for each source and output, in order.

    Args:
        run: a trained translation, `seqzoo.load_run(...)`.
        sources: lines of text.
        targets: what the model wrote, or might have written.

    Raises:
        UserError: the model does not attend, or does not translate.
    """
    tokenizers = tokenizers_of(run)
    for start in range(0, len(sources), _ROWS):
        stop = start + _ROWS
        source = [
            [*ids, tokenizers.source.eos_id]
            for ids in map(tokenizers.source.encode, sources[start:stop])
        ]
        target = [
            [*ids, tokenizers.target.eos_id]
            for ids in map(tokenizers.target.encode, targets[start:stop])
        ]
        read = [[tokenizers.target.bos_id, *ids[:-1]] for ids in target]
        weights = attention_weights(
            run.runtime.model,
            run.params,
            _padded(source),
            _padded(read),
            source_segments=_padded([[1] * len(ids) for ids in source]),
            target_segments=_padded([[1] * len(ids) for ids in target]),
        )
        for row, (source_ids, target_ids) in enumerate(zip(source, target, strict=True)):
            yield AlignedPair(
                (*tokenizers.source.pieces(source_ids[:-1]), '</s>'),
                (*tokenizers.target.pieces(target_ids[:-1]), '</s>'),
                weights,
                row,
            )


def tokenizers_of(run: Any) -> TokenizerPair:
    """Those of both sides; raises `UserError` for a run that has no two sides."""
    pair = getattr(run.prepared, 'tokenizers', None)
    if pair is None:
        raise UserError(
            f'{run.path} was trained for {type(run.experiment.task).__name__}, not to translate: '
            'it has no source and target that could be aligned or scored.'
        )
    return pair


def _padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    length = -(-max(map(len, rows)) // _MULTIPLE) * _MULTIPLE
    array = np.zeros((len(rows), length), np.int32)
    for number, ids in enumerate(rows):
        array[number, : len(ids)] = ids
    return array
