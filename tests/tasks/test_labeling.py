"""Classes, tags and angles: losses by formula, scores by hand, lines in and labels out."""

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.data.angle_chains import AngleChains
from seqzoo.data.batching import BatchConfig
from seqzoo.data.columns import Columns, Fixed, Ragged
from seqzoo.data.labelled import Labelled, LabelledData, Tagged, TaggedData
from seqzoo.data.word_lists import TextConfig, WordListConfig, encode_bytes
from seqzoo.errors import UserError
from seqzoo.layers.inputs import Spelling, Tokens
from seqzoo.models.base import LabelOutput
from seqzoo.models.dense import DenseConfig
from seqzoo.models.elmo import ElmoConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.tasks.angle_regression import AngleRegression
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.classification import SeriesClassification, TextClassification
from seqzoo.tasks.labeling import TokenInput
from seqzoo.tasks.tagging import Tagging

BATCH = BatchConfig(tokens=64, max_length=8)
TEXTS = ['good good film', 'bad film', 'good', 'Bad, bad, bad!', 'film film good']
LABELS = np.array([1, 0, 1, 0, 1], np.int32)
SENTENCES = [['the', 'cat', 'sat'], ['the', 'dog'], ['a', 'cat', 'sat', 'there']]
TAGS = [[0, 1, 2], [0, 1], [0, 1, 2, 1]]
COUNTS = [[True, True, True], [True, False], [True, True, True, True]]


@dataclass(frozen=True, kw_only=True)
class Reviews(LabelledData):
    classes = ('negative', 'positive')

    def read(self, split, data_dir):
        return Labelled(TEXTS, LABELS)


@dataclass(frozen=True, kw_only=True)
class Sentences(TaggedData):
    classes = ('DET', 'NOUN', 'VERB')

    def read(self, split, data_dir):
        tags = [np.array(t, np.int32) for t in TAGS]
        return Tagged(SENTENCES, tags, [np.array(c) for c in COUNTS])


class Fake:
    """A model that says what it was given, for every row of a batch."""

    def __init__(self, outputs):
        self.outputs = jnp.asarray(outputs, jnp.float32)

    def apply(self, variables, inputs, **options):
        self.inputs, self.options = inputs, options
        return LabelOutput(self.outputs)


def reviews(**changes):
    return TextClassification(corpus=Reviews(), words=TextConfig(min_count=2), **changes)


def tagging(**changes):
    words = WordListConfig(min_count=2)
    return Tagging(corpus=Sentences(), tokens=TokenInput(words=words, **changes))


def batch_of(table, length=4):
    rows = np.arange(len(table))
    columns = {'weight': np.ones(len(table), np.float32)}
    columns['segments'] = (np.arange(length) < table.lengths[:, None]).astype(np.int32)
    for name, column in table.columns.items():
        if isinstance(column, Fixed):
            columns[name] = column.values
        else:
            padded = np.zeros((len(table), length, *column.values.shape[1:]), column.values.dtype)
            for row in rows:
                padded[row, : len(column[row])] = column[row]
            columns[name] = padded
    return {name: jnp.asarray(x) for name, x in columns.items()}


def test_one_sigmoid_output_gives_the_binary_cross_entropy():
    task, z = reviews(), np.array([[1.5], [0.5], [-2.0], [-1.0], [0.0]])
    table = task.encode(task.read('train', None), task.learn(task.read('train', None)))
    losses, _ = task.loss(Fake(z), {}, batch_of(table), (), key=None)
    sigmoid = 1 / (1 + np.exp(-z[:, 0]))
    wanted = -np.where(LABELS == 1, np.log(sigmoid), np.log(1 - sigmoid))
    np.testing.assert_allclose(losses.terms['loss'], wanted.sum(), rtol=1e-6)
    np.testing.assert_allclose(losses.metrics['accuracy'].total, 100 * 2)  # 1 and 4 are right


def test_rows_that_only_fill_up_count_for_nothing():
    task = reviews(label_smoothing=0.1)
    table = task.encode(task.read('train', None), task.learn(task.read('train', None)))
    logits = np.random.default_rng(0).normal(size=(5, 2))
    batch = batch_of(table)
    whole, _ = task.loss(Fake(logits), {}, batch, (), key=None)
    batch['weight'] = batch['weight'].at[3:].set(0)
    part, _ = task.loss(Fake(logits), {}, batch, (), key=None)
    few = {name: x[:3] for name, x in batch.items()}
    wanted, _ = task.loss(Fake(logits[:3]), {}, few, (), key=None)
    np.testing.assert_allclose(part.terms['loss'], wanted.terms['loss'], rtol=1e-6)
    assert float(part.terms['loss']) < float(whole.terms['loss'])
    assert float(task.weights(batch)['loss']) == 3


def test_a_text_is_cut_and_its_rare_words_are_unknown():
    task = TextClassification(
        corpus=Reviews(), words=TextConfig(min_count=2, max_words=2, keep='last')
    )
    learnt = task.learn(task.read('train', None))
    assert learnt['majority'] == 1
    assert learnt['words'] == ['<unk>', 'bad', 'film', 'good']  # each of them three times
    column = task.column(['good bad film', '...'], learnt)
    assert [column[i].tolist() for i in range(2)] == [[1, 2], [0]]


def test_scores_of_classes_stand_beside_the_majority_of_the_training_data():
    task = reviews()
    log_probs = np.log(np.array([[0.4, 0.6], [0.7, 0.3], [0.8, 0.2], [0.9, 0.1], [0.1, 0.9]]))
    table = Columns({'inputs': Ragged.of([[1]] * 5), 'label': Fixed(LABELS)})
    metrics = task.measure(table, Columns({'log_probs': Fixed(log_probs)}), {'majority': 0})
    assert metrics['accuracy'] == pytest.approx(80)
    assert metrics['majority_accuracy'] == pytest.approx(40)
    right = [0.6, 0.7, 0.2, 0.9, 0.9]
    assert metrics['loss'] == pytest.approx(-np.log(right).mean())
    assert metrics['classes']['positive']['recall'] == pytest.approx(200 / 3)


def test_sizes_come_from_the_data_and_one_output_may_stand_for_two_classes():
    task = reviews()
    prepared = task.prepare(BATCH, data_dir=None, cache_dir=None)
    model = task.resolve(LabelerConfig(), prepared)
    assert (model.num_outputs, model.encoder.inputs.vocab_size) == (2, 4)
    assert task.resolve(LabelerConfig(num_outputs=1), prepared).num_outputs == 1
    dense = task.resolve(DenseConfig(), prepared)
    assert (dense.num_outputs, dense.inputs.vocab_size) == (2, 4)
    with pytest.raises(UserError, match=r'model\.num_outputs is 3, but the data has 2'):
        task.resolve(LabelerConfig(num_outputs=3), prepared)
    with pytest.raises(UserError, match='have no input_dim'):
        SeriesClassification(corpus=Reviews()).nominal_model(LabelerConfig())


def test_a_split_of_which_no_position_counts_is_refused(monkeypatch):
    monkeypatch.setitem(globals(), 'COUNTS', [[False] * len(c) for c in COUNTS])
    with pytest.raises(UserError, match='none of the positions of the split test counts'):
        tagging().read('test', None)


def test_a_number_that_is_missing_between_commas_is_not_passed_over():
    task = SeriesClassification(corpus=Reviews())
    for line in ('1,2 3', ' 1 , 2  3', '1 2 3'):
        assert task.read_line(line).tolist() == [[1], [2], [3]]
    for line in ('1,,2', '1,2,', ', 1'):
        with pytest.raises(UserError, match="'' is not a number"):
            task.read_line(line)


def test_lines_are_answered_in_order_and_blank_ones_are_left_blank(monkeypatch):
    task = reviews()
    learnt = task.learn(task.read('train', None))
    asked = []

    def answers_for(self, runtime, table, batch, progress):
        asked.append(table)
        rows = [[0.25, 0.75], [0.9, 0.1]]
        return Columns({'log_probs': Fixed(np.log(np.array(rows, np.float32)))})

    monkeypatch.setattr(TextClassification, 'answers_for', answers_for)
    prepared = task.prepare(BATCH, data_dir=None, cache_dir=None)
    lines = ['good film', ' ', 'bad']
    first, blank, last = task.predict(None, prepared, lines, BATCH, Decoding(n_best=2))
    assert (first.text, blank.text, last.text) == ('positive', '', 'negative')
    assert first.score == pytest.approx(0.75)
    assert first.details['probabilities'] == {'positive': 0.75, 'negative': 0.25}
    assert [other.text for other in last.alternatives] == ['positive']
    assert asked[0].columns['inputs'][0].tolist() == [
        learnt['words'].index('good'),
        learnt['words'].index('film'),
    ]
    assert task.predict(None, prepared, ['', ''], BATCH, Decoding()) == [blank, blank]


def test_only_positions_that_count_are_trained_on_and_scored():
    task = tagging()
    learnt = task.learn(task.read('train', None))
    assert learnt == {'words': ['<unk>', 'cat', 'sat', 'the'], 'majority': 0}  # without 'dog'
    table = task.encode(task.read('train', None), learnt)
    batch = batch_of(table)
    logits = np.random.default_rng(0).normal(size=(3, 4, 3))
    losses, _ = task.loss(Fake(logits), {}, batch, (), key=None)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = [
        -log_probs[row, t, tag]
        for row, tags in enumerate(TAGS)
        for t, tag in enumerate(tags)
        if COUNTS[row][t]
    ]
    np.testing.assert_allclose(losses.terms['loss'], sum(wanted), rtol=1e-5)
    assert float(task.weights(batch)['loss']) == len(wanted) == 8
    cut = [log_probs[row, : len(tags)] for row, tags in enumerate(TAGS)]
    metrics = task.measure(table, Columns({'log_probs': Ragged.of(cut, np.float32)}), learnt)
    assert metrics['loss'] == pytest.approx(np.mean(wanted), rel=1e-5)
    assert sum(score['count'] for score in metrics['classes'].values()) == 8
    assert metrics['majority_accuracy'] == pytest.approx(100 * 3 / 8)
    # 'a' and 'there' are unknown and count; 'dog' is unknown and does not.
    unknown = [log_probs[2, 0].argmax() == 0, log_probs[2, 3].argmax() == 1]
    assert metrics['unknown_accuracy'] == pytest.approx(100 * np.mean(unknown))


def test_words_bring_their_spelling_where_the_model_reads_it():
    task = tagging(characters=4)
    prepared = task.prepare(BATCH, data_dir=None, cache_dir=None)
    characters = prepared.learnt['characters']
    speller = LabelerConfig(encoder=RecurrentEncoderConfig(inputs=Spelling()))
    model = task.resolve(speller, prepared)
    assert model.encoder.inputs.num_characters == len(characters) + 1
    table = task.parse(['cat dog'], prepared.learnt)
    assert table.columns['characters'].values.shape == (2, 4)
    spelled = [characters[i - 1] for i in table.columns['characters'].values[0] if i]
    assert ''.join(spelled) == 'cat'
    fake = Fake(np.zeros((1, 4, 3)))
    task.answers(fake, {}, batch_of(table))
    assert fake.inputs.characters.shape == (1, 4, 4)
    with pytest.raises(UserError, match='have no num_characters'):
        task.resolve(LabelerConfig(), prepared)


def test_words_bring_their_bytes_where_the_model_reads_them():
    """For a tagger and for a classifier, in batches and in what is compiled without data."""
    elmo = ElmoConfig.tiny()
    words = replace(elmo.bilm.words, num_bytes=262, max_bytes=None)
    elmo = replace(elmo, bilm=replace(elmo.bilm, words=words), inputs=Tokens(embed_dim=4))
    tagging = Tagging(corpus=Sentences(), tokens=TokenInput(bytes=6))
    reviews = TextClassification(corpus=Reviews(), words=TextConfig(), bytes=6)
    for task, per in ((tagging, 'step'), (reviews, 'sequence')):
        prepared = task.prepare(BATCH, data_dir=None, cache_dir=None)
        model = LabelerConfig(encoder=elmo, per=per, pooling='max')
        resolved = task.resolve(model, prepared)
        assert resolved.encoder.bilm.words.max_bytes == 6
        table = prepared.splits['train'].columns['bytes']
        first = ['the', 'cat', 'sat'] if per == 'step' else ['good', 'good', 'film']
        np.testing.assert_array_equal(table[0], encode_bytes(first, 6))
        nominal = task.nominal_table([3, 2]).columns['bytes']
        assert (nominal.values.shape, nominal.values.dtype) == ((5, 6), table.values.dtype)
        assert task.prepare_from(Path('run'), BATCH, data_dir=None, cache_dir=None).splits
        inputs = task.nominal_table([3]).columns
        batch = {name: jnp.asarray(column.values[None]) for name, column in inputs.items()}
        batch |= {'segments': jnp.ones((1, 3), jnp.int32), 'weight': jnp.ones(1)}
        batch |= {'label': jnp.zeros(1, jnp.int32)} if per == 'sequence' else {}
        built = resolved.build()
        shapes = jax.eval_shape(built.init, jax.random.key(0), *resolved.example_inputs())
        losses, _ = jax.eval_shape(lambda v, b: task.loss(built, v, b, (), key=None), shapes, batch)  # noqa: B023
        assert losses.terms['loss'].shape == ()
    with pytest.raises(UserError, match='reads nothing that such a run could'):
        Tagging(corpus=Sentences()).prepare_from(Path('run'), BATCH, data_dir=None, cache_dir=None)
    with pytest.raises(UserError, match='at least 3'):
        TokenInput(bytes=2)


def test_a_tag_comes_out_for_every_word():
    log_probs = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]], np.float32))
    found = tagging().prediction('the  cat', {'log_probs': log_probs}, Decoding())
    assert found.text == 'DET NOUN'
    assert found.source_tokens == ('the', 'cat')
    assert found.score == pytest.approx(0.6)
    assert found.details['probabilities'] == [0.7, 0.5]


def test_a_model_with_the_other_kind_of_answer_is_refused_in_words():
    task = tagging()
    table = task.encode(task.read('train', None), task.learn(task.read('train', None)))
    with pytest.raises(UserError, match=r'set --model\.per step'):
        task.loss(Fake(np.zeros((3, 3))), {}, batch_of(table), (), key=None)


def test_angles_are_read_off_sine_and_cosine_of_any_length():
    task = AngleRegression(corpus=AngleChains(train_size=3, min_length=2, max_length=4))
    examples = task.read('train', None)
    learnt = task.learn(examples)
    table = task.encode(examples, learnt)
    angles = table.columns['angles'].values
    vectors = 3.0 * np.stack([np.sin(angles + 0.1), np.cos(angles + 0.1)], axis=-1)
    answers = Columns({'vectors': Ragged(vectors, table.columns['angles'].offsets)})
    metrics = task.measure(table, answers, learnt)
    assert metrics['angular_error'] == pytest.approx(np.degrees(0.1), rel=1e-4)
    assert metrics['angular_error_of_mean'] > 20
    perfect = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    padded = batch_of(Columns({'v': Ragged(perfect, table.columns['angles'].offsets)}))['v']
    shifted = padded.at[..., 0].add(0.5)
    losses, _ = task.loss(
        Fake(shifted.reshape(3, 4, 4)), {}, batch_of(table), (), key=jax.random.key(0)
    )
    positions = int(table.lengths.sum())
    np.testing.assert_allclose(losses.terms['loss'], positions * 2 * 0.25, rtol=1e-5)
    found = task.prediction('A C', {'vectors': perfect[:2]}, Decoding())
    assert found.source_tokens == ('A', 'C')
    np.testing.assert_allclose(np.radians(found.details['angles']), angles[:2], atol=1e-3)


def test_a_line_that_is_no_series_is_shown():
    task = SeriesClassification(corpus=Reviews(), input_dim=2)
    assert task.read_line('1, 2 3,4').tolist() == [[1, 2], [3, 4]]
    for line, complaint in (('1 2 three', 'is not a number'), ('1 2 3', 'has 3 numbers')):
        with pytest.raises(UserError, match=f'^{line!r}.*{complaint}'):
            task.read_line(line)


def test_series_of_equal_lengths_fit_into_longer_buckets():
    task = SeriesClassification(corpus=Reviews(), input_dim=2)
    table = task.parse(['1 2 3 4 5 6'] * 2, {})
    assert batch_of(table, length=4)['inputs'][:, :, 0].tolist() == [[1, 3, 5, 0]] * 2
