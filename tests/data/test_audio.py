"""Sound: the mu-law, WAV files of every kind, drawn tones, and files of one's own."""

import wave

import numpy as np
import pytest

from seqzoo.data.audio import (
    Tones,
    WavFiles,
    levels_of,
    read_wav,
    resampled,
    samples_of,
    silence,
    write_wav,
)
from seqzoo.errors import UserError


def write_raw(path, content, *, rate=8000, width=2, channels=1):
    with wave.open(str(path), 'wb') as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(content)
    return path


def sine(pitch, rate, seconds=0.1):
    return np.sin(2 * np.pi * pitch * np.arange(round(rate * seconds)) / rate) / 2


def test_levels_are_those_of_the_mu_law():
    levels = np.arange(256)
    np.testing.assert_array_equal(levels_of(samples_of(levels)), levels)
    x = np.array([-2.0, -1.0, 0.0, 0.01, 0.5, 1.0])
    exact = np.sign(x) * np.log(1 + 255 * np.minimum(np.abs(x), 1)) / np.log(256)
    np.testing.assert_array_equal(levels_of(x), np.round((exact + 1) / 2 * 255 + 1e-9))
    assert silence() == 128
    quiet, loud = np.array([0.001]), np.array([0.9])
    error = lambda x: abs(samples_of(levels_of(x)) - x)[0]  # noqa: E731
    assert error(quiet) < 2e-4 < error(loud)


@pytest.mark.parametrize('width', [1, 2, 3, 4])
def test_integers_of_any_width_are_the_same_sound(tmp_path, width):
    x = sine(300, 8000)
    whole = np.round(x * (2 ** (8 * width - 1) - 1)).astype('<i8')
    if width == 1:
        whole += 128
    content = whole.view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
    found = read_wav(write_raw(tmp_path / 'x.wav', content, width=width), 8000)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, x, atol=1.5 / 2 ** (8 * width - 1))


def extensible_wav(path, meant):
    """Rewrites the format of a file as the extensible one, which says `meant` further behind."""
    content = path.read_bytes()
    rest = np.array([22, 16], '<u2').tobytes() + bytes(4) + np.uint16(meant).tobytes() + bytes(14)
    head = b'LIST' + np.uint32(3).tobytes() + b'abc\0'  # an odd chunk stands before it, too
    head += b'fmt ' + np.uint32(40).tobytes() + b'\xfe\xff' + content[22:36] + rest
    body = b'WAVE' + head + content[36:]
    path.write_bytes(b'RIFF' + np.uint32(len(body)).tobytes() + body)
    return path


def test_the_extensible_format_is_read_as_what_it_stands_for(tmp_path):
    content = np.arange(-300, 300, dtype='<i2').tobytes()
    plain = write_raw(tmp_path / 'plain.wav', content, channels=3)
    wanted = read_wav(plain, 8000)
    path = write_raw(tmp_path / 'x.wav', content, channels=3)
    np.testing.assert_array_equal(read_wav(extensible_wav(path, 1), 8000), wanted)
    floating = extensible_wav(write_raw(tmp_path / 'f.wav', content), 3)
    with pytest.raises(UserError, match=r'cannot be read as a WAV file of integers \(unknown form'):
        read_wav(floating, 8000)


@pytest.mark.parametrize('rate', [0, 1, 2_000_000_011])
def test_a_rate_that_is_no_sound_is_refused(tmp_path, rate):
    path = write_raw(tmp_path / 'x.wav', bytes(200))
    content = path.read_bytes()
    path.write_bytes(content[:24] + np.uint32(rate).tobytes() + content[28:])
    with pytest.raises(UserError, match=f'says that it has {rate:,} samples a second'):
        read_wav(path, 8000)


def test_resampling_stays_within_what_a_sample_can_be(tmp_path):
    steps = np.where(np.arange(400) % 20 < 10, 32767, -32768).astype('<i2')
    path = write_raw(tmp_path / 'x.wav', steps.tobytes(), rate=11_025)
    assert np.abs(read_wav(path, 8000)).max() == 1


def test_channels_are_mixed_down_and_rates_converted(tmp_path):
    left, right = sine(300, 11_025), sine(500, 11_025)
    both = np.round(np.stack([left, right], axis=1) * 32767).astype('<i2')
    path = write_raw(tmp_path / 'x.wav', both.tobytes(), rate=11_025, channels=2)
    found = read_wav(path, 8000)
    wanted = (sine(300, 8000) + sine(500, 8000)) / 2
    assert abs(len(found) - len(wanted)) <= 1
    inner = slice(50, 700)  # a filter needs both sides
    np.testing.assert_allclose(found[inner], wanted[inner], atol=2e-3)


def test_a_pitch_above_half_the_rate_does_not_fold_over():
    found = resampled(sine(6000, 16_000), 16_000, 8000)
    assert np.abs(found[50:-50]).max() < 0.01


def test_what_is_written_is_read_again(tmp_path):
    x = sine(440, 8000)
    write_wav(tmp_path / 'new' / 'x.wav', x, 8000)
    np.testing.assert_allclose(read_wav(tmp_path / 'new' / 'x.wav', 8000), x, atol=1e-4)
    with pytest.raises(UserError, match='cannot be written'):
        write_wav(tmp_path, x, 8000)


def float_wav():
    """Four samples of 32-bit floating point numbers, format 3."""
    body = np.zeros(4, '<f4').tobytes()
    head = np.array([3, 1], '<u2').tobytes() + np.array([8000, 32_000], '<u4').tobytes()
    head += np.array([4, 32], '<u2').tobytes()
    chunks = b'fmt ' + np.uint32(16).tobytes() + head + b'data' + np.uint32(16).tobytes() + body
    return b'RIFF' + np.uint32(4 + len(chunks)).tobytes() + b'WAVE' + chunks


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (b'', 'cannot be read as a WAV file of integers (it ends early); convert it'),
        (b'ID3 this is no sound at all', 'cannot be read as a WAV file of integers'),
        (float_wav(), 'unknown format: 3'),
        (None, 'No such file or directory'),
    ],
    ids=['nothing', 'another format', 'floating point', 'missing'],
)
def test_what_is_no_wav_file_of_integers_is_refused(tmp_path, content, said):
    path = tmp_path / 'x.wav'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_wav(path, 8000)
    assert said in str(caught.value)


def test_empty_and_truncated_files_are_refused(tmp_path):
    with pytest.raises(UserError, match='has no samples; leave it out'):
        read_wav(write_raw(tmp_path / 'empty.wav', b''), 8000)
    path = write_raw(tmp_path / 'cut.wav', bytes(2000))
    path.write_bytes(path.read_bytes()[:-999])
    with pytest.raises(UserError, match='it says that it has 1,000 samples, but only 500 are'):
        read_wav(path, 8000)


def test_tones_are_a_function_of_seed_and_split_and_have_their_pitch():
    corpus = Tones(train_size=40, dev_size=8, test_size=8)
    clips = corpus.read('train', None)
    again = corpus.read('train', None)
    assert clips.classes == ('low', 'high', 'rising', 'falling')
    assert len(clips) == 40
    np.testing.assert_array_equal(clips.samples[3], again.samples[3])
    assert not np.array_equal(clips.samples[0], corpus.read('dev', None).samples[0])

    def pitch(samples):
        power = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        return power.argmax() * corpus.rate / len(samples)

    for samples, label in zip(clips.samples, clips.labels, strict=True):
        assert len(samples) == 2000
        assert 0.25 < np.abs(samples).max() <= 0.9
        ends = [pitch(samples[:400]) > 600, pitch(samples[-400:]) > 600]
        expected = {'low': [0, 0], 'high': [1, 1], 'rising': [0, 1], 'falling': [1, 0]}
        assert ends == expected[clips.classes[label]]
    with pytest.raises(UserError, match='need 3600 at least'):
        Tones(rate=2000)


def test_folders_are_classes_and_long_files_are_cut(tmp_path):
    for name, count in (('a/one', 1000), ('a/two', 250), ('b/one', 450), ('loose', 200)):
        write_wav(tmp_path / 'wav' / f'{name}.WAV', np.full(count, 0.5), 1000)
    corpus = WavFiles(rate=1000, seconds=0.2)
    with pytest.raises(UserError, match='say where the data lies'):
        corpus.read('train', None)
    train = corpus.read('train', tmp_path)
    assert train.classes == ('a', 'b', 'wav')
    # Four files are few: the first eight tenths of each, in pieces of 200 or a large rest.
    lengths = [len(samples) for samples in train.samples]
    assert lengths == [200, 200, 200, 200, 200, 200, 160, 160]
    assert train.labels.tolist() == [0, 0, 0, 0, 0, 1, 1, 2]
    assert [len(samples) for samples in corpus.read('test', tmp_path).samples] == [100, 25, 45, 20]
    assert corpus.prepare(tmp_path) == ['wav: 4 files, 1.9 s']
    with pytest.raises(UserError, match=r'has no \.wav files'):
        WavFiles(folder='nothing').read('train', tmp_path)
    with pytest.raises(UserError, match='choose train, dev or test'):
        corpus.read('valid', tmp_path)


def test_many_files_are_split_as_wholes(tmp_path):
    for number in range(12):
        write_wav(tmp_path / 'wav' / f'{number}.wav', np.full(50, number / 20), 1000)
    corpus = WavFiles(rate=1000, seconds=0.05)
    found = {
        split: {round(float(s[0]) * 20) for s in corpus.read(split, tmp_path).samples}
        for split in ('train', 'dev', 'test')
    }
    assert [len(found[split]) for split in ('train', 'dev', 'test')] == [10, 1, 1]
    assert set.union(*found.values()) == set(range(12))
