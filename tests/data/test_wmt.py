import collections
import errno
import fcntl
import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
from pathlib import Path

import pytest

from seqzoo.data import wmt
from seqzoo.data.download import RemoteFile
from seqzoo.data.records import open_tfds_parallel
from seqzoo.data.wmt import prepare_wmt14, wmt14_corpora
from seqzoo.errors import UserError

ROOT = Path(__file__).parents[2]
EUROPARL = 'http://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz'
COMMONCRAWL = 'http://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz'
NEWS_COMMENTARY = 'http://www.statmt.org/wmt14/training-parallel-nc-v9.tgz'
UNITED_NATIONS = 'http://www.statmt.org/wmt13/training-parallel-un.tgz'
GIGA = 'http://www.statmt.org/wmt10/training-giga-fren.tar'
DEV = 'http://data.statmt.org/wmt19/translation-task/dev.tgz'


def sentences(name, language, count):
    """Lines of a corpus; the third has no text on the foreign side, the fourth exotic breaks."""
    lines = [f'{name} {language} {i} ä' for i in range(count)]
    if count > 4:
        lines[2] = '' if language != 'en' else lines[2]
        lines[3] += ' a\u2028b\x85c\rd'
    return lines


def text(name, language, count):
    return '\n'.join([*sentences(name, language, count), '']).encode()


def sgml(name, language, count, kind):
    body = ''.join(f'<seg id="{i + 1}">{name} {language} {i} &amp;</seg>\n' for i in range(count))
    return f'<{kind} setid="{name}"><doc>\n<p>\n{body}</p>\n</doc></{kind}>\n'.encode()


def archives():
    """The real archives in small: same addresses, member names and kinds of file."""
    europarl = {}
    for foreign in ('cs', 'de', 'fr'):
        for language in (foreign, 'en'):
            name = f'training/europarl-v7.{foreign}-en.{language}'
            europarl[name] = text(f'ep-{foreign}', language, 30)
    crawl, news, dev = {}, {}, {}
    for foreign in ('de', 'fr'):
        for language in (foreign, 'en'):
            crawl[f'commoncrawl.{foreign}-en.{language}'] = text(f'cc-{foreign}', language, 20)
            crawl[f'commoncrawl.{foreign}-en.annotation'] = b'x\ty\n' * 3
            name = f'training/news-commentary-v9.{foreign}-en.{language}'
            news[name] = text(f'nc-{foreign}', language, 10)
            dev[f'dev/newstest2013.{language}'] = text('nt13', language, 4)
        test = f'newstest2014-{foreign}en'
        dev[f'dev/{test}-src.{foreign}.sgm'] = sgml('nt14', foreign, 5, 'srcset')
        dev[f'dev/{test}-ref.en.sgm'] = sgml('nt14', 'en', 5, 'refset')
    nations = {f'un/undoc.2000.fr-en.{x}': text('un', x, 12) for x in ('fr', 'en')}
    giga = {
        f'giga-fren.release2.fixed.{x}.gz': gzip.compress(text('gf', x, 14)) for x in ('fr', 'en')
    }
    return {
        EUROPARL: pack(europarl),
        COMMONCRAWL: pack(crawl),
        NEWS_COMMENTARY: pack(news),
        UNITED_NATIONS: pack(nations),
        GIGA: pack(giga, 'w'),
        DEV: pack(dev),
    }


def pack(members, mode='w:gz'):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


class Mirror:
    """A local web server with the archives; `urls` is what `prepare_wmt14` takes."""

    def __init__(self, folder, contents):
        self.folder, self.requests, self.urls = folder, [], {}
        handler = functools.partial(self.Handler, directory=str(folder), requests=self.requests)
        self.httpd = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        threading.Thread(target=self.httpd.serve_forever, daemon=True).start()
        for url, content in contents.items():
            self.put(url, content)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, requests, **kwargs):
            self.requests = requests
            super().__init__(*args, **kwargs)

        def do_GET(self):
            self.requests.append(self.path.rsplit('/', 1)[-1])
            super().do_GET()

        def log_message(self, *_):
            pass

    def put(self, url, content):
        name = url.rsplit('/', 1)[-1]
        (self.folder / name).write_bytes(content)
        self.urls[url] = RemoteFile(
            url=f'http://127.0.0.1:{self.httpd.server_port}/{name}',
            filename=name,
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
        )


@pytest.fixture
def mirror(tmp_path):
    (tmp_path / 'web').mkdir()
    served = Mirror(tmp_path / 'web', archives())
    yield served
    served.httpd.shutdown()
    served.httpd.server_close()


def expected(corpora, foreign):
    return [
        pair
        for name, count in corpora
        for pair in zip(sentences(name, foreign, count), sentences(name, 'en', count), strict=True)
        if all(pair)
    ]


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_the_catalogue_of_tfds_gives_addresses_sizes_and_checksums():
    german, french = wmt14_corpora('de-en'), wmt14_corpora('fr-en')
    names = {'train': [], 'validation': [], 'test': []}
    for corpus in french:
        names[corpus.split].append(corpus.name)
    assert names == {
        'train': ['europarl_v7', 'commoncrawl', 'multiun', 'newscommentary_v9', 'gigafren'],
        'validation': ['newstest2013'],
        'test': ['newstest2014'],
    }
    assert [c.name for c in german] == [
        c.name for c in french if c.name not in ('multiun', 'gigafren')
    ]
    assert {a.url for c in french for a in c.archives} == set(archives())
    for corpus in (*german, *french):
        for archive in corpus.archives:
            assert len(archive.sha256) == 64
            assert archive.size > 10_000_000
    assert german[0].archives[0] == RemoteFile(
        url=EUROPARL,
        filename='training-parallel-europarl-v7.tgz',
        sha256='0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7',
        size=657632379,
    )
    assert german[-1].members == (
        'dev/newstest2014-deen-src.de.sgm',
        'dev/newstest2014-deen-ref.en.sgm',
    )
    with pytest.raises(UserError, match='choose de-en or fr-en'):
        wmt14_corpora('de-fr')


@pytest.mark.parametrize('pair', ['de-en', 'fr-en'])
def test_the_whole_way_runs_where_importing_tensorflow_raises(mirror, tmp_path, pair):
    program = """
        import importlib.machinery, json, sys
        from pathlib import Path

        attempts = []

        class Refusal:
            # A loader, not a finder that raises: asking whether TensorFlow exists is allowed.
            def create_module(self, spec):
                attempts.append(spec.name)
                raise ImportError('TensorFlow must not be imported')

            def exec_module(self, module):
                raise AssertionError

            def find_spec(self, name, path=None, target=None):
                if name.split('.')[0] == 'tensorflow':
                    return importlib.machinery.ModuleSpec(name, self)

        sys.meta_path.insert(0, Refusal())
        from seqzoo.data.download import RemoteFile
        from seqzoo.data.wmt import open_tfds_parallel, prepare_wmt14

        assert 'tensorflow_datasets' not in sys.modules, 'slow import at module level'
        pair, data_dir, urls = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
        urls = {url: RemoteFile(**file) for url, file in urls.items()}
        prepared = prepare_wmt14(pair, data_dir, urls=urls)
        foreign = pair[:2]
        splits = {
            split: list(open_tfds_parallel(prepared.name, split, foreign, 'en', data_dir))
            for split in ('train', 'validation', 'test')
        }
        import tensorflow_datasets as tfds
        import tensorflow_datasets.translate

        source = tfds.data_source(prepared.name, split='train', data_dir=data_dir)
        raw = [[example[foreign].decode(), example['en'].decode()] for example in source]
        try:
            import tensorflow
        except ImportError:
            assert attempts.pop() == 'tensorflow', 'the test itself would not notice'
        assert attempts == [] and 'tensorflow' not in sys.modules
        print(json.dumps({
            'splits': splits, 'raw': raw, 'pairs': dict(prepared.pairs),
            'dropped': dict(prepared.dropped), 'said': str(prepared),
        }))
    """
    urls = json.dumps({url: vars(file) for url, file in mirror.urls.items()})
    ran = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(program), pair, str(tmp_path / 'd'), urls],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    foreign = pair[:2]
    corpora = [(f'ep-{foreign}', 30), (f'cc-{foreign}', 20), (f'nc-{foreign}', 10)]
    if foreign == 'fr':
        corpora = [*corpora[:2], ('un', 12), corpora[2], ('gf', 14)]
    train = [list(pair) for pair in expected(corpora, foreign)]
    assert result['splits']['train'] == train == result['raw']
    assert result['splits']['validation'] == [list(p) for p in expected([('nt13', 4)], foreign)]
    assert result['splits']['test'] == [
        [f'nt14 {foreign} {i} &amp;', f'nt14 en {i} &amp;'] for i in range(5)
    ]
    assert result['pairs'] == {'test': 5, 'train': len(train), 'validation': 4}
    assert result['dropped'] == {'test': 0, 'train': len(corpora), 'validation': 0}
    assert f'{len(train)} train' in result['said']
    folder = tmp_path / 'd' / 'wmt14_translate' / pair
    assert [path.name for path in folder.iterdir()] == ['1.0.0']
    described = json.loads((folder / '1.0.0' / 'dataset_info.json').read_text())
    assert (described['name'], described['version']) == ('wmt14_translate', '1.0.0')
    assert described['configName'] == pair


def test_preparing_again_changes_and_fetches_nothing(mirror, tmp_path):
    first = prepare_wmt14('de-en', tmp_path / 'd', urls=mirror.urls)
    before, mirror.requests[:] = files(first.directory), []
    assert prepare_wmt14('de-en', tmp_path / 'd', urls=mirror.urls) == first
    assert (files(first.directory), mirror.requests) == (before, [])


def test_the_second_pair_shares_the_archives_of_the_first(mirror, tmp_path):
    prepare_wmt14('de-en', tmp_path / 'd', urls=mirror.urls)
    prepare_wmt14('fr-en', tmp_path / 'd', urls=mirror.urls)
    assert max(collections.Counter(mirror.requests).values()) == 1


def test_a_repeat_after_damage_keeps_finished_corpora_and_redoes_the_rest(mirror, tmp_path):
    good = (mirror.folder / 'training-parallel-nc-v9.tgz').read_bytes()
    uneven = {
        'training/news-commentary-v9.de-en.de': b'eins\nzwei\ndrei\n',
        'training/news-commentary-v9.de-en.en': b'one\ntwo\n',
    }
    mirror.put(NEWS_COMMENTARY, pack(uneven))
    with pytest.raises(UserError, match=r'has 3 sentences and .*news-commentary.* has 2;'):
        prepare_wmt14('de-en', tmp_path / 'd', urls=mirror.urls)
    with pytest.raises(UserError, match='seqzoo data prepare CONFIG'):
        open_tfds_parallel('wmt14_translate/de-en', 'train', 'de', 'en', tmp_path / 'd')
    staging = tmp_path / 'd' / 'wmt14_translate' / 'de-en' / '1.0.0.incomplete'
    kept = (staging / 'train.europarl_v7.00000').stat()
    (tmp_path / 'd' / 'downloads' / 'wmt14_translate' / 'training-parallel-nc-v9.tgz').unlink()
    mirror.put(NEWS_COMMENTARY, good)
    mirror.requests.clear()
    prepared = prepare_wmt14('de-en', tmp_path / 'd', urls=mirror.urls)
    assert mirror.requests == ['training-parallel-nc-v9.tgz']
    shard = prepared.directory / 'wmt14_translate-train.array_record-00000-of-00003'
    assert (shard.stat().st_ino, shard.stat().st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    train = list(open_tfds_parallel(prepared.name, 'train', 'de', 'en', tmp_path / 'd'))
    assert train == expected([('ep-de', 30), ('cc-de', 20), ('nc-de', 10)], 'de')


class Killed(BaseException):
    """Stands for the end of the process at any point."""


def dying(function, calls):
    """`function`, until it has been called so often; then the process is gone."""
    left = [calls]

    def wrapper(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize('where', ['_save_state', '_store_corpus', 'os.replace', 'encode_pair'])
def test_dying_anywhere_leaves_nothing_that_a_repeat_trusts_wrongly(
    mirror, tmp_path, monkeypatch, where
):
    reference = prepare_wmt14('de-en', tmp_path / 'reference', urls=mirror.urls)
    steps = [0, 35, 60] if where == 'encode_pair' else [*range(9), 12]
    died = 0
    for calls in steps:
        folder = tmp_path / f'{where}{calls}'
        with monkeypatch.context() as patch:
            if where == 'os.replace':
                patch.setattr(os, 'replace', dying(os.replace, calls))
            else:
                patch.setattr(wmt, where, dying(getattr(wmt, where), calls))
            try:
                prepare_wmt14('de-en', folder, urls=mirror.urls)
            except Killed:
                died += 1
                with pytest.raises(UserError, match='seqzoo data prepare CONFIG'):
                    open_tfds_parallel(reference.name, 'test', 'de', 'en', folder)
        repeated = prepare_wmt14('de-en', folder, urls=mirror.urls)
        assert (repeated.pairs, repeated.dropped) == (reference.pairs, reference.dropped)
        assert set(files(repeated.directory)) == set(files(reference.directory))
        for split in reference.pairs:
            one, other = (
                list(open_tfds_parallel(reference.name, split, 'de', 'en', data_dir))
                for data_dir in (folder, tmp_path / 'reference')
            )
            assert one == other
    assert died >= 3


def test_a_cut_shard_is_not_trusted_by_a_repeat(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(wmt, '_publish', dying(wmt._publish, 0))
    with pytest.raises(Killed):
        prepare_wmt14('de-en', tmp_path / 'd', urls=mirror.urls)
    monkeypatch.undo()
    shard = tmp_path / 'd/wmt14_translate/de-en/1.0.0.incomplete/train.commoncrawl.00000'
    shard.write_bytes(shard.read_bytes()[:-100])
    prepared = prepare_wmt14('de-en', tmp_path / 'd', urls=mirror.urls)
    train = list(open_tfds_parallel(prepared.name, 'train', 'de', 'en', tmp_path / 'd'))
    assert train == expected([('ep-de', 30), ('cc-de', 20), ('nc-de', 10)], 'de')


def test_shards_of_another_version_of_an_archive_are_not_trusted(mirror, tmp_path, monkeypatch):
    for stop in (0, 3):  # before any shard has its final name, and after some have
        folder = tmp_path / f'd{stop}'
        mirror.put(EUROPARL, archives()[EUROPARL])
        with monkeypatch.context() as patch:
            # 4 archives named and 5 corpora saved come before the first final name.
            patch.setattr(os, 'replace', dying(os.replace, 4 + 5 + stop))
            with pytest.raises(Killed):
                prepare_wmt14('de-en', folder, urls=mirror.urls)
        pair = 'training/europarl-v7.de-en.de', 'training/europarl-v7.de-en.en'
        mirror.put(EUROPARL, pack({pair[0]: b'neu\n', pair[1]: b'new\n'}))
        (folder / 'downloads/wmt14_translate/training-parallel-europarl-v7.tgz').unlink()
        prepared = prepare_wmt14('de-en', folder, urls=mirror.urls)
        train = list(open_tfds_parallel(prepared.name, 'train', 'de', 'en', folder))
        assert train == [('neu', 'new'), *expected([('cc-de', 20), ('nc-de', 10)], 'de')]


def test_final_names_are_given_up_when_the_shards_before_them_change(mirror, tmp_path, monkeypatch):
    def put(url, name, count):
        members = {
            f'training/{name}.de-en.{x}': b''.join(b'%d\n' % i for i in range(count))
            for x in ('de', 'en')
        }
        mirror.put(url, pack(members))
        (tmp_path / 'd/downloads/wmt14_translate' / url.rsplit('/')[-1]).unlink(missing_ok=True)

    small = functools.partial(wmt.write_shards, records_per_shard=10)
    monkeypatch.setattr(wmt, 'write_shards', small)
    # 1 + 2 + 2 shards of training become 2 + 2 + 1: the middle ones keep '-of-00005' and move up.
    put(EUROPARL, 'europarl-v7', 10)
    put(NEWS_COMMENTARY, 'news-commentary-v9', 20)
    with monkeypatch.context() as patch:
        # 4 archives, 5 corpora saved, 7 shards renamed and saved; then the folder itself.
        patch.setattr(os, 'replace', dying(os.replace, 4 + 5 + 2 * 7))
        with pytest.raises(Killed):
            prepare_wmt14('de-en', tmp_path / 'd', urls=mirror.urls)
    put(EUROPARL, 'europarl-v7', 20)
    put(NEWS_COMMENTARY, 'news-commentary-v9', 10)
    prepared = prepare_wmt14('de-en', tmp_path / 'd', urls=mirror.urls)
    train = list(open_tfds_parallel(prepared.name, 'train', 'de', 'en', tmp_path / 'd'))
    numbers = [(str(i), str(i)) for i in range(20)]
    assert train == [*numbers, *expected([('cc-de', 20)], 'de'), *numbers[:10]]


def test_a_wrong_checksum_stops_before_anything_is_written(mirror, tmp_path):
    (mirror.folder / 'dev.tgz').write_bytes(pack({'dev/other': b'x' * 5000}))
    with pytest.raises(UserError, match='is expected'):
        prepare_wmt14('de-en', tmp_path / 'd', urls=mirror.urls)
    staging = tmp_path / 'd' / 'wmt14_translate' / 'de-en' / '1.0.0.incomplete'
    assert list(staging.iterdir()) == []


def test_two_preparations_do_not_meet(mirror, tmp_path):
    downloads = tmp_path / 'd' / 'downloads' / 'wmt14_translate'
    downloads.mkdir(parents=True)
    with open(downloads / 'lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match='Another process is preparing WMT14'):
            prepare_wmt14('de-en', tmp_path / 'd', urls=mirror.urls)
    prepare_wmt14('de-en', tmp_path / 'd', urls=mirror.urls)


def test_a_folder_that_cannot_be_made_is_one_sentence(mirror, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='choose another --data-dir'):
        prepare_wmt14('de-en', tmp_path / 'file', urls=mirror.urls)


def test_a_disk_that_fills_up_at_the_end_is_one_sentence(mirror, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(wmt, '_publish', full)
    with pytest.raises(UserError, match=r'\(No space left on device\): make room'):
        prepare_wmt14('de-en', tmp_path / 'd', urls=mirror.urls)


PREPARE = """
    import json, resource, sys
    from pathlib import Path
    import tensorflow_datasets.translate
    from seqzoo.data.download import RemoteFile
    from seqzoo.data.wmt import open_tfds_parallel, prepare_wmt14

    urls = {url: RemoteFile(**file) for url, file in json.loads(sys.argv[2]).items()}
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    peak_before = peak()
    prepared = prepare_wmt14(
        'de-en', Path(sys.argv[1]), urls=urls, progress=lambda p: print(p.action, flush=True)
    )
    count = sum(1 for _ in open_tfds_parallel(prepared.name, 'train', 'de', 'en', sys.argv[1]))
    print(json.dumps([count, peak() - peak_before]))
"""


def big_europarl(count):
    members = {
        f'training/europarl-v7.de-en.{language}': b''.join(
            b'%d a sentence of the length that is usual in the minutes of a parliament %d\n'
            % (i, i * 7919)
            for i in range(count)
        )
        for language in ('de', 'en')
    }
    return pack(members)


def start(mirror, folder):
    urls = json.dumps({url: vars(file) for url, file in mirror.urls.items()})
    command = [sys.executable, '-c', textwrap.dedent(PREPARE), str(folder), urls]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_killed_preparation_is_repeated_from_where_it_was(mirror, tmp_path):
    mirror.put(EUROPARL, big_europarl(25_000))
    with start(mirror, tmp_path / 'd') as first:
        for line in first.stdout:
            if line.strip() == 'write':
                first.send_signal(signal.SIGKILL)
                break
        first.wait(100)
    assert first.returncode == -signal.SIGKILL
    staging = tmp_path / 'd' / 'wmt14_translate' / 'de-en' / '1.0.0.incomplete'
    assert (staging / 'train.europarl_v7.00000').exists()
    mirror.requests.clear()
    prepare_wmt14('de-en', tmp_path / 'd', urls=mirror.urls)
    train = open_tfds_parallel('wmt14_translate/de-en', 'train', 'de', 'en', tmp_path / 'd')
    assert len(train) == 25_000 + 19 + 9
    assert train[24_999][0].startswith('24999 a sentence')
    assert mirror.requests == []


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(mirror, tmp_path):
    """200,000 pairs, 40 MB of text, more than 100 MB as Python strings."""
    mirror.put(EUROPARL, big_europarl(200_000))
    with start(mirror, tmp_path / 'd') as process:
        out = process.communicate(timeout=250)[0]
    assert process.returncode == 0
    count, grown = json.loads(out.splitlines()[-1])
    assert count == 200_000 + 19 + 9
    assert grown < 40, f'{grown} MiB'
