"""Token ids of a corpus as two flat arrays, in memory or mapped from disk.

Millions of sentences as Python objects would cost a hundred bytes each beside their ids; here a
sentence costs its ids and one offset, every process maps the same file, and opening it takes no
time.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, Self

import numpy as np

from seqzoo.errors import UserError

_WRITE_AT_ONCE = 1 << 20  # ids held back before they go to disk
_NOTE_EVERY = 1 << 23  # ids between two notes of how far the writing is
_PROGRESS = 'progress.json'
_HEADER_BYTES = 128  # of a .npy file, as `_write_header` writes it


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
    def from_chunks(
        cls,
        chunks: Iterable[tuple[np.ndarray, np.ndarray]],
        metadata: dict[str, Any] | None = None,
    ) -> Self:
        """A store in memory from ids of several sentences each, with their lengths."""
        parts = list(chunks)
        lengths = np.concatenate([np.zeros(0, np.int32), *(part[1] for part in parts)])
        ids = np.concatenate([np.zeros(0, np.int32), *(part[0] for part in parts)])
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        hasher = _Hasher()
        hasher.update(ids, lengths)
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
        lengths = np.empty(len(self), np.int32)
        # By parts, and from a file of its own: a mapped page that was once read stays in memory.
        for first, ends in self._offset_parts():
            np.subtract(
                ends[1:], ends[:-1], out=lengths[first : first + len(ends) - 1], casting='unsafe'
            )
        return lengths

    def _offset_parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """Parts of `offsets` that overlap by one, with where they begin."""
        if self.directory is None:
            yield 0, self.offsets
            return
        for first in range(0, len(self), _WRITE_AT_ONCE):
            count = min(_WRITE_AT_ONCE, len(self) - first) + 1
            with (self.directory / 'offsets.npy').open('rb') as file:
                file.seek(_HEADER_BYTES + 8 * first)
                yield first, np.frombuffer(file.read(8 * count), np.int64)


def _restore(
    ids: np.ndarray, offsets: np.ndarray, fingerprint: str, metadata: dict[str, Any]
) -> TokenStore:
    return TokenStore(ids, offsets, fingerprint=fingerprint, metadata=metadata)


class TokenStoreWriter:
    """Writes a `TokenStore` sentence by sentence, in bounded memory.

    A context manager. The folder appears under its name, complete, when the block ends; if the
    block fails nothing stays behind. An existing folder of that name is replaced.

    With `resume` what was written goes on: every few hundred megabytes the writer notes how far it
    is, and the next one for the same folder and metadata begins there, even if this one is killed
    or the machine loses power. `sentences` says how many there are already.

    Args:
        directory: the folder to make.
        metadata: JSON values to keep beside the ids.
        resume: take up, and leave behind, unfinished work. While another process is at it, work
            begins anew in a folder of its own, and whoever is done first has the name.
    """

    def __init__(
        self,
        directory: str | Path,
        metadata: dict[str, Any] | None = None,
        *,
        resume: bool = False,
    ):
        self.directory = Path(directory)
        self.metadata = metadata or {}
        self.sentences = 0
        self._resume = resume
        self._lock: IO[str] | None = None
        self._temporary: Path | None = None
        self._hasher = _Hasher()
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._pending_ids = 0
        self._tokens = 0
        self._written = 0  # sentences in the files
        self._noted = 0  # tokens in the files when they were last noted

    def __enter__(self) -> Self:
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self._take_up() if self._resume else None
        if self._temporary is None:
            prefix = f'.{self.directory.name}-'
            self._temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=self.directory.parent))
        mode = 'r+b' if self._written else 'wb'
        self._ids = (self._temporary / 'ids.npy').open(mode)
        self._offsets = (self._temporary / 'offsets.npy').open(mode)
        if self._written:
            self._ids.seek(0, os.SEEK_END)
            self._offsets.seek(0, os.SEEK_END)
            return self
        _write_header(self._ids, np.int32, 0)
        _write_header(self._offsets, np.int64, 0)
        self._offsets.write(np.zeros(1, np.int64).tobytes())
        return self

    def add(self, sentence: Any) -> None:
        """Appends one sentence, a sequence of ids."""
        array = np.asarray(sentence, np.int32)
        self.add_encoded(array, np.array([len(array)], np.int32))

    def add_batch(self, sentences: Iterable[Any]) -> None:
        """Appends several sentences."""
        for sentence in sentences:
            self.add(sentence)

    def add_encoded(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Appends several sentences, `[tokens]` ids one after the other and `[sentences]`
        lengths.
        """
        self._pending.append((ids, lengths))
        self.sentences += len(lengths)
        self._pending_ids += len(ids) + len(lengths)  # empty ones must not pile up either
        if self._pending_ids >= _WRITE_AT_ONCE:
            self._flush()
            if self._lock is not None and self._tokens - self._noted >= _NOTE_EVERY:
                self._note_progress()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        assert self._temporary is not None
        try:
            if kind is None:
                self._finish()
        finally:
            self._ids.close()
            self._offsets.close()
            if kind is None or not (self._temporary / _PROGRESS).exists():
                shutil.rmtree(self._temporary, ignore_errors=True)
            if self._lock is not None:
                self._lock.close()

    def _take_up(self) -> Path | None:
        """The folder of unfinished work, this process alone at it; `None` if another one is."""
        folder = self.directory.with_name(f'.{self.directory.name}.partial')
        folder.mkdir(exist_ok=True)
        lock = (folder / 'lock').open('a')
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # taken, or a file system without locks
            lock.close()
            return None
        here = folder / 'lock'
        if not here.exists() or here.stat().st_ino != os.fstat(lock.fileno()).st_ino:
            lock.close()  # the other process has just finished, and the folder its final name
            return None
        self._lock = lock
        try:
            note = json.loads((folder / _PROGRESS).read_text('utf-8'))
            if note['metadata'] != self.metadata:
                raise ValueError('the work of another text or tokenizer')
            self._restore(folder, note['sentences'], note['tokens'])
        except (OSError, ValueError, KeyError, TypeError):
            (folder / _PROGRESS).unlink(missing_ok=True)
            self._hasher, self._tokens, self._written, self.sentences = _Hasher(), 0, 0, 0
        return folder

    def _restore(self, folder: Path, sentences: int, tokens: int) -> None:
        """Cuts the files back to what was noted and hashes it again."""
        sizes = (('ids.npy', np.int32, tokens), ('offsets.npy', np.int64, sentences + 1))
        for name, dtype, count in sizes:
            with (folder / name).open('r+b') as file:
                whole = _HEADER_BYTES + np.dtype(dtype).itemsize * count
                if file.seek(0, os.SEEK_END) < whole:
                    raise ValueError(f'{name} is shorter than noted')
                file.truncate(whole)
        with (folder / 'ids.npy').open('rb') as ids, (folder / 'offsets.npy').open('rb') as offsets:
            ids.seek(_HEADER_BYTES)
            offsets.seek(_HEADER_BYTES)
            before = np.frombuffer(offsets.read(8), np.int64)
            while chunk := offsets.read(8 * _WRITE_AT_ONCE):
                ends = np.frombuffer(chunk, np.int64)
                lengths = np.diff(ends, prepend=before)
                part = np.frombuffer(ids.read(4 * int(lengths.sum())), np.int32)
                if len(part) != lengths.sum():
                    raise ValueError('the files do not belong together')
                self._hasher.update(part, lengths)
                before = ends[-1:]
        if before[0] != tokens:
            raise ValueError('the files do not belong together')
        self._tokens, self._written, self.sentences = tokens, sentences, sentences
        self._noted = tokens

    def _note_progress(self) -> None:
        assert self._temporary is not None
        for file in (self._ids, self._offsets):
            file.flush()
            os.fsync(file.fileno())
        note = {'metadata': self.metadata, 'sentences': self._written, 'tokens': self._tokens}
        new = self._temporary / f'{_PROGRESS}.new'
        with new.open('w', encoding='utf-8') as file:
            json.dump(note, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._temporary / _PROGRESS)
        self._noted = self._tokens

    def _flush(self) -> None:
        if not self._pending:
            return
        ids = np.concatenate([part[0] for part in self._pending])
        lengths = np.concatenate([part[1] for part in self._pending]).astype(np.int64)
        self._hasher.update(ids, lengths)
        self._ids.write(ids.tobytes())
        self._offsets.write((self._tokens + np.cumsum(lengths)).tobytes())
        self._tokens += len(ids)
        self._written += len(lengths)
        self._pending.clear()
        self._pending_ids = 0

    def _finish(self) -> None:
        self._flush()
        # The true lengths are known only now; the header keeps its size, which numpy pads for this
        # purpose.
        for file, dtype, count in (
            (self._ids, np.int32, self._tokens),
            (self._offsets, np.int64, self._written + 1),
        ):
            file.seek(0)
            _write_header(file, dtype, count)
            file.flush()
            os.fsync(file.fileno())
        note = {
            'sentences': self._written,
            'fingerprint': self._hasher.digest(),
            'metadata': self.metadata,
        }
        assert self._temporary is not None
        for name in (_PROGRESS, 'lock'):
            (self._temporary / name).unlink(missing_ok=True)
        (self._temporary / 'store.json').write_text(json.dumps(note), 'utf-8')
        self._temporary.chmod(0o755)  # mkdtemp lets only its owner in
        if self.directory.exists():
            # A folder cannot be replaced in one step; a reader that mapped the old files keeps
            # them.
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                self.directory.rename(self._temporary / 'old')
        self._temporary_to_final()

    def _temporary_to_final(self) -> None:
        assert self._temporary is not None
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
