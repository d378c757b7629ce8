"""Running text from files: splits that do not overlap, and mistakes met in words."""

import gzip

import pytest

from seqzoo.configuration import from_json, to_json
from seqzoo.data.plain_text import PUBLIC_FILES, CutFile, GutenbergFile, SplitFiles, Together
from seqzoo.errors import UserError

LINES = [f'line {number} of the text' for number in range(100)]


def write(folder, name, lines=LINES):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')


def test_the_parts_of_a_file_follow_each_other_and_leave_nothing_out(tmp_path):
    write(tmp_path, 'text.txt')
    cut = CutFile(dev_share=0.1, test_share=0.2)
    parts = [list(cut.lines(split, tmp_path)) for split in ('train', 'dev', 'test')]
    assert [line for part in parts for line in part] == LINES
    sizes = [sum(len(line) + 1 for line in part) for part in parts]
    for size, share in zip(sizes, (0.7, 0.1, 0.2), strict=True):
        assert abs(size - share * sum(sizes)) <= len(LINES[-1]) + 1
    assert [len(cut.lines(split, tmp_path)) for split in ('train', 'dev', 'test')] == [
        len(part) for part in parts
    ]


def test_tiny_shakespeare_is_cut_where_nine_tenths_are_reached(data_dir):
    cut = CutFile(folder='tiny_shakespeare', file='input.txt', dev_share=0.1, test_share=0)
    dev = cut.lines('dev', data_dir)
    assert abs(sum(len(line) + 1 for line in dev) - 111_540) < 60  # within a line


def test_splits_are_files_packed_or_not_and_may_be_several(tmp_path):
    folder = tmp_path / 'corpus'
    write(folder, 'a.txt', LINES[:3])
    (folder / 'b.txt.gz').write_bytes(gzip.compress('four\r\nfünf\n'.encode()))
    files = SplitFiles(folder='corpus', train=('a.txt', 'b.txt'), dev=('b.txt',), test=())
    text = files.lines('train', tmp_path)
    assert list(text) == list(text) == [*LINES[:3], 'four', 'fünf']
    assert len(text) == 5
    with pytest.raises(UserError, match='has no test split'):
        files.lines('test', tmp_path)
    with pytest.raises(UserError, match="no split 'all'; it has 'train', 'dev', 'test'"):
        files.lines('all', tmp_path)


def test_a_missing_file_is_named_with_where_it_comes_from(tmp_path):
    with pytest.raises(UserError, match='--data-dir or SEQZOO_DATA_DIR'):
        SplitFiles().lines('train', None)
    write(tmp_path / 'time_machine', 'other.txt')
    book = CutFile(folder='time_machine', file='timemachine.txt')
    with pytest.raises(UserError, match=r'timemachine\.txt.*seqzoo data prepare'):
        book.lines('train', tmp_path)
    with pytest.raises(UserError, match=r'neither dev\.txt nor dev\.txt\.gz .*dev split'):
        SplitFiles(folder='time_machine').lines('dev', tmp_path)


def test_a_wrong_encoding_is_met_at_once_and_says_where(tmp_path):
    (tmp_path / 'text.txt').write_bytes(b'one\ntw\xf6\nthree\n')
    with pytest.raises(UserError, match=r'text\.txt: line 2 .*0xf6'):
        CutFile().lines('train', tmp_path)
    (tmp_path / 'train.txt').write_bytes(b'one\ntw\xf6\nthree\n')
    with pytest.raises(UserError, match=r'train\.txt: line 2'):
        SplitFiles().lines('train', tmp_path)


def test_an_empty_part_is_refused(tmp_path):
    write(tmp_path, 'text.txt', ['only one line'])
    with pytest.raises(UserError, match='dev part is empty'):
        CutFile().lines('dev', tmp_path)
    write(tmp_path, 'train.txt', ['', ' '])
    with pytest.raises(UserError, match='train split is empty'):
        SplitFiles().lines('train', tmp_path)


@pytest.mark.parametrize('shares', [(-0.1, 0.1), (0.5, 0.5), (1.0, 0.0)])
def test_shares_that_leave_nothing_to_train_on_are_refused(shares):
    with pytest.raises(UserError, match=r'corpus\.dev_share'):
        CutFile(dev_share=shares[0], test_share=shares[1])


def test_preparation_knows_the_published_files(tmp_path, data_dir):
    book = CutFile(folder='time_machine', file='timemachine.txt')
    assert book.prepare(data_dir) == [f'{data_dir}/time_machine/timemachine.txt is whole']
    write(tmp_path / 'time_machine', 'timemachine.txt')
    with pytest.raises(UserError, match='not the published file'):
        book.prepare(tmp_path)
    words = SplitFiles(folder='ptb', train=('ptb.train.txt',), dev=('ptb.valid.txt',))
    with pytest.raises(UserError, match=PUBLIC_FILES['ptb/ptb.train.txt'].sha256):
        words.prepare(tmp_path)
    assert SplitFiles().prepare(tmp_path) == []  # a user's own files


BOOK = [
    'The Project Gutenberg EBook of Nothing',
    '*** START OF THIS PROJECT GUTENBERG EBOOK NOTHING ***',
    *[f'line {i}' for i in range(20)],
    '*** END OF THE PROJECT GUTENBERG EBOOK NOTHING ***',
    '*** START: FULL LICENSE ***',
]


def test_a_book_of_project_gutenberg_is_read_without_what_stands_around_it(tmp_path):
    (tmp_path / 'book.txt').write_text('\n'.join(BOOK) + '\n')
    book = GutenbergFile(file='book.txt', dev_share=0.2, test_share=0.2)
    parts = [list(book.lines(split, tmp_path)) for split in ('train', 'dev', 'test')]
    assert [line for part in parts for line in part] == BOOK[2:22]
    assert min(map(len, parts)) >= 3
    (tmp_path / 'book.txt').write_text('\n'.join(BOOK[2:]) + '\n')
    with pytest.raises(UserError, match='or take CutFile for it'):
        book.lines('train', tmp_path)


def test_texts_are_read_together_in_each_split(tmp_path):
    for name in ('one', 'two'):
        (tmp_path / name).mkdir()
        for split in ('train', 'dev', 'test'):
            (tmp_path / name / f'{split}.txt').write_text(f'{split} of {name}\n')
    both = Together(parts=(SplitFiles(folder='one'), SplitFiles(folder='two')))
    assert list(both.lines('dev', tmp_path)) == ['dev of one', 'dev of two']
    assert len(both.lines('dev', tmp_path)) == 2
    assert both.name == 'one + two'
    assert both.prepare(tmp_path) == []
    assert from_json(to_json(both)) == both
    with pytest.raises(UserError, match='name the texts'):
        Together()
