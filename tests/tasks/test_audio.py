"""Sound as a task: its loss, its baseline, and sounds on request."""

import dataclasses
import functools
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.analysis.spectrograms import spectrogram, spectrogram_picture
from seqzoo.commands.sounds import refuse_without_sounds
from seqzoo.data.audio import Tones, levels_of, samples_of
from seqzoo.data.batching import BatchConfig
from seqzoo.errors import UserError
from seqzoo.models.tcn import TCNConfig
from seqzoo.models.wavenet import Condition, WaveNetConfig
from seqzoo.parallel.mesh import MeshConfig, build_mesh, replicated
from seqzoo.tasks.audio import AudioModeling, sound_of
from seqzoo.tasks.base import Decoding, Runtime

SIZES = {'train_size': 6, 'dev_size': 5, 'test_size': 5}
TASK = AudioModeling(corpus=Tones(rate=4000, seconds=0.005, **SIZES), levels=16)
BATCH = BatchConfig(tokens=128, max_length=32, buckets=(32,))  # longer than the sounds
MODEL = WaveNetConfig(
    vocab_size=16, dilations=(1,), num_cycles=2, residual_dim=4, gate_dim=4, skip_dim=4, class_dim=3
)


@functools.cache
def prepared():
    return TASK.prepare(BATCH, data_dir=None, cache_dir=None)


@functools.cache
def runtime(model=MODEL):
    config = TASK.resolve(model, prepared())
    mesh, module = build_mesh(MeshConfig(), jax.devices()[:1]), config.build()
    drawn = meta.unbox(jax.jit(module.init)(jax.random.key(0), *config.example_inputs()))
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), drawn)
    shardings = jax.tree.map(lambda _: replicated(mesh), drawn)
    return Runtime(module, jax.device_put(drawn, shardings), shardings, mesh)


def log_probs(levels, label):
    """Of each level after those before it, by a full pass over one sound."""
    own = runtime()
    read = jnp.array([[8, *levels[:-1]]])
    condition = Condition(classes=jnp.array([label]))
    features = own.model.apply(own.variables, read, condition=condition).features
    logits = own.model.apply(own.variables, features, method='unembed')
    return np.asarray(jax.nn.log_softmax(logits))[0]


def test_the_data_says_how_many_classes_there_are():
    assert prepared().learnt['classes'] == ['low', 'high', 'rising', 'falling']
    assert prepared().learnt['rate'] == 4000
    assert TASK.resolve(MODEL, prepared()).num_classes == 4
    assert TASK.nominal_model(MODEL).num_classes == 4
    plain = WaveNetConfig(vocab_size=16)
    assert TASK.resolve(plain, prepared()) == plain
    with pytest.raises(UserError, match='vocab_size is 256, but the data has 16'):
        TASK.resolve(WaveNetConfig(), prepared())
    with pytest.raises(UserError, match='take a WaveNetConfig'):
        TASK.resolve(TCNConfig(), prepared())


def test_evaluation_counts_every_sample_once_and_knows_the_frequencies_of_levels():
    found = TASK.evaluate(runtime(), prepared(), 'dev', BATCH, None)
    clips = TASK.corpus.read('dev', None)
    sounds = [levels_of(samples, 16) for samples in clips.samples]
    nats = np.concatenate(
        [
            -np.take_along_axis(log_probs(own, label), own[:, None], axis=1)[:, 0]
            for own, label in zip(sounds, clips.labels, strict=True)
        ]
    )
    assert len(nats) == 5 * 20
    np.testing.assert_allclose(found['loss'], nats.mean(), rtol=1e-5)
    np.testing.assert_allclose(found['bits_per_sample'], nats.mean() / np.log(2), rtol=1e-5)
    trained = np.concatenate([levels_of(x, 16) for x in TASK.corpus.read('train', None).samples])
    counts = np.bincount(trained, minlength=16) + 1
    wanted = -np.log(counts / counts.sum())[np.concatenate(sounds)].mean()
    np.testing.assert_allclose(found['baseline'], wanted, atol=1e-5)


def test_a_record_asks_for_a_class_and_a_length():
    records = ['high', '', 'falling 0.0015']
    decoding = Decoding(method='greedy', extra_length=9)
    options = {'prepared': prepared(), 'batch': BATCH, 'decoding': decoding}
    high, blank, falling = TASK.predict(runtime(), records=records, **options)
    assert (high.text, blank.text, falling.text) == ('high 0.00225 s', '', 'falling 0.0015 s')
    for found, label, length in ((high, 1, 9), (falling, 3, 6)):
        levels = found.details['levels']
        assert len(levels) == length
        own = log_probs(levels, label)
        assert own.argmax(axis=1).tolist() == levels  # each the likeliest after those before it
        np.testing.assert_array_equal(sound_of(found, 16), samples_of(np.array(levels), 16))
    assert len(sound_of(blank, 16)) == 0


@pytest.mark.parametrize(
    ('record', 'said'),
    [
        ('loud', "'loud' names no class; begin with one of low, high, rising, falling"),
        ('low soon', 'give seconds behind the class'),
        ('low -1', 'give seconds behind the class'),
        ('low inf', 'give seconds behind the class'),
        ('low 1e99', '3,600 at most'),
    ],
)
def test_a_record_that_asks_for_nothing_known_is_refused(record, said):
    with pytest.raises(UserError, match=said):
        TASK.predict(runtime(), prepared(), [record], BATCH, Decoding(method='sample'))


def test_a_class_may_be_called_by_several_words():
    found = prepared()
    learnt = {**found.learnt, 'classes': ['my voice', 'my', 'my voice too', 'low']}
    several = dataclasses.replace(found, learnt=learnt)
    options = Decoding(method='greedy', extra_length=3)
    records = ['my voice 0.001', 'my', 'my voice too']
    asked = TASK.predict(runtime(), several, records, BATCH, options)
    assert [one.details['class'] for one in asked] == ['my voice', 'my', 'my voice too']
    assert [len(one.details['levels']) for one in asked] == [4, 3, 3]


def test_a_spectrogram_shows_the_pitch_at_its_time(tmp_path):
    time = np.arange(2000) / 8000
    sound = np.where(time < 0.125, np.sin(2 * np.pi * 1000 * time), np.sin(2 * np.pi * 3000 * time))
    found = spectrogram(sound)
    assert found.shape[0] == 129
    assert found.max() == 0
    assert found[:, 2].argmax() == 1000 * 256 // 8000
    assert found[:, -2].argmax() == 3000 * 256 // 8000
    spectrogram_picture([[('a', sound), ('b', np.zeros(10))]], 8000, tmp_path / 'x.png')
    assert (tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG')
    with pytest.raises(UserError, match='no sound to draw'):
        spectrogram_picture([[('a', np.zeros(0))]], 8000)


def test_a_run_of_another_task_is_refused_before_it_predicts():
    run = SimpleNamespace(experiment=SimpleNamespace(task=TASK))
    refuse_without_sounds(run, Path('x.wav'))
    run.experiment.task = object()
    with pytest.raises(UserError, match=r'x\.wav would be a sound, but this run does not'):
        refuse_without_sounds(run, Path('x.wav'))
