"""Sampling: the distribution, the filters, and what a draw depends on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from seqzoo.decoding.base import map_over_beams, one_beam, replicate_for_beams
from seqzoo.decoding.greedy import greedy_search
from seqzoo.decoding.sampling import draw_tokens, hypothesis_keys, sample
from seqzoo.errors import UserError

BOS, EOS, VOCAB = 1, 2, 9


def markov_step(tokens, cache):
    """A first-order Markov chain for each row; its logits `[batch, vocab, vocab]` are the cache."""
    return jnp.take_along_axis(cache, tokens[:, None, None], axis=1)[:, 0], cache


TABLES = np.random.default_rng(0).normal(size=(4, VOCAB, VOCAB), scale=1.5).astype(np.float32)
KEYS = jax.random.split(jax.random.key(1), 4)


@functools.partial(jax.jit, static_argnames=('samples', 'top_k', 'top_p', 'force_eos'))
def traced_draw(tables, key, limits, temperature, *, samples=3, force_eos=False, **filters):
    cache = replicate_for_beams(tables, samples)
    return sample(
        map_over_beams(markov_step, reorder=False), cache, batch=tables.shape[0], bos=BOS, eos=EOS,
        key=key, max_length=8, samples=samples, force_eos=force_eos, limits=limits,
        temperature=temperature, **filters,
    )  # fmt: skip


def draw(tables, keys, *, limits=None, temperature=1.0, **settings):
    limits = jnp.full(len(tables), 8) if limits is None else limits
    return traced_draw(tables, keys, limits, temperature, **settings)


@functools.partial(jax.jit, static_argnames='force_eos')
def greedy(tables, force_eos):
    return greedy_search(
        one_beam(markov_step),
        tables,
        batch=tables.shape[0],
        bos=BOS,
        eos=EOS,
        max_length=8,
        force_eos=force_eos,
    )


def many_draws(logits, count=20_000, **filters):
    keys = jax.random.split(jax.random.key(7), (1, count))
    tiled = jnp.broadcast_to(jnp.asarray(logits), (1, count, len(logits)))
    return np.asarray(jax.jit(functools.partial(draw_tokens, **filters))(tiled, keys, 3))[0]


def chi_square(draws, probabilities):
    counts = np.bincount(draws, minlength=len(probabilities))
    probabilities = probabilities.astype(np.float64)
    held = probabilities > 0
    assert not counts[~held].any()
    expected = probabilities[held] / probabilities[held].sum() * len(draws)
    return scipy.stats.chisquare(counts[held], expected).pvalue


LOGITS = np.array([2.0, -1.0, 0.5, 1.9, -3.0, 0.0], np.float32)
SOFTMAX = np.exp(LOGITS) / np.exp(LOGITS).sum()


def test_draws_follow_the_softmax():
    assert chi_square(many_draws(LOGITS), SOFTMAX) > 1e-3


def test_temperature_sharpens_the_softmax():
    draws = many_draws(LOGITS, temperature=0.5)
    assert chi_square(draws, SOFTMAX**2 / (SOFTMAX**2).sum()) > 1e-3
    assert chi_square(draws, SOFTMAX) < 1e-6  # the test can fail


def test_top_k_draws_from_the_k_most_probable_alone():
    kept = SOFTMAX * np.isin(np.arange(6), [0, 3, 2])
    assert chi_square(many_draws(LOGITS, top_k=3), kept / kept.sum()) > 1e-3


@pytest.mark.parametrize(
    ('top_p', 'support'), [(0.3, [0]), (0.5, [0, 3]), (0.9, [0, 3, 2]), (1.0, range(6))]
)
def test_top_p_draws_from_the_smallest_nucleus(top_p, support):
    order = np.argsort(-SOFTMAX)
    reached = np.cumsum(SOFTMAX[order])
    assert set(order[: int(np.searchsorted(reached, min(top_p, reached[-1])) + 1)]) == set(support)
    kept = SOFTMAX * np.isin(np.arange(6), list(support))
    draws = many_draws(LOGITS, top_p=top_p)
    assert set(draws) == set(support)
    if len(set(draws)) > 1:
        assert chi_square(draws, kept / kept.sum()) > 1e-3


def test_top_p_is_taken_of_what_top_k_left():
    assert set(many_draws(LOGITS, top_k=2, top_p=0.5)) == {0}
    assert set(many_draws(LOGITS, top_k=2, top_p=0.6)) == {0, 3}


@pytest.mark.parametrize(('temperature', 'force_eos'), [(1e-4, False), (0.0, True)])
def test_low_temperature_is_greedy(temperature, force_eos):
    expected = greedy(TABLES, force_eos)
    if temperature == 0:  # not traced, or it would be divided by
        found = sample(
            one_beam(markov_step), jnp.asarray(TABLES), batch=4, bos=BOS, eos=EOS, temperature=0,
            key=jax.random.key(0), max_length=8, force_eos=force_eos,
        )  # fmt: skip
    else:
        found = draw(TABLES, KEYS, temperature=temperature, force_eos=force_eos)
    for slot in range(found.tokens.shape[1]):
        np.testing.assert_array_equal(found.tokens[:, slot], expected.tokens[:, 0])
        np.testing.assert_allclose(found.log_probs[:, slot], expected.log_probs[:, 0], rtol=1e-6)
        np.testing.assert_array_equal(found.lengths[:, slot], expected.lengths[:, 0])


def test_a_row_depends_on_its_own_key_alone():
    together = draw(TABLES, KEYS)
    order = np.array([2, 0, 3, 1])
    shuffled = draw(TABLES[order], KEYS[order])
    np.testing.assert_array_equal(shuffled.tokens, together.tokens[order])
    alone = draw(TABLES[2:3], KEYS[2:3])
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[2])


def test_keys_may_be_typed_or_data_and_one_or_many():
    keys = hypothesis_keys(KEYS, 4, 3)
    assert keys.shape == (4, 3)
    assert (hypothesis_keys(jax.random.key_data(KEYS), 4, 3) == keys).all()
    spread = jax.random.key_data(hypothesis_keys(jax.random.key(3), 4, 3))
    assert len(np.unique(spread.reshape(12, -1), axis=0)) == 12


def test_rows_samples_and_steps_differ():
    same = np.zeros((4, VOCAB, VOCAB), np.float32)
    same[..., EOS] = -50
    found = np.asarray(draw(same, KEYS).tokens)
    assert len({tuple(t) for t in found.reshape(12, 8)}) == 12
    assert all(len(set(t)) > 2 for t in found.reshape(12, 8))


def test_log_probabilities_are_the_models_own():
    found = jax.device_get(draw(TABLES, KEYS, temperature=2.0, top_k=4))
    log_softmax = TABLES - np.log(np.exp(TABLES).sum(-1, keepdims=True))
    for row in range(4):
        for slot in range(3):
            length = found.lengths[row, slot]
            tokens = found.tokens[row, slot]
            before = [BOS, *tokens[: length - 1]]
            expected = log_softmax[row, before, tokens[:length]].sum()
            np.testing.assert_allclose(found.log_probs[row, slot], expected, rtol=1e-5)
            assert not tokens[length:].any()
            assert EOS not in tokens[: length - 1]
            assert length == 8 or tokens[length - 1] == EOS


def test_limits_cut_each_row():
    limits = jnp.array([1, 3, 8, 5])
    endless = TABLES.copy()
    endless[..., EOS] = -50
    for force_eos in (False, True):
        found = draw(endless, KEYS, limits=limits, force_eos=force_eos)
        np.testing.assert_array_equal(found.lengths, np.tile(limits[:, None], (1, 3)))
        last = jnp.take_along_axis(found.tokens, found.lengths[..., None] - 1, axis=-1)
        assert (last == EOS).all() == force_eos


def test_without_an_end_token_every_hypothesis_has_full_length():
    found = greedy_search(
        one_beam(markov_step), jnp.asarray(TABLES), batch=4, bos=BOS, eos=None, max_length=5
    )
    np.testing.assert_array_equal(found.lengths, 5)


@pytest.mark.parametrize('wrong', [{'top_k': 0}, {'top_p': 0.0}, {'top_p': 1.5}, {'samples': 0}])
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        draw(TABLES, KEYS, **wrong)


def test_a_negative_temperature_is_refused():
    with pytest.raises(UserError, match='temperature'):
        sample(
            one_beam(markov_step), TABLES, batch=4, bos=BOS, eos=EOS, key=KEYS, max_length=2,
            temperature=-1.0,
        )  # fmt: skip
