import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqzoo.data import inspection
from seqzoo.data.batching import ArraySpec, BatchConfig
from seqzoo.data.bucketing import EvaluationPlan
from seqzoo.data.numerals import numerals
from seqzoo.data.pipeline import (
    batch_specs,
    encode_lines,
    encode_pairs,
    evaluation_batches,
    examples_digest,
    make_plan,
    training_batches,
)
from seqzoo.data.text_files import TextLayout, read_parallel
from seqzoo.data.token_store import TokenStore
from seqzoo.data.tokenizers import TokenizerConfig, train_tokenizer_pair

EOS = 3
CONFIGS = {
    'buckets': BatchConfig(tokens=160, max_length=24),
    'packing': BatchConfig(tokens=160, max_length=24, packing=True),
    'truncated': BatchConfig(tokens=160, max_length=10, long_sentences='truncate'),
}


def make_stores(count=120, seed=0):
    """Sentences whose tokens name their example, side and position, all above the special ids."""
    rng = np.random.default_rng(seed)
    sides = [
        [
            [10 + example * 100 + side * 50 + i for i in range(rng.integers(1, 22))]
            for example in range(count)
        ]
        for side in (0, 1)
    ]
    return sides, [TokenStore.from_sentences(side) for side in sides]


SIDES, (SOURCE, TARGET) = make_stores()


def batches(kind='buckets', count=40, **named):
    plan = make_plan(SOURCE.lengths, TARGET.lengths, CONFIGS[kind], seed=1)
    return list(itertools.islice(training_batches(SOURCE, TARGET, plan, **named), count))


def assert_same(one, other):
    assert one.step == other.step
    assert one.arrays.keys() == other.arrays.keys()
    for name in one.arrays:
        np.testing.assert_array_equal(one.arrays[name], other.arrays[name], err_msg=name)
    np.testing.assert_array_equal(one.example_ids, other.example_ids)


@pytest.mark.parametrize('kind', CONFIGS)
def test_arrays_hold_each_sentence_whole_with_its_end_marker(kind):
    config = CONFIGS[kind]
    for batch in batches(kind):
        ids = batch.example_ids.reshape(len(batch.example_ids), -1)
        for row, side in itertools.product(range(len(ids)), (0, 1)):
            name = ('source', 'target')[side]
            tokens, segments, positions = (
                batch.arrays[name + suffix][row] for suffix in ('', '_segments', '_positions')
            )
            real = [example for example in ids[row].tolist() if example >= 0]
            assert sorted(set(segments[segments > 0].tolist())) == list(range(1, len(real) + 1))
            expected, expected_positions = [], []
            for example in real:
                sentence = [*SIDES[side][example][: config.max_length - 1], EOS]
                expected += sentence
                expected_positions += range(len(sentence))
            rest = len(tokens) - len(expected)
            assert tokens.tolist() == expected + [0] * rest
            assert positions.tolist() == expected_positions + [0] * rest
            lengths = [np.count_nonzero(segments == s + 1) for s in range(len(real))]
            assert lengths == [min(len(SIDES[side][e]) + 1, config.max_length) for e in real]
            assert np.all(np.diff(segments[: len(expected)]) >= 0)
            assert np.all(segments[len(expected) :] == 0)


@pytest.mark.parametrize('kind', CONFIGS)
def test_counts_are_those_of_the_global_batch(kind):
    whole = batches(kind)
    for batch, part in zip(whole, batches(kind, process_index=1, process_count=2), strict=True):
        assert batch.examples == part.examples == np.count_nonzero(batch.example_ids >= 0)
        for name in ('source', 'target'):
            count = np.count_nonzero(batch.arrays[f'{name}_segments'])
            assert getattr(batch, f'{name}_tokens') == getattr(part, f'{name}_tokens') == count


@given(st.sampled_from(sorted(CONFIGS)), st.integers(0, 60), st.sampled_from([0, 2]))
def test_going_on_equals_never_having_stopped(kind, start, threads):
    plan = make_plan(SOURCE.lengths, TARGET.lengths, CONFIGS[kind], seed=1)
    resumed = training_batches(SOURCE, TARGET, plan, start_step=start, threads=threads)
    for one, other in zip(batches(kind, start + 4)[start:], resumed, strict=False):
        assert_same(one, other)


@pytest.mark.parametrize('kind', CONFIGS)
@pytest.mark.parametrize('processes', [1, 2, 4, 3])
def test_the_parts_of_all_processes_make_the_batch_of_one(kind, processes):
    alone = batches(kind, 12)
    parts = [batches(kind, 12, process_index=i, process_count=processes) for i in range(processes)]
    for whole, *shares in zip(alone, *parts, strict=True):
        rows = len(whole.arrays['rows'])
        for name, value in whole.arrays.items():
            together = np.concatenate([share.arrays[name] for share in shares])
            np.testing.assert_array_equal(together[:rows], value)
            if name == 'rows':
                assert together.tolist() == list(range(len(together)))
            else:
                assert not together[rows:].any()  # fill rows, one for each process at most
        assert len({len(share.arrays['rows']) for share in shares}) == 1


@pytest.mark.parametrize('kind', CONFIGS)
def test_rows_for_the_devices_change_no_example(kind):
    for plain, filled in zip(batches(kind), batches(kind, row_multiple=8), strict=True):
        rows = len(plain.arrays['rows'])
        assert len(filled.arrays['rows']) % 8 == 0
        assert 0 <= len(filled.arrays['rows']) - rows < 8
        np.testing.assert_array_equal(filled.arrays['target'][:rows], plain.arrays['target'])
        np.testing.assert_array_equal(filled.example_ids[:rows], plain.example_ids)
        assert np.all(filled.example_ids[rows:] == -1)
        assert filled.target_tokens == plain.target_tokens


@pytest.mark.parametrize('kind', CONFIGS)
def test_every_shape_is_known_before(kind):
    plan = make_plan(SOURCE.lengths, TARGET.lengths, CONFIGS[kind], seed=1)
    seen = {
        (*batch.arrays['source'].shape, batch.arrays['target'].shape[1])
        for batch in batches(kind, plan.steps_per_epoch)
    }
    assert seen == {(s.rows, s.source_length, s.target_length) for s in plan.shapes}


DIGEST = """
import hashlib, itertools
from seqzoo.data.batching import ArraySpec, BatchConfig
from seqzoo.data.pipeline import make_plan, training_batches
from seqzoo.data.token_store import TokenStore
sentences = [list(range(4, 5 + i * 7 % 20)) for i in range(300)]
store, other = TokenStore.from_sentences(sentences), TokenStore.from_sentences(sentences[::-1])
digest = hashlib.sha256()
for packing in (False, True):
    config = BatchConfig(tokens=256, max_length=32, packing=packing)
    plan = make_plan(store.lengths, other.lengths, config, seed=5)
    for batch in itertools.islice(training_batches(store, other, plan, start_step=17), 30):
        for name in sorted(batch.arrays):
            digest.update(batch.arrays[name].tobytes())
print(digest.hexdigest())
"""


def test_a_fresh_process_sees_the_same_batches(capsys):
    exec(DIGEST, {})
    here = capsys.readouterr().out
    there = subprocess.run(
        [sys.executable, '-c', DIGEST], capture_output=True, text=True, check=True
    ).stdout
    assert there == here
    assert len(here.strip()) == 64


@pytest.mark.parametrize('processes', [1, 2])
def test_evaluation_restores_the_order_and_drops_nothing(processes):
    config = BatchConfig(tokens=64, max_length=8)
    plan = EvaluationPlan(SOURCE.lengths, TARGET.lengths, config)
    found = {}
    for index in range(processes):
        run = evaluation_batches(
            SOURCE, TARGET, plan, process_index=index, process_count=processes, row_multiple=2
        )
        for batch in run:
            own = batch.example_ids[batch.arrays['rows']]
            for row, example in enumerate(own.tolist()):
                if example >= 0:
                    assert example not in found
                    found[example] = [t for t in batch.arrays['target'][row].tolist() if t]
                else:
                    assert not batch.arrays['target_segments'][row].any()
    assert [found[i] for i in range(len(SOURCE))] == [[*sentence, EOS] for sentence in SIDES[1]]


def test_prediction_needs_no_target_and_keeps_empty_lines():
    store = TokenStore.from_sentences([[5, 6], [], [7]])
    (batch,) = evaluation_batches(store, None, EvaluationPlan(store.lengths, None, BatchConfig()))
    assert 'target' not in batch.arrays
    rows = {
        e: batch.arrays['source'][r].tolist()
        for r, e in enumerate(batch.example_ids.tolist())
        if e >= 0
    }
    assert {e: row[:3] for e, row in rows.items()} == {
        0: [5, 6, EOS],
        1: [EOS, 0, 0],
        2: [7, EOS, 0],
    }


@pytest.fixture(scope='module')
def corpus():
    text = numerals('train', train_size=1500)
    return text, train_tokenizer_pair(text.source, text.target, TokenizerConfig(vocab_size=120))


def test_a_mapped_store_gives_the_batches_of_memory(corpus, tmp_path):
    text, pair = corpus
    memory = encode_pairs(text, pair)
    disk = encode_pairs(text, pair, directory=tmp_path / 'tokens', key='a')
    assert disk.source.directory is not None
    plan = make_plan(
        memory.source.lengths, memory.target.lengths, BatchConfig(tokens=512, max_length=64)
    )
    runs = [training_batches(stores.source, stores.target, plan) for stores in (memory, disk)]
    for one, other in itertools.islice(zip(*runs, strict=True), 20):
        assert_same(one, other)


def test_a_store_is_written_again_only_for_another_text_or_tokenizer(corpus, tmp_path):
    _, pair = corpus

    def encode(lines, key):
        return encode_lines(lines, pair.source, directory=tmp_path / 'tokens', key=key)

    first = encode(['one', 'two'], 'a')
    assert encode(['never read'], 'a').fingerprint == first.fingerprint
    assert encode(['one'], 'b').fingerprint != first.fingerprint
    (tmp_path / 'tokens' / 'ids.npy').unlink()
    assert len(encode(['one'], 'b')) == 1


def test_a_batch_is_shown_as_the_model_sees_it(corpus):
    text, pair = corpus
    stores = encode_pairs(text, pair)
    config = BatchConfig(tokens=256, max_length=64, packing=True)
    plan = make_plan(stores.source.lengths, stores.target.lengths, config)
    batch = next(training_batches(stores.source, stores.target, plan))
    shown = inspection.describe_batch(batch.arrays, pair.source, pair.target, rows=2)
    for example in batch.example_ids[:2][batch.example_ids[:2] >= 0].tolist():
        assert text.source[example] in shown
        assert text.target[example] in shown
    assert 'source segment 2' in shown
    assert '</s>' in shown
    assert 'padding' in shown
    summary = inspection.describe_plan(plan)
    assert f'{plan.steps_per_epoch} steps' in summary
    assert '1500 pairs' in summary


def test_real_text_goes_through_with_little_padding(data_dir, tmp_path):
    text = read_parallel(data_dir, 'train', 'en', 'de', layout=TextLayout(folder='multi30k'))
    pair = train_tokenizer_pair(text.source, text.target, TokenizerConfig(), cache_dir=tmp_path)
    stores = encode_pairs(text, pair)
    back = sum(
        pair.target.decode(ids) == ' '.join(line.split(' ')).strip()
        for ids, line in zip(stores.target, text.target, strict=True)
    )
    assert back > 28_900
    shares = [
        make_plan(stores.source.lengths, stores.target.lengths, config).padding.both
        for config in (
            BatchConfig(),
            BatchConfig(fitted_buckets=8, length_multiple=4),
            BatchConfig(packing=True),
        )
    ]
    assert shares[0] < 0.3
    assert shares[1] < 0.2
    assert shares[2] < 0.05


@pytest.mark.parametrize('kind', CONFIGS)
def test_the_digest_of_a_step_depends_on_its_examples_alone(kind):
    alone = [batch.digest for batch in batches(kind, 12)]
    assert len(set(alone)) == 12
    for process, count, multiple in ((0, 1, 8), (1, 2, 4), (2, 3, 1), (0, 1, 32)):
        parts = batches(kind, 12, process_index=process, process_count=count, row_multiple=multiple)
        assert [batch.digest for batch in parts] == alone
    for batch in batches(kind, 12):
        real = batch.example_ids[batch.example_ids >= 0]
        assert batch.digest == examples_digest(real), 'fill rows and empty slots are left out'
        assert examples_digest(real[::-1]) != batch.digest or len(real) == 1


@pytest.mark.parametrize('kind', CONFIGS)
@pytest.mark.parametrize(('processes', 'multiple'), [(1, 1), (1, 8), (2, 4), (3, 2)])
def test_every_batch_has_the_announced_arrays_and_every_announcement_is_kept(
    kind, processes, multiple
):
    plan = make_plan(SOURCE.lengths, TARGET.lengths, CONFIGS[kind], seed=1)
    specs = batch_specs(plan, process_count=processes, row_multiple=multiple)
    assert len(specs) == len(plan.shapes)
    found = batches(kind, 60, process_count=processes, row_multiple=multiple)
    arrays = [
        {name: ArraySpec(x.shape, x.dtype.name) for name, x in batch.arrays.items()}
        for batch in found
    ]
    assert all(one in specs for one in arrays)
    assert all(spec in arrays for spec in specs)


def test_pairs_announced_as_blank_are_those_that_training_drops(tmp_path):
    blank = ['', '  ', '\xa0', '\u3000\u3000', '\f', '\u2028', '\u200b']
    (tmp_path / 'train.en').write_text('\n'.join(['one two three'] * 9 + blank) + '\n')
    (tmp_path / 'train.de').write_text('\n'.join(['eins zwei drei'] * 16) + '\n')
    text = read_parallel(tmp_path, 'train', 'en', 'de')
    pair = train_tokenizer_pair(
        text.source, text.target, TokenizerConfig(kind='char', vocab_size=24, byte_fallback=False)
    )
    stores = encode_pairs(text, pair)
    plan = make_plan(stores.source.lengths, stores.target.lengths, BatchConfig(max_length=24))
    assert plan.selection.dropped_empty == text.blank == len(blank)
    assert stores.source.lengths[-len(blank) :].sum() == 0
