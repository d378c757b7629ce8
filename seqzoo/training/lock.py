"""One writer per run folder.

On one host, and on network file systems that pass locks on, a POSIX record lock on `lock.json`
decides: the kernel drops it when its process dies, however it dies, and forked workers do not
inherit it. Where a file system keeps locks to each host (or has none), the holder's heartbeat
decides: it touches the file every few seconds, and a newcomer who gets the lock though the file
names a holder that it cannot know to be dead watches whether the touching goes on. Known to be dead
is one on the same machine (told by its boot, not by its name, which containers and clones share)
whose number is unused, or used by a program that started later.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path

from seqzoo.errors import UserError

LOCK_FILE = 'lock.json'
HEARTBEAT_SECONDS = 5.0
# Network file systems show remembered times of a file for up to a minute.
SILENCE_SECONDS = 75.0
_log = logging.getLogger('seqzoo.training')
_held: dict[Path, 'RunLock'] = {}  # record locks do not exclude the process that has them


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who writes to a run.

    Attributes:
        host: Its name.
        pid: The number of the process there.
        started: When it took the lock, for people.
        token: Unlike that of any other start.
        machine: The boot of the machine and its world of process numbers; empty if unknown.
        born: When the process itself began, in ticks since the boot; empty if unknown.
    """

    host: str
    pid: int
    started: str
    token: str
    machine: str = ''
    born: str = ''

    @classmethod
    def here(cls) -> 'Holder':
        """This process."""
        return cls(
            socket.gethostname(),
            os.getpid(),
            time.strftime('%Y-%m-%d %H:%M:%S'),
            uuid.uuid4().hex,
            _machine(),
            _born(os.getpid()),
        )

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

    def __init__(
        self,
        run: Path,
        *,
        heartbeat: float = HEARTBEAT_SECONDS,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        """Prepares.

        Args:
            run: The folder.
            heartbeat: Seconds between two signs of life.
            silence: Seconds without one after which a holder on another machine counts as dead.
        """
        self._path = Path(run).resolve() / LOCK_FILE
        self._heartbeat, self._silence = heartbeat, silence
        self._file = -1
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost_to: Holder | None = None
        self._me = Holder.here()

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
            locked = _try_lock(file)
            if locked is False:
                raise self._refusal(_read(file))
            former = _read(file)
            doubtful = former is not None and not is_dead(former, self._me, locked)
            if doubtful and self._still_beats(file):
                raise self._refusal(former)
            self._write(file)
            if doubtful:
                # Two may have watched the same dead holder: the one that wrote last has it.
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
        """Watches whether anyone touches the file; compares no clocks."""
        _log.warning(
            '%s was being written by %s; waiting up to %.0f s to see whether it still lives',
            self._path.parent,
            _read(file),
            self._silence,
        )
        before = os.fstat(file).st_mtime_ns
        end = time.monotonic() + self._silence
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


def is_dead(former: Holder, me: Holder, locked: bool | None) -> bool:
    """Whether a holder that is named in the file is known to live no more.

    Args:
        former: Who is named.
        me: Who asks.
        locked: Whether the kernel gave `me` the lock; None where there are no locks.
    """
    if former.machine and me.machine:
        if former.machine != me.machine:
            return False
        # The kernel that gave us the lock would have kept it for a living holder.
        return bool(locked) or _born(former.pid) != former.born
    return bool(locked) and former.host == me.host


def _machine() -> str:
    """This boot of this machine and the world of its process numbers; empty where unknown."""
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        return f'{boot} {os.readlink("/proc/self/ns/pid")}'
    except OSError:
        return ''


def _born(pid: int) -> str:
    """When a process began, in ticks since the boot; empty if there is none or nobody says."""
    try:
        text = Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return ''
    return text.rpartition(')')[2].split()[19]  # field 22; the name before may hold anything


def _try_lock(file: int) -> bool | None:
    """False if another process has it; None where there are no locks."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return None
    return True


def _read(file: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(file, 1 << 16, 0)))
    except (
        ValueError,
        TypeError,
    ):  # empty: released; anything else: a holder that was killed while writing
        return None
