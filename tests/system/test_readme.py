"""Every command and every program of the README is run here, at a smaller size."""

import functools
import hashlib
import importlib.util
import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def blocks(language):
    return re.findall(rf'```{language}\n(.*?)```', README, re.DOTALL)


def commands():
    lines = [
        line.split('  #')[0].strip() for block in blocks('bash') for line in block.splitlines()
    ]
    return [line for line in lines if line]


def test_the_set_up_is_two_commands():
    assert [line for line in commands() if not line.startswith('.venv/bin/seqzoo')] == [
        'make demo',
        'make test',
    ]


def test_the_table_is_what_the_recorded_rows_say():
    found = subprocess.run([sys.executable, ROOT / 'benchmarks/tables.py', '--check'], check=False)
    assert found.returncode == 0, 'run python benchmarks/tables.py'
    assert '| multi30k en-de' in README


def test_pictures_and_files_that_it_shows_exist():
    links = re.findall(r'\]\(([^)#:]+)\)', README)
    assert links
    assert all((ROOT / link).exists() for link in links)


def test_every_command_and_configuration_that_the_text_names_exists():
    from seqzoo.__main__ import COMMANDS
    from seqzoo.configuration import config_names, find_config, variants

    text = re.sub(r'```.*?```', '', README, flags=re.DOTALL)
    inline = [' '.join(part.split()) for part in re.findall(r'`([^`]+)`', text)]
    asked = [words.split()[1] for words in inline if words.startswith('seqzoo ')]
    assert len(asked) > 8
    assert set(asked) <= {name.split()[0] for name in COMMANDS}
    configs, named = set(config_names()), 0
    for word in (word for words in inline for word in words.split()):
        name, _, variant = word.partition(':')
        if name in configs:
            assert not variant or variant in variants(find_config(name)), word
            named += 1
        assert name in configs or not re.fullmatch(r'(lstm|gpt|bert|tcn|bilstm)_\w+', name), word
    assert named > 25


def small_archives(folder):
    """Files laid out as the real WMT archives, where a download would put them."""
    spec = importlib.util.spec_from_file_location('wmt_archives', ROOT / 'tests/data/test_wmt.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from seqzoo.data.download import RemoteFile

    folder.mkdir(parents=True)
    urls = {}
    for url, content in module.archives().items():
        name = url.rpartition('/')[2]
        (folder / name).write_bytes(content)
        urls[url] = RemoteFile(url, name, hashlib.sha256(content).hexdigest(), len(content))
    return urls


@pytest.mark.slow
def test_every_command_works(seqzoo, small, corpus, tmp_path, monkeypatch):
    from seqzoo.data import wmt

    urls = small_archives(corpus / 'downloads' / 'wmt14_translate')
    monkeypatch.setattr(wmt, 'prepare_wmt14', functools.partial(wmt.prepare_wmt14, urls=urls))
    monkeypatch.chdir(tmp_path)
    ran = 0
    for line in commands():
        program, *words = shlex.split(line)
        if not program.endswith('seqzoo'):
            continue
        words = [re.sub(r'^D(?=/|$)', str(corpus), word) for word in words]
        words = ['cpu' if word == 'tpu' else word for word in words]
        if words[0] == 'train':
            words += [*small, '--train.steps=5', '--train.snapshot-every=1']
        if words[:2] == ['data', 'prepare']:
            words += small
        if words[0] == 'evaluate':
            words += ['--decode.beams=2', '--decode.extra-length=2']
        outcome = seqzoo(*words)
        assert outcome.status == 0, f'{line}\n{outcome.err}'
        ran += 1
    assert ran >= 7
    assert (tmp_path / 'translations.de').read_text().count('\n') == 20
    assert list((tmp_path / 'runs' / 'mine' / 'pictures').glob('*.png'))


@pytest.mark.slow
def test_every_program_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks('python')):
        small = block.replace("{'train.steps': 450}", "{'train.steps': 2, 'batch.tokens': 256}")
        (tmp_path / f'program{number}.py').write_text(small)
        found = runpy.run_path(str(tmp_path / f'program{number}.py'))
    assert found['features'].shape == (2, 5, 64)
    assert number == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_learns_draws_and_says_what_it_scored(tmp_path):
    if not (ROOT / '.venv' / '.installed').exists():
        pytest.skip('make install has not been run in this checkout')
    ran = subprocess.run(
        ['make', 'demo', f'RUN={tmp_path / "demo"}'],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    result = json.loads((tmp_path / 'demo' / 'results.json').read_text())[-1]
    assert result['metrics']['exact_match'] >= 99.5
    assert result['signature'] in ran.stdout
    assert 'three hundred and forty-two  ->  dreihundertzweiundvierzig' in ran.stdout
    pictures = {path.name for path in (tmp_path / 'demo' / 'pictures').glob('*.png')}
    assert {'loss.png', 'attention.png', 'self_attention.png', 'positions.png'} <= pictures
