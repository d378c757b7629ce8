"""Lines to token ids on all cores, in their order and in bounded memory.

Workers are programs of their own (`python -m seqzoo.data.encoding_worker`): they import no JAX,
need nothing of the calling script, and end by themselves when their caller is gone. A thread for
each of them hands it chunks of lines; the results come back in the order of the lines.
"""

import itertools
import os
import pickle
import queue
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

LINES_AT_ONCE = 4096
# Below, starting workers takes longer than the work.
WORTH_WORKERS = 100_000
_HEADER = struct.Struct('<Q')


class LineEncoder(Protocol):
    """What turns lines into ids: a tokenizer, or one that closes each line."""

    @property
    def fingerprint(self) -> Any:
        """Text that tells it from others, which give other ids."""
        ...

    def encode_batch(self, lines: Sequence[str]) -> list[np.ndarray]:
        """Ids of several lines, each `[length]` int32."""
        ...


@dataclass(frozen=True)
class EncodedLines:
    """Some lines as token ids.

    Attributes:
        ids: `[tokens]` int32, one line after the other.
        lengths: `[lines]` int32.
    """

    ids: np.ndarray
    lengths: np.ndarray


def encode_chunk(lines: Sequence[str], encoder: LineEncoder) -> EncodedLines:
    """Ids of some lines, here and now."""
    sentences = [np.asarray(ids, np.int32) for ids in encoder.encode_batch(lines)]
    lengths = np.fromiter((len(ids) for ids in sentences), np.int32, len(sentences))
    ids = np.concatenate(sentences) if sentences else np.zeros(0, np.int32)
    return EncodedLines(ids, lengths)


def encode_in_chunks(
    lines: Iterable[str], encoder: LineEncoder, *, workers: int = 0
) -> Iterator[EncodedLines]:
    """Ids of all lines, in chunks in their order.

    Args:
        lines: read as far as the workers are.
        encoder: cuts them; a class of this package where there are workers.
        workers: processes beside this one; 0 does the work here.
    """
    left = iter(lines)
    chunks = iter(lambda: list(itertools.islice(left, LINES_AT_ONCE)), [])
    if not workers:
        yield from (encode_chunk(chunk, encoder) for chunk in chunks)
        return
    with _Workers(encoder, workers) as pool:
        waiting: deque[Future[EncodedLines]] = deque()
        for chunk in chunks:
            waiting.append(pool.submit(chunk))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def workers_for(encoder: LineEncoder, lines: int | None) -> int:
    """How many workers are worth it: as many as cores, or none.

    Args:
        encoder: a class that is not of this package might not exist in another process.
        lines: how many there are, `None` if nobody knows.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    ours = type(encoder).__module__.startswith('seqzoo.')
    return cores or 1 if ours and lines is not None and lines >= WORTH_WORKERS else 0


class _Workers:
    """Processes that encode, one thread here for each."""

    def __init__(self, encoder: LineEncoder, count: int):
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._all: list[subprocess.Popen[bytes]] = []
        self._threads = ThreadPoolExecutor(count)
        path = os.pathsep.join(
            filter(None, [str(Path(__file__).parents[2]), os.environ.get('PYTHONPATH')])
        )
        start = pickle.dumps(encoder)
        for _ in range(count):
            worker = subprocess.Popen(
                [sys.executable, '-m', 'seqzoo.data.encoding_worker'],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, 'PYTHONPATH': path},
            )
            self._all.append(worker)
            write_frame(_pipe(worker.stdin), start)
            self._idle.put(worker)

    def __enter__(self) -> '_Workers':
        return self

    def __exit__(self, *exception: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            _pipe(worker.stdin).close()  # by which it knows that it may end
        for worker in self._all:
            worker.wait()
            _pipe(worker.stdout).close()

    def submit(self, lines: list[str]) -> Future[EncodedLines]:
        """The ids of some lines, once a worker has found them."""
        return self._threads.submit(self._ask, lines)

    def _ask(self, lines: list[str]) -> EncodedLines:
        worker = self._idle.get()
        try:
            write_frame(_pipe(worker.stdin), pickle.dumps(lines))
            answer = read_frame(_pipe(worker.stdout))
        except OSError:
            answer = None
        finally:
            self._idle.put(worker)
        if answer is None:
            raise RuntimeError(
                f'a process that cuts text into pieces has died (exit status {worker.poll()}); '
                'what it printed stands above'
            )
        found = pickle.loads(answer)
        if isinstance(found, BaseException):
            raise found
        return EncodedLines(*(np.frombuffer(part, np.int32) for part in found))


def write_frame(file: BinaryIO, content: bytes) -> None:
    """Writes some bytes so that `read_frame` knows where they end."""
    file.write(_HEADER.pack(len(content)))
    file.write(content)
    file.flush()


def read_frame(file: BinaryIO) -> bytes | None:
    """What `write_frame` wrote; `None` at the end of the file."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    (size,) = _HEADER.unpack(header)
    content = file.read(size)
    return content if len(content) == size else None


def _pipe(pipe: Any) -> Any:
    assert pipe is not None
    return pipe
