"""Prompts of any length are continued as a full forward pass would have it."""

import itertools

import numpy as np
import pytest

from seqzoo.data.batching import BatchConfig
from seqzoo.data.vocabularies import Characters, Words
from seqzoo.errors import UserError
from seqzoo.models.transformer import TransformerConfig
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.continuation import continue_prompts, next_tokens
from seqzoo.tasks.language_modeling import LanguageModeling

PROMPTS = ['a', '', 'cab a dab', 'bad', 'a bad cab a dab']
SHORT = ['a', '', 'bad', 'cab a']  # one bucket, so one compilation
GREEDY = Decoding(method='greedy', extra_length=6, stop_at_end=False, rows=8)


@pytest.fixture
def toy(fading, prepare, runtime_of):
    """A model, its vocabulary, and what it expects after some text, by hand."""

    def made(config=None):
        prepared = prepare(config=config or Characters())
        runtime = runtime_of(fading[0](vocab_size=prepared.vocab_size))
        table, tokenizer = runtime.variables['params']['table'], prepared.tokenizer

        def log_probs(ids):
            return fading[1](table, [tokenizer.line_end, *ids])

        return runtime, tokenizer, log_probs

    return made


def test_greedy_continuations_of_unlike_prompts_follow_the_full_pass(toy):
    runtime, tokenizer, log_probs = toy()
    found = continue_prompts(runtime, tokenizer, PROMPTS, GREEDY)
    for prompt, prediction in zip(PROMPTS, found, strict=True):
        ids, total = list(tokenizer.encode(prompt)), 0.0
        for _ in range(GREEDY.extra_length):
            last = log_probs(ids)[-1]
            ids.append(int(last.argmax()))
            total += last.max()
        assert prompt + prediction.text == tokenizer.decode_text(ids)
        assert prediction.log_prob == pytest.approx(total, rel=1e-5)
        assert len(prediction.tokens) == GREEDY.extra_length
        assert ''.join(prediction.source_tokens) == prompt
    assert len(runtime.programs) == 2  # buckets of 8 and of 16 tokens


def test_a_beam_over_endless_text_finds_the_most_probable_of_all(toy):
    runtime, tokenizer, log_probs = toy()
    room, size = 3, tokenizer.vocab_size
    # Wide enough to keep every beginning; rows of the cache change places from the third token on.
    beams = size ** (room - 1)
    decoding = Decoding(
        method='beam', beams=beams, n_best=3, extra_length=room, stop_at_end=False, rows=8
    )
    prompt = 'bad'
    (found,) = continue_prompts(runtime, tokenizer, [prompt], decoding)
    ids, totals = list(tokenizer.encode(prompt)), {}
    for tail in itertools.product(range(size), repeat=room):
        rows = log_probs([*ids, *tail])
        totals[tail] = sum(rows[len(ids) + i, token] for i, token in enumerate(tail))
    best = sorted(totals, key=totals.__getitem__, reverse=True)[:3]
    texts = [found.text, *(other.text for other in found.alternatives)]
    assert texts == [tokenizer.decode_text(tail) for tail in best]
    assert found.log_prob == pytest.approx(totals[best[0]], rel=1e-5)


@pytest.mark.parametrize('method', ['greedy', 'beam', 'sample'])
def test_a_line_ends_where_the_model_ends_it(toy, method):
    runtime, tokenizer, log_probs = toy()
    decoding = Decoding(method=method, beams=2, extra_length=40, rows=8, seed=4)
    for prompt, found in zip(
        SHORT, continue_prompts(runtime, tokenizer, SHORT, decoding), strict=True
    ):
        assert '\n' not in found.text
        ids, tail = tokenizer.encode(prompt), tokenizer.encode(found.text)
        end = [tokenizer.line_end] if len(tail) < 40 or method == 'beam' else []
        whole = [*tail, *end]
        rows = log_probs([*ids, *whole])[len(ids) :]
        total = sum(rows[i, token] for i, token in enumerate(whole))
        assert found.log_prob == pytest.approx(total, rel=1e-4)


def test_a_record_draws_the_same_in_any_company(toy):
    runtime, tokenizer, _ = toy()
    decoding = Decoding(method='sample', extra_length=12, stop_at_end=False, n_best=2, rows=8)
    together = continue_prompts(runtime, tokenizer, ['a', 'bad', 'cab a'], decoding)
    apart = continue_prompts(runtime, tokenizer, ['a'], decoding)
    assert together[0] == apart[0]
    assert together[0].text != together[0].alternatives[0].text


def test_the_next_tokens_are_the_most_probable_in_order(toy):
    runtime, tokenizer, log_probs = toy()
    for prompt, found in zip(SHORT, next_tokens(runtime, tokenizer, SHORT, 3), strict=True):
        last = np.exp(log_probs(tokenizer.encode(prompt))[-1])
        order = np.argsort(-last)[:3]
        assert found.prompt == prompt
        assert found.tokens == tuple(tokenizer.entries[i] for i in order)
        np.testing.assert_allclose(found.probabilities, last[order], rtol=1e-5)
    everything = next_tokens(runtime, tokenizer, ['a'], 1000)[0]
    assert sum(everything.probabilities) == pytest.approx(1)


def test_words_are_joined_to_the_prompt_by_a_space(toy):
    runtime, tokenizer, _ = toy(Words())
    for prompt in ('a bad', '', 'a never-seen bad'):
        (found,) = continue_prompts(runtime, tokenizer, [prompt], GREEDY)
        ids = [tokenizer.entries.index(piece) for piece in found.tokens]
        whole = tokenizer.decode_text([*tokenizer.encode(prompt), *ids])
        assert prompt.replace('never-seen', '<unk>') + found.text == whole


def test_an_unknown_character_of_a_prompt_is_named(toy):
    runtime, tokenizer, _ = toy()
    with pytest.raises(UserError, match=r"'ü' in the line 'abü'"):
        continue_prompts(runtime, tokenizer, ['a', 'abü'], GREEDY)


def test_nothing_is_continued_by_what_is_no_language_model(toy, runtime_of):
    runtime, tokenizer, _ = toy()
    assert continue_prompts(runtime, tokenizer, [], GREEDY) == []
    other = runtime.__class__(TransformerConfig.tiny().build(), {}, {}, runtime.mesh)
    with pytest.raises(UserError, match='Transformer is no language model'):
        continue_prompts(other, tokenizer, ['a'], GREEDY)


def test_the_task_continues_records(toy, prepare):
    runtime, tokenizer, _ = toy()
    config = BatchConfig(tokens=16, max_length=4)
    found = LanguageModeling().predict(runtime, prepare(), SHORT, config, GREEDY)
    assert found == continue_prompts(runtime, tokenizer, SHORT, GREEDY)
