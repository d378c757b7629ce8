"""On what and by which source something runs, also where nobody can tell."""

import os
import subprocess
import types

import pytest

from seqzoo import provenance


def git(folder, *words):
    names = {
        f'GIT_{who}_{what}': 'x@y' for who in ('AUTHOR', 'COMMITTER') for what in ('NAME', 'EMAIL')
    }
    subprocess.run(
        ['git', *words], cwd=folder, check=True, capture_output=True, env={**os.environ, **names}
    )


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / 'checkout'
    folder.mkdir()
    git(folder, 'init')
    (folder / 'a').write_text('one')
    git(folder, 'add', 'a')
    git(folder, 'commit', '-m', 'one')
    git(folder, 'tag', '-a', 'v1', '-m', 'a tag is no commit')
    return folder


def test_a_commit_says_whether_tracked_files_differ(checkout, monkeypatch):
    monkeypatch.setenv('GIT_DIR', '/nowhere')  # as a hook of another repository has it
    clean = provenance.commit(checkout)
    assert 7 <= len(clean) <= 12
    assert set(clean) <= set('0123456789abcdef')
    (checkout / 'untracked').write_text('x')
    assert provenance.commit(checkout) == clean
    (checkout / 'a').write_text('two')
    assert provenance.commit(checkout) == f'{clean}-dirty'


def test_what_is_no_checkout_has_no_commit(checkout, tmp_path, monkeypatch):
    (checkout / 'site-packages').mkdir()  # inside the checkout of something else
    assert provenance.commit(checkout / 'site-packages') is None
    (tmp_path / 'broken' / '.git').mkdir(parents=True)
    assert provenance.commit(tmp_path / 'broken') is None
    monkeypatch.setenv('PATH', str(tmp_path))
    assert provenance.commit(checkout) is None  # no git


def test_a_git_that_does_not_answer_is_not_waited_for(checkout, monkeypatch):
    def hangs(words, *, timeout, **options):
        raise subprocess.TimeoutExpired(words, timeout)

    monkeypatch.setattr(provenance.subprocess, 'run', hangs)
    assert provenance.commit(checkout) is None


def made_up(count, platform, kind, processes=1):
    return [
        types.SimpleNamespace(platform=platform, device_kind=kind, process_index=i % processes)
        for i in range(count)
    ]


def test_devices_are_said_in_words(monkeypatch):
    monkeypatch.setattr(provenance, 'cores', lambda: 2)
    monkeypatch.setattr(provenance, 'processor', lambda: 'AMD EPYC')
    assert provenance.device(made_up(4, 'gpu', 'NVIDIA H200')) == '4 x NVIDIA H200'
    assert provenance.device(made_up(8, 'cpu', 'cpu')) == '2 cores AMD EPYC, cpu'
    monkeypatch.setattr(provenance, 'cores', lambda: 1)
    assert provenance.device(made_up(1, 'cpu', 'cpu')) == '1 core AMD EPYC, cpu'
    monkeypatch.setattr(provenance, 'cores', lambda: 2)
    assert (
        provenance.device(made_up(8, 'cpu', 'cpu', 2)) == '2 processes with 2 cores AMD EPYC, cpu'
    )


def test_a_package_that_is_not_there_has_no_version():
    found = provenance.versions(['numpy', 'no-such-package'])
    assert found['numpy'][0].isdigit()
    assert found['no-such-package'] is None
