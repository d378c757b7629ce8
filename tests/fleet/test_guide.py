"""Every command of the guide is a command, and the tool's own run dry and against a stand-in."""

import pathlib
import re
import shlex

import pytest

from seqzoo.__main__ import COMMANDS, load_command
from seqzoo.configuration import load_config
from tpu import smoke
from tpu.smoke import Figure, check

GUIDE = pathlib.Path(__file__).parents[2] / 'tpu' / 'README.md'


def commands():
    blocks = re.findall(r'```sh\n(.*?)```', GUIDE.read_text(encoding='utf-8'), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def of_the_tool():
    found = [shlex.split(line)[3:] for line in commands() if line.startswith('python -m tpu ')]
    assert len(found) > 20
    return found


def seqzoo_words():
    """What is given to `seqzoo`, by hand or on a slice."""
    for line in commands():
        words = shlex.split(line.partition(' > ')[0])
        if words[0] == 'seqzoo':
            yield words[1:]
        elif words[:3] == ['python', '-m', 'tpu'] and '--' in words:
            yield words[words.index('--') + 1 :]


def test_every_program_of_the_guide_is_known():
    programs = {line.split()[0] for line in commands()}
    assert programs == {'gcloud', 'seqzoo', 'python', 'tensorboard'}


@pytest.mark.parametrize('words', list(seqzoo_words()), ids=' '.join)
def test_every_seqzoo_command_of_the_guide_is_read(words):
    name = ' '.join(words[:2]) if ' '.join(words[:2]) in COMMANDS else words[0]
    arguments = load_command(name).parse(words[len(name.split()) :])
    if getattr(arguments, 'config', None):
        load_config(arguments.config, arguments.overrides)


def test_every_command_of_the_tool_runs_dry_in_the_order_of_the_guide(cloud, monkeypatch):
    monkeypatch.chdir(cloud.folder)
    estimate = '{"estimate": {"step_seconds": [0.1, 0.2]}, "config": "c", "topology": "v5e:2x4", '
    cloud.write('estimate.json', estimate + '"batch": {"tokens": 28672}}')
    made = []
    for words in of_the_tool():
        cut = words.index('--') if '--' in words else len(words)
        own, rest = words[:cut], words[cut:]
        # What was said at `create` is remembered, except in a dry run.
        known = next((m[2:] for m in made if m[1] == own[1] and '--slice' not in own), [])
        status, out, err = cloud.run(*own, *known, '--dry-run', *rest)
        assert status == 0, (words, err)
        for line in out.splitlines() if own[0] not in ('manifest', 'launch', 'push') else []:
            assert shlex.split(line)[0] in ('gcloud', 'kubectl', 'sbatch', 'squeue', 'scancel')
        if own[0] == 'create':
            made.insert(0, own)
    assert cloud.calls() == []


def test_the_smoke_test_gets_the_estimate_of_the_same_slice(cloud):
    text = '{"estimate": {"step_seconds": [0.1, 0.2]}, "config": "c", "topology": "v5e:2x2", '
    cloud.write('estimate.json', text + '"batch": {"tokens": 64}}')
    here = ['--slice', 'v5e-4', '--zone', 'z-a', '--poll', '0.3']
    file = cloud.folder / 'estimate.json'
    status, _, err = cloud.run('smoke', 'r', *here, '--estimate', file)
    assert status == 0, err
    (ran,) = cloud.ran()
    wanted = '--config=c --batch.tokens=64 --estimated 0.1 0.2'
    assert ran == f'-m tpu.smoke --expect=v5e:2x2 --slices=1 {wanted}'
    status, _, err = cloud.run('smoke', 'q', *here[:1], 'v5e-8', *here[2:], '--estimate', file)
    assert (status, 'is about v5e:2x2, not about 1 x v5e:2x4' in err) == (2, True)


def test_a_slice_that_is_not_whole_fails_the_smoke_test():
    from seqzoo.errors import UserError

    whole = {'platform': 'tpu', 'devices': 16, 'hosts': 4}
    check(whole, 'v5e:4x4', 1)
    check({**whole, 'devices': 32}, 'v4:2x2x4', 1)  # two devices a chip
    with pytest.raises(UserError, match='has 16 chips on 4 hosts, but JAX sees 12 devices on 3'):
        check({**whole, 'devices': 12, 'hosts': 3}, 'v5e:4x4', 1)
    with pytest.raises(UserError, match='JAX runs on cpu here'):
        check({**whole, 'platform': 'cpu'}, 'v5e:4x4', 1)


def test_figures_stand_beside_their_estimates():
    fast = Figure('products', 'TFLOP/s', 150.0, 200.0, 'peak')
    slow = Figure('step', 's', 0.2, 0.1, 'roofline', more_is_better=False)
    unknown = Figure('tokens', 'tokens/s', 5.0, None, 'nothing')
    assert (fast.reached, slow.reached, unknown.reached) == (0.75, 0.5, None)
    shown = smoke.table([fast, slow, unknown]).splitlines()
    assert shown[2] == '| products | 150 TFLOP/s | 200 TFLOP/s | 75% | peak |'
    assert shown[4] == '| tokens | 5 tokens/s |  |  |  |'


@pytest.mark.slow
def test_the_smoke_test_measures_on_simulated_devices(tmp_path, capsys, monkeypatch):
    import json

    target = tmp_path / 'smoke.json'
    words = ['--config=transformer_tiny_numerals', '--batch.tokens=64', '--model.num-layers=1']
    status = smoke.main([*words, '--estimated', '0.1', '0.2', f'--output={target}'])
    assert status == 0
    found = json.loads(target.read_text())
    assert found['facts']['devices'] == 8
    names = [figure['name'] for figure in found['figures']]
    assert {'matrix products', 'memory', 'sum over all devices', 'its compilation'} <= set(names)
    assert all(figure['measured'] > 0 for figure in found['figures'])
    assert [f['estimate'] for f in found['figures'] if f['unit'] == 's'][:2] == [0.1, 0.2]
    assert smoke.main([*words, '--expect=v5e:2x4']) == 2
    assert 'JAX runs on cpu here' in capsys.readouterr().err
