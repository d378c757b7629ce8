import gzip
import io
import itertools
import tarfile
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqzoo.data.archives import TextFile, read_pairs, read_sentences
from seqzoo.errors import UserError


def write_tar(path, members, mode='w:gz'):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture(scope='session')
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp('lines')


def test_plain_gz_tar_tgz_and_gz_inside_tar_read_alike(tmp_path):
    text = b'eins\nzwei  \n\nvier'
    (tmp_path / 'plain').write_bytes(text)
    (tmp_path / 'packed.gz').write_bytes(gzip.compress(text))
    members = {'./other.txt': b'no\n' * 9, 'dir/a.de': text, 'dir/a.de.gz': gzip.compress(text)}
    write_tar(tmp_path / 'a.tgz', members)
    write_tar(tmp_path / 'a.tar', members, 'w')
    write_tar(tmp_path / 'dotted.tar', {'./dir/a.de': text}, 'w')
    files = [
        TextFile(tmp_path / 'plain'),
        TextFile(tmp_path / 'packed.gz'),
        *(
            TextFile(tmp_path / archive, member)
            for archive in ('a.tgz', 'a.tar')
            for member in ('dir/a.de', 'dir/a.de.gz')
        ),
        TextFile(tmp_path / 'dotted.tar', 'dir/a.de'),
    ]
    for file in files:
        assert list(read_sentences(file)) == ['eins', 'zwei  ', '', 'vier'], file


@given(
    st.lists(
        st.text(st.characters(codec='utf-8', exclude_characters='\n'))
        | st.sampled_from(['a\u2028b', 'a\x85b', 'a\rb', '\r', '\x0b\x0c\x1c\x1d\x1e\u2029', ''])
    )
)
def test_only_line_feeds_end_a_line(scratch, lines):
    path = scratch / 'text'
    path.write_bytes(''.join(line + '\n' for line in lines).encode())
    assert list(read_sentences(TextFile(path))) == lines


def test_exotic_line_breaks_do_not_shift_one_side_against_the_other(tmp_path):
    (tmp_path / 'de').write_bytes('a\u2028b\nc\x85d\ne\r\n'.encode())
    (tmp_path / 'en').write_bytes(b'ab\ncd\ne')
    pairs = list(read_pairs(TextFile(tmp_path / 'de'), TextFile(tmp_path / 'en')))
    assert pairs == [('a\u2028b', 'ab'), ('c\x85d', 'cd'), ('e\r', 'e')]


def test_segments_of_a_test_set_are_its_sentences(tmp_path):
    (tmp_path / 'dev.en.sgm').write_bytes(
        b'<srcset setid="x" srclang="any">\r\n<doc docid="d1"><p>\n'
        b'<seg id="1">AT&T &amp; "two" <b>.</seg>\r\n'
        b'<hl>\n<seg id="2">second</seg> <seg id="3"> third </seg>\n</hl>\n'
        b'<seg id="4">runs\nover lines</seg>\n<seg id="5"></seg>\n</p></doc>\n</srcset>\n'
    )
    assert list(read_sentences(TextFile(tmp_path / 'dev.en.sgm'))) == [
        'AT&T &amp; "two" <b>.',
        'second',
        'third',
        'runs over lines',
        '',
    ]


@pytest.mark.parametrize(('first', 'second'), [(3, 5), (5, 3), (0, 1)])
def test_sides_of_different_length_are_refused_with_both_counts(tmp_path, first, second):
    (tmp_path / 'de').write_bytes(b'x\n' * first)
    (tmp_path / 'en').write_bytes(b'y\n' * second)
    with pytest.raises(
        UserError, match=rf'de has {first} sentences and \S*en has {second}; both need'
    ):
        list(read_pairs(TextFile(tmp_path / 'de'), TextFile(tmp_path / 'en')))


def test_bytes_outside_utf8_are_refused_with_their_place(tmp_path):
    path = write_tar(tmp_path / 'a.tgz', {'a.de': b'gut\nnaja\nschlecht \xe4h\n'})
    with pytest.raises(UserError, match=r'Line 3 of a\.de in .*a\.tgz.*byte 0xe4 at position 9'):
        list(read_sentences(TextFile(path, 'a.de')))


@pytest.mark.parametrize('share', [0.0, 0.001, 0.3, 0.999])
@pytest.mark.parametrize('mode', ['w:gz', 'w'])
def test_a_truncated_archive_is_refused_wherever_it_ends(tmp_path, mode, share):
    lines = b''.join(b'%d %d\n' % (i, i * i * 7919 % 10007) for i in range(30_000))
    path = write_tar(tmp_path / 'a.tgz', {'first': b'x', 'a.de': lines}, mode)
    whole = path.read_bytes().rstrip(b'\0')  # the empty blocks after a tar may be missing
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r'damaged or cut short|holds nothing|no member'):
        list(read_sentences(TextFile(path, 'a.de')))


def test_a_truncated_gz_inside_a_whole_tar_is_refused(tmp_path):
    packed = gzip.compress(b''.join(b'%d\n' % i for i in range(9999)))
    path = write_tar(tmp_path / 'a.tar', {'a.de.gz': packed[:-500]}, 'w')
    with pytest.raises(UserError, match='damaged or cut short'):
        list(read_sentences(TextFile(path, 'a.de.gz')))


def test_a_missing_file_and_a_missing_member_are_named(tmp_path):
    with pytest.raises(UserError, match='none cannot be read'):
        list(read_sentences(TextFile(tmp_path / 'none')))
    path = write_tar(tmp_path / 'a.tgz', {'a.fr': b'', 'a.en': b''})
    with pytest.raises(UserError, match=r'no member a\.de \(it holds a\.fr, a\.en\)'):
        list(read_sentences(TextFile(path, 'a.de')))


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    text = b'a sentence of usual length, more or less\n' * 200_000  # 8 MB a side
    archive = write_tar(tmp_path / 'a.tgz', {'a.de': text, 'a.en': text})
    pairs = read_pairs(TextFile(archive, 'a.de'), TextFile(archive, 'a.en'))
    tracemalloc.start()
    assert sum(1 for _ in itertools.islice(pairs, 100_000)) == 100_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pairs.close()
    assert peak < 4e6
