"""How fast a corpus of millions of pairs is prepared, and in how much memory.

    python benchmarks/prepare_scale.py --pairs 5000000 --folder F --name prepare_5m

generates parallel text in F (words by Zipf's law, sentences as long as those of WMT), runs `seqzoo
data prepare` on it as the base Transformer on WMT14 would have it (37,000 joint pieces, learnt from
a million lines), watches the memory of the program and its workers, and writes
`benchmarks/results/NAME.json`. With `--kill-after SECONDS` the program is killed once in the middle
(SIGKILL, workers and all) and started again. Memory is counted twice: pages of the processes added
up, and shared pages counted once (PSS). The files of the corpus are mapped, so that some of it is
the page cache, which the system takes back when it needs it.
"""

import argparse
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
import rows

from seqzoo.provenance import commit

WORDS, LENGTH, BLOCK = 300_000, 25.0, 20_000  # vocabulary, mean length in words, pairs at a time
SPLITS = {'dev': 1000}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Generates, prepares, records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--pairs', type=int, default=200_000)
    parser.add_argument('--folder', type=Path, required=True, help='for the corpus and the cache')
    parser.add_argument('--name', help='of the file in benchmarks/results; without it none')
    parser.add_argument('--vocabulary', type=int, default=37_000, help='pieces')
    parser.add_argument('--sample', type=int, default=1_000_000, help='lines the tokenizer sees')
    parser.add_argument('--kill-after', type=float, metavar='SECONDS')
    parser.add_argument('--keep', action='store_true', help='the corpus and the cache')
    arguments = parser.parse_args(argv)
    data, cache = arguments.folder / 'text', arguments.folder / 'cache'
    began = time.monotonic()
    size = generate(data, arguments.pairs)
    print(f'{arguments.pairs:,} pairs, {size / 1e6:,.0f} MB, in {time.monotonic() - began:.0f} s')
    command = prepare_command(data, cache, arguments.vocabulary, arguments.sample)
    runs = []
    if arguments.kill_after is not None:
        runs.append(watch(command, kill_after=arguments.kill_after))
    runs.append(watch(command))
    last = runs[-1]
    if last['status'] != 0:
        raise SystemExit(f'the preparation failed:\n{last["printed"]}')
    found = {
        'machine': machine.facts(['numpy', 'sentencepiece', 'jax']),
        'pairs': arguments.pairs,
        'text_bytes': size,
        'cache_bytes': sum(f.stat().st_size for f in cache.rglob('*') if f.is_file()),
        'command': ' '.join(['seqzoo', *command[3:]]).replace(str(arguments.folder), 'F'),
        'killed_after_seconds': arguments.kill_after,
        'recorded_at_commit': commit(),
        'runs': runs,
    }
    if arguments.name:
        file = rows.RESULTS / f'{arguments.name}.json'
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    if not arguments.keep:
        shutil.rmtree(arguments.folder, ignore_errors=True)
    print(report(found))
    return found


def generate(folder: Path, pairs: int) -> int:
    """Writes `train` and `dev` in two made-up languages; returns their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for split, count in {'train': pairs, **SPLITS}.items():
        for seed, language in enumerate(('en', 'de')):
            path = folder / f'{split}.{language}'
            with path.open('w', encoding='utf-8') as file:
                generator = np.random.default_rng([seed, len(split)])
                names = words(language)
                for first in range(0, count, BLOCK):
                    file.write(sentences(generator, names, min(BLOCK, count - first)))
            total += path.stat().st_size
    return total


@functools.cache
def words(language: str) -> np.ndarray:
    """A vocabulary of pronounceable words, short ones first as in real ones."""
    generator = np.random.default_rng(ord(language[0]))
    onsets = np.array(['b', 'd', 'f', 'g', 'k', 'l', 'm', 'n', 'p', 'r', 's', 't', 'w', 'st', 'tr'])
    vowels = np.array(
        ['a', 'e', 'i', 'o', 'u', 'ei', *('öäü' if language == 'de' else ('ea', 'y'))]
    )
    syllables = 1 + np.sqrt(np.arange(WORDS) / 8000).astype(int)
    shape = (WORDS, int(syllables.max()))
    parts = np.char.add(
        onsets[generator.integers(len(onsets), size=shape)],
        vowels[generator.integers(len(vowels), size=shape)],
    )
    found = np.full(WORDS, '', dtype=object)
    for place in range(shape[1]):
        found = found + np.where(syllables > place, parts[:, place], '').astype(object)
    return found


def sentences(generator: np.random.Generator, names: np.ndarray, count: int) -> str:
    """That many lines."""
    lengths = np.maximum(1, generator.gamma(2.5, LENGTH / 2.5, count).astype(int))
    # Zipf's law by inversion: rank r has probability about 1 / r.
    ranks = np.exp(generator.random(int(lengths.sum())) * np.log(WORDS)).astype(int) - 1
    chosen = names[ranks].tolist()
    ends = np.cumsum(lengths).tolist()
    lines, begin = [], 0
    for end in ends:
        lines.append(' '.join(chosen[begin:end]).capitalize() + '.\n')
        begin = end
    return ''.join(lines)


def prepare_command(data: Path, cache: Path, vocabulary: int, sample: int) -> list[str]:
    """`seqzoo data prepare`, as the recipe of WMT14 has it but for where the text is."""
    return [
        *(sys.executable, '-m', 'seqzoo', 'data', 'prepare', 'transformer_base_text'),
        *('--data-dir', str(data), '--cache-dir', str(cache)),
        *('--task.tokenizer.vocab-size', str(vocabulary), '--task.tokenizer.sample', str(sample)),
    ]


def watch(command: list[str], *, kill_after: float | None = None) -> dict[str, Any]:
    """Runs a program and sees how much memory it and its children have, four times a second."""
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    printed: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: printed.extend(process.stdout or ()), daemon=True)
    reader.start()
    peak, peak_shared_once, most = 0, 0, 1
    while process.poll() is None:
        if kill_after is not None and time.monotonic() - began > kill_after:
            os.killpg(process.pid, signal.SIGKILL)
        tree = descendants(process.pid)
        most = max(most, len(tree))
        sizes = [memory(pid) for pid in tree]
        peak = max(peak, sum(size[0] for size in sizes))
        peak_shared_once = max(peak_shared_once, sum(size[1] for size in sizes))
        time.sleep(0.25)
    reader.join(timeout=10)
    process.stdout.close()
    return {
        'status': process.returncode,
        'seconds': round(time.monotonic() - began, 1),
        'peak_resident_bytes': peak,
        'peak_shared_once_bytes': peak_shared_once,
        'processes': most,
        'printed': ''.join(printed),
    }


def descendants(pid: int) -> list[int]:
    """A process and all that it started."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for task in Path(f'/proc/{one}/task').glob('*/children'):
            try:
                waiting += [int(child) for child in task.read_text().split()]
            except OSError:
                continue  # it has just ended
    return found


def memory(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, and the same with a page of n processes counted 1/n."""
    try:
        lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {line.split(':')[0]: line.split()[1] for line in lines[1:] if ':' in line}
    return int(sizes.get('Rss', 0)) * 1024, int(sizes.get('Pss', 0)) * 1024


def report(found: dict[str, Any]) -> str:
    """What was measured, in sentences."""
    run = found['runs'][-1]
    rate = found['pairs'] / run['seconds']
    lines = [
        f'{found["pairs"]:,} pairs in {run["seconds"]:,.0f} s: {rate:,.0f} pairs a second, '
        f'everything included; {run["processes"]} processes, at most '
        f'{run["peak_resident_bytes"] / 2**20:,.0f} MiB resident, shared pages once '
        f'{run["peak_shared_once_bytes"] / 2**20:,.0f} MiB; cache '
        f'{found["cache_bytes"] / 1e6:,.0f} MB.'
    ]
    if len(found['runs']) > 1:
        lines.append(
            f'That run went on after one that was killed at {found["killed_after_seconds"]} s.'
        )
    return '\n'.join([*lines, '', run['printed']])


if __name__ == '__main__':
    main()
