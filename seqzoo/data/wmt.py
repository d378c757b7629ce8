"""WMT 2014 (Bojar et al. 2014): downloaded, unpacked and stored for TFDS, without TensorFlow.

Which corpora make up each split, where they lie, what their checksums are and what their members
are called all comes from the catalogue of TFDS. Its own preparation cannot be used: it unpacks
through TensorFlow and parses whole files in memory. The result is the same set of pairs, in the
order of the files instead of shuffled: pairs with an empty side are dropped (and counted), nothing
else is changed. Published sizes: de-en 4,508,785 pairs of training, fr-en 40,836,876; 3,000 of
validation (newstest2013) and 3,003 of test (newstest2014) for both.

TFDS names the pair by the foreign language first and reads newstest2014 as the files of that
direction (`newstest2014-deen-src.de.sgm`, `-ref.en.sgm`); the features are keyed by language, so
either direction can be trained.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from seqzoo.data.archives import TextFile, read_pairs
from seqzoo.data.download import Progress, ProgressCallback, RemoteFile, download
from seqzoo.data.records import encode_pair, open_builder, open_tfds_parallel, write_shards
from seqzoo.errors import UserError

__all__ = ['Corpus', 'PreparedDataset', 'open_tfds_parallel', 'prepare_wmt14', 'wmt14_corpora']

Wmt14Pair = Literal['de-en', 'fr-en']
_NAME = 'wmt14_translate'
_STATE = 'corpora.json'
_REPORT_EVERY = 10_000


@dataclasses.dataclass(frozen=True)
class Corpus:
    """One corpus of a split: two members, of one archive or of two.

    Attributes:
        name: as TFDS calls it, such as 'europarl_v7'.
        split: 'train', 'validation' or 'test'.
        languages: of the two sides.
        archives: where the sides lie; twice the same for one archive.
        members: the names of the sides inside.
    """

    name: str
    split: str
    languages: tuple[str, str]
    archives: tuple[RemoteFile, RemoteFile]
    members: tuple[str, str]

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree for shards of an earlier call to be those of this corpus."""
        return {
            'split': self.split,
            'sha256': [archive.sha256 for archive in self.archives],
            'members': list(self.members),
        }


@dataclasses.dataclass(frozen=True)
class PreparedDataset:
    """What a preparation left on disk.

    Attributes:
        name: for `open_tfds_parallel`, such as 'wmt14_translate/de-en'.
        directory: the folder with the shards.
        pairs: the number of pairs in each split.
        dropped: the number of pairs of each split that were left out because a side was empty.
    """

    name: str
    directory: Path
    pairs: Mapping[str, int]
    dropped: Mapping[str, int]

    def __str__(self) -> str:
        counts = ', '.join(f'{count:,} {split}' for split, count in self.pairs.items())
        dropped = sum(self.dropped.values())
        return f'{counts} pairs in {self.directory} ({dropped:,} with an empty side left out)'


def wmt14_corpora(
    pair: Wmt14Pair, *, urls: Mapping[str, RemoteFile] | None = None
) -> tuple[Corpus, ...]:
    """Returns the corpora of all splits in the order of TFDS.

    Args:
        pair: the languages, the foreign one first.
        urls: takes the place of listed addresses, for mirrors and tests.

    Raises:
        UserError: TFDS does not know the pair.
    """
    if pair not in get_args(Wmt14Pair):
        raise UserError(
            f'WMT14 has no pair {pair!r} here: choose {" or ".join(get_args(Wmt14Pair))}.'
        )
    from tensorflow_datasets.translate import wmt as catalogue

    foreign, english = pair.split('-')
    listed = {**_listed_files(), **(urls or {})}
    corpora = []
    for split, names in _tfds_builder(pair).subsets.items():
        for name in names:
            subset = catalogue.DATASET_MAP[name]
            addresses = subset.get_url(foreign)
            archives = tuple(listed[address] for address in addresses)
            corpora.append(
                Corpus(
                    name=name,
                    split=str(split),
                    languages=(foreign, english),
                    archives=(archives[0], archives[-1]),
                    members=tuple(subset.get_path(foreign)),
                )
            )
    return tuple(corpora)


def _tfds_builder(pair: str) -> Any:
    """Returns TFDS' own builder, for its catalogue and its description of the data set."""
    from tensorflow_datasets.translate.wmt14 import Wmt14Translate

    # It reads what lies in its folder, by default in the user's home, and refuses other formats.
    with tempfile.TemporaryDirectory() as nothing:
        builder = Wmt14Translate(config=pair, file_format='array_record', data_dir=nothing)
        assert builder.info.features is not None
    return builder


def _listed_files() -> dict[str, RemoteFile]:
    """The files that TFDS knows for WMT14, by address.

    Its list for 2014 lacks the two large French corpora, which WMT14 took over from earlier years;
    the lists for 2013 and 2015 have them.
    """
    from tensorflow_datasets.translate.wmt13 import Wmt13Translate
    from tensorflow_datasets.translate.wmt14 import Wmt14Translate
    from tensorflow_datasets.translate.wmt15 import Wmt15Translate

    listed = {}
    for year in (Wmt15Translate, Wmt13Translate, Wmt14Translate):
        for url, info in (year.url_infos or {}).items():
            listed[str(url)] = RemoteFile(
                url=str(url),
                filename=info.filename or str(url).rsplit('/', 1)[-1],
                sha256=info.checksum,
                size=int(info.size),
            )
    return listed


def prepare_wmt14(
    pair: Wmt14Pair,
    data_dir: Path,
    *,
    urls: Mapping[str, RemoteFile] | None = None,
    progress: ProgressCallback | None = None,
) -> PreparedDataset:
    """Downloads, checks and stores WMT14 below `data_dir`; safe to interrupt and to repeat.

    Archives go to `DATA_DIR/downloads/wmt14_translate` (delete them afterwards if room is short),
    the shards to `DATA_DIR/wmt14_translate/PAIR/1.0.0`. That folder appears only when the data set
    is whole; until then work is in `1.0.0.incomplete`, where corpora that were finished stay
    finished.

    Args:
        pair: 'de-en' or 'fr-en'; both directions read the same data.
        data_dir: the folder of all data sets.
        urls: takes the place of listed addresses, for mirrors and tests.
        progress: called now and then while it works.

    Raises:
        UserError: a download fails, an archive is damaged or the disk is full; says what to do.
    """
    corpora = wmt14_corpora(pair, urls=urls)
    directory = Path(data_dir) / _NAME / pair / '1.0.0'
    if directory.exists():
        return _describe(pair, directory)
    downloads = Path(data_dir) / 'downloads' / _NAME
    staging = directory.with_name(directory.name + '.incomplete')
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        staging.mkdir(parents=True, exist_ok=True)
        with _only_one_preparation(downloads):
            if not directory.exists():  # another process may just have finished it
                _prepare(pair, corpora, downloads, staging, directory, progress)
    except OSError as error:
        raise UserError(
            f'Below {data_dir} nothing can be stored ({error.strerror or error}): make room or '
            f'choose another --data-dir, and run the same command again.'
        ) from error
    return _describe(pair, directory)


def _prepare(
    pair: Wmt14Pair,
    corpora: tuple[Corpus, ...],
    downloads: Path,
    staging: Path,
    directory: Path,
    progress: ProgressCallback | None,
) -> None:
    state = _load_state(staging)
    missing = _unfinished(corpora, state, staging)
    # All downloads first: what goes wrong here should go wrong before hours of work.
    for remote in dict.fromkeys(file for corpus in missing for file in corpus.archives):
        download(remote, downloads, progress=progress)
    for corpus in missing:
        state[corpus.name] = _store_corpus(corpus, downloads, staging, progress or (lambda _: None))
        _save_state(staging, state)
    _publish(pair, corpora, state, staging, directory)


@contextlib.contextmanager
def _only_one_preparation(downloads: Path) -> Iterator[None]:
    with open(downloads / 'lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f'Another process is preparing WMT14 in {downloads.parents[1]}: wait until it has '
                'finished.'
            ) from error
        except OSError:
            pass  # some network file systems have no locks; the user then looks after it
        yield


def _store_corpus(
    corpus: Corpus, downloads: Path, staging: Path, report: ProgressCallback
) -> dict[str, Any]:
    """Writes the shards of one corpus and returns its entry in the state."""
    stem = f'{corpus.split}.{corpus.name}'
    for leftover in staging.glob(f'{stem}.[0-9]*'):
        leftover.unlink()
    first, second = (
        TextFile(downloads / archive.filename, member)
        for archive, member in zip(corpus.archives, corpus.members, strict=True)
    )
    dropped = 0

    def records() -> Iterator[bytes]:
        nonlocal dropped
        for number, pair in enumerate(read_pairs(first, second), 1):
            if number % _REPORT_EVERY == 0:
                report(Progress('write', corpus.name, number, None, 'pairs'))
            if all(pair):
                yield encode_pair(corpus.languages, pair)
            else:
                dropped += 1

    shards = write_shards(records(), staging, stem)
    if not shards:
        raise UserError(
            f'{first} and {second} hold no sentences: delete {first.path} and try again.'
        )
    pairs = sum(shard.pairs for shard in shards)
    report(Progress('write', corpus.name, pairs, pairs, 'pairs'))
    return {
        **corpus.identity,
        'dropped': dropped,
        'shards': [dataclasses.asdict(shard) for shard in shards],
    }


def _load_state(staging: Path) -> dict[str, Any]:
    try:
        return json.loads((staging / _STATE).read_text('utf-8'))
    except (OSError, ValueError):
        return {}  # no earlier call, or one that died while it wrote: begin anew


def _save_state(staging: Path, state: Mapping[str, Any]) -> None:
    temporary = staging / (_STATE + '.tmp')
    with open(temporary, 'w', encoding='utf-8') as file:
        json.dump(state, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, staging / _STATE)


def _unfinished(corpora: tuple[Corpus, ...], state: dict[str, Any], staging: Path) -> list[Corpus]:
    missing = [corpus for corpus in corpora if not _is_finished(corpus, state, staging)]
    if missing:
        # Names are final only while the whole plan stands: with another number of shards before
        # them they would have to change, and could overwrite each other.
        for name in [name for name, entry in state.items() if _has_final_names(entry)]:
            del state[name]
    return [corpus for corpus in corpora if corpus in missing or corpus.name not in state]


def _has_final_names(entry: Mapping[str, Any]) -> bool:
    return any(shard['file'].startswith(_NAME) for shard in entry['shards'])


def _is_finished(corpus: Corpus, state: Mapping[str, Any], staging: Path) -> bool:
    entry = state.get(corpus.name)
    if entry is None or any(entry.get(key) != value for key, value in corpus.identity.items()):
        return False
    sizes = [(staging / shard['file'], shard['bytes']) for shard in entry['shards']]
    return all(path.is_file() and path.stat().st_size == size for path, size in sizes)


def _publish(
    pair: Wmt14Pair,
    corpora: tuple[Corpus, ...],
    state: dict[str, Any],
    staging: Path,
    directory: Path,
) -> None:
    """Gives the shards the names TFDS expects, describes them, and puts the folder in its place."""
    import tensorflow_datasets as tfds
    from etils import epath
    from tensorflow_datasets.core.splits import SplitDict

    info = _tfds_builder(pair).info
    splits = []
    for split in dict.fromkeys(corpus.split for corpus in corpora):
        template = tfds.core.ShardedFileTemplate(
            dataset_name=_NAME,
            data_dir=epath.Path(staging),
            split=split,
            filetype_suffix='array_record',
        )
        entries = [
            shard
            for corpus in corpora
            if corpus.split == split
            for shard in state[corpus.name]['shards']
        ]
        for index, entry in enumerate(entries):
            final = Path(template.sharded_filepath(shard_index=index, num_shards=len(entries)))
            if entry['file'] != final.name:
                os.replace(staging / entry['file'], final)
                entry['file'] = final.name
                _save_state(staging, state)
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[entry['pairs'] for entry in entries],
                num_bytes=sum(entry['bytes'] for entry in entries),
                filename_template=template,
            )
        )
    keep = {_STATE, *(entry['file'] for corpus in state.values() for entry in corpus['shards'])}
    for path in staging.iterdir():
        if path.name not in keep:
            path.unlink()
    info.set_file_format('array_record')
    info.set_splits(SplitDict(splits))
    info.write_to_directory(str(staging))
    os.replace(staging, directory)


def _describe(pair: Wmt14Pair, directory: Path) -> PreparedDataset:
    splits = open_builder(directory).info.splits
    dropped = dict.fromkeys(splits, 0)
    for corpus in _load_state(directory).values():
        dropped[corpus['split']] += corpus['dropped']
    return PreparedDataset(
        name=f'{_NAME}/{pair}',
        directory=directory,
        pairs={name: split.num_examples for name, split in splits.items()},
        dropped=dropped,
    )
