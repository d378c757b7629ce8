"""Token ids of a corpus as two flat arrays, in memory or mapped from disk.

Millions of sentences as Python objects would cost a hundred bytes each beside their ids; here a
sentence costs its ids and one offset, every process maps the same file, and opening it takes no
time.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from seqzoo.errors import UserError

_WRITE_AT_ONCE = 1 << 20  # ids held back before they go to disk


class TokenStore:
    """Sentences as token ids, by number.

    Attributes:
        ids: `[tokens]` int32, all sentences one after the other.
        offsets: `[sentences + 1]` int64, where each begins.
        fingerprint: hash of the ids and lengths, the same in memory and on disk.
        metadata: what the writer noted: which tokenizer, which text.
    """

    def __init__(
        self,
        ids: np.ndarray,
        offsets: np.ndarray,
        *,
        fingerprint: str,
        metadata: dict[str, Any] | None = None,
        directory: Path | None = None,
    ):
        self.ids = ids
        self.offsets = offsets
        self.fingerprint = fingerprint
        self.metadata = metadata or {}
        self.directory = directory

    @classmethod
    def from_sentences(
        cls, sentences: Iterable[Any], metadata: dict[str, Any] | None = None
    ) -> Self:
        """A store in memory from sequences of ids."""
        arrays = [np.asarray(sentence, np.int32) for sentence in sentences]
        offsets = np.zeros(len(arrays) + 1, np.int64)
        np.cumsum([len(array) for array in arrays], out=offsets[1:])
        ids = np.concatenate(arrays) if arrays else np.zeros(0, np.int32)
        hasher = _Hasher()
        hasher.update(ids, np.diff(offsets))
        return cls(ids, offsets, fingerprint=hasher.digest(), metadata=metadata)

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """Maps a store written by `TokenStoreWriter`.

        Raises:
            UserError: the folder holds no complete store.
        """
        directory = Path(directory)
        try:
            note = json.loads((directory / 'store.json').read_text('utf-8'))
            ids = np.load(directory / 'ids.npy', mmap_mode='r')
            offsets = np.load(directory / 'offsets.npy', mmap_mode='r')
            complete = len(offsets) == note['sentences'] + 1 and offsets[-1] == len(ids)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f'{directory} holds no readable token store ({error}); delete it and prepare again'
            ) from error
        if not complete:
            raise UserError(
                f'{directory} holds a damaged token store; delete it and prepare the data again'
            )
        return cls(
            ids,
            offsets,
            fingerprint=note['fingerprint'],
            metadata=note['metadata'],
            directory=directory,
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        if not -len(self) <= index < len(self):
            raise IndexError(f'sentence {index} of a store of {len(self)}')
        index %= len(self)
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapped array would be pickled as its whole content; workers map the file themselves.
        if self.directory is not None:
            return TokenStore.open, (self.directory,)
        return _restore, (self.ids, self.offsets, self.fingerprint, self.metadata)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """`[sentences]` int32: tokens in each sentence, without an end marker."""
        return np.diff(self.offsets).astype(np.int32)


def _restore(
    ids: np.ndarray, offsets: np.ndarray, fingerprint: str, metadata: dict[str, Any]
) -> TokenStore:
    return TokenStore(ids, offsets, fingerprint=fingerprint, metadata=metadata)


class TokenStoreWriter:
    """Writes a `TokenStore` sentence by sentence, in bounded memory.

    A context manager. The folder appears under its name, complete, when the block ends; if the
    block fails nothing stays behind. An existing folder of that name is replaced.

    Args:
        directory: the folder to make.
        metadata: JSON values to keep beside the ids.
    """

    def __init__(self, directory: str | Path, metadata: dict[str, Any] | None = None):
        self.directory = Path(directory)
        self.metadata = metadata or {}
        self._hasher = _Hasher()
        self._pending: list[np.ndarray] = []
        self._pending_ids = 0
        self._sentences = 0
        self._tokens = 0

    def __enter__(self) -> Self:
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        prefix = f'.{self.directory.name}-'
        self._temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=self.directory.parent))
        self._ids = (self._temporary / 'ids.npy').open('wb')
        self._offsets = (self._temporary / 'offsets.npy').open('wb')
        _write_header(self._ids, np.int32, 0)
        _write_header(self._offsets, np.int64, 0)
        self._offsets.write(np.zeros(1, np.int64).tobytes())
        return self

    def add(self, sentence: Any) -> None:
        """Appends one sentence, a sequence of ids."""
        array = np.asarray(sentence, np.int32)
        self._pending.append(array)
        self._pending_ids += len(array) + 1  # empty sentences must not pile up either
        if self._pending_ids >= _WRITE_AT_ONCE:
            self._flush()

    def add_batch(self, sentences: Iterable[Any]) -> None:
        """Appends several sentences."""
        for sentence in sentences:
            self.add(sentence)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._ids.close()
            self._offsets.close()
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _flush(self) -> None:
        if not self._pending:
            return
        ids = np.concatenate(self._pending)
        lengths = np.array([len(array) for array in self._pending], np.int64)
        self._hasher.update(ids, lengths)
        self._ids.write(ids.tobytes())
        self._offsets.write((self._tokens + np.cumsum(lengths)).tobytes())
        self._tokens += len(ids)
        self._sentences += len(lengths)
        self._pending.clear()
        self._pending_ids = 0

    def _finish(self) -> None:
        self._flush()
        # The true lengths are known only now; the header keeps its size, which numpy pads for this
        # purpose.
        for file, dtype, count in (
            (self._ids, np.int32, self._tokens),
            (self._offsets, np.int64, self._sentences + 1),
        ):
            file.seek(0)
            _write_header(file, dtype, count)
            file.flush()
            os.fsync(file.fileno())
        note = {
            'sentences': self._sentences,
            'fingerprint': self._hasher.digest(),
            'metadata': self.metadata,
        }
        (self._temporary / 'store.json').write_text(json.dumps(note), 'utf-8')
        self._temporary.chmod(0o755)  # mkdtemp lets only its owner in
        if self.directory.exists():
            # A folder cannot be replaced in one step; a reader that mapped the old files keeps
            # them.
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                self.directory.rename(self._temporary / 'old')
        self._temporary_to_final()

    def _temporary_to_final(self) -> None:
        try:
            self._temporary.rename(self.directory)
        except OSError:
            if not (
                self.directory / 'store.json'
            ).is_file():  # another process finished the same store first: use it
                raise
        shutil.rmtree(self.directory / 'old', ignore_errors=True)


class _Hasher:
    """Hashes ids and lengths apart, so that it does not matter in which chunks they came."""

    def __init__(self) -> None:
        self._ids = hashlib.sha256()
        self._lengths = hashlib.sha256()

    def update(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        self._ids.update(np.ascontiguousarray(ids, '<i4').tobytes())
        self._lengths.update(np.ascontiguousarray(lengths, '<i8').tobytes())

    def digest(self) -> str:
        return hashlib.sha256(self._ids.digest() + self._lengths.digest()).hexdigest()


def _write_header(file: BinaryIO, dtype: Any, count: int) -> None:
    header = {'descr': np.dtype(dtype).str, 'fortran_order': False, 'shape': (count,)}
    np.lib.format.write_array_header_1_0(file, header)
