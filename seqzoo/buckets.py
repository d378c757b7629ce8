"""Runs and data in a bucket, `gs://BUCKET/NAME`.

What is large and written in parallel, checkpoints, goes to the bucket directly: Orbax and
TensorStore know buckets. All other files of a run are small, and some grow line by line, which an
object cannot; so a bucket has a *mirror*, a local folder that all other code reads and writes, and
whose changed files are brought to the bucket. The bucket decides: a file that somebody else changed
there replaces the local one.

A mirror names its bucket in `MIRROR_FILE`, together with the generation of every object that it
holds, by which a change is known without reading.
"""

import contextlib
import dataclasses
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from seqzoo.errors import UserError

if TYPE_CHECKING:
    from etils import epath

T = TypeVar('T')

MIRROR_FILE = '.bucket.json'
PUSH_SECONDS = 15.0
# Of a run: what Orbax writes to the bucket itself, and what only the lock writes.
NOT_MIRRORED = ('checkpoints', 'snapshots', 'lock.json')
_log = logging.getLogger('seqzoo')


def is_address(path: Any) -> bool:
    """Whether this is an address, such as `gs://bucket/run`, and no path of the file system."""
    return '://' in str(path)


def place(text: str) -> Path | str:
    """A path, or an address as it is: `Path` would take one of its slashes. For `argparse`."""
    return text if is_address(text) else Path(text)


def filesystem() -> Any:
    """The file system of Google Cloud Storage.

    Raises:
        UserError: `gcsfs` is not installed.
    """
    try:
        import fsspec
        import fsspec.config
        import gcsfs  # noqa: F401  (fsspec finds it by name)
    except ImportError as error:
        raise UserError(
            'a gs:// address needs the package gcsfs: install seqzoo[gcs], or give a folder'
        ) from error
    # Others write to the same bucket, TensorStore and other hosts among them: no listing is
    # remembered. Orbax gets the same file system, with the same setting.
    fsspec.config.conf.setdefault('gcs', {}).setdefault('use_listings_cache', False)
    return fsspec.filesystem('gcs', finalize_on_close=True)


@contextlib.contextmanager
def failures_named(address: str) -> Iterator[None]:
    """Turns what the store or its client says into a sentence."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f'{address} does not exist ({error}); check the address.') from error
    except Exception as error:  # of aiohttp, google.auth, requests and gcsfs, each with its own
        said = ' '.join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f'{address} cannot be used ({said}); check the name of the bucket, and who you are '
            '(`gcloud auth application-default login`, or the service account of the machine).'
        ) from error


def home_of(folder: Path) -> 'Path | epath.Path':
    """Where the large parts of a folder lie: in it, or in the bucket that it mirrors."""
    mirror = Mirror.at(folder)
    return folder if mirror is None else path_of(mirror.address)


def path_of(address: Any) -> 'epath.Path':
    """The address as a path that reads and writes there."""
    from etils import epath  # here: commands that need no bucket start faster without it

    filesystem()
    return epath.Path(address)


def in_bucket(path: Any) -> bool:
    """Whether a path of Orbax is one of a bucket."""
    return str(path).startswith('gs://')


def split_address(address: str, what: str = '') -> tuple[str, str]:
    """Bucket and name of an address.

    Raises:
        UserError: it is none of Google Cloud Storage, or names no folder in a bucket.
    """
    scheme, _, rest = address.partition('://')
    bucket, _, name = rest.strip('/').partition('/')
    if scheme != 'gs' or not bucket or not name:
        raise UserError(
            f'{what} {address} is not the address of a folder in a bucket, gs://BUCKET/NAME; mount '
            'other stores, and give the path.'.strip()
        )
    return bucket, name


def listed(address: str) -> dict[str, dict[str, Any]]:
    """The objects below an address by their names from there, with what the store knows of them."""
    bucket, name = split_address(address)
    found = filesystem().find(f'{bucket}/{name}', detail=True)
    start = len(f'{bucket}/{name}/')
    return {path[start:]: about for path, about in found.items() if about['type'] == 'file'}


@dataclasses.dataclass(frozen=True)
class Mirror:
    """A local folder that stands for one in a bucket.

    Attributes:
        folder: the local one.
        address: of the other, without a slash at its end.
    """

    folder: Path
    address: str

    @classmethod
    def of(cls, address: str, cache: Path, what: str = '') -> 'Mirror':
        """The mirror of an address, below a cache folder."""
        bucket, name = split_address(address, what)
        return cls(cache / 'buckets' / bucket / name, f'gs://{bucket}/{name}')

    @classmethod
    def at(cls, folder: Path) -> 'Mirror | None':
        """What a folder mirrors, if it does."""
        noted = Path(folder) / MIRROR_FILE
        if not noted.is_file():
            return None
        return cls(Path(folder), json.loads(noted.read_text(encoding='utf-8'))['address'])

    def pull(self, leave_out: tuple[str, ...] = NOT_MIRRORED) -> None:
        """Brings what changed in the bucket; files that are gone there go here too.

        Raises:
            UserError: the bucket cannot be read.
        """
        with failures_named(self.address):
            there = {
                name: about
                for name, about in listed(self.address).items()
                if name.split('/')[0] not in leave_out and name
            }
            known = self._known()
            for name, about in there.items():
                if self._is_current(name, about, known):
                    continue
                self._bring(name)
                known[name] = self._note(name, about)
            for name in known.keys() - there.keys():
                (self.folder / name).unlink(missing_ok=True)
                del known[name]
            self._remember(known)

    def push(self) -> None:
        """Brings to the bucket what changed here.

        Raises:
            UserError: the bucket cannot be written.
        """
        with failures_named(self.address):
            known, files = self._known(), filesystem()
            bucket, name = split_address(self.address)
            for path in sorted(self.folder.rglob('*')):
                local = path.relative_to(self.folder).as_posix()
                passing = path.name.startswith('.') or path.name.endswith(('.part', '.new'))
                if passing or not path.is_file() or local.split('/')[0] in NOT_MIRRORED:
                    continue
                now = _stamp(path)
                if known.get(local, {}).get('stamp') == now:
                    continue
                target = f'{bucket}/{name}/{local}'
                files.put_file(str(path), target)
                known[local] = {'stamp': now, 'generation': _generation(files.info(target))}
            self._remember(known)

    def discard(self, names: Iterable[str]) -> None:
        """Deletes files here and in the bucket; what is in neither is left out. Only what is gone
        there too does not come back with the next `pull`.

        Raises:
            UserError: the bucket cannot be written.
        """
        with failures_named(self.address):
            known, files = self._known(), filesystem()
            bucket, start = split_address(self.address)
            for name in names:
                (self.folder / name).unlink(missing_ok=True)
                if known.pop(name, None) is not None:
                    with contextlib.suppress(FileNotFoundError):
                        files.rm_file(f'{bucket}/{start}/{name}')
            self._remember(known)

    @contextlib.contextmanager
    def pushed(self, seconds: float = PUSH_SECONDS) -> Iterator[None]:
        """Pushes now and then while its block runs, and at its end."""
        ended = threading.Event()

        def now_and_then() -> None:
            while not ended.wait(seconds):
                try:
                    self.push()
                except UserError as error:  # a bucket that does not answer: the next try may do
                    _log.warning('%s', error)

        thread = threading.Thread(target=now_and_then, name='bucket', daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.push()

    def _is_current(self, name: str, about: dict[str, Any], known: dict[str, Any]) -> bool:
        # What grew here since is not lost: the object is the one that was brought or pushed.
        same = known.get(name, {}).get('generation') == _generation(about)
        return same and (self.folder / name).is_file()

    def _bring(self, name: str) -> None:
        bucket, start = split_address(self.address)
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f'.{target.name}.part')
        filesystem().get_file(f'{bucket}/{start}/{name}', str(partial))
        partial.replace(target)

    def _note(self, name: str, about: dict[str, Any]) -> dict[str, Any]:
        return {'stamp': _stamp(self.folder / name), 'generation': _generation(about)}

    def _known(self) -> dict[str, Any]:
        noted = self.folder / MIRROR_FILE
        try:
            return json.loads(noted.read_text(encoding='utf-8'))['files']
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError):  # killed while writing: everything is brought anew
            return {}

    def _remember(self, known: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f'{MIRROR_FILE}.{threading.get_ident()}.part'
        partial.write_text(json.dumps({'address': self.address, 'files': known}))
        partial.replace(self.folder / MIRROR_FILE)


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _generation(about: dict[str, Any]) -> str:
    return str(about.get('generation', ''))


def held(folder: Path) -> Iterator[Path]:
    """What a mirror holds of its bucket, at its top."""
    return (path for path in folder.iterdir() if path.name != MIRROR_FILE)


def push(folder: Path) -> None:
    """Brings what changed in a folder to the bucket that it mirrors, if it does."""
    if (mirror := Mirror.at(folder)) is not None:
        mirror.push()


def pull(folder: Path) -> None:
    """Brings what changed in the bucket that a folder mirrors, if it does."""
    if (mirror := Mirror.at(folder)) is not None:
        mirror.pull()


def discard(folder: Path, names: Iterable[str]) -> None:
    """Deletes files of a folder, and of the bucket that it mirrors, if it does."""
    if (mirror := Mirror.at(folder)) is not None:
        mirror.discard(names)
    else:
        for name in names:
            (folder / name).unlink(missing_ok=True)


# One object, read and replaced only as it was seen: what a lock is made of.


class Changed(Exception):
    """The object is no longer what it was."""


def read_object(address: str) -> tuple[bytes, int] | None:
    """An object and its generation; None if there is none."""
    bucket, name = split_address(address)
    files = filesystem()
    with contextlib.suppress(FileNotFoundError):
        about = files.call('GET', 'b/{}/o/{}', bucket, name, json_out=True)
        return files.cat_file(f'{bucket}/{name}'), int(about['generation'])
    return None


def replace_object(address: str, data: bytes, generation: int) -> int:
    """Writes an object if its generation is this one, 0 for none; returns the new one.

    Raises:
        Changed: it is another one.
    """
    bucket, name = split_address(address)
    files = filesystem()
    about = _if_unchanged(
        lambda: files.call(
            *('POST', f'{files._location}/upload/storage/v1/b/{bucket}/o'),
            uploadType='media',
            name=name,
            ifGenerationMatch=str(generation),
            data=data,
            json_out=True,
        )
    )
    return int(about['generation'])


def delete_object(address: str, generation: int) -> None:
    """Deletes an object if its generation is this one.

    Raises:
        Changed: it is another one, or gone.
    """
    bucket, name = split_address(address)
    query = {'ifGenerationMatch': str(generation)}
    _if_unchanged(lambda: filesystem().call('DELETE', 'b/{}/o/{}', bucket, name, **query))


def _if_unchanged(call: Callable[[], T]) -> T:
    try:
        return call()
    except (FileNotFoundError, FileExistsError) as error:  # gone, or 412: a precondition failed
        raise Changed from error
