"""Both directions' losses on a text small enough to be computed by hand."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from seqzoo.data.batching import BatchConfig
from seqzoo.data.vocabularies import END_OF_LINE, Characters, Vocabulary, Words
from seqzoo.data.word_lists import encode_bytes
from seqzoo.errors import UserError
from seqzoo.models.base import BidirectionalLMConfig, LMOutput
from seqzoo.models.recurrent_lm import RecurrentLMConfig
from seqzoo.parallel.axes import named
from seqzoo.parallel.mesh import MeshConfig, build_mesh, replicated
from seqzoo.tasks.base import Decoding, Runtime
from seqzoo.tasks.bidirectional_language_modeling import (
    BidirectionalLanguageModeling,
    PreparedWords,
)

LINES = ['a bad cab', 'rare bad a', '', 'a cab a bad'] * 2
BYTES = 6
TASK = BidirectionalLanguageModeling(predicted_words=5, bytes=BYTES)
BATCH = BatchConfig(tokens=16, max_length=4)


@dataclass(frozen=True, kw_only=True)
class NeighboursConfig(BidirectionalLMConfig):
    """Each direction knows the one word before its next one, by the sum of its bytes."""

    max_bytes: int | None = None

    def build(self):
        return Neighbours(self)

    @classmethod
    def tiny(cls):
        return cls(vocab_size=5, max_bytes=BYTES)

    def example_inputs(self, batch=2, length=4):
        return (jnp.ones((batch, length, self.max_bytes or 3), jnp.int32),)


class Neighbours(nn.Module):
    config: NeighboursConfig

    def setup(self):
        init = named(nn.initializers.normal(1.0), 'embed', 'vocab')
        self.table = self.param('table', init, (2, self.config.vocab_size))

    def __call__(self, inputs, *, segments=None, train=False):
        total = jnp.sin(jnp.sum(inputs.astype(jnp.float32), axis=-1))
        if segments is not None:
            total = jnp.where(segments > 0, total, 7.0)  # nobody may look at padding
        return LMOutput(jnp.stack([total, -total], axis=-1))

    def unembed(self, features):
        return features[..., None] * self.table


@pytest.fixture
def prepared(prepare):
    found = prepare(LINES, Words())
    spelled = encode_bytes(found.tokenizer.entries, BYTES)
    return PreparedWords(found.tokenizer, found.splits, found.texts, spelled)


@pytest.fixture(scope='module')
def runtime():
    mesh = build_mesh(MeshConfig(), jax.devices()[:1])
    table = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    variables = {'params': {'table': jnp.asarray(table)}}
    model = NeighboursConfig(vocab_size=5, max_bytes=BYTES).build()
    return Runtime(model, variables, jax.tree.map(lambda _: replicated(mesh), variables), mesh)


def by_hand(table, words, way):
    """`[length]` log-probabilities of what follows (`way` 0) or comes before (1) each word."""
    totals = np.sin(encode_bytes(words, BYTES).sum(axis=1, dtype=np.float64)) * (1, -1)[way]
    logits = totals[:, None] * table[way]
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_words_are_spelled_between_marks():
    found = encode_bytes(['ab', 'é', 'longer', END_OF_LINE], BYTES)
    assert found.tolist() == [
        [259, 98, 99, 260, 261, 261],
        [259, 196, 170, 260, 261, 261],
        [259, 109, 112, 111, 104, 260],  # the beginning of a longer word
        [259, 258, 260, 261, 261, 261],
    ]


def test_every_word_is_judged_once_from_either_side(prepared, runtime):
    vocabulary, ids = prepared.tokenizer, prepared.splits['dev'].ids
    assert isinstance(vocabulary, Vocabulary)
    assert (
        vocabulary.vocab_size == 8
    )  # <unk>, <eos>, three words that are predicted, three that are not
    table = np.asarray(runtime.variables['params']['table'], np.float64)
    read = np.concatenate([[vocabulary.line_end], ids])
    words, targets = vocabulary.pieces(read), np.where(read < 5, read, 0)
    forward = by_hand(table, words[:-1], 0)[np.arange(len(ids)), targets[1:]]
    backward = by_hand(table, words[1:], 1)[np.arange(len(ids)), targets[:-1]]
    assert (read >= 5).any()
    for rows in (1, 3):  # rows of unequal length, and one that ends in padding
        batch = replace(BATCH, evaluation_rows=rows)
        found = TASK.evaluate(runtime, prepared, 'dev', batch, None)
        wanted = -(forward.mean() + backward.mean()) / 2
        assert found['loss'] == pytest.approx(wanted, rel=1e-5)
        assert found['perplexity'] == pytest.approx(np.exp(wanted), rel=1e-5)
        assert found['forward_perplexity'] == pytest.approx(np.exp(-forward.mean()), rel=1e-5)
        assert found['backward_perplexity'] == pytest.approx(np.exp(-backward.mean()), rel=1e-5)


def test_a_line_is_judged_word_by_word_with_the_bytes_that_were_typed(prepared, runtime):
    records = ['a zebra bad', '', 'cab']
    found = TASK.predict(runtime, prepared, records, BATCH, Decoding())
    assert [p.text for p in found] == records
    table = np.asarray(runtime.variables['params']['table'], np.float64)
    words = [END_OF_LINE, 'a', 'zebra', 'bad', END_OF_LINE]
    ids = prepared.tokenizer.encode('a zebra bad')
    targets = np.where(ids < 5, ids, 0)
    forward = by_hand(table, words[:3], 0)[np.arange(3), targets]
    backward = by_hand(table, words[2:], 1)[np.arange(3), targets]
    np.testing.assert_allclose(found[0].details['forward'], forward, atol=1e-4)
    np.testing.assert_allclose(found[0].details['backward'], backward, atol=1e-4)
    assert found[0].score == pytest.approx((forward.mean() + backward.mean()) / 2, rel=1e-4)
    with pytest.raises(UserError, match='from both ends'):
        TASK.next_tokens(runtime, prepared, ['a'], 3)


def test_the_softmax_has_the_words_that_are_predicted(prepared):
    resolved = TASK.resolve(NeighboursConfig(), prepared)
    assert resolved == NeighboursConfig(vocab_size=5, max_bytes=BYTES)
    every = replace(TASK, predicted_words=None).resolve(NeighboursConfig(), prepared)
    assert every == NeighboursConfig(vocab_size=8, max_bytes=BYTES)
    with pytest.raises(UserError, match='no bidirectional language model'):
        TASK.resolve(RecurrentLMConfig(), prepared)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'order': 'streams'}, "take 'windows'"),
        ({'tokenizer': Characters()}, 'take Words'),
        ({'predicted_words': 1}, 'at least 2'),
        ({'bytes': 2}, 'at least 3'),
    ],
)
def test_what_a_biLM_cannot_do_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        replace(TASK, **changes)
