"""One writer per run folder in a bucket.

The lock is an object, `lock.json`, that names its holder. It is made, renewed and taken over only
with a precondition on its generation, which the store decides for all hosts alike: of several that
try at once, one succeeds. The holder renews it every few seconds, and so learns when it was taken
over; a newcomer who finds it watches whether it is renewed, and takes it over after a minute of
silence, or at once where the holder is a dead process of the same machine. As with any lease, a
holder that the network cuts off for that long may still write until its next renewal fails; `check`
is called before every save.
"""

import contextlib
import json
import logging
import threading
import time
from dataclasses import asdict
from pathlib import Path

from seqzoo import buckets
from seqzoo.errors import UserError
from seqzoo.training.lock import LOCK_FILE, SILENCE_SECONDS, Holder, RunLock, is_dead

RENEW_SECONDS = 10.0  # a store takes about one write a second of an object
_log = logging.getLogger('seqzoo.training')


class BucketLock:
    """As `lock.RunLock`, for the run at an address."""

    def __init__(
        self, address: str, *, renew: float = RENEW_SECONDS, silence: float = SILENCE_SECONDS
    ) -> None:
        """Prepares; see `RunLock` for the times."""
        self._run, self._address = address, f'{address.rstrip("/")}/{LOCK_FILE}'
        self._renew, self._silence = renew, silence
        self._me = Holder.here()
        self._generation = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost_to: str = ''

    def __enter__(self) -> 'BucketLock':
        self.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            UserError: another live run has it, or the bucket cannot be written.
        """
        with buckets.failures_named(self._run):
            former = buckets.read_object(self._address)
            seen = 0 if former is None else former[1]
            if former is not None and not self._is_free(*former):
                raise self._refusal(_holder(former[0]))
            try:
                self._generation = self._write(seen)
            except buckets.Changed as error:
                now = buckets.read_object(self._address)
                raise self._refusal(_holder(now[0]) if now else None) from error
        self._stop.clear()
        self._lost_to = ''
        self._thread = threading.Thread(target=self._keep, name='run-lock', daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Gives the lock back; without the lock it does nothing."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        # A bucket that does not answer any more must not hide what went wrong before.
        with contextlib.suppress(Exception):
            if not self._lost_to:
                buckets.delete_object(self._address, self._generation)

    def check(self) -> None:
        """Raises UserError if this process was silent so long that another one took the run."""
        if self._lost_to:
            raise UserError(
                f'{self._run} was taken over by {self._lost_to} while this process did not '
                'answer; let that one go on, or stop it and start this one again'
            )

    def _is_free(self, data: bytes, generation: int) -> bool:
        holder = _holder(data)
        if holder is not None and is_dead(holder, self._me, None):
            return True
        _log.warning(
            '%s was being written by %s; waiting up to %.0f s to see whether it still lives',
            self._run,
            holder,
            self._silence,
        )
        end = time.monotonic() + self._silence
        while time.monotonic() < end:
            time.sleep(self._renew / 5)
            now = buckets.read_object(self._address)
            if now is None or now[1] != generation:
                return False  # renewed; or released: the next start finds it free
        return True

    def _write(self, generation: int) -> int:
        data = json.dumps(asdict(self._me)).encode()
        return buckets.replace_object(self._address, data, generation)

    def _keep(self) -> None:
        while not self._stop.wait(self._renew):
            try:
                self._generation = self._write(self._generation)
            except buckets.Changed:
                now = None
                with contextlib.suppress(Exception):
                    now = buckets.read_object(self._address)
                self._lost_to = str((_holder(now[0]) if now else None) or 'another process')
                return
            except Exception as error:
                # A store that does not answer is no reason to stop a run: the next try may do.
                _log.warning('%s cannot be renewed: %s', self._address, error)

    def _refusal(self, holder: Holder | None) -> UserError:
        return UserError(
            f'{self._run} is being written by another run '
            f'({holder or "it is just starting or leaving"}); '
            'wait for it, stop it, or give --run another folder'
        )


def _holder(data: bytes) -> Holder | None:
    try:
        return Holder(**json.loads(data))
    except (ValueError, TypeError):
        return None


def lock_of(run: Path) -> RunLock | BucketLock:
    """The lock of a run folder, in the folder or in the bucket that it mirrors."""
    home = buckets.home_of(run)
    return BucketLock(str(home)) if buckets.in_bucket(home) else RunLock(run)
