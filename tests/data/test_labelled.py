"""Readers of labelled data: what a split holds, and what is said of damaged files."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from seqzoo.data.angle_chains import RESIDUES, AngleChains
from seqzoo.data.labelled import folds, split_by_folds
from seqzoo.data.labelled_texts import Imdb, RtPolarity, Tsv
from seqzoo.data.mnist import Mnist, read_idx
from seqzoo.data.tagged import Cb513, UniversalDependencies, read_conllu
from seqzoo.errors import UserError

SPLITS = ('train', 'dev', 'test')


def test_a_group_is_never_torn_apart_and_parts_are_about_equal():
    groups = [i % 37 for i in range(200)]
    found = folds(groups, 10, seed=3)
    assert all(len(set(found[np.array(groups) == g])) == 1 for g in range(37))
    assert sorted(np.unique(found)) == list(range(10))
    parts = [split_by_folds(found, split, 10, 9) for split in SPLITS]
    assert sorted(np.concatenate(parts)) == list(range(200))
    assert set(found[parts[2]]) == {9}
    assert set(found[parts[1]]) == {0}
    assert folds(groups, 10, seed=4).tolist() != found.tolist()


def write_reviews(folder, name, count):
    with gzip.open(folder / name, 'wt', encoding='utf-8') as file:
        for i in range(count):
            review = {'text': f'film {i}', 'label': i % 2, 'movie': f'm{i // 4}'}
            file.write(json.dumps(review) + '\n')


def test_reviews_of_one_film_are_all_in_one_split(tmp_path):
    (tmp_path / 'imdb').mkdir()
    write_reviews(tmp_path / 'imdb', 'train_25k.jsonl.gz', 120)
    write_reviews(tmp_path / 'imdb', 'test_2k.jsonl.gz', 6)
    train, dev, test = (Imdb().read(split, tmp_path) for split in SPLITS)
    assert (len(train), len(dev), len(test)) == (108, 12, 6)
    films = [{int(text.split()[1]) // 4 for text in part.inputs} for part in (train, dev)]
    assert not films[0] & films[1]
    assert [int(text.split()[1]) % 2 for text in dev.inputs] == dev.labels.tolist()


def test_a_review_without_label_is_named_by_its_line(tmp_path):
    (tmp_path / 'imdb').mkdir()
    (tmp_path / 'imdb' / 'test_2k.jsonl').write_text('{"text": "x", "label": 1, "movie": "m"}\n{}')
    with pytest.raises(UserError, match='line 2 is no review'):
        Imdb().read('test', tmp_path)


def test_a_missing_file_is_said_in_one_sentence(tmp_path):
    for corpus in (Imdb(), RtPolarity(), Mnist(), UniversalDependencies(), Cb513()):
        with pytest.raises(UserError, match='does not exist'):
            corpus.read('train', tmp_path)
        with pytest.raises(UserError, match='--data-dir'):
            corpus.read('train', None)
        with pytest.raises(UserError, match='no split'):
            corpus.read('validation', tmp_path)


def test_only_line_feeds_end_a_sentence_of_rt_polarity(tmp_path):
    folder = tmp_path / 'rt_polarity'
    folder.mkdir()
    for name, word in (('neg', b'bad'), ('pos', b'good')):
        lines = [word + b' \x85 %d \xe9' % i for i in range(40)]
        (folder / f'rt-polarity.{name}').write_bytes(b' \n'.join(lines) + b' \n')
    parts = [RtPolarity(fold=2).read(split, tmp_path) for split in SPLITS]
    texts = [text for part in parts for text in part.inputs]
    assert len(texts) == len(set(texts)) == 80
    assert 'bad \x85 7 é' in texts
    for part in parts:
        assert [text.startswith('good') for text in part.inputs] == part.labels.tolist()


REST = 6 * '\t_'
CONLLU = f"""\
# newdoc id = a
# text = I don't
1\tI\tI\tPRON{REST}
2-3\tdon't\t_\t_{REST}
2\tdo\tdo\tAUX{REST}
3\tn't\tnot\tPART{REST}
3.1\tgo\tgo\tVERB{REST}

# newdoc id = b
1\tGo\tgo\tVERB{REST}
"""


def test_a_treebank_without_documents_is_divided_by_sentences(tmp_path):
    folder = tmp_path / 'bank'
    folder.mkdir()
    lines = [f'1\tword{n}\t_\tNOUN\t_\t_\t_\t_\t_\t_\n\n' for n in range(40)]
    (folder / 'xx-ud-train.conllu').write_text(''.join(lines))
    corpus = UniversalDependencies(folder='bank', treebank='xx', dev=None, test='train')
    train, dev = (corpus.read(split, tmp_path).inputs for split in ('train', 'dev'))
    assert len(dev) >= 1
    assert len(train) + len(dev) == 40


def test_conllu_gives_words_without_ranges_and_empty_nodes(tmp_path):
    path = tmp_path / 'x.conllu'
    path.write_text(CONLLU)  # no empty line behind the last sentence
    assert list(read_conllu(path)) == [
        ('a', [('I', 'PRON'), ('do', 'AUX'), ("n't", 'PART')]),
        ('b', [('Go', 'VERB')]),
    ]


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('1\tI', 'has 2 columns'),
        ('1\tI\tI\tPRON\t_', 'has 5 columns'),
        (f'x\tI\tI\tPRON{REST}', "has the number 'x'"),
        (f'\u00b2\tI\tI\tPRON{REST}', 'has the number'),
        (f'1\t\tI\tPRON{REST}', 'has an empty form'),
    ],
)
def test_a_row_that_is_no_word_of_a_treebank_is_named(tmp_path, line, message):
    path = tmp_path / 'x.conllu'
    path.write_text(f'# text = I\n{line}\n', encoding='utf-8')
    with pytest.raises(UserError, match=f'line 2 {message}'):
        list(read_conllu(path))


def test_a_field_of_a_chain_without_end_is_named(tmp_path):
    (tmp_path / 'protein_ss').mkdir()
    lines = ['input,dssp3,dssp8,disorder,cb513_mask', f'{"A " * 70_000},H,H,0,1', '']
    (tmp_path / 'protein_ss' / 'CB513_HHblits.csv').write_text('\n'.join(lines))
    with pytest.raises(UserError, match=r'line 2 cannot be read \(field larger'):
        Cb513().read('train', tmp_path)


def write_digits(data_dir, images, labels, part='t10k'):
    (data_dir / 'mnist').mkdir(exist_ok=True)
    for kind, values in (('images-idx3', images), ('labels-idx1', labels)):
        values = np.asarray(values, np.uint8)
        sizes = b''.join(n.to_bytes(4, 'big') for n in values.shape)
        content = b'\x00\x00\x08' + bytes([values.ndim]) + sizes + values.tobytes()
        (data_dir / 'mnist' / f'{part}-{kind}-ubyte').write_bytes(content)


def test_pixels_are_read_in_any_one_order(tmp_path):
    images = np.arange(2 * 28**2).reshape(2, 28, 28) // 28  # the second is the first plus 28
    write_digits(tmp_path, images, [7, 1])
    plain_file = tmp_path / 'mnist' / 't10k-labels-idx1-ubyte'
    plain_file.with_suffix('.gz').write_bytes(gzip.compress(plain_file.read_bytes()))
    plain_file.unlink()
    plain = Mnist().read('test', tmp_path)
    np.testing.assert_allclose(plain.inputs[1][:, 0] * 255, images[1].ravel(), rtol=1e-6)
    assert plain.labels.tolist() == [7, 1]
    rows = Mnist(step='row').read('test', tmp_path)
    np.testing.assert_allclose(rows.inputs[0] * 255, images[0], rtol=1e-6)
    first, second = (Mnist(permutation_seed=1).read('test', tmp_path).inputs[i] for i in (0, 1))
    assert not np.array_equal(first, plain.inputs[0])
    np.testing.assert_allclose((second - first) * 255, 28, rtol=1e-5)  # one order for all
    file = tmp_path / 'mnist' / 't10k-images-idx3-ubyte'
    file.write_bytes(file.read_bytes()[:16])
    with pytest.raises(UserError, match='0 bytes'):
        read_idx(file)


@pytest.mark.parametrize(
    ('shape', 'labels', 'message'),
    [
        ((20, 0, 0), [1] * 20, r'images of shape \(20, 0, 0\)'),
        ((20, 27, 27), [1] * 20, r'images of shape \(20, 27, 27\)'),
        ((20, 28, 28), [1] * 19, r'labels of shape \(19,\) for 20 images'),
        ((20, 28, 28), [[1]] * 20, r'labels of shape \(20, 1\)'),
        ((20, 28, 28), [200] * 20, 'the label 200, which is no digit'),
        ((20, 28, 28), [1] * 20, 'of 20 training images none is left'),
    ],
)
def test_files_that_hold_no_digits_are_refused(tmp_path, shape, labels, message):
    write_digits(tmp_path, np.zeros(shape), labels, 'train')
    with pytest.raises(UserError, match=message):
        Mnist(dev_size=20).read('train', tmp_path)


@pytest.mark.parametrize('name', ['rt-polarity.neg.gz', 'rt-polarity.neg'])
def test_sentences_that_cannot_be_unpacked_or_are_none_are_refused(tmp_path, name):
    whole = gzip.compress(bytes(range(256)) * 9)
    (tmp_path / 'rt_polarity').mkdir()
    cut, changed = whole[:30], whole[:12] + b'\xff' * 10 + whole[22:]
    for content in (cut, changed, b'none') if name.endswith('.gz') else (b'', b'\n'):
        (tmp_path / 'rt_polarity' / name).write_bytes(content)
        with pytest.raises(UserError, match=r'rt-polarity\.neg.* (cannot be read|is empty)'):
            RtPolarity().read('train', tmp_path)


def test_angles_follow_the_rule_of_the_chains():
    quiet = AngleChains(train_size=40, min_length=30, noise_degrees=0.0)
    found = quiet.read('train', None)
    own, lean, other = np.random.Generator(np.random.PCG64(0)).uniform(-np.pi, np.pi, (3, 20))
    for chain, angles in zip(found.inputs, found.angles, strict=True):
        turned, numbers = False, [RESIDUES.index(r) for r in chain]
        for t, r in enumerate(numbers):
            turned = False if chain[t] == 'G' else turned != (chain[t] == 'P')
            sides = [lean[n] for n in numbers[max(t - 1, 0) : t] + numbers[t + 1 : t + 2]]
            first = own[r] + 0.5 * sum(sides) + np.pi * turned
            wanted = np.array([first, other[r] - first])
            np.testing.assert_allclose(np.cos(angles[t] - wanted), 1, atol=1e-5)
    assert AngleChains().read('dev', None).inputs[0] != AngleChains().read('test', None).inputs[0]


def test_real_data_has_the_published_sizes(data_dir):
    tagged = [UniversalDependencies(dev=None, test='dev').read(split, data_dir) for split in SPLITS]
    assert sum(map(len, tagged[:2])) == 12_544
    assert len(tagged[2]) == 2_001
    chains = [Cb513().read(split, data_dir) for split in SPLITS]
    assert sum(map(len, chains)) == 511
    assert sum(int(c.sum()) for part in chains for c in part.counts) == 83_991
    texts = [{''.join(chain) for chain in part.inputs} for part in chains]
    assert len(set.union(*texts)) == 432 == sum(map(len, texts))
    sentences = [RtPolarity().read(split, data_dir) for split in SPLITS]
    assert sum(map(len, sentences)) == 10_662
    assert not set(sentences[0].inputs) & set(sentences[2].inputs)


def test_pairs_of_a_table_have_the_class_of_their_column(tmp_path):
    (tmp_path / 'train.tsv').write_text(
        'id\tpremise\thypothesis\tgold\n7\ta b\tc\tyes\n8\t"d\te f\tno\n'
    )
    table = Tsv(labels=('no', 'yes'), label='gold', first='premise', second='hypothesis')
    found = table.read('train', tmp_path)
    assert found.inputs == [('a b', 'c'), ('"d', 'e f')]
    assert found.labels.tolist() == [1, 0]
    assert table.pairs
    single = replace(table, second=None)
    assert single.read('train', tmp_path).inputs == ['a b', '"d']
    assert not single.pairs
    with pytest.raises(UserError, match='no column is called sentence1 or sentence2 or label'):
        Tsv().read('train', tmp_path)
    with pytest.raises(UserError, match="the label in line 2 is 'yes', none of 0, 1"):
        replace(table, labels=('0', '1')).read('train', tmp_path)
    (tmp_path / 'train.tsv').write_text('sentence1\tsentence2\tlabel\na\tb\n')
    with pytest.raises(UserError, match='line 2 has 2 fields, but the first line names 3'):
        Tsv().read('train', tmp_path)
    (tmp_path / 'train.tsv').write_text('sentence1\tsentence2\tlabel\tlabel\na\tb\t0\t1\n')
    with pytest.raises(UserError, match='more than one column label'):
        Tsv().read('train', tmp_path)
    with pytest.raises(UserError, match='name at least two'):
        Tsv(labels=('0', '0'))
