"""Classes and tags of text in pieces: rows, losses, and a language model that goes on as one."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.data.batching import BatchConfig
from seqzoo.data.columns import Columns, Ragged
from seqzoo.data.labelled import Labelled, LabelledData, Tagged, TaggedData
from seqzoo.data.wordpiece import WordPieceConfig
from seqzoo.errors import UserError
from seqzoo.layers.inputs import TypedTokens
from seqzoo.models.bert import BertConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.language_model_encoder import LanguageModelEncoderConfig
from seqzoo.models.recurrent_lm import RecurrentLMConfig
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.subword_labeling import SubwordClassification, SubwordTagging

BATCH = BatchConfig(tokens=64, max_length=16)
PIECES = WordPieceConfig(vocab_size=40, min_count=1)
PAIRS = [('good film', 'a film'), ('bad', 'bad bad film'), ('film', 'film')]
LABELS = np.array([1, 0, 1], np.int32)
SENTENCES = [['filmed', 'bad'], ['film'], ['\u200b', 'goods']]
TAGS = [np.array(t, np.int32) for t in ([0, 1], [0], [1, 0])]
COUNTS = [np.array(c) for c in ([True, True], [True], [False, True])]


@dataclass(frozen=True, kw_only=True)
class Reviews(LabelledData):
    two: bool = False
    classes = ('negative', 'positive')

    @property
    def pairs(self):
        return self.two

    def read(self, split, data_dir):
        return Labelled(PAIRS if self.two else [b for _, b in PAIRS], LABELS)


@dataclass(frozen=True, kw_only=True)
class Sentences(TaggedData):
    classes = ('NOUN', 'ADJ')

    def read(self, split, data_dir):
        return Tagged(SENTENCES, TAGS, COUNTS)


def classification(two=False, **changes):
    return SubwordClassification(corpus=Reviews(two=two), tokenizer=PIECES, **changes)


def tagging():
    return SubwordTagging(corpus=Sentences(), tokenizer=PIECES)


def prepared_of(task, tmp_path, **options):
    return task.prepare(BATCH, data_dir=None, cache_dir=tmp_path, **options)


def test_pairs_stand_between_marks_and_sizes_come_from_the_pieces(tmp_path):
    task = classification(two=True)
    prepared = prepared_of(task, tmp_path)
    columns = prepared.splits['train'].columns
    shown = prepared.tokenizer.decode(columns['inputs'][1])
    assert shown == '[CLS] bad [SEP] bad bad film [SEP]'
    types, tokens = columns['token_types'][1], columns['inputs'][1]
    middle = tokens.tolist().index(prepared.tokenizer.sep_id)
    assert types.tolist() == [0] * (middle + 1) + [1] * (len(tokens) - middle - 1)
    model = task.resolve(LabelerConfig(encoder=BertConfig()), prepared)
    assert model.encoder.vocab_size == prepared.tokenizer.vocab_size
    assert model.num_outputs == 2
    asked = task.parse(['bad\tbad bad film'], prepared.learnt).columns['inputs'][0]
    np.testing.assert_array_equal(asked, columns['inputs'][1])
    with pytest.raises(UserError, match='write two with a tab between them'):
        task.parse(['bad'], prepared.learnt)


def test_a_run_keeps_pieces_and_what_was_learnt_and_another_task_can_take_the_pieces(tmp_path):
    prepared = prepared_of(classification(), tmp_path)
    run = tmp_path / 'run'
    run.mkdir()
    prepared.save(run)
    again = prepared_of(classification(), tmp_path, run_dir=run, splits=('dev',))
    assert again.identity['tokenizer'] == prepared.identity['tokenizer']
    assert again.learnt['majority'] == 1
    taken = tagging().prepare_from(run, BATCH, data_dir=None, cache_dir=tmp_path)
    assert taken.tokenizer.fingerprint == prepared.tokenizer.fingerprint
    assert taken.learnt['majority'] == 0
    learnt = prepared_of(tagging(), tmp_path)
    assert learnt.tokenizer.fingerprint != prepared.tokenizer.fingerprint


def test_tags_stand_at_the_first_piece_of_each_word(tmp_path):
    task = tagging()
    prepared = prepared_of(task, tmp_path)
    tokenizer, columns = prepared.tokenizer, prepared.splits['train'].columns
    words = [w for sentence in SENTENCES for w in sentence]
    first = columns['first']
    assert [first[i].sum() for i in range(3)] == [2, 1, 2]
    at_first = columns['inputs'].values[first.values]
    wanted = [ids[0] for ids in tokenizer.encode_words(words)]
    assert at_first.tolist() == wanted
    assert columns['tags'].values[first.values].tolist() == [0, 1, 0, 1, 0]
    assert columns['counts'].values[first.values].tolist() == [True] * 3 + [False, True]
    assert not columns['counts'].values[~first.values].any()
    # What comes out has a tag for each word, however many pieces that has.
    row = task.parse(['filmed bad'], prepared.learnt).columns
    log_probs = np.log(np.full((len(row['inputs'][0]), 2), 0.5, np.float32))
    starts = np.flatnonzero(row['first'][0])
    log_probs[starts[1]] = np.log([0.1, 0.9])
    answers = {'log_probs': log_probs, 'first': row['first'][0]}
    found = task.prediction('filmed bad', answers, Decoding())
    assert found.text == 'NOUN ADJ'
    assert found.source_tokens == ('filmed', 'bad')
    # All words of the table that count are scored, and only those.
    table = prepared.splits['train']
    even = Ragged(np.log(np.full((len(first.values), 2), 0.5, np.float32)), first.offsets)
    metrics = task.measure(table, Columns({'log_probs': even}), prepared.learnt)
    assert metrics['loss'] == pytest.approx(np.log(2))
    assert sum(score['count'] for score in metrics['classes'].values()) == 4


def test_a_language_model_below_a_head_goes_on_as_one(tmp_path):
    task = classification(language_model_weight=0.5)
    prepared = prepared_of(task, tmp_path)
    table = prepared.splits['train']
    language_model = replace(RecurrentLMConfig.tiny(), vocab_size=None)
    encoder = LanguageModelEncoderConfig(language_model=language_model)
    model = task.resolve(LabelerConfig(encoder=encoder), prepared).build()
    length = int(table.lengths.max())
    batch = {
        'segments': (np.arange(length) < table.lengths[:, None]).astype(np.int32),
        'weight': np.array([1, 1, 1], np.float32),
        'label': LABELS,
    }
    for name in ('inputs', 'token_types'):
        column = table.columns[name]
        rows = [np.pad(column[i], (0, length - n)) for i, n in enumerate(table.lengths)]
        batch[name] = np.stack(rows)
    batch = {name: jnp.asarray(values) for name, values in batch.items()}

    @jax.jit
    def run(batch):
        variables = model.init(jax.random.key(0), batch['inputs'])
        inputs = TypedTokens(batch['inputs'], batch['token_types'])

        def apart(module):
            output = module(inputs, segments=batch['segments'])
            return output, module.unembed(output.features)

        losses, _ = task.loss(model, variables, batch, (), key=None)
        return losses, *model.apply(variables, method=apart)

    losses, output, logits = run(batch)
    log_probs = jax.nn.log_softmax(logits)
    wanted = sum(
        -log_probs[row, t, batch['inputs'][row, t + 1]]
        for row, n in enumerate(table.lengths)
        for t in range(n - 1)
    )
    np.testing.assert_allclose(losses.metrics['next_token'].total, wanted, rtol=1e-5)
    np.testing.assert_allclose(losses.terms['next_token'], 0.5 * wanted, rtol=1e-5)
    count = int(np.sum(table.lengths - 1))
    assert int(losses.metrics['next_token'].weight) == count
    assert int(task.weights(batch)['next_token']) == count
    classes = jax.nn.log_softmax(output.outputs)
    own = -np.take_along_axis(np.asarray(classes), LABELS[:, None], axis=1).sum()
    np.testing.assert_allclose(losses.terms['loss'], own, rtol=1e-5)


def test_a_loss_of_next_tokens_needs_a_language_model_below():
    task = classification(language_model_weight=0.5)
    model = LabelerConfig(encoder=BertConfig.tiny(), num_outputs=2).build()
    shape = jnp.zeros((2, 4), jnp.int32)
    batch = dict.fromkeys(('inputs', 'token_types', 'segments'), shape)
    batch |= {'weight': jnp.ones(2), 'label': jnp.zeros(2, jnp.int32)}

    def run():
        variables = model.init(jax.random.key(0), shape)
        return task.loss(model, variables, batch, (), key=None)

    with pytest.raises(UserError, match='needs a language model below the head'):
        jax.eval_shape(run)
