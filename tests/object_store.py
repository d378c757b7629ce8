"""A stand-in for Google Cloud Storage: enough of its JSON API for gcsfs, TensorStore and Orbax.

Objects live in memory, have generations, honour the preconditions on them, and are listed at once:
what the real one promises. Loopback only.
"""

import base64
import contextlib
import email.parser
import email.policy
import hashlib
import http.server
import itertools
import json
import re
import threading
import urllib.parse

import google_crc32c


class Store:
    """Buckets of objects, and what was asked of them."""

    def __init__(self):
        self.objects = {}  # (bucket, name) -> (bytes, generation)
        self.lock = threading.Lock()
        self.log = []
        self.uploads = {}
        self._numbers = itertools.count(1000)
        self.refuse = lambda method, path: None  # a status in place of an answer

    def put(self, bucket, name, data, query):
        with self.lock:
            there = self.objects.get((bucket, name))
            if not _allowed(query, there):
                return None
            self.objects[bucket, name] = (bytes(data), next(self._numbers))
            return self.about(bucket, name)

    def about(self, bucket, name):
        data, generation = self.objects[bucket, name]
        checksum = google_crc32c.value(data).to_bytes(4, 'big')
        return {
            'kind': 'storage#object',
            'id': f'{bucket}/{name}/{generation}',
            'bucket': bucket,
            'name': name,
            'size': str(len(data)),
            'generation': str(generation),
            'metageneration': '1',
            'crc32c': base64.b64encode(checksum).decode(),
            'md5Hash': base64.b64encode(hashlib.md5(data).digest()).decode(),
            'etag': str(generation),
            'contentType': 'application/octet-stream',
            'timeCreated': '2026-01-01T00:00:00.000Z',
            'updated': '2026-01-01T00:00:00.000Z',
        }

    def names(self, bucket, prefix=''):
        with self.lock:
            return sorted(n for b, n in self.objects if b == bucket and n.startswith(prefix))

    def read(self, bucket, name):
        return self.objects[bucket, name][0]


def _allowed(query, there):
    wanted = query.get('ifGenerationMatch')
    if wanted is not None and int(wanted) != (there[1] if there else 0):
        return False
    unwanted = query.get('ifGenerationNotMatch')
    return unwanted is None or int(unwanted) != (there[1] if there else 0)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *arguments):
        pass

    def answer(self, value=None, status=200, headers=None):
        body = value if isinstance(value, bytes) else json.dumps(value or {}).encode()
        if status in (204, 304):
            body = b''
        self.send_response(status)
        kind = 'application/octet-stream' if isinstance(value, bytes) else 'application/json'
        for name, text in {'Content-Type': kind, **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def refuse(self, status, reason):
        self.answer({'error': {'code': status, 'message': reason}}, status)

    def handle_any(self):
        store = self.server.store
        parsed = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parsed.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        store.log.append((self.command, self.path))
        if (status := store.refuse(self.command, self.path)) is not None:
            return self.refuse(status, 'the stand-in was told to refuse this')
        path = parsed.path
        if match := re.fullmatch(r'/upload/storage/v1/b/([^/]+)/o', path):
            return self.upload(store, match[1], query, body)
        if match := re.fullmatch(r'(?:/download)?/storage/v1/b/([^/]+)', path):
            return self.answer({'kind': 'storage#bucket', 'name': match[1], 'id': match[1]})
        if match := re.fullmatch(r'/storage/v1/b/([^/]+)/o/?', path):
            return self.listing(store, match[1], query)
        if match := re.fullmatch(r'(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)', path):
            return self.one(store, match[1], urllib.parse.unquote(match[2]), query)
        pattern = r'/storage/v1/b/([^/]+)/o/([^/]+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/([^/]+)'
        if match := re.fullmatch(pattern, path):
            bucket, name, to, target = map(urllib.parse.unquote, match.groups())
            if (bucket, name) not in store.objects:
                return self.refuse(404, 'Not Found')
            made = store.put(to, target, store.read(bucket, name), query)
            return self.answer({'done': True, 'resource': made})
        return self.refuse(404, f'the stand-in does not know {self.command} {path}')

    def upload(self, store, bucket, query, body):
        kind = query.get('uploadType')
        if kind == 'resumable' and 'upload_id' not in query:
            about = json.loads(body or b'{}')
            name = query.get('name') or about['name']
            number = str(len(store.uploads))
            store.uploads[number] = [name, b'', query]
            where = f'http://{self.headers["Host"]}/upload/storage/v1/b/{bucket}/o'
            link = f'{where}?uploadType=resumable&upload_id={number}'
            return self.answer({}, headers={'Location': link})
        if kind == 'resumable':
            entry = store.uploads[query['upload_id']]
            entry[1] += body
            if (self.headers.get('Content-Range') or '').endswith('/*'):
                return self.answer({}, 308, {'Range': f'bytes=0-{len(entry[1]) - 1}'})
            name, body, query = entry
        elif kind == 'multipart':
            header = f'Content-Type: {self.headers["Content-Type"]}\r\n\r\n'.encode()
            parser = email.parser.BytesParser(policy=email.policy.HTTP)
            first, second = parser.parsebytes(header + body).iter_parts()
            name = json.loads(first.get_content())['name']
            # The parser would turn line ends about: the bytes are cut out by hand.
            boundary = re.search(r'boundary="?([^";]+)', self.headers['Content-Type'])[1].encode()
            body = body.split(b'--' + boundary)[2].partition(b'\n\n')[2].removesuffix(b'\n')
            del second
        else:
            name = query['name']
        made = store.put(bucket, name, body, query)
        return self.refuse(412, 'conditionNotMet') if made is None else self.answer(made)

    def listing(self, store, bucket, query):
        prefix, delimiter = query.get('prefix', ''), query.get('delimiter', '')
        items, prefixes = [], []
        for name in store.names(bucket, prefix):
            rest = name[len(prefix) :]
            if name < query.get('startOffset', '') or (
                query.get('endOffset') and name >= query['endOffset']
            ):
                continue
            if delimiter and delimiter in rest:
                folder = prefix + rest.partition(delimiter)[0] + delimiter
                if folder not in prefixes:
                    prefixes.append(folder)
            else:
                with contextlib.suppress(KeyError):  # deleted meanwhile
                    items.append(store.about(bucket, name))
        found = {'kind': 'storage#objects'}
        return self.answer({**found, 'items': items, 'prefixes': prefixes})

    def one(self, store, bucket, name, query):
        with store.lock:
            there = store.objects.get((bucket, name))
            if there is None:
                return self.refuse(404, 'Not Found')
            if self.command == 'DELETE':
                if not _allowed(query, there):
                    return self.refuse(412, 'conditionNotMet')
                del store.objects[bucket, name]
                return self.answer(status=204)
            about = store.about(bucket, name)
        if query.get('alt') != 'media':
            return self.answer(about)
        data, generation = there
        if not _allowed(query, there):
            return self.answer(status=304 if 'ifGenerationNotMatch' in query else 412)
        headers = {
            'X-Goog-Generation': str(generation),
            'X-Goog-Stored-Content-Length': str(len(data)),
        }
        asked = re.fullmatch(r'bytes=(-?\d+)-?(\d*)', self.headers.get('Range') or '')
        if asked is None or not data:
            return self.answer(data, headers=headers)
        start = int(asked[1])
        if start < 0:
            start, stop = max(len(data) + start, 0), len(data)
        else:
            stop = int(asked[2]) + 1 if asked[2] else len(data)
        if start >= len(data):
            return self.refuse(416, 'out of range')
        stop = min(stop, len(data))
        headers['Content-Range'] = f'bytes {start}-{stop - 1}/{len(data)}'
        return self.answer(data[start:stop], 206, headers)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_any


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """Clients that hang up are none of ours."""


@contextlib.contextmanager
def serving(monkeypatch):
    """A store at an address of this machine, and the environment by which everyone finds it."""
    server = _Server(('127.0.0.1', 0), _Handler)
    server.store = Store()
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.05})
    thread.start()
    address = f'http://127.0.0.1:{server.server_port}'
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', address)
    monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', address)
    monkeypatch.setenv('GCE_METADATA_ROOT', '127.0.0.1:1')  # nobody asks a cloud who we are
    monkeypatch.setenv('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
    monkeypatch.setenv('NO_GCE_CHECK', 'true')
    try:
        yield server.store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
