"""Batches in words, as the model sees them; behind `seqzoo data show`."""

import numpy as np

from seqzoo.data.batching import Batch, Plan
from seqzoo.data.streams import TextPlan
from seqzoo.data.tokenizers import PieceTokenizer


def describe_plan(plan: Plan) -> str:
    """Examples used and left out, steps of an epoch, padding, and every shape to be compiled."""
    if isinstance(plan, TextPlan):
        return _describe_text_plan(plan)
    selection, padding = plan.selection, plan.padding
    left_out = [
        f'{count} {what}'
        for count, what in (
            (selection.dropped_empty, 'dropped: a side is empty'),
            (selection.dropped_long, 'dropped: a side is too long'),
            (selection.truncated, 'truncated'),
        )
        if count
    ]
    shapes = [
        f'  {s.rows:>6} rows  source {s.source_length:>5}  target {s.target_length:>5}'
        for s in plan.shapes
    ]
    return '\n'.join(
        [
            f'{len(selection.ids)} pairs' + ''.join(f', {part}' for part in left_out),
            f'{plan.steps_per_epoch} steps an epoch, padding {_percent(padding.both)} '
            f'(source {_percent(padding.source)}, target {_percent(padding.target)})',
            f'{len(plan.shapes)} {"shapes" if len(plan.shapes) > 1 else "shape"}, so as many '
            'compilations:',
            *shapes,
        ]
    )


def describe_batch(
    batch: Batch,
    source_tokenizer: PieceTokenizer,
    target_tokenizer: PieceTokenizer,
    *,
    rows: int = 4,
) -> str:
    """The first rows of a batch: text, lengths, segments and ids; and the padding of all rows.

    Args:
        batch: the arrays of a `StepBatch`; the target side may be missing.
        source_tokenizer: decodes 'source'.
        target_tokenizer: decodes 'target'.
        rows: how many rows to show.
    """
    tokenizers = {'source': source_tokenizer, 'target': target_tokenizer}
    sides = [side for side in tokenizers if side in batch]
    total, first = len(batch['rows']), sides[0]
    shown = min(rows, total)
    fill = int(np.count_nonzero(np.all(batch[f'{first}_segments'] == 0, axis=1)))
    lines = [f'{total} rows ({fill} of them only fill up), {shown} shown']
    for side in sides:
        padding = float(np.mean(batch[f'{side}_segments'] == 0))
        lines.append(f'{side}: length {batch[side].shape[1]}, padding {_percent(padding)}')
    for row in range(shown):
        lines.append(f'row {batch["rows"][row]}')
        segments = np.unique(np.concatenate([batch[f'{side}_segments'][row] for side in sides]))
        for segment in segments[segments > 0]:
            for side in sides:
                ids = batch[side][row][batch[f'{side}_segments'][row] == segment]
                text = tokenizers[side].decode(ids, detokenize=False)
                lines.append(f'  {side} segment {segment} length {len(ids)}: {text}')
                lines.append(f'    pieces {" ".join(tokenizers[side].pieces(ids))}')
                lines.append(f'    ids {" ".join(map(str, ids.tolist()))}')
    return '\n'.join(lines)


def _describe_text_plan(plan: TextPlan) -> str:
    count = len(plan.selection.ids)
    what = (
        f'{count} streams of {plan.steps_per_epoch * plan.length:,} tokens'
        if plan.order == 'streams'
        else f'{count:,} windows of {plan.length} tokens, shuffled'
    )
    return '\n'.join(
        [
            f'{what}; {plan.left_out:,} tokens are left out of an epoch',
            f'{plan.steps_per_epoch:,} steps an epoch of {plan.rows} rows x {plan.length} tokens, '
            'one compilation',
        ]
    )


def _percent(share: float) -> str:
    return f'{100 * share:.1f} %'
