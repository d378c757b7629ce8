"""Film reviews are the same in each form in which they are found, and are fetched where none is."""

import gzip
import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from seqzoo.data import film_reviews
from seqzoo.data.labelled_texts import Imdb, RtPolarity
from seqzoo.data.tagged import UniversalDependencies
from seqzoo.errors import UserError

FILMS = 15


def reviews(part):
    """(label, number, text, address of the film): some of each film, some of them negative."""
    for number in range(2 * FILMS):
        for label, kind in enumerate(('neg', 'pos')):
            film = f'http://example.org/title/tt{part}{number // 2}/usercomments'
            yield label, number, f'{kind} {part} é <br />{number}\nmore', film


def members():
    """The files of the archive as it is published, unlabelled ones and counts of words too."""
    yield 'aclImdb/imdb.vocab', b'the\n'
    for part in ('test', 'train'):
        yield f'aclImdb/{part}/labeledBow.feat', b'9 0:9\n'
        for label, kind in enumerate(('neg', 'pos')):
            own = [(n, text, film) for k, n, text, film in reviews(part) if k == label]
            lines = ''.join(f'{film}\n' for _, _, film in own)
            yield f'aclImdb/{part}/urls_{kind}.txt', lines.encode()
            for n, text, _ in reversed(own):
                yield f'aclImdb/{part}/{kind}/{n}_{7 if label else 2}.txt', text.encode()
    yield 'aclImdb/train/unsup/0_0.txt', b'nobody knows'


def write_archive(path):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, 'w:gz') as archive:
        for name, content in members():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def write_folder(folder):
    for name, content in members():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def write_packed(folder):
    folder.mkdir()
    for part, name in (('train', 'train_25k.jsonl.gz'), ('test', 'test_2k.jsonl.gz')):
        with gzip.open(folder / name, 'wt', encoding='utf-8') as file:
            for label, _, text, film in sorted(reviews(part)):
                file.write(json.dumps({'text': text, 'label': label, 'movie': film}) + '\n')


def test_folder_and_archive_give_what_the_packed_files_give(tmp_path):
    write_packed(tmp_path / 'imdb')
    (tmp_path / 'a').mkdir()
    write_archive(tmp_path / 'a/imdb/aclImdb_v1.tar.gz')
    (tmp_path / 'b').mkdir()
    write_folder(tmp_path / 'b/imdb')
    for split in ('train', 'dev', 'test'):
        packed, *others = (Imdb().read(split, tmp_path / d) for d in ('', 'a', 'b'))
        for found in others:
            assert found.inputs == packed.inputs
            np.testing.assert_array_equal(found.labels, packed.labels)
    whole = {text for s in ('train', 'dev') for text in Imdb().read(s, tmp_path / 'a').inputs}
    assert whole == {text for _, _, text, _ in reviews('train')}
    # What lies there in several forms is read in the first of them, or in the one asked for.
    write_folder(tmp_path / 'imdb')
    (tmp_path / 'imdb/aclImdb/test/pos/0_7.txt').write_text('changed')
    assert 'changed' not in Imdb().read('test', tmp_path).inputs
    assert 'changed' in Imdb(form='original').read('test', tmp_path).inputs


PREPARE = """
import importlib.machinery, sys

class Refusal:
    # A loader, not a finder that raises: asking whether TensorFlow exists is allowed.
    def create_module(self, spec):
        raise ImportError('TensorFlow must not be imported')

    def exec_module(self, module):
        raise AssertionError

    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'tensorflow':
            return importlib.machinery.ModuleSpec(name, self)

sys.meta_path.insert(0, Refusal())
import tensorflow_datasets as tfds
sys.path.insert(0, sys.argv[2])
from tests.data.test_film_reviews import reviews
from seqzoo.data.labelled_texts import Imdb

class ImdbReviews(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name='plain_text')]
    name = 'imdb_reviews'

    def _info(self):
        label = tfds.features.ClassLabel(names=['neg', 'pos'])
        features = tfds.features.FeaturesDict({'text': tfds.features.Text(), 'label': label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {part: self._generate_examples(part) for part in ('train', 'test')}

    def _generate_examples(self, part):
        for label, number, text, _ in reviews(part):
            yield f'{label} {number}', {'text': text, 'label': label}

ImdbReviews(data_dir=sys.argv[1], file_format='array_record').download_and_prepare()
from pathlib import Path
for split in ('train', 'dev', 'test'):
    found = Imdb().read(split, Path(sys.argv[1]))
    print(len(found), all((t[:3] == 'pos') == k for t, k in zip(found.inputs, found.labels)))
print(Imdb().prepare(Path(sys.argv[1])))
print('tensorflow' in sys.modules)
"""


def test_what_tfds_prepared_is_read_where_tensorflow_cannot_be_imported(tmp_path):
    root = film_reviews.__file__.removesuffix('/seqzoo/data/film_reviews.py')
    command = [sys.executable, '-c', PREPARE, str(tmp_path), root]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *counts, sentence, imported = done.stdout.splitlines()[-5:]
    assert counts == ['54 True', '6 True', '60 True']
    assert 'imdb_reviews/plain_text/1.0.0 is whole' in sentence
    assert imported == 'False'


def test_where_no_form_is_there_the_archive_is_fetched(tmp_path, monkeypatch):
    asked = []

    def fetch(remote, folder, progress=None):
        asked.append(remote)
        return write_archive(folder / remote.filename)

    monkeypatch.setattr('seqzoo.data.download.download', fetch)
    assert 'aclImdb_v1.tar.gz is whole' in Imdb().prepare(tmp_path)[0]
    assert asked == [film_reviews.ARCHIVE]
    assert len(Imdb().read('test', tmp_path)) == 4 * FILMS


def test_addresses_and_checksums_are_those_that_tfds_lists():
    from importlib.resources import files

    listed = {}
    for name in ('imdb_reviews', 'universal_dependencies'):
        text = files('tensorflow_datasets') / 'datasets' / name / 'checksums.tsv'
        for line in text.read_text().splitlines():
            url, size, sha256, _ = line.split('\t')
            listed[url] = int(size), sha256
    archive = film_reviews.ARCHIVE
    assert listed[archive.url] == (archive.size, archive.sha256)
    files_of_2_10 = UniversalDependencies(release='2.10').files
    assert list(files_of_2_10) == [f'en_ewt-ud-{p}.conllu' for p in ('train', 'dev', 'test')]
    for file in files_of_2_10.values():
        assert listed[file.url][1] == file.sha256


def test_a_published_file_that_has_an_address_says_where_it_would_come_from(tmp_path, monkeypatch):
    asked = []

    def fetch(remote, folder, progress=None):
        asked.append(remote.url)
        return folder / remote.filename

    monkeypatch.setattr('seqzoo.data.download.download', fetch)
    assert len(UniversalDependencies(dev=None, test='dev').prepare(tmp_path)) == 2
    assert len(RtPolarity().prepare(tmp_path)) == 2
    assert [url.rsplit('/', 1)[1] for url in asked] == [
        *('en_ewt-ud-train.conllu', 'en_ewt-ud-dev.conllu'),
        *('rt-polarity.neg', 'rt-polarity.pos'),
    ]
    assert UniversalDependencies(treebank='de_gsd').prepare(tmp_path) == []  # nothing is known


def test_real_files_are_the_published_ones(data_dir):
    for corpus in (UniversalDependencies(dev=None, test='dev'), RtPolarity()):
        assert all(' is whole' in sentence for sentence in corpus.prepare(data_dir))


@pytest.mark.parametrize('share', [0.3, 0.9])
def test_a_truncated_archive_is_refused(tmp_path, share):
    path = write_archive(tmp_path / 'imdb/aclImdb_v1.tar.gz')
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match='damaged or cut short'):
        Imdb().read('train', tmp_path)


def test_an_archive_without_reviews_and_a_review_in_another_alphabet_are_named(tmp_path):
    (tmp_path / 'imdb/aclImdb/train').mkdir(parents=True)
    with pytest.raises(UserError, match='holds no reviews'):
        Imdb().read('train', tmp_path)
    (tmp_path / 'imdb/aclImdb/train/pos').mkdir()
    (tmp_path / 'imdb/aclImdb/train/pos/3_9.txt').write_bytes(b'caf\xe9')
    with pytest.raises(UserError, match=r'pos/3_9\.txt .* not UTF-8'):
        Imdb().read('train', tmp_path)
    with pytest.raises(UserError, match=r'corpus\.form'):
        Imdb(form='folder')  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r'corpus\.release'):
        UniversalDependencies(release='3')  # type: ignore[arg-type]
