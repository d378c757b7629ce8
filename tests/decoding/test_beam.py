"""Beam search against enumeration, greedy search, rescoring, and itself in other company."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from seqzoo.decoding.base import length_normalizer, map_over_beams, one_beam, replicate_for_beams
from seqzoo.decoding.beam import beam_search, best_extensions
from seqzoo.decoding.greedy import greedy_search
from seqzoo.errors import UserError

BOS, EOS, PAD = 1, 2, 0
TABLE = 509  # rows of the logit tables; a prefix is hashed to one of them


def next_hash(h, token):
    """The hash of a prefix extended by a token; the same arithmetic in Python, NumPy and JAX."""
    return (h * 31 + token * 17 + 7) % TABLE


def tree_step(table, tokens, cache):
    """A language model for `[batch]` tokens whose logits depend on the whole prefix."""
    hashes = next_hash(cache['hash'], tokens)
    return table[cache['row'], hashes], {
        'hash': hashes,
        'row': cache['row'],
        'time': cache['time'] + 1,
    }


def first_cache(batch):
    return {
        'hash': jnp.zeros((batch,), jnp.int32),
        'row': jnp.arange(batch, dtype=jnp.int32),
        'time': jnp.zeros((), jnp.int32),
    }


@functools.partial(jax.jit, static_argnames=('beams', 'max_length', 'keep', 'vocab_size'))
def search(
    table,
    limits,
    *,
    beams,
    max_length,
    length_penalty=0.6,
    keep=None,
    patience=1.0,
    vocab_size=None,
):
    batch = table.shape[0]
    return beam_search(
        map_over_beams(functools.partial(tree_step, table)),
        replicate_for_beams(first_cache(batch), beams),
        batch=batch, bos=BOS, eos=EOS, beams=beams, max_length=max_length, limits=limits,
        length_penalty=length_penalty, keep=keep, patience=patience, vocab_size=vocab_size, pad=PAD,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames='max_length')
def greedy(table, limits, *, max_length, length_penalty=0.6):
    batch = table.shape[0]
    return greedy_search(
        one_beam(functools.partial(tree_step, table)), first_cache(batch), batch=batch, bos=BOS,
        eos=EOS, max_length=max_length, limits=limits, length_penalty=length_penalty, pad=PAD,
    )  # fmt: skip


def random_tables(seed, batch, vocab, spread=2.0):
    return (
        np.random.default_rng(seed)
        .normal(size=(batch, TABLE, vocab), scale=spread)
        .astype(np.float32)
    )


def log_softmax(logits):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def rescore(table, tokens):
    """Sum of log-probabilities of one row's tokens, in float64."""
    total, h = 0.0, next_hash(0, BOS)
    for token in tokens:
        total += log_softmax(table[h])[token]
        h = next_hash(h, token)
    return total


def enumerate_all(table, limit, alpha):
    """Every complete hypothesis of at most `limit` tokens: `(score, tokens)`, best first."""
    words = [token for token in range(table.shape[-1]) if token != EOS]
    found = []
    for length in range(1, limit + 1):
        for words_before in itertools.product(words, repeat=length - 1):
            tokens = (*words_before, EOS)
            found.append((rescore(table, tokens) / ((5 + length) / 6) ** alpha, tokens))
    return sorted(found, reverse=True)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    alpha_and_patience=st.sampled_from(
        [(0.0, 1.0), (0.6, math.inf), (2.0, 1.0)]
    ),  # few compilations
    limits=st.lists(st.integers(1, 4), min_size=2, max_size=2),
    spread=st.sampled_from([0.5, 3.0]),
)
def test_wide_beam_equals_exhaustive_enumeration(seed, alpha_and_patience, limits, spread):
    alpha, patience = alpha_and_patience
    table = random_tables(seed, 2, 3, spread)
    beams = 16  # 15 complete hypotheses of at most 4 tokens over two words and EOS
    found = search(
        table, jnp.array(limits), beams=beams, max_length=4, length_penalty=alpha, patience=patience
    )
    for row, limit in enumerate(limits):
        expected = enumerate_all(table[row], limit, alpha)
        scores = np.asarray(found.scores[row])
        held = int(np.isfinite(scores).sum())
        if patience == math.inf:
            # The exact bound may stop before hypotheses are found only once all slots are full: 16
            # > 15 never are.
            assert held == len(expected)
        np.testing.assert_allclose(
            scores[:held], [score for score, _ in expected[:held]], rtol=1e-5, atol=1e-5
        )
        best = expected[0][1]
        assert tuple(np.asarray(found.tokens[row, 0, : len(best)])) == best
        assert not np.any(found.lengths[row, held:])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), alpha=st.sampled_from([0.6, 2.0]))
def test_early_exit_loses_nothing_that_is_kept(seed, alpha):
    """The exact bound: keeping fewer stops earlier and returns the same first hypotheses."""
    table = random_tables(seed, 2, 3)
    limits = jnp.array([4, 4])
    full = search(table, limits, beams=16, max_length=4, length_penalty=alpha, patience=math.inf)
    few = search(
        table, limits, beams=16, max_length=4, length_penalty=alpha, patience=math.inf, keep=2
    )
    assert few.steps <= full.steps
    np.testing.assert_array_equal(few.tokens, full.tokens[:, :2])
    np.testing.assert_array_equal(few.scores, full.scores[:, :2])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), limits=st.lists(st.integers(1, 9), min_size=4, max_size=4))
def test_beam_of_one_equals_greedy(seed, limits):
    table = random_tables(seed, 4, 7)
    one = search(table, jnp.array(limits), beams=1, max_length=9)
    other = greedy(table, jnp.array(limits), max_length=9)
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.lengths, other.lengths)
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5, atol=1e-5)
    assert one.steps == other.steps


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    alpha=st.sampled_from([0.0, 0.6]),
    limits=st.lists(st.integers(1, 9), min_size=4, max_size=4),
)
def test_scores_equal_rescoring_and_results_are_well_formed(seed, alpha, limits):
    table = random_tables(seed, 4, 7)
    found = jax.device_get(
        search(table, jnp.array(limits), beams=3, max_length=9, length_penalty=alpha)
    )
    assert found.tokens.shape == (4, 3, 9)
    assert found.tokens.dtype == np.int32
    for row, slot in itertools.product(range(4), range(3)):
        length = int(found.lengths[row, slot])
        if length == 0:
            assert found.scores[row, slot] == -np.inf
            assert not found.tokens[row, slot].any()
            continue
        tokens = found.tokens[row, slot]
        assert length <= limits[row]
        assert tokens[length - 1] == EOS
        assert EOS not in tokens[: length - 1]
        assert (tokens[length:] == PAD).all()
        log_prob = rescore(table[row], tokens[:length])
        np.testing.assert_allclose(found.log_probs[row, slot], log_prob, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(
            found.scores[row, slot], log_prob / ((5 + length) / 6) ** alpha, rtol=1e-5, atol=1e-4
        )
    for row in range(4):
        assert (np.diff(found.scores[row][np.isfinite(found.scores[row])]) <= 0).all()
        held = [tuple(t) for t, n in zip(found.tokens[row], found.lengths[row], strict=True) if n]
        assert len(set(held)) == len(held) >= 1


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_row_decoded_alone_gives_the_same(seed):
    table = random_tables(seed, 4, 7)
    limits = jnp.array([9, 3, 7, 9])
    together = search(table, limits, beams=3, max_length=9)
    for row in range(4):
        alone = search(table[row : row + 1], limits[row : row + 1], beams=3, max_length=9)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        np.testing.assert_array_equal(alone.scores[0], together.scores[row])


@pytest.mark.parametrize('patience', [1.0, math.inf])
def test_search_stops_when_every_row_is_done(patience):
    table = np.zeros((4, TABLE, 7), np.float32)
    table[..., EOS] = 20.0
    for beams, most in ((1, 1), (3, 4)):
        found = search(table, jnp.array([9] * 4), beams=beams, max_length=9, patience=patience)
        assert found.steps <= most
        np.testing.assert_array_equal(found.lengths[:, 0], [1] * 4)


def test_one_unfinished_row_keeps_the_search_going():
    table = np.zeros((4, TABLE, 7), np.float32)
    table[0, :, EOS] = 20.0
    table[1:, :, EOS] = -20.0
    found = search(table, jnp.array([9, 8, 3, 2]), beams=3, max_length=9)
    assert found.steps == 8
    np.testing.assert_array_equal(found.lengths[:, 0], [1, 8, 3, 2])


def test_columns_behind_the_vocabulary_are_never_chosen():
    table, limits = random_tables(3, 4, 7), jnp.array([9, 3, 7, 9])
    filled = np.concatenate([table, np.full((4, TABLE, 3), 30.0, np.float32)], axis=-1)
    plain = search(table, limits, beams=3, max_length=9)
    masked = search(filled, limits, beams=3, max_length=9, vocab_size=7)
    np.testing.assert_array_equal(plain.tokens, masked.tokens)
    np.testing.assert_allclose(plain.scores, masked.scores, rtol=1e-6)


@pytest.mark.parametrize('vocab', [128, 1024, 1000, 2000])
@pytest.mark.parametrize('coarse', [False, True])
def test_best_extensions_equal_a_full_sort(vocab, coarse):
    rng = np.random.default_rng(vocab)
    logits = rng.normal(size=(3, 4, vocab)).astype(np.float32)
    if coarse:  # many ties, as bfloat16 logits have them
        logits = np.round(logits)
    log_probs = np.array([[0, -1, -2, -np.inf]] * 3, np.float32)
    if coarse:
        logits[:] = logits[:, :1]
        log_probs[:] = [0, 0, -1, -np.inf]
    found = jax.jit(best_extensions, static_argnums=2)(log_probs, logits, 8)
    normalized = log_probs[..., None] - jax.nn.logsumexp(logits, axis=-1, keepdims=True) + logits
    values, index = lax.top_k(np.asarray(normalized).reshape(3, -1), 8)
    np.testing.assert_array_equal(found.parents * vocab + found.tokens, index)
    np.testing.assert_allclose(found.log_probs, values, rtol=1e-6)


def shapes_in(jaxpr):
    """The shapes of all values of a jaxpr and of the jaxprs inside it."""
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars if hasattr(v.aval, 'shape'))
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: hasattr(x, 'eqns') or hasattr(x, 'jaxpr'),
        ):
            if hasattr(inner, 'jaxpr'):
                inner = inner.jaxpr
            if hasattr(inner, 'eqns'):
                yield from shapes_in(inner)


def test_memory_is_not_copied_for_the_beams():
    batch, beams, source, embed, vocab = 3, 5, 11, 64, 6
    memory = jax.random.normal(jax.random.key(0), (batch, source, embed))
    output = jax.random.normal(jax.random.key(1), (embed, vocab))

    def decode(memory, copied):
        def step(tokens, cache):
            held = cache['memory'] if copied else memory
            query = jax.nn.one_hot(tokens, embed) + cache['state']
            weights = jax.nn.softmax(jnp.einsum('bd,bsd->bs', query, held))
            state = jnp.einsum('bs,bsd->bd', weights, held)
            return state @ output, {**cache, 'state': state}

        cache = {'state': jnp.zeros((batch, embed))} | ({'memory': memory} if copied else {})
        return beam_search(
            map_over_beams(step), replicate_for_beams(cache, beams), batch=batch, bos=BOS, eos=EOS,
            beams=beams, max_length=4,
        )  # fmt: skip

    whole = batch * beams * source * embed

    def largest(copied):
        jaxpr = jax.make_jaxpr(functools.partial(decode, copied=copied))(memory).jaxpr
        return max(math.prod(shape) for shape in shapes_in(jaxpr))

    assert largest(copied=True) >= whole  # the test can fail
    assert largest(copied=False) < whole
    compiled = jax.jit(functools.partial(decode, copied=False)).lower(memory).compile().as_text()
    assert f'{source},{embed}' in compiled
    assert not any(
        shape in compiled
        for shape in (f'[{beams},{batch},{source},{embed}]', f'[{batch},{beams},{source},{embed}]')
    )


def test_caches_stacked_over_layers_follow_their_parents():
    table = jnp.asarray(random_tables(5, 4, 7))

    def stacked_step(tokens, cache):
        plain = {'hash': cache['hash'][1], 'row': cache['row'][0], 'time': cache['time']}
        logits, new = tree_step(table, tokens, plain)
        layers = jnp.stack([new['hash'] * 0, new['hash']])  # [layers, batch]
        return logits, {'hash': layers, 'row': new['row'][None], 'time': new['time']}

    @jax.jit
    def stacked_search():
        cache = {**first_cache(4), 'hash': jnp.zeros((2, 4), jnp.int32)}
        cache['row'] = cache['row'][None]
        return beam_search(
            map_over_beams(stacked_step, batch_axis=1), replicate_for_beams(cache, 3), batch=4,
            bos=BOS, eos=EOS, beams=3, max_length=9,
        )  # fmt: skip

    plain = search(table, jnp.array([9] * 4), beams=3, max_length=9)
    np.testing.assert_array_equal(stacked_search().tokens, plain.tokens)


def test_length_normalizer_is_that_of_gnmt():
    np.testing.assert_allclose(length_normalizer(jnp.array([1, 7]), 0.6), [1.0, 2**0.6], rtol=1e-6)
    np.testing.assert_allclose(length_normalizer(jnp.array([1, 7]), 0.0), [1.0, 1.0])


@pytest.mark.parametrize(
    'wrong',
    [{'beams': 0}, {'max_length': 0}, {'length_penalty': -1.0}, {'keep': 9}, {'patience': 0.5}],
)
def test_senseless_settings_are_refused(wrong):
    fixed = {'batch': 1, 'bos': BOS, 'eos': EOS}
    with pytest.raises(UserError, match=next(iter(wrong))):
        beam_search(one_beam(tree_step), None, **{'beams': 2, 'max_length': 3, **wrong}, **fixed)


def test_improbable_ends_do_not_stop_the_search_for_the_probable_hypothesis():
    # Token 1 is nearly certain for six steps, then EOS is; until then EOS always ranks second.
    eos, length = 0, 7
    certain = jnp.log(
        jnp.asarray([[0.001, 0.9985, 0.0005]] * (length - 1) + [[0.999, 0.0005, 0.0005]])
    )

    def step(tokens, parents, time):
        return jnp.broadcast_to(certain[time], (*tokens.shape, 3)), time + 1

    found = beam_search(
        step, jnp.zeros((), jnp.int32), batch=1, bos=2, eos=eos, beams=4, max_length=10,
        length_penalty=0.6,
    )  # fmt: skip
    assert found.tokens[0, 0, :length].tolist() == [1] * (length - 1) + [eos]
