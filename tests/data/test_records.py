import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from hypothesis import given
from hypothesis import strategies as st

from seqzoo.data import records
from seqzoo.data.records import encode_pair, open_tfds_parallel, write_shards
from seqzoo.errors import UserError

PAIRS = [(f'Satz {i} ä\u2028', f'sentence {i}') for i in range(2500)]


class StrangeTranslate(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set as anyone may prepare it with TFDS itself, which also shuffles it."""

    VERSION = tfds.core.Version('2.0.0')
    RELEASE_NOTES = {'2.0.0': 'x'}  # noqa: RUF012
    name = 'strange_translate'

    def _info(self):
        features = tfds.features.FeaturesDict(
            {'de': tfds.features.Text(), 'en': tfds.features.Text(), 'id': np.int64}
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(2500), 'test': self._generate_examples(10)}

    def _generate_examples(self, count):
        for i, (de, en) in enumerate(PAIRS[:count]):
            yield i, {'de': de, 'en': en, 'id': i}


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tfds')
    builder = StrangeTranslate(data_dir=str(folder), file_format='array_record')
    builder.download_and_prepare()
    return folder


def test_a_data_set_prepared_by_tfds_reads_in_both_directions(data_dir):
    forward = open_tfds_parallel('strange_translate', 'train', 'de', 'en', data_dir)
    assert len(forward) == len(PAIRS)
    assert list(forward) != PAIRS  # TFDS shuffles
    assert sorted(forward) == sorted(PAIRS)
    backward = open_tfds_parallel('strange_translate:2.0.0', 'train', 'en', 'de', str(data_dir))
    assert [(de, en) for en, de in backward] == list(forward) == list(forward)


def test_random_access_slices_and_pickling_agree_with_iteration(data_dir):
    pairs = open_tfds_parallel('strange_translate', 'train[:50%]+test', 'de', 'en', data_dir)
    expected = list(pairs)
    assert len(pairs) == len(expected) == 1260
    assert [pairs[0], pairs[1259], pairs[-1], *pairs[3:9:2]] == [
        expected[0],
        expected[1259],
        expected[-1],
        *expected[3:9:2],
    ]
    with pytest.raises(IndexError):
        pairs[1260]
    assert list(pickle.loads(pickle.dumps(pairs))) == expected


@pytest.mark.parametrize(
    ('name', 'split', 'source', 'message'),
    [
        ('absent', 'train', 'de', r'not in .*: run `seqzoo data prepare CONFIG --data-dir'),
        ('strange_translate:3.0.0', 'train', 'de', 'seqzoo data prepare CONFIG'),
        ('strange_translate', 'dev', 'de', r"no split 'dev': choose one of test, train"),
        ('strange_translate', 'train[:0]', 'de', 'empty or malformed'),
        ('strange_translate', 'train[:x]', 'de', 'empty or malformed'),
        ('strange_translate', 'train', 'id', r"no text in 'id' \(it has de, en\)"),
    ],
)
def test_what_is_not_there_is_said_in_one_sentence(data_dir, name, split, source, message):
    with pytest.raises(UserError, match=message) as caught:
        open_tfds_parallel(name, split, source, 'en', data_dir)
    assert '\n' not in str(caught.value)


def test_damage_is_noticed_before_reading(data_dir, tmp_path):
    import shutil

    folder = shutil.copytree(data_dir, tmp_path / 'copy')
    version = folder / 'strange_translate' / '2.0.0'
    shard = next(version.glob('*-test*'))
    shard.rename(shard.with_suffix('.away'))
    with pytest.raises(UserError, match='is missing: delete'):
        open_tfds_parallel('strange_translate', 'train', 'de', 'en', folder)
    (version / 'dataset_info.json').write_text('{')
    with pytest.raises(UserError, match='is damaged'):
        open_tfds_parallel('strange_translate', 'train', 'de', 'en', folder)


def test_a_data_set_stored_as_tfrecord_is_refused(data_dir, tmp_path):
    import shutil

    folder = shutil.copytree(data_dir, tmp_path / 'copy')
    description = folder / 'strange_translate' / '2.0.0' / 'dataset_info.json'
    description.write_text(description.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(UserError, match='stored as tfrecord, which needs TensorFlow'):
        open_tfds_parallel('strange_translate', 'train', 'de', 'en', folder)


@given(st.tuples(st.text(), st.text()))
def test_pairs_are_stored_as_tfds_itself_would_read_them(pair):
    pair = tuple(text.encode('utf-8', 'replace').decode() for text in pair)
    features = tfds.features.Translation(languages=('de', 'en'))
    read = features.deserialize_example_np(encode_pair(('de', 'en'), pair))
    assert (read['de'].decode(), read['en'].decode()) == pair


def test_shards_hold_the_records_in_order(tmp_path):
    contents = [b'%d' % i for i in range(25)]
    shards = write_shards(iter(contents), tmp_path, 'part', records_per_shard=10)
    assert [(s.file, s.pairs) for s in shards] == [
        ('part.00000', 10),
        ('part.00001', 10),
        ('part.00002', 5),
    ]
    read = []
    for shard in shards:
        assert (tmp_path / shard.file).stat().st_size == shard.bytes
        read += ArrayRecordReader(str(tmp_path / shard.file)).read_all()
    assert read == contents
    assert write_shards([], tmp_path, 'none') == []
    assert len(write_shards(contents[:20], tmp_path, 'even', records_per_shard=10)) == 2


def test_a_full_disk_is_one_sentence(tmp_path):
    (tmp_path / 'part.00000').symlink_to('/dev/full')
    with pytest.raises(UserError, match=r'cannot be written \(.*No space left') as caught:
        write_shards([b'x' * 1000] * 100, tmp_path, 'part')
    assert '\n' not in str(caught.value)


def test_an_error_of_the_source_reaches_the_caller_unchanged(tmp_path):
    def broken():
        yield b'one'
        raise UserError('the source is broken')

    with pytest.raises(UserError, match='the source is broken'):
        write_shards(broken(), tmp_path, 'part')


def test_iteration_reads_ahead_in_bounded_pieces(monkeypatch, data_dir):
    pairs = open_tfds_parallel('strange_translate', 'train', 'de', 'en', data_dir)
    sizes = []
    plain = records.ParallelRecords.__getitems__

    def spy(self, indices):
        sizes.append(len(indices))
        return plain(self, indices)

    monkeypatch.setattr(records.ParallelRecords, '__getitems__', spy)
    assert len(list(pairs)) == 2500
    assert sizes == [1024, 1024, 452]
