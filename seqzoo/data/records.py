"""Translation data sets as TFDS keeps them: array_record shards, without TensorFlow.

A pair is a `tf.train.Example` with one bytes feature per language. The messages are built and
parsed here with the protocol classes that TFDS ships; its general feature codec gives the same
bytes in seven times the time.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from seqzoo.errors import UserError

_READ_AHEAD = 1024
Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Shard:
    """One finished array_record file.

    Attributes:
        file: its name, without the folder.
        pairs: how many records it holds.
        bytes: its length on disk.
    """

    file: str
    pairs: int
    bytes: int


def _example() -> Any:
    from tensorflow_datasets.proto import tf_example_pb2

    # The attribute is made at run time from the protocol description, unseen by type checkers.
    return tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]


def encode_pair(languages: tuple[str, str], pair: Pair) -> bytes:
    """Returns the serialized `tf.train.Example` of one pair, keyed by language."""
    example = _example()
    for language, text in zip(languages, pair, strict=True):
        example.features.feature[language].bytes_list.value.append(text.encode('utf-8'))
    return example.SerializeToString(deterministic=True)


def write_shards(
    records: Iterable[bytes], directory: Path, stem: str, *, records_per_shard: int = 500_000
) -> list[Shard]:
    """Writes `records` in order into files `STEM.00000`, `STEM.00001`, ... of `directory`.

    Every shard is on disk, and has been opened and counted, when this returns.

    Raises:
        UserError: the disk is full or a file cannot be written.
    """
    shards: list[Shard] = []
    remaining = iter(records)
    for first in remaining:
        path = directory / f'{stem}.{len(shards):05d}'
        shards.append(_write_shard(first, remaining, path, records_per_shard))
    return shards


def _write_shard(first: bytes, remaining: Iterator[bytes], path: Path, limit: int) -> Shard:
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    with _writing(path):
        # One record per group is what random access in Grain and TFDS expects.
        writer = ArrayRecordWriter(str(path), 'group_size:1')
    count = 0
    record: bytes | None = first
    try:
        while record is not None:
            with _writing(path):
                writer.write(record)
            count += 1
            record = next(remaining, None) if count < limit else None
    finally:
        with _writing(path):
            writer.close()
    with _writing(path):
        reader = ArrayRecordReader(str(path))
        stored = reader.num_records()
        reader.close()
        if stored != count:
            raise OSError(f'{stored:,} of {count:,} records arrived')
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return Shard(path.name, count, path.stat().st_size)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    # array_record reports a full disk as RuntimeError.
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).split(';')[0]
        raise UserError(
            f'{path} cannot be written ({reason}): make room or choose another data directory, '
            f'then run the same command again.'
        ) from error


class ParallelRecords(Sequence[Pair]):
    """The pairs of one split, read from disk as they are asked for.

    Has a length and random access, iterates any number of times, and can be sent to another
    process. Iteration holds about a thousand pairs in memory.
    """

    def __init__(self, name: str, records: Any, languages: tuple[str, str]) -> None:
        """Reads `records`, a data source of serialized examples, as pairs of `languages`."""
        self.name = name
        self.languages = languages
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Pair]:
        for start in range(0, len(self), _READ_AHEAD):
            yield from self.__getitems__(range(start, min(start + _READ_AHEAD, len(self))))

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...

    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return self.__getitems__(range(len(self))[index])
        return self._decode(self._records[range(len(self))[index]])

    def __getitems__(self, indices: Sequence[int]) -> list[Pair]:
        """Several pairs at once, which Grain and this class use because it is faster."""
        return [self._decode(record) for record in self._records.__getitems__(list(indices))]

    def _decode(self, record: bytes) -> Pair:
        example = _example()
        example.ParseFromString(record)
        features = example.features.feature
        source, target = (features[language].bytes_list.value for language in self.languages)
        if len(source) != 1 or len(target) != 1:
            raise UserError(
                f'{self.name} has a record that lacks one of the languages {self.languages}: '
                f'prepare the data set again.'
            )
        return source[0].decode('utf-8'), target[0].decode('utf-8')


def open_tfds_parallel(
    name: str,
    split: str,
    source_language: str,
    target_language: str,
    data_dir: Path | str | None,
) -> ParallelRecords:
    """Opens one split of any translation data set that TFDS, or seqzoo, prepared as array_record.

    Args:
        name: as TFDS writes it: `NAME`, `NAME/CONFIG`, with `:VERSION` or else the newest.
        split: a name or an expression of TFDS: 'train', 'train[:10%]', 'test[100:200]'.
        source_language, target_language: any two languages of the data set, in either direction.
        data_dir: the folder that holds `NAME/`.

    Raises:
        UserError: the data set, the split or a language does not exist, or needs TensorFlow to be
        read.
    """
    if data_dir is None:
        raise UserError(f'{name} needs a place on disk: say where its data lies with --data-dir.')
    builder = open_builder(find_dataset(name, Path(data_dir)))
    from tensorflow_datasets import decode, features

    kinds = builder.info.features
    texts = (
        [key for key, kind in kinds.items() if isinstance(kind, features.Text)]
        if isinstance(kinds, features.FeaturesDict)
        else []
    )
    for language in (source_language, target_language):
        if language not in texts:
            raise UserError(
                f'{name} has no text in {language!r} (it has '
                f'{", ".join(sorted(texts)) or "none"}): choose the languages with '
                '--task.source-language and --task.target-language.'
            )
    parts = [re.split(r'[\[\s]', part.strip())[0] for part in split.split('+')]
    for part in parts:
        if part not in builder.info.splits:
            raise UserError(
                f'{name} has no split {part!r}: choose one of '
                f'{", ".join(sorted(builder.info.splits))}.'
            )
    try:
        records = builder.as_data_source(
            split=split, deserialize_method=decode.DeserializeMethod.RAW_BYTES
        )
    except (ValueError, AssertionError) as error:
        raise UserError(
            f'The split {split!r} of {name} is empty or malformed: write it like train or '
            'train[:10%].'
        ) from error
    return ParallelRecords(f'{name} {split}', records, (source_language, target_language))


def find_dataset(name: str, data_dir: Path) -> Path:
    """Returns the folder of the wanted, or the newest, version of a prepared data set.

    Raises:
        UserError: there is none, or the name lacks its configuration.
    """
    path, _, wanted = name.partition(':')
    home = data_dir / path
    versions = [
        folder.name
        for folder in (home.iterdir() if home.is_dir() else ())
        if re.fullmatch(r'\d+\.\d+\.\d+', folder.name) and (folder / 'features.json').is_file()
    ]
    if wanted:
        versions = [version for version in versions if version == wanted]
    if not versions:
        configs = sorted(p.parent.parent.name for p in home.glob('*/*/features.json'))
        if configs:
            raise UserError(
                f'{name} in {data_dir} has several configurations: choose one, such as '
                f'{path}/{configs[0]}.'
            )
        raise UserError(
            f'The data set {name} is not in {data_dir}: run `seqzoo data prepare CONFIG --data-dir '
            f'{data_dir}` first.'
        )
    return home / max(versions, key=lambda version: tuple(map(int, version.split('.'))))


def open_builder(directory: Path) -> Any:
    """Returns TFDS' read-only builder of a prepared data set whose files are all there.

    Raises:
        UserError: files are missing or unreadable, or are in a format that needs TensorFlow.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(directory))
    except (
        Exception
    ) as error:  # TFDS lets whatever its JSON and protocol parsers raise come through
        raise UserError(
            f'The description of the data set in {directory} is damaged ({type(error).__name__}): '
            'delete that folder and run `seqzoo data prepare` again.'
        ) from error
    file_format = builder.info.file_format
    if file_format is None or file_format.value != 'array_record':
        kind = file_format.value if file_format else 'an unknown format'
        raise UserError(
            f'The data set in {directory} is stored as {kind}, which needs TensorFlow: prepare it '
            'again with file_format=array_record, or in another data directory.'
        )
    for split in builder.info.splits.values():
        for path in split.filepaths:
            if not os.path.exists(path):
                raise UserError(
                    f'{path} is missing: delete {directory} and run `seqzoo data prepare` again.'
                )
    return builder
