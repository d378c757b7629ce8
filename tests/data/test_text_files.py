import gzip

import pytest

from seqzoo.data.text_files import ParallelText, TextLayout, read_lines, read_parallel
from seqzoo.errors import UserError


def write(folder, **files):
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace('_', '.')).write_bytes(content)


def test_lines_end_at_newline_only(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_bytes('one\u0085still\u2028one\x0bone\x1c\r\ntwo\r\n\nlast'.encode())
    assert list(read_lines(path)) == ['one\u0085still\u2028one\x0bone\x1c', 'two', '', 'last']


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_bytes(b'\xef\xbb\xbfone\n\xef\xbb\xbftwo\n')
    assert list(read_lines(path)) == ['one', '\ufefftwo']


def test_plain_and_packed_files_read_alike(tmp_path):
    write(tmp_path, train_en='a\nb\n', train_de=b'')
    (tmp_path / 'train.de').unlink()
    (tmp_path / 'train.de.gz').write_bytes(gzip.compress(b'A\nB'))
    text = read_parallel(tmp_path, 'train', 'en', 'de')
    assert list(text) == list(text) == [('a', 'A'), ('b', 'B')]
    assert len(text) == 2


def test_layout_names_folder_and_stems(tmp_path):
    (tmp_path / 'corpus').mkdir()
    write(tmp_path / 'corpus', val_en='a', val_de='A', extra_en='b', extra_de='B')
    layout = TextLayout(folder='corpus', dev='val')
    assert list(read_parallel(tmp_path, 'dev', 'en', 'de', layout=layout)) == [('a', 'A')]
    assert list(read_parallel(tmp_path, 'extra', 'en', 'de', layout=layout)) == [('b', 'B')]


def test_blank_pairs_are_counted_and_dropped_only_on_request(tmp_path):
    write(tmp_path, train_en='a\n\nc\n \t\ne\n', train_de='A\nB\n\n\nE\n')
    kept = read_parallel(tmp_path, 'train', 'en', 'de')
    assert (len(kept), kept.blank) == (5, 3)
    assert list(kept)[1] == ('', 'B')
    dropped = read_parallel(tmp_path, 'train', 'en', 'de', empty_lines='drop')
    assert list(dropped) == [('a', 'A'), ('e', 'E')]


@pytest.mark.parametrize('line', ['', ' \t', '\xa0', '\u3000', '\f', '\u2028', '\u200b \ufeff'])
def test_a_line_that_shows_nothing_is_blank(line, tmp_path):
    text = {'train_en': f'a\n{line}\nc\n', 'train_de': f'A\nB\n{line}\n'}
    write(tmp_path, **text)
    kept = read_parallel(tmp_path, 'train', 'en', 'de')
    assert (len(kept), kept.blank) == (3, 2)
    assert list(kept.without_blank()) == [('a', 'A')]


def message(call, *arguments, **named):
    with pytest.raises(UserError) as raised:
        call(*arguments, **named)
    text = str(raised.value)
    assert '\n' not in text
    return text


def test_a_missing_file_is_named_with_what_was_looked_for(tmp_path):
    write(tmp_path, train_en='a\n')
    text = message(read_parallel, tmp_path, 'train', 'en', 'de')
    assert 'train.de' in text
    assert 'train.de.gz' in text
    assert str(tmp_path) in text
    absent = message(read_parallel, tmp_path / 'no', 'train', 'en', 'de')
    assert 'does not exist' in absent
    assert '--data-dir' in absent


@pytest.mark.parametrize(('source', 'target'), [('a\nb\nc\n', 'A\n'), ('a\n', 'A\nB\nC\n')])
def test_sides_of_different_length_are_refused_with_both_counts(tmp_path, source, target):
    write(tmp_path, train_en=source, train_de=target)
    text = message(read_parallel, tmp_path, 'train', 'en', 'de')
    assert f'train.en has {source.count(chr(10))} lines' in text
    assert f'train.de has {target.count(chr(10))};' in text


def test_bytes_that_are_not_utf8_are_located(tmp_path):
    write(tmp_path, train_en='a\nb\n', train_de=b'A\nM\xfcnchen\n')
    text = message(read_parallel, tmp_path, 'train', 'en', 'de')
    assert 'train.de: line 2' in text
    assert '0xfc at position 2' in text


@pytest.mark.parametrize('content', [b'', b'\n\n'])
def test_an_empty_corpus_is_refused(tmp_path, content):
    write(tmp_path, train_en=content, train_de=content)
    assert 'empty' in message(read_parallel, tmp_path, 'train', 'en', 'de')


@pytest.mark.parametrize('damage', ['cut', 'flipped', 'not gzip'])
def test_a_damaged_gz_is_refused(tmp_path, damage):
    packed = bytearray(gzip.compress(bytes(f'{list(range(3000))}\n' * 50, 'ascii')))
    if damage == 'cut':
        packed = packed[: len(packed) // 2]
    elif damage == 'flipped':
        packed[len(packed) // 2] ^= 255
    else:
        packed = bytearray(b'plain text\n')
    (tmp_path / 'train.en.gz').write_bytes(packed)
    write(tmp_path, train_de='A\n')
    text = message(read_parallel, tmp_path, 'train', 'en', 'de')
    assert 'train.en.gz: the gzip file is damaged' in text


def test_the_same_language_on_both_sides_is_refused(tmp_path):
    assert "'en'" in message(read_parallel, tmp_path, 'train', 'en', 'en')


def test_lists_of_different_length_are_no_parallel_text():
    text = message(ParallelText, source=['a'], target=[], name='mine', blank=0)
    assert '1 lines' in text
    assert 'target 0' in text


def test_multi30k_is_29000_pairs(data_dir):
    layout = TextLayout(folder='multi30k', dev='val', test='test_2016_flickr')
    counts = [
        len(read_parallel(data_dir, split, 'en', 'de', layout=layout))
        for split in ('train', 'dev', 'test')
    ]
    assert counts == [29000, 1014, 1000]
