"""Where a translation model looked while it wrote given outputs: soft alignments of pieces."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqzoo.analysis.attention import AttentionWeights, attention_weights
from seqzoo.data.tokenizers import PieceTokenizer, TokenizerPair
from seqzoo.errors import UserError
from seqzoo.tasks.sequence_search import position_limit
from seqzoo.tasks.translate import within_positions

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

    A source is cut where the search that translates it would cut it, and an output where the model
    has no more positions.

    Args:
        run: a trained translation, `seqzoo.load_run(...)`.
        sources: lines of text.
        targets: what the model wrote, or might have written.

    Raises:
        UserError: the model does not attend, or does not translate.
    """
    tokenizers, limit = tokenizers_of(run), position_limit(run.runtime.model)
    longest = within_positions(run.experiment.batch, run.runtime.model).longest_evaluated
    for start in range(0, len(sources), _ROWS):
        stop = start + _ROWS
        source = _closed(tokenizers.source, sources[start:stop], longest)
        target = _closed(tokenizers.target, targets[start:stop], limit)
        read = [[tokenizers.target.bos_id, *ids[:-1]] for ids in target]
        weights = attention_weights(
            run.runtime.model,
            run.params,
            _padded(source, limit),
            _padded(read, limit),
            source_segments=_padded([[1] * len(ids) for ids in source], limit),
            target_segments=_padded([[1] * len(ids) for ids in target], limit),
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


def _closed(
    tokenizer: PieceTokenizer, lines: Sequence[str], longest: int | None
) -> list[list[int]]:
    """The ids of some lines, each with its end mark, which counts among the `longest`."""
    kept = None if longest is None else longest - 1
    return [[*ids[:kept], tokenizer.eos_id] for ids in tokenizer.encode_batch(lines)]


def _padded(rows: Sequence[Sequence[int]], limit: int | None) -> np.ndarray:
    length = -(-max(map(len, rows)) // _MULTIPLE) * _MULTIPLE
    length = length if limit is None else min(length, limit)
    array = np.zeros((len(rows), length), np.int32)
    for number, ids in enumerate(rows):
        array[number, : len(ids)] = ids
    return array
