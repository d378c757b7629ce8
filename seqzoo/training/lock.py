"""One writer per run folder.

On one host, and on network file systems that pass locks on, a POSIX record lock on `lock.json`
decides: the kernel drops it when its process dies, however it dies, and forked workers do not
inherit it. Where a file system keeps locks to each host (or has none), the holder's heartbeat
decides: it touches the file every few seconds, and a newcomer who gets the lock though another host
is named in the file watches whether the touching goes on.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path

from seqzoo.errors import UserError

LOCK_FILE = 'lock.json'
HEARTBEAT_SECONDS = 5.0
_held: dict[Path, 'RunLock'] = {}  # record locks do not exclude the process that has them


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who writes to a run; `token` is unlike that of any other start."""

    host: str
    pid: int
    started: str
    token: str

    def __str__(self) -> str:
        return f'process {self.pid} on {self.host}, started {self.started}'


class RunLock:
    """Held while a run writes to its folder; of several processes the first one takes it.

    ```
    with RunLock(run) as lock:
        ...
        lock.check()      # now and then: the folder is still ours
    ```
    """

    def __init__(self, run: Path, *, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self._path = Path(run).absolute() / LOCK_FILE
        self._heartbeat = heartbeat
        self._file = -1
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost_to: Holder | None = None
        self._me = Holder(
            socket.gethostname(),
            os.getpid(),
            time.strftime('%Y-%m-%d %H:%M:%S'),
            uuid.uuid4().hex,
        )

    def __enter__(self) -> 'RunLock':
        self.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            UserError: another live run has it, or there is no writing there.
        """
        if self._path in _held:
            raise self._refusal(_held[self._path]._me)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f'{self._path.parent} cannot be the folder of a run ({error.strerror or error}); '
                'give --run another folder'
            ) from error
        try:
            if not _try_lock(file):
                raise self._refusal(_read(file))
            former = _read(file)
            if former and former.host != self._me.host and self._still_beats(file):
                raise self._refusal(former)
            self._write(file)
            if former and former.host != self._me.host:
                # Two hosts may have watched the same dead holder: the one that wrote last has it.
                time.sleep(min(1.0, self._heartbeat))
                if (now := _read(file)) != self._me:
                    raise self._refusal(now)
        except BaseException:
            os.close(file)
            raise
        self._file = file
        self._stop.clear()
        self._lost_to = None
        _held[self._path] = self
        self._thread = threading.Thread(target=self._beat, name='run-lock', daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Gives the lock back and says so in the file; without the lock it does nothing."""
        if self._file < 0:
            return
        self._stop.set()
        assert self._thread is not None
        self._thread.join()
        # A full or vanished disk must not hide what went wrong before.
        with contextlib.suppress(OSError):
            if self._lost_to is None:
                os.ftruncate(self._file, 0)
        os.close(self._file)
        self._file = -1
        del _held[self._path]

    def check(self) -> None:
        """Raises UserError if this process slept so long that another host took the folder."""
        if self._lost_to is not None:
            raise UserError(
                f'{self._path.parent} was taken over by {self._lost_to} while this process '
                'did not answer; let that one go on, or stop it and start this one again'
            )

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat):
            # A disk that does not answer is no reason to stop a run: the next beat tries again.
            with contextlib.suppress(OSError):
                holder = _read(self._file)
                if holder is not None and holder != self._me:
                    self._lost_to = holder
                    return
                os.utime(self._file)

    def _still_beats(self, file: int) -> bool:
        """Watches for three heartbeats whether anyone touches the file; compares no clocks."""
        before = os.fstat(file).st_mtime_ns
        end = time.monotonic() + 3 * self._heartbeat
        while time.monotonic() < end:
            time.sleep(self._heartbeat / 5)
            try:
                # By name: on network file systems an open file may show remembered times.
                now = os.stat(self._path).st_mtime_ns
            except FileNotFoundError:
                return False
            if now != before:
                return _read(file) is not None  # emptied: released just now
        return False

    def _write(self, file: int) -> None:
        text = json.dumps(dataclasses.asdict(self._me)).encode()
        os.ftruncate(file, 0)
        os.pwrite(file, text, 0)
        os.fsync(file)

    def _refusal(self, holder: Holder | None) -> UserError:
        return UserError(
            f'{self._path.parent} is being written by another run '
            f'({holder or "it is just starting or leaving"}); '
            'wait for it, stop it, or give --run another folder'
        )


def lock_holder(run: Path) -> Holder | None:
    """The live holder of a run's lock as far as this host can tell, or None. Changes nothing.

    A holder on another host whose lock does not reach this one is reported while its last heartbeat
    is younger than a minute.
    """
    path = Path(run).absolute() / LOCK_FILE
    if path in _held:
        return _held[path]._me  # opening and closing the file here would drop our own lock
    if not path.exists():
        return None
    file = os.open(path, os.O_RDWR)
    try:
        holder = _read(file)
        if not _try_lock(file):
            return holder or Holder('an unknown host', 0, 'at an unknown time', '')
        if holder is None or holder.host == socket.gethostname():
            return None
        return holder if abs(time.time() - os.fstat(file).st_mtime) < 60 else None
    finally:
        os.close(file)


def _try_lock(file: int) -> bool:
    """False if another process has it. Where there are no locks the heartbeat decides."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


def _read(file: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(file, 1 << 16, 0)))
    except (
        ValueError,
        TypeError,
    ):  # empty: released; anything else: a holder that was killed while writing
        return None
