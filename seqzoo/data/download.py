"""Downloads to trust: streamed to disk, resumed where they broke off, checked by SHA-256.

The bytes go into `NAME.part` and get their real name only after the checksum agreed, so a file
under its real name is whole. Nothing is ever held in memory beyond one block.
"""

import contextlib
import dataclasses
import errno
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from seqzoo.errors import UserError

_BLOCK = 1 << 20
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """One file of the web and how to recognise it.

    Attributes:
        url: where it lies, http or https.
        filename: its name on our disk.
        sha256: hexadecimal digest of its content.
        size: its length in bytes, if the publisher listed it.
    """

    url: str
    filename: str
    sha256: str
    size: int | None = None

    def __post_init__(self) -> None:
        scheme = urllib.parse.urlsplit(self.url).scheme
        if scheme not in ('http', 'https'):
            raise UserError(
                f'The address {self.url} does not begin with http:// or https://: give a web '
                'address.'
            )


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far one part of a preparation has come.

    Attributes:
        action: 'download', 'verify' or 'write'.
        name: the file or the corpus at work.
        done: units finished so far.
        total: units in all, or None where that is not known beforehand.
        unit: 'bytes' or 'pairs'.
    """

    action: str
    name: str
    done: int
    total: int | None
    unit: str


ProgressCallback = Callable[[Progress], None]


class _ConnectionLost(Exception):
    """The transfer broke off in a way that another attempt may mend."""


def download(
    remote: RemoteFile,
    directory: Path,
    *,
    progress: ProgressCallback | None = None,
    attempts: int = 5,
    retry_delay: float = 1.0,
    timeout: float = 60.0,
) -> Path:
    """Returns the path of `remote` in `directory`, downloading what is not there yet.

    A file that lies there already (from an earlier call, or put there by hand) is checked, not
    fetched again. A `.part` file of an interrupted call is continued if the server permits it.

    Args:
        remote: what to fetch.
        directory: where to; made if missing.
        progress: called about once per mebibyte.
        attempts: how often to connect without getting any further before giving up; each attempt
            goes on where the last broke off.
        retry_delay: seconds before the second attempt; doubles with each further one.
        timeout: seconds without a byte after which a connection counts as lost.

    Raises:
        UserError: the server refuses, the connection keeps breaking, the disk is full, or the
        checksum is wrong.
    """
    report = progress or (lambda _: None)
    target = directory / remote.filename
    if target.exists():
        digest = _sha256(target, remote, report)
        if digest != remote.sha256:
            raise UserError(
                f'{target} is not the file published as {remote.url} (its sha256 is {digest}, '
                f'{remote.sha256} is expected): delete it and run the same command again.'
            )
        return target
    part = target.with_name(target.name + '.part')
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f'The folder {directory} cannot be made ({error.strerror}): choose another data '
            'directory.'
        ) from error

    # A part left by an earlier call may belong to an older version of the file; if the whole does
    # not fit the checksum, one clean download decides whether the server or the old part was wrong.
    resumed = part.exists()
    while True:
        _fetch_with_retries(remote, part, report, attempts, retry_delay, timeout)
        digest = _sha256(part, remote, report)
        if digest == remote.sha256:
            break
        part.unlink()
        if not resumed:
            raise UserError(
                f'{remote.url} sent a file with sha256 {digest}, but {remote.sha256} is expected: '
                'it was removed; run the same command again, and if this repeats the publisher '
                'has changed the file.'
            )
        resumed = False
    os.replace(part, target)
    return target


def _fetch_with_retries(
    remote: RemoteFile,
    part: Path,
    report: ProgressCallback,
    attempts: int,
    retry_delay: float,
    timeout: float,
) -> None:
    failures, furthest = 0, 0
    while True:
        try:
            _fetch(remote, part, report, timeout)
            return
        except _ConnectionLost as error:
            kept = part.stat().st_size if part.exists() else 0
            # A bad line may break hundreds of times in a large file; only standing still counts.
            failures = 1 if kept > furthest else failures + 1
            furthest = max(kept, furthest)
            if failures >= attempts:
                total = f' of {remote.size:,}' if remote.size else ''
                raise UserError(
                    f'{remote.url} could not be downloaded ({error}): run the same command again '
                    f'to go on from the {kept:,}{total} bytes in {part}, or put the file at '
                    f'{part.with_suffix("")} by hand.'
                ) from error
            time.sleep(min(retry_delay * 2 ** (failures - 1), 60.0))


def _fetch(remote: RemoteFile, part: Path, report: ProgressCallback, timeout: float) -> None:
    """One connection: appends to `part` what it does not have yet."""
    start = part.stat().st_size if part.exists() else 0
    if remote.size is not None and start > remote.size:
        part.unlink()
        start = 0
    if remote.size is not None:
        if start == remote.size:
            return
        _check_free_space(part, remote.size - start)
    # Without 'identity' a proxy may compress on the way, and neither ranges nor checksums would
    # fit.
    headers = {'User-Agent': 'seqzoo', 'Accept-Encoding': 'identity'}
    if start:
        headers['Range'] = f'bytes={start}-'
    request = urllib.request.Request(remote.url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            if start and response.status != 206:
                start = 0  # the server ignores ranges and sends everything
            elif start and not response.headers.get('Content-Range', '').startswith(
                f'bytes {start}-'
            ):
                part.unlink()
                raise _ConnectionLost('the server continued at another place than asked')
            _receive(response, part, start, remote, report)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # our part is longer than the file on the server
            part.unlink(missing_ok=True)
            raise _ConnectionLost('the server has fewer bytes than the part kept here') from error
        if error.code in _RETRIED_STATUS:
            raise _ConnectionLost(f'HTTP status {error.code} {error.reason}') from error
        raise UserError(
            f'{remote.url} answered with HTTP status {error.code} {error.reason}: check the '
            f'address and your access, or put the file at {part.with_suffix("")} by hand.'
        ) from error
    except urllib.error.URLError as error:
        raise _ConnectionLost(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _ConnectionLost(str(error) or type(error).__name__) from error


def _receive(
    response: http.client.HTTPResponse,
    part: Path,
    start: int,
    remote: RemoteFile,
    report: ProgressCallback,
) -> None:
    length = response.headers.get('Content-Length')
    total = start + int(length) if length and length.isdigit() else remote.size
    done = start
    with _writing(part), open(part, 'ab' if start else 'wb') as file:
        while block := _read_block(response):
            file.write(block)
            done += len(block)
            if remote.size is not None and done > remote.size:
                break  # longer than listed: the checksum cannot fit, so do not fill the disk
            report(Progress('download', remote.filename, done, total, 'bytes'))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done < total:
        raise _ConnectionLost(f'the connection ended after {done:,} of {total:,} bytes')


def _read_block(response: http.client.HTTPResponse) -> bytes:
    """Reads at most one block; keeps trouble of the network apart from that of the disk."""
    try:
        return response.read(_BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _ConnectionLost(str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns an `OSError` of the disk into the sentence for the user."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = 'the disk is full' if full else error.strerror or str(error)
        raise UserError(
            f'{path} cannot be written ({reason}): make room or choose another data directory, '
            'then run the same command again to go on from there.'
        ) from error


def _check_free_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise UserError(
            f'{part.parent} has {free:,} bytes free, but {part.with_suffix("").name} needs '
            f'{needed:,} more: make room or choose another data directory.'
        )


def _sha256(path: Path, remote: RemoteFile, report: ProgressCallback) -> str:
    digest = hashlib.sha256()
    done, total = 0, path.stat().st_size
    with open(path, 'rb') as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            done += len(block)
            report(Progress('verify', remote.filename, done, total, 'bytes'))
    return digest.hexdigest()
