"""Masked language modelling: losses by hand, every excerpt once, fillings of what is hidden."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.data.batching import BatchConfig
from seqzoo.data.masked_text import Documents
from seqzoo.data.token_store import TokenStore
from seqzoo.data.wordpiece import SPECIALS, WordPiece
from seqzoo.errors import UserError
from seqzoo.layers.inputs import TypedTokens
from seqzoo.models.base import MaskedLMOutput
from seqzoo.models.bert import BertConfig, BertPretrainingConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.parallel.mesh import MeshConfig, build_mesh, replicated
from seqzoo.tasks.base import Decoding, Runtime
from seqzoo.tasks.masked_language_modeling import MaskedLanguageModeling, PreparedDocuments

TOKENIZER = WordPiece(
    [*SPECIALS, *'abcdefgh', '##s', "'", '!', 'it', 'chicken', 'great'], lowercase=True
)
SIZE = TOKENIZER.vocab_size
CONFIG = BatchConfig(tokens=4 * 16, max_length=16)
MODEL = BertPretrainingConfig(
    encoder=BertConfig(vocab_size=SIZE, max_length=18, num_layers=1, embed_dim=8, num_heads=2)
)


def prepared():
    rng = np.random.default_rng(0)
    lines = [rng.integers(5, SIZE, size=n).astype(np.int32) for n in (6, 5, 4, 9, 7, 3, 2, 8)]
    starts = np.array([1, 0, 0, 1, 0, 1, 0, 0], bool)
    text = Documents.of(TokenStore.from_sentences(lines, {}), starts)
    return PreparedDocuments(TOKENIZER, {'train': text, 'dev': text, 'test': text})


@functools.cache
def runtime(devices=1):
    module, mesh = MODEL.build(), build_mesh(MeshConfig(), jax.devices()[:devices])
    variables = jax.jit(
        lambda key: jax.tree.map(lambda x: 10 * x, module.init(key, jnp.zeros((1, 4), jnp.int32)))
    )(jax.random.key(0))
    variables = meta.unbox(variables)
    shardings = jax.tree.map(lambda _: replicated(mesh), variables)
    return Runtime(module, jax.device_put(variables, shardings), shardings, mesh)


class Fake:
    """A model that says what it was given."""

    def __init__(self, logits, following):
        self.logits = jnp.asarray(logits)
        self.following = None if following is None else jnp.asarray(following)

    def apply(self, variables, method, rngs):
        del variables, rngs
        return method(self)

    def __call__(self, inputs, *, segments, train):
        shape = inputs.tokens.shape
        place = jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.float32), shape)
        return MaskedLMOutput(place[..., None], self.following)

    def unembed(self, features):
        """The logits of the places that were asked about."""
        rows = jnp.arange(len(features))[:, None]
        return self.logits[rows, features[..., 0].astype(int)]


def test_losses_are_of_the_hidden_tokens_and_of_the_pairs():
    task, data = MaskedLanguageModeling(), prepared()
    plan = task.plan(data, CONFIG, seed=0)
    batch = next(
        task.batches(data, plan, start_step=0, row_multiple=6, process_index=0, process_count=1)
    ).arrays
    rng = np.random.default_rng(1)
    logits, following = rng.normal(size=(6, 16, SIZE)), rng.normal(size=(6, 2))
    batch = {name: jnp.asarray(values) for name, values in batch.items()}
    losses, _ = task.loss(Fake(logits, following), {}, batch, (), key=None)

    def nll(scores, target):
        return np.log(np.exp(scores).sum()) - scores[target]

    hidden = [
        (logits[row, place], target)
        for row in range(4)
        for place, target, real in zip(
            batch['places'][row], batch['targets'][row], batch['predicted'][row], strict=True
        )
        if real
    ]
    np.testing.assert_allclose(losses.terms['masked'], sum(nll(*h) for h in hidden), rtol=1e-5)
    pairs = [(following[row], int(batch['next_sentence'][row])) for row in range(4)]
    wanted = sum(nll(*pair) for pair in pairs)
    np.testing.assert_allclose(losses.terms['next_sentence'], wanted, rtol=1e-5)
    weights = {name: float(w) for name, w in task.weights(batch).items()}
    assert weights == {'masked': len(hidden), 'next_sentence': 4}
    right = np.mean([scores.argmax() == target for scores, target in hidden])
    accuracy = losses.metrics['masked_accuracy']
    np.testing.assert_allclose(accuracy.total / accuracy.weight, 100 * right, rtol=1e-5)
    alone = replace(task, next_sentence=False)
    assert set(alone.loss(Fake(logits, None), {}, batch, (), key=None)[0].terms) == {'masked'}
    specs = task.batch_specs(plan, row_multiple=6, process_count=1)[0]
    assert {n: s.shape for n, s in specs.items()} == {n: a.shape for n, a in batch.items()}


def test_evaluation_is_the_same_in_other_batches_and_on_more_devices():
    task, data = MaskedLanguageModeling(), prepared()
    found = task.evaluate(runtime(), data, 'dev', CONFIG, None)
    other = task.evaluate(runtime(2), data, 'dev', replace(CONFIG, evaluation_rows=3), None)
    assert found.keys() == other.keys()
    for name, value in found.items():
        assert other[name] == pytest.approx(value, rel=1e-5), name
    assert found['loss'] == pytest.approx(found['masked_loss'] + found['next_sentence_loss'])
    assert found['perplexity'] == pytest.approx(np.exp(found['masked_loss']))


def test_every_mask_is_filled_with_likely_pieces_and_their_probabilities():
    task, data, loaded = MaskedLanguageModeling(), prepared(), runtime()
    lines = ['A [MASK]! [SEP] it [MASK] great', '', '[MASK]']
    two, blank, one = task.predict(loaded, data, lines, CONFIG, Decoding(n_best=3, beams=1))
    assert blank.text == ''
    masks = two.details['masks']
    assert [len(mask) for mask in masks] == [5, 5]
    best = [mask[0]['token'] for mask in masks]
    assert two.tokens == tuple(best)
    product = np.prod([mask[0]['probability'] for mask in masks])
    assert two.score == pytest.approx(product, rel=1e-3)
    fillings = [two, *two.alternatives]
    assert len(fillings) == 3
    assert fillings[0].score >= fillings[1].score >= fillings[2].score
    assert [p.tokens[0] for p in (one, *one.alternatives)] == [
        c['token'] for c in one.details['masks'][0][:3]
    ]
    assert not {c['token'] for mask in masks for c in mask} & set(SPECIALS)
    # By hand, for the record alone: padding and the other records change nothing.
    ids = TOKENIZER.encode('[CLS] A [MASK]! [SEP] it [MASK] great [SEP]')
    types = np.array([0] * 5 + [1] * 4)
    output = jax.jit(loaded.model.apply)(
        loaded.variables, TypedTokens(jnp.asarray(ids)[None], jnp.asarray(types)[None])
    )
    logits = loaded.model.apply(loaded.variables, output.features, method='unembed')[0]
    places = np.flatnonzero(ids == TOKENIZER.mask_id)
    for place, mask in zip(places, masks, strict=True):
        shares = jax.nn.softmax(logits[place])
        for candidate in mask:
            number = TOKENIZER.entries.index(candidate['token'])
            assert candidate['probability'] == pytest.approx(float(shares[number]), abs=2e-5)
    tables = task.next_tokens(loaded, data, lines[:1], 2)
    assert [t.prompt for t in tables] == [
        'A ____! [SEP] it [MASK] great',
        'A [MASK]! [SEP] it ____ great',
    ]
    assert [t.tokens[0] for t in tables] == best


@pytest.mark.parametrize(
    ('line', 'complaint'),
    [
        ('it is great', r'has no \[MASK\]; write one'),
        ('[MASK] ' * 20, 'has 22 pieces with its marks, but the model reads 18; shorten'),
        ('a [SEP] b [SEP] [MASK]', 'is more than two texts'),
    ],
)
def test_what_cannot_be_filled_is_one_sentence(line, complaint):
    loaded = Runtime(MODEL.build(), {}, {}, build_mesh(MeshConfig(), jax.devices()[:1]))
    with pytest.raises(UserError, match=complaint):
        MaskedLanguageModeling().predict(loaded, prepared(), [line], CONFIG, Decoding())


def test_models_that_do_not_fit_the_task_are_refused():
    task, data = MaskedLanguageModeling(), prepared()
    open_model = BertPretrainingConfig(encoder=replace(MODEL.encoder, vocab_size=None))
    assert task.resolve(open_model, data).encoder.vocab_size == SIZE
    assert task.nominal_model(open_model).encoder.vocab_size == task.tokenizer.vocab_size
    assert task.nominal_model(MODEL) == MODEL
    with pytest.raises(UserError, match=r'task\.next_sentence makes pairs'):
        task.resolve(replace(open_model, next_sentence=False), data)
    with pytest.raises(UserError, match='is no masked language model'):
        task.resolve(LabelerConfig(encoder=open_model.encoder, num_outputs=2), data)
