"""Rows of masked text: what stands where, shares, whole words, pairs, and nothing else deciding."""

import numpy as np
import pytest

from seqzoo.data.batching import BatchConfig
from seqzoo.data.masked_text import (
    FOLLOWS,
    FROM_ELSEWHERE,
    Documents,
    MaskedTextPlan,
    MaskedTextRows,
    Masking,
    document_starts,
    uniforms,
)
from seqzoo.data.pipeline import step_batches
from seqzoo.data.token_store import TokenStore
from seqzoo.data.wordpiece import SPECIALS, WordPiece
from seqzoo.errors import UserError

WORDS = 200
# Ids 5 to 104 begin words, 105 to 204 stand inside them.
TOKENIZER = WordPiece(
    [*SPECIALS, *(f'w{i}' for i in range(100)), *(f'##w{i}' for i in range(100))], lowercase=True
)
CONFIG = BatchConfig(tokens=8 * 24, max_length=24)


def documents(lines_of=((30, 9, 4), (3, 50), (7, 7, 7, 7), (1,)), seed=0):
    """Documents of lines of so many tokens; a line begins with a word."""
    rng = np.random.default_rng(seed)
    lines, starts = [], []
    for document in lines_of:
        lines.append(np.zeros(0, np.int32))  # a blank line
        starts.append(True)
        for length in document:
            line = 5 + rng.integers(WORDS, size=length)
            line[0] = 5 + line[0] % 100
            lines.append(line.astype(np.int32))
            starts.append(False)
    return Documents.of(TokenStore.from_sentences(lines, {}), np.array(starts))


def rows_of(text, *, steps=1, pairs=True, masking=None, seed=0, config=CONFIG, **options):
    plan = MaskedTextPlan(text, config, pairs=pairs, seed=seed, **options)
    content = MaskedTextRows(text, plan, TOKENIZER, masking or Masking())
    batches = [content.arrays(plan.batch(s), 0, plan.rows) for s in range(steps)]
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def restored(rows):
    """The tokens before they were hidden."""
    tokens = rows['tokens'].copy()
    row, place = np.nonzero(rows['predicted'])
    tokens[row, rows['places'][row, place]] = rows['targets'][row, place]
    return tokens


def test_a_line_that_matches_begins_a_document_and_blank_lines_are_no_part_of_it():
    starts = document_starts(['', 'a', ' ', ' = B = ', 'c'], r'\s*| = [^=].* = ')
    assert starts.tolist() == [True, False, True, True, False]
    text = documents()
    assert len(text) == 4
    assert text.document_lines.tolist() == [0, 3, 5, 9, 10]
    assert text.document_of.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2, 3]
    with pytest.raises(UserError, match='no regular expression'):
        document_starts(['a'], '(')


def test_excerpts_are_whole_lines_where_they_fit_and_leave_nothing_out():
    text = documents()
    excerpts = text.excerpts(21)
    # 30 = 21 + 9, then 9 and 4 more; 3, then 50 in parts; 7 x 3 and 7; 1.
    lengths = np.diff(excerpts, axis=1)[:, 0].tolist()
    assert lengths == [21, 18, 4, 3, 21, 21, 8, 21, 7, 1]
    assert excerpts[0, 0] == 0
    np.testing.assert_array_equal(excerpts[1:, 0], excerpts[:-1, 1])
    assert excerpts[-1, 1] == len(text.ids)


def test_rows_without_pairs_hold_the_text_between_marks():
    text = documents()
    rows = rows_of(text, steps=1, pairs=False, shuffled=False)
    excerpts = text.excerpts(22)
    for row, (start, stop) in enumerate(excerpts[:8]):
        real = restored(rows)[row][rows['segments'][row] > 0]
        wanted = [TOKENIZER.cls_id, *text.ids[start:stop], TOKENIZER.sep_id]
        assert real.tolist() == wanted
    assert 'next_sentence' not in rows
    assert not np.any(rows['token_types'])


def test_pairs_follow_each_other_or_come_from_another_document():
    text = documents(lines_of=[(6, 5, 4, 7)] * 40)
    rows = rows_of(text, steps=8)
    document = {}
    for number, (first, last) in enumerate(
        zip(text.document_lines[:-1], text.document_lines[1:], strict=True)
    ):
        piece = text.ids[text.line_starts[first] : text.line_starts[last]]
        document[number] = f' {" ".join(map(str, piece))} '
    kinds = rows['next_sentence']
    for row, tokens in enumerate(restored(rows)):
        real, types = rows['segments'][row] > 0, rows['token_types'][row]
        first, second = (tokens[real & (types == t)] for t in (0, 1))
        assert (first[0], first[-1], second[-1]) == (TOKENIZER.cls_id, *[TOKENIZER.sep_id] * 2)
        words = [' '.join(map(str, part)) for part in (first[1:-1], second[:-1])]
        assert min(map(len, words)) > 0
        own = [n for n, t in document.items() if f' {words[0]} ' in t]
        together = any(f' {words[0]} {words[1]} ' in document[n] for n in own)
        assert together == (kinds[row] == FOLLOWS)
        if kinds[row] == FROM_ELSEWHERE:
            assert any(f' {words[1]} ' in t for n, t in document.items() if n not in own)
    assert 0.3 < np.mean(kinds) < 0.7


def test_fifteen_percent_are_predicted_and_hidden_exchanged_or_kept():
    text = documents(lines_of=[(200, 200)] * 20)
    rows = rows_of(text, steps=40, config=BatchConfig(tokens=8 * 60, max_length=60), pairs=False)
    real = rows['segments'].sum(axis=1)
    count = rows['predicted'].sum(axis=1)
    np.testing.assert_array_equal(count, np.maximum(1, np.round(0.15 * real)))
    row, place = np.nonzero(rows['predicted'])
    read = rows['tokens'][row, rows['places'][row, place]]
    hidden = np.mean(read == TOKENIZER.mask_id)
    kept = np.mean(read == rows['targets'][row, place])
    assert 0.76 < hidden < 0.84
    assert 0.07 < kept < 0.14
    exchanged = read[(read != TOKENIZER.mask_id) & (read != rows['targets'][row, place])]
    assert np.isin(exchanged, TOKENIZER.ordinary).all()
    marks = rows['targets'][row, place]
    assert not np.isin(marks, [TOKENIZER.cls_id, TOKENIZER.sep_id]).any()


def test_whole_words_are_predicted_with_all_their_pieces():
    text = documents(lines_of=[(200,)] * 20)
    rows = rows_of(text, steps=6, pairs=False, masking=Masking(share=0.4, whole_words=True))
    continues = TOKENIZER.continues
    assert rows['predicted'].sum() > 50
    for row, tokens in enumerate(restored(rows)):
        chosen = np.zeros(len(tokens), bool)
        chosen[rows['places'][row][rows['predicted'][row] > 0]] = True
        inside = continues[tokens] & (np.arange(len(tokens)) > 1)
        places = np.flatnonzero(inside)
        np.testing.assert_array_equal(chosen[places], chosen[places - 1])


def test_masks_and_pairs_depend_on_seed_epoch_and_excerpt_alone():
    text = documents(lines_of=[(6, 5, 4, 7)] * 24)
    plan = MaskedTextPlan(text, CONFIG, pairs=True, seed=3)
    content = MaskedTextRows(text, plan, TOKENIZER, Masking())
    planned = plan.batch(1)
    whole = content.arrays(planned, 0, 8)
    parts = [content.arrays(planned, first, 2) for first in range(0, 8, 2)]
    for name, values in whole.items():
        np.testing.assert_array_equal(values, np.concatenate([p[name] for p in parts]))
    # A resumed run, several processes, and rows that fill up.
    later = next(step_batches(content, plan, start_step=1, row_multiple=6))
    np.testing.assert_array_equal(later.arrays['tokens'][:8], whole['tokens'])
    assert later.arrays['weight'].tolist() == [1] * 8 + [0] * 4
    assert not later.arrays['predicted'][8:].any()
    half = next(step_batches(content, plan, start_step=1, process_index=1, process_count=2))
    np.testing.assert_array_equal(half.arrays['tokens'], whole['tokens'][4:])
    # The next epoch and another seed hide other tokens of the same excerpts.
    first, second = (
        {e: t.tolist() for s in range(start, start + plan.steps_per_epoch)
         for e, t in zip(plan.batch(s).examples, content.arrays(plan.batch(s), 0, 8)['tokens'],
                         strict=True)}
        for start in (0, plan.steps_per_epoch)
    )  # fmt: skip
    assert first.keys() == second.keys()
    assert sum(first[e] == second[e] for e in first) < len(first) / 4


def test_evaluation_asks_about_every_excerpt_once():
    text = documents(lines_of=[(6, 5, 4, 7)] * 3 + [(9,)])
    plan = MaskedTextPlan(text, CONFIG, pairs=True, shuffled=False)
    seen = np.concatenate([plan.batch(s).examples for s in range(plan.steps_per_epoch)])
    assert seen.tolist() == list(range(len(plan.excerpts)))
    last = plan.batch(plan.steps_per_epoch - 1)
    assert len(last.example_ids) == plan.rows
    content = MaskedTextRows(text, plan, TOKENIZER, Masking())
    arrays = content.arrays(last, 0, plan.rows)
    assert arrays['weight'].sum() == len(last.examples)
    specs = content.specs(plan.shapes[0], plan.rows)
    assert {n: (s.shape, s.dtype) for n, s in specs.items()} == {
        n: (a.shape, str(a.dtype)) for n, a in arrays.items()
    }


def test_numbers_drawn_are_even_and_unlike():
    drawn = uniforms(7, np.arange(200), 50, 1)
    assert drawn.shape == (200, 50)
    assert abs(drawn.mean() - 0.5) < 0.01
    assert len(np.unique(drawn)) == drawn.size
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.2
    assert not np.isin(uniforms(7, np.arange(200), 50, 2), drawn).any()


def test_too_little_text_is_refused_in_words():
    with pytest.raises(UserError, match='fewer than the 8 rows'):
        MaskedTextPlan(documents([(5,)]), CONFIG, pairs=False)
    with pytest.raises(UserError, match=r'say with --task\.document-start'):
        MaskedTextPlan(documents([(50, 50)]), CONFIG, pairs=True)
    with pytest.raises(UserError, match='is for sentences'):
        MaskedTextPlan(documents(), BatchConfig(packing=True), pairs=False)
