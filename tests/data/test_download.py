import dataclasses
import errno
import hashlib
import http.server
import threading
from collections import namedtuple

import pytest

from seqzoo.data import download as module
from seqzoo.data.download import Progress, RemoteFile, download
from seqzoo.errors import UserError

CONTENT = bytes(range(256)) * 12_000  # three blocks of a mebibyte


@dataclasses.dataclass
class Behaviour:
    content: bytes = CONTENT
    honours_ranges: bool = True
    wrong_range: bool = False
    break_after: list[int] = dataclasses.field(default_factory=list)  # one entry a request
    statuses: list[int] = dataclasses.field(default_factory=list)  # answered before anything else
    ranges: list[str | None] = dataclasses.field(default_factory=list)  # what was asked


@pytest.fixture
def server():
    """A web server whose faults are chosen by the test."""
    behaviour = Behaviour()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.0'

        def do_GET(self):
            asked = self.headers.get('Range')
            behaviour.ranges.append(asked)
            if behaviour.statuses:
                self.send_error(behaviour.statuses.pop(0))
                return
            start = int(asked.split('=')[1].rstrip('-')) if asked else 0
            if asked and behaviour.honours_ranges:
                if start >= len(behaviour.content):
                    self.send_error(416)
                    return
                self.send_response(206)
                first = 0 if behaviour.wrong_range else start
                end = len(behaviour.content)
                self.send_header('Content-Range', f'bytes {first}-{end - 1}/{end}')
            else:
                start = 0
                self.send_response(200)
            body = behaviour.content[start:]
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            if behaviour.break_after:
                body = body[: behaviour.break_after.pop(0)]
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    behaviour.url = f'http://127.0.0.1:{httpd.server_port}/a/corpus.tgz'
    yield behaviour
    httpd.shutdown()
    httpd.server_close()


def remote_file(server, content=CONTENT, **changes):
    known = RemoteFile(
        url=server.url,
        filename='corpus.tgz',
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
    )
    return dataclasses.replace(known, **changes)


def quick(server, directory, **arguments):
    remote = arguments.pop('remote', None) or remote_file(server)
    return download(remote, directory, retry_delay=0.0, timeout=10.0, **arguments)


def test_a_file_arrives_whole_under_its_name_and_is_not_fetched_twice(server, tmp_path):
    seen: list[Progress] = []
    path = quick(server, tmp_path / 'new' / 'folder', progress=seen.append)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ['corpus.tgz']
    loaded = [report for report in seen if report.action == 'download']
    assert loaded[-1] == Progress('download', 'corpus.tgz', len(CONTENT), len(CONTENT), 'bytes')
    assert len(loaded) >= 3
    assert quick(server, path.parent) == path
    assert len(server.ranges) == 1


def test_a_connection_that_breaks_is_continued_within_one_call(server, tmp_path):
    server.break_after = [1_500_000, 100_000]
    assert quick(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, 'bytes=1500000-', 'bytes=1600000-']


def test_a_line_that_keeps_breaking_wins_as_long_as_it_gets_further(server, tmp_path):
    server.break_after = [200_000] * 15
    assert quick(server, tmp_path, attempts=2).read_bytes() == CONTENT
    assert len(server.ranges) == 16


def test_a_server_that_never_gets_further_is_given_up(server, tmp_path):
    server.honours_ranges = False
    server.break_after = [200_000] * 9
    with pytest.raises(UserError, match='could not be downloaded'):
        quick(server, tmp_path, attempts=3)
    assert len(server.ranges) == 3


def test_an_interrupted_call_is_continued_by_the_next(server, tmp_path):
    server.break_after = [2_000_000, 0]
    with pytest.raises(UserError, match=r'same command again to go on from the 2,000,000 of 3,072'):
        quick(server, tmp_path, attempts=1)
    assert not (tmp_path / 'corpus.tgz').exists()
    assert quick(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, 'bytes=2000000-', 'bytes=2000000-']


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    server.honours_ranges = False
    (tmp_path / 'corpus.tgz.part').write_bytes(CONTENT[:1000])
    assert quick(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ['bytes=1000-']


@pytest.mark.parametrize('part', [b'x' * 1000, CONTENT + b'x', b'x' * len(CONTENT)])
def test_a_part_of_another_file_is_noticed_and_replaced(server, tmp_path, part):
    (tmp_path / 'corpus.tgz.part').write_bytes(part)
    assert quick(server, tmp_path).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_replaced_when_no_size_is_listed(server, tmp_path):
    (tmp_path / 'corpus.tgz.part').write_bytes(CONTENT + b'x')
    path = quick(server, tmp_path, remote=remote_file(server, size=None))
    assert path.read_bytes() == CONTENT


def test_an_answer_for_another_range_is_not_appended(server, tmp_path):
    server.wrong_range = True
    (tmp_path / 'corpus.tgz.part').write_bytes(CONTENT[:1000])
    assert quick(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize('sent', [b'y' * len(CONTENT), CONTENT + b'more'])
def test_a_wrong_checksum_is_refused_and_the_file_removed(server, tmp_path, sent):
    server.content = sent
    with pytest.raises(UserError, match=f'{remote_file(server).sha256} is expected') as caught:
        quick(server, tmp_path)
    assert '\n' not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_put_there_by_hand_is_checked(server, tmp_path):
    (tmp_path / 'corpus.tgz').write_bytes(CONTENT)
    quick(server, tmp_path)
    (tmp_path / 'corpus.tgz').write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match='is not the file published as'):
        quick(server, tmp_path)
    assert server.ranges == []


def test_a_refusal_is_not_repeated_and_an_overload_is(server, tmp_path):
    server.statuses = [503, 503]
    quick(server, tmp_path / 'a')
    assert len(server.ranges) == 3
    server.statuses = [404]
    with pytest.raises(UserError, match=r'HTTP status 404 Not Found.*corpus\.tgz by hand'):
        quick(server, tmp_path / 'b')
    assert len(server.ranges) == 4


def test_an_unreachable_server_is_one_sentence(tmp_path):
    remote = RemoteFile('http://127.0.0.1:9/x', 'x', '0' * 64)
    with pytest.raises(UserError, match='could not be downloaded'):
        download(remote, tmp_path, attempts=2, retry_delay=0.0)


def test_a_disk_too_small_is_said_before_the_first_byte(server, tmp_path, monkeypatch):
    usage = namedtuple('usage', 'total used free')(10, 10, 1000)
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda _: usage)
    with pytest.raises(UserError, match=r'1,000 bytes free, but corpus\.tgz needs 3,072,000 more'):
        quick(server, tmp_path)
    assert server.ranges == []


def test_a_disk_that_fills_up_is_one_sentence(server, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(module.os, 'fsync', full)
    with pytest.raises(UserError, match='the disk is full'):
        quick(server, tmp_path)


def test_only_web_addresses_are_followed():
    with pytest.raises(UserError, match='http'):
        RemoteFile('file:///etc/passwd', 'x', '0' * 64)
