"""Published files are known by their content, packed or not; what is missing is said in words."""

import gzip
import hashlib

import pytest

from seqzoo.data.public_files import PublicFile, see_to
from seqzoo.errors import UserError

CONTENT = b'one\ntwo\n'
PUBLIC = PublicFile(hashlib.sha256(CONTENT).hexdigest())


@pytest.mark.parametrize('packed', [False, True])
def test_a_file_is_known_by_its_content_however_it_is_packed(tmp_path, packed):
    path = tmp_path / ('text.txt.gz' if packed else 'text.txt')
    path.write_bytes(gzip.compress(CONTENT) if packed else CONTENT)
    assert see_to(tmp_path, 'text.txt', PUBLIC, None) == f'{path} is whole'


def test_another_file_under_the_same_name_is_refused(tmp_path):
    (tmp_path / 'text.txt').write_bytes(b'one\n')
    with pytest.raises(UserError, match='not the published file'):
        see_to(tmp_path, 'text.txt', PUBLIC, None)


def test_a_missing_file_without_an_address_is_wanted_by_its_checksum(tmp_path):
    with pytest.raises(UserError, match=PUBLIC.sha256):
        see_to(tmp_path, 'text.txt', PUBLIC, None)


def test_a_damaged_packed_file_is_named(tmp_path):
    (tmp_path / 'text.txt.gz').write_bytes(gzip.compress(CONTENT)[:-6])
    with pytest.raises(UserError, match=r'text\.txt\.gz cannot be read'):
        see_to(tmp_path, 'text.txt', PUBLIC, None)


def test_a_packed_file_is_fetched_packed(tmp_path, monkeypatch):
    asked = []

    def fetch(remote, folder, progress=None):
        asked.append((remote.filename, remote.sha256))
        return folder / remote.filename

    monkeypatch.setattr('seqzoo.data.download.download', fetch)
    packed = PublicFile('a' * 64, 'https://example.org/text.txt.gz', packed_sha256='b' * 64)
    assert 'was fetched' in see_to(tmp_path, 'text.txt', packed, None)
    assert asked == [('text.txt.gz', 'b' * 64)]
