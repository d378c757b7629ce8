"""The measurement of preparing a corpus, at the size of a toy."""

import sys

import pytest


@pytest.fixture(scope='module')
def prepare_scale(benchmark_program):
    return benchmark_program('prepare_scale')


def test_the_corpus_is_parallel_and_follows_zipfs_law(prepare_scale, tmp_path):
    size = prepare_scale.generate(tmp_path, 300)
    sides = [(tmp_path / f'train.{x}').read_text('utf-8').splitlines() for x in ('en', 'de')]
    assert [len(side) for side in sides] == [300, 300]
    assert size == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert sides[0] != sides[1]
    words = ' '.join(sides[0]).lower().split()
    assert 15 < len(words) / 300 < 35
    counts = sorted(map(words.count, set(words)), reverse=True)
    assert counts[0] > 10 * counts[len(counts) // 2]


def test_memory_of_a_tree_of_processes_is_seen(prepare_scale):
    sleep = 'import time; time.sleep(1)'
    program = f'import subprocess, sys; subprocess.run([sys.executable, "-c", "{sleep}"])'
    found = prepare_scale.watch([sys.executable, '-c', program])
    assert found['status'] == 0
    assert found['processes'] == 2
    assert found['peak_resident_bytes'] >= found['peak_shared_once_bytes'] > 2**20
    killed = prepare_scale.watch([sys.executable, '-c', program], kill_after=0.3)
    assert killed['status'] == -9


@pytest.mark.slow
def test_a_corpus_is_prepared_and_measured(prepare_scale, tmp_path, capsys):
    found = prepare_scale.main(
        [
            '--pairs',
            '2000',
            '--folder',
            str(tmp_path / 'f'),
            '--vocabulary',
            '500',
            '--sample',
            '900',
        ]
    )
    assert found['runs'][-1]['status'] == 0
    assert 'pairs a second' in capsys.readouterr().out
    assert 'learnt from 900 of 4,000 lines' in found['runs'][-1]['printed']
    assert found['command'].startswith(
        'seqzoo data prepare transformer_base_text --data-dir F/text'
    )
    assert not (tmp_path / 'f').exists()
