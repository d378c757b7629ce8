"""A job on the hosts of a stand-in cloud: `worker.sh` and `setup.sh` really run there."""

import json
import os
import subprocess

import pytest
import yaml

from tpu import shell
from tpu.fleet import Fleet
from tpu.job import Job
from tpu.life import Life
from tpu.shell import Refusal, Shell
from tpu.tpu_vm import TpuVm

HERE = ['--slice', 'v5e-8', '--zone', 'us-west4-a', '--poll', '0.3']
POD = ['--slice', 'v5p-16', '--zone', 'us-east5-a', '--poll', '0.3']  # two hosts
TRAIN = ['--', 'train', 'my config', '--run', 'gs://bucket/my run']
RAN = '-m seqzoo train my config --run gs://bucket/my run'


def test_a_job_runs_on_every_host_with_its_words_as_they_are(cloud):
    status, _, err = cloud.run('launch', 'r', *POD, '--spot', *TRAIN)
    assert (status, err.splitlines()[-1]) == (0, 'tpu: r: done')
    assert cloud.ran() == [RAN] * 2
    assert 'ran -m seqzoo train' in cloud.run('logs', 'r', '--worker', '1')[1]
    shown = cloud.run('status', 'r')[1].splitlines()
    assert shown == ['r  READY', *(f'r-{n}  ended 0' for n in range(2))]
    # Again: the slice and the code are there.
    assert cloud.run('launch', 'r', '--poll', '0.3', *TRAIN)[0] == 0
    assert len(cloud.calls('scp')) == 2
    assert len(cloud.calls('tpu-vm', 'create')) == 1


@pytest.mark.slow
def test_status_75_starts_again_on_the_host_itself(cloud):
    cloud.write('exits', '75 75 0')
    assert cloud.run('launch', 'r', *HERE, *TRAIN)[0] == 0
    assert cloud.ran() == [RAN] * 3
    assert len(cloud.calls('ssh', 'worker.sh" start')) == 1


@pytest.mark.slow
def test_a_job_that_can_only_be_preempted_gives_up(cloud):
    cloud.write('exits', '75')
    status, _, err = cloud.run('launch', 'r', *HERE, '--restarts', '1', *TRAIN)
    assert (status, 'was lost too often' in err) == (2, True)
    assert len(cloud.ran()) == 10  # five times each


@pytest.mark.parametrize('exit_status', [1, 2])
def test_a_failure_is_not_started_again_and_shows_its_end(cloud, exit_status):
    cloud.write('exits', str(exit_status))
    status, _, err = cloud.run('launch', 'r', *HERE, *TRAIN)
    assert status == exit_status
    assert f'ended with status {exit_status}' in err
    assert 'ran -m seqzoo train' in err
    assert len(cloud.ran()) == 1


@pytest.mark.parametrize('left', ['PREEMPTED', pytest.param(None, marks=pytest.mark.slow)])
def test_a_slice_lost_in_the_middle_is_made_anew_and_the_same_command_goes_on(cloud, left):
    cloud.write('exits', 'wait 0')
    rule = {'match': 'worker.sh" status', 'skip': 2, 'lose': {'r': left}}
    cloud.write('rules.json', [{**rule, 'err': 'Connection closed'}])
    status, _, err = cloud.run('launch', 'r', *HERE, '--spot', *TRAIN)
    assert status == 0
    assert 'was interrupted: it is started again' in err
    assert cloud.ran() == [RAN, RAN]
    assert len(cloud.calls('tpu-vm', 'create')) == 2
    # The new hosts have got the code too.
    assert len(cloud.calls('scp', 'seqzoo-code.tgz')) == 2


@pytest.mark.slow
def test_one_missing_host_stops_the_others_instead_of_letting_them_wait(cloud):
    cloud.run('create', 'r', *POD)
    cloud.run('push', 'r')
    cloud.write('exits', 'wait')
    cloud.write('rules.json', [{'match': 'worker.sh" start', 'kill': {'r': [1]}}])
    status, _, err = cloud.run('launch', 'r', '--poll', '0.3', *TRAIN)
    assert status == 2
    assert 'the job started on 1 of 2 hosts of r' in err
    assert len(cloud.calls('worker.sh" stop')) == 1


@pytest.mark.slow
def test_a_host_that_falls_silent_is_told_and_not_waited_for_without_end(cloud):
    cloud.write('exits', 'wait')
    rule = {'match': 'worker.sh" status', 'skip': 1, 'kill': {'r': [1]}}
    cloud.write('rules.json', [rule])
    status, _, err = cloud.run('launch', 'r', *POD, *TRAIN)
    assert status == 2
    assert '1 of 2 hosts of r answer, though Google shows the slice as whole' in err
    cloud.run('stop', 'r')


def test_a_host_that_is_not_set_up_is_told(cloud):
    cloud.run('create', 'r', *POD)
    cloud.write('rules.json', [{'match': 'seqzoo-setup.sh "', 'kill': {'r': [0]}}])
    status, _, err = cloud.run('push', 'r')
    assert (status, '1 of 2 hosts of r are set up' in err) == (2, True)


@pytest.mark.slow
def test_slices_of_compute_engine_are_told_of_each_other(cloud):
    words = ['--slice', '7x:2x2x1', '--zone', 'z-c', '--slices', '2', '--poll', '0.3']
    assert cloud.run('launch', 'iron', *words, *TRAIN)[0] == 0
    started = [c['words'][-1] for c in cloud.calls('worker.sh" start')]
    for number in range(2):
        wanted = f'MEGASCALE_NUM_SLICES=2 MEGASCALE_SLICE_ID={number} .venv/bin/python'
        assert sum(wanted in words for words in started) == 1
    assert all('MEGASCALE_COORDINATOR_ADDRESS=10.0.0.2' in words for words in started)


def test_an_older_python_is_replaced_in_the_set_up_step(cloud, tmp_path):
    """An image with Python 3.10: `setup.sh` asks the package manager for a newer one."""
    programs = tmp_path / 'old image'
    programs.mkdir()
    real = os.environ['PATH'].split(':')
    old = '#!/bin/sh\ncase "$*" in *version_info*) exit 1 ;; esac\nexit 0\n'
    for name in ('python3', 'python3.11', 'python3.12', 'python3.13'):
        (programs / name).write_text(old)
    installed = '\n'.join(
        [
            '#!/bin/sh',
            'echo "$*" >>"$HOME/sudo"',
            'case "$*" in *" python3.12 "*) printf "#!/bin/sh\\n" >"$OLD/python3.12" ;; esac',
        ]
    )
    (programs / 'sudo').write_text(installed)
    for file in programs.iterdir():
        file.chmod(0o755)
    home = tmp_path / 'home'
    home.mkdir()
    code = cloud.code
    subprocess.run(['tar', '-czf', home / 'code.tgz', '-C', code, 'tpu'], check=True)
    environment = {**os.environ, 'HOME': str(home), 'OLD': str(programs), 'STAND_IN_HOST': 'h'}
    environment['PATH'] = ':'.join([str(programs), *real])
    script = ['sh', code / 'tpu' / 'setup.sh', home / 'code.tgz']
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('h ready')
    assert 'install -yq python3.12 python3.12-venv' in (home / 'sudo').read_text()


def test_the_jobset_says_what_gke_has_to_know(cloud):
    image = ['--image', 'europe-docker.pkg.dev/p/r/seqzoo:1', '--spot', '--slices', '2']
    status, out, _ = cloud.run('manifest', 'my run', 'jobset', *POD, '--engine=gke', *image, *TRAIN)
    assert status == 0
    found = yaml.safe_load(out)
    (replicated,) = found['spec']['replicatedJobs']
    job = replicated['template']['spec']
    pod = job['template']['spec']
    assert (replicated['replicas'], job['parallelism'], job['completions']) == (2, 2, 2)
    assert pod['nodeSelector'] == {
        'cloud.google.com/gke-tpu-accelerator': 'tpu-v5p-slice',
        'cloud.google.com/gke-tpu-topology': '2x2x2',
        'cloud.google.com/gke-spot': 'true',
    }
    (container,) = pod['containers']
    assert container['command'][1:] == ['-m', 'seqzoo', *TRAIN[1:]]
    assert container['resources']['limits'] == {'google.com/tpu': 4}
    # 75 starts again, wrong input and bugs do not.
    assert job['podFailurePolicy']['rules'][0]['onExitCodes']['values'] == [1, 2]


def test_gke_makes_pools_and_takes_the_job(cloud):
    words = ['--engine', 'gke', '--cluster', 'c', '--image', 'i', *POD]
    assert cloud.run('create', 'r', *words)[0] == 0
    assert cloud.run('create', 'r')[0] == 0
    (made,) = cloud.calls('node-pools', 'create')
    assert {'--tpu-topology=2x2x2', '--num-nodes=2'} <= set(made['words'])
    assert cloud.run('launch', 'r', *TRAIN)[0] == 0
    (applied,) = cloud.calls('kubectl', 'apply')
    assert yaml.safe_load(applied['stdin'])['kind'] == 'JobSet'
    assert cloud.run('logs', 'r')[0] == 0
    assert cloud.run('delete', 'r')[0] == 0
    assert json.loads((cloud.folder / 'pools.json').read_text()) == {}
    cloud.write('pools.json', {'r': {}})
    assert cloud.run('delete', 'r', *words)[0] == 2
    assert json.loads((cloud.folder / 'pools.json').read_text()) == {'r': {}}


def test_slurm_takes_the_same_job_once(cloud):
    words = [
        'launch',
        'r',
        '--engine',
        'slurm',
        '--slice',
        'v5e-16',
        '--',
        'train',
        'c',
        '--run',
        'a b',
    ]
    status, _, err = cloud.run(*words)
    assert (status, 'job 4711' in err) == (0, True)
    (script,) = [c['stdin'] for c in cloud.calls('sbatch')]
    assert '#SBATCH --nodes=4' in script
    assert "train c --run 'a b' &" in script
    checked = subprocess.run(['sh', '-n'], input=script, text=True, check=False)
    assert checked.returncode == 0
    cloud.write('rules.json', [{'match': 'squeue', 'err': 'slurm_load_jobs error'}])
    status, _, err = cloud.run(*words)
    assert (status, 'squeue failed with status 1' in err) == (2, True)
    assert cloud.run('create', 'r', '--engine', 'slurm', '--slice', 'v5e-16')[0] == 2


def test_a_jobset_of_somebody_else_is_neither_replaced_nor_deleted(cloud):
    words = ['--engine', 'gke', '--cluster', 'c', '--image', 'i', *POD]
    theirs = {'metadata': {'name': 'r', 'labels': {'team': 'b'}}}
    cloud.write('rules.json', [{'match': 'kubectl get jobset r', 'out': theirs}])
    status, _, err = cloud.run('launch', 'r', *words, *TRAIN)
    assert (status, 'JobSet r is there, and is not of this tool' in err) == (2, True)
    assert not cloud.calls('apply')
    ours = {'metadata': {'labels': {'seqzoo-fleet': 'r'}}}
    cloud.write('rules.json', [{'match': 'kubectl get jobset r', 'out': ours}])
    assert cloud.run('launch', 'r', *words, *TRAIN)[0] == 0
    assert cloud.run('delete', 'r')[0] == 0
    (deleted,) = cloud.calls('kubectl', 'delete')
    assert '--selector=seqzoo-fleet=r' in deleted['words']
    assert 'r' not in deleted['words']


def test_what_a_scheduler_has_is_remembered_and_its_silence_is_told(cloud):
    words = ['--engine', 'gke', '--cluster', 'c', '--image', 'i', *POD]
    assert cloud.run('launch', 'r', *words, *TRAIN)[0] == 0
    assert cloud.run('status', 'r')[:2] == (0, 'no JobSet r is there\n')
    cloud.write('rules.json', [{'match': 'get pods', 'err': 'Unable to connect to the server'}])
    status, _, err = cloud.run('status', 'r')
    assert (status, 'looking at its pods failed with status 1' in err) == (2, True)
    cloud.write('rules.json', [{'match': 'node-pools describe', 'out': 'no json'}])
    status, _, err = cloud.run('create', 'r')
    assert (status, 'makes no sense' in err) == (2, True)


def test_only_jobs_that_were_handed_in_here_are_cancelled(cloud):
    words = ['r', '--engine', 'slurm', '--slice', 'v5e-16']
    look = {'match': 'format=%i', 'times': 9}
    cloud.write('rules.json', [{**look, 'out': '12\n13\n'}])
    status, _, err = cloud.run('delete', *words)
    assert (status, 'cancel 12, 13 of that name? Nobody is there' in err) == (2, True)
    assert not cloud.calls('scancel')
    assert cloud.run('delete', *words, '--yes')[0] == 0
    assert cloud.calls('scancel')[0]['words'] == ['scancel', '12', '13']
    cloud.write('rules.json', [])
    assert cloud.run('launch', *words, *TRAIN)[0] == 0
    assert cloud.run('status', 'r')[0] == 0
    cloud.write('rules.json', [{**look, 'out': '12\n4711\n'}])
    status, _, err = cloud.run('delete', 'r')
    assert (status, '12 of the same name stay' in err) == (0, True)
    assert cloud.calls('scancel')[1]['words'] == ['scancel', '4711']
    cloud.write('rules.json', [{**look, 'out': ''}])
    assert 'no job of the name r is in the queue' in cloud.run('delete', *words)[2]


@pytest.mark.parametrize('name', ['yes', 'no', 'null', 'true', 'on', 'off'])
def test_the_jobset_keeps_names_and_words_as_they_are(cloud, name):
    words = ['läuft 😀', '$(HOME)', '$$(HOME) $', 'a\x85b\x7f"\n', '{x: 1}']
    place = ['--engine=gke', '--image=i', *POD]
    status, out, _ = cloud.run('manifest', name, 'jobset', *place, '--', 'score', *words)
    assert status == 0
    found = yaml.safe_load(out)
    assert found['metadata']['name'] == name
    assert found['metadata']['labels'] == {'seqzoo-fleet': name}
    (replicated,) = found['spec']['replicatedJobs']
    (container,) = replicated['template']['spec']['template']['spec']['containers']
    # Kubernetes reads `$$` as `$` and nothing else of it.
    assert [word.replace('$$', '$') for word in container['command'][-5:]] == words
    assert '$(' not in '\n'.join(container['command']).replace('$$', '')


def lose_once(match, **more):
    return {'match': match, 'lose': {'r': 'PREEMPTED'}, 'err': 'Connection closed', **more}


@pytest.mark.parametrize(
    ('rules', 'said'),
    [
        ([{'match': 'describe r', 'skip': 4, 'err': '503 Service Unavailable'}], 'tried again in'),
        ([{'match': 'describe r', 'skip': 4, 'hang': 120}], 'timed out'),
        ([lose_once('tpu-vm scp')], 'was interrupted'),
        pytest.param(
            *([lose_once('worker.sh" start')], 'was interrupted'),
            marks=pytest.mark.slow,
        ),
        (
            [
                lose_once('worker.sh" status', skip=1),
                {'match': 'tpu-vm create', 'skip': 1, 'times': 2, 'err': 'no more capacity'},
            ],
            'to give now',
        ),
        pytest.param(
            [
                lose_once('worker.sh" status', skip=1),
                {'match': 'tpu-vm create', 'skip': 1, 'err': '500 internal error'},
            ],
            'tried again in',
            marks=pytest.mark.slow,
        ),
    ],
    ids=['describe', 'hang', 'push', 'start', 'capacity', 'create'],
)
def test_a_launch_rides_out_what_passes(cloud, rules, said, monkeypatch):
    monkeypatch.setattr(shell, 'ASK_SECONDS', 8.0)
    cloud.write('exits', 'wait 0' if len(rules) > 1 else '0')
    cloud.write('rules.json', rules)
    status, _, err = cloud.run('launch', 'r', *HERE[:-1], '0.05', '--spot', *TRAIN)
    assert (status, said in err, err.splitlines()[-1]) == (0, True, 'tpu: r: done'), err
    assert all(not r.get('times', 1) for r in json.loads((cloud.folder / 'rules.json').read_text()))


def test_a_slice_that_google_repairs_is_waited_for(cloud):
    repaired = {'state': 'REPAIRING', 'labels': {'seqzoo-fleet': 'r'}}
    looks = {'match': 'describe r', 'skip': 3, 'times': 5, 'out': repaired}
    silent = {'match': 'worker.sh" status', 'times': 5, 'err': 'ssh said nothing', 'status': 255}
    cloud.write('rules.json', [looks, silent])
    status, _, err = cloud.run('launch', 'r', *HERE[:-1], '0.05', *TRAIN)
    assert (status, 'r is REPAIRING; tried again' in err, err.splitlines()[-1]) == (
        *(0, True),
        'tpu: r: done',
    )


def test_a_new_slice_that_is_lost_while_it_is_waited_for_is_made_anew(cloud):
    gone = {'state': 'PREEMPTED', 'labels': {'seqzoo-fleet': 'r'}}
    cloud.write('rules.json', [{'match': 'describe r', 'skip': 2, 'out': gone}])
    assert cloud.run('launch', 'r', *HERE, '--spot', *TRAIN)[0] == 0
    cloud.run('delete', 'r')
    cloud.write('rules.json', [{'match': 'describe r', 'skip': 2, 'out': gone}])
    status, _, err = cloud.run('launch', 'r', *HERE, '--spot', '--restarts', '0', *TRAIN)
    assert (status, 'r is PREEMPTED' in err) == (2, True)


@pytest.mark.parametrize(
    ('error', 'sentence'),
    [
        ('PERMISSION_DENIED', 'may not do that'),
        ('no more capacity', 'another --zone'),
        ('Quota exceeded', 'no quota'),
    ],
)
def test_a_first_launch_is_refused_at_once_where_waiting_does_not_help(cloud, error, sentence):
    cloud.write('rules.json', [{'match': 'tpu-vm create', 'err': error, 'times': 9}])
    status, _, err = cloud.run('launch', 'r', *HERE, *TRAIN)
    assert (status, sentence in err) == (2, True)
    assert len(cloud.calls('tpu-vm', 'create')) == 1


def test_what_does_not_pass_ends_the_watch_and_says_that_the_job_goes_on(cloud):
    slept = []
    fleet = Fleet('r', 'v5e-8', zone='z')
    life = Life(TpuVm(fleet, Shell()), wait=3.0, poll=1.0, sleep=slept.append)
    job = Job(life, poll=1.0, sleep=slept.append)
    cloud.write('exits', 'wait')
    rule = {'match': 'describe r', 'skip': 4, 'times': 99, 'err': '503 Service Unavailable'}
    cloud.write('rules.json', [rule])
    with pytest.raises(Refusal, match=r'503.*the job runs on, the same command watches it again'):
        job.launch(['.venv/bin/python', 'x'])
    assert slept[-3:] == [1.0] * 3
    job.stop()


def test_a_job_that_runs_another_command_is_not_taken_for_this_one(cloud):
    cloud.write('exits', 'wait')
    assert cloud.run('launch', 'r', *POD, '--detach', *TRAIN)[0] == 0
    assert cloud.run('launch', 'r', '--detach', *TRAIN)[0] == 0
    status, _, err = cloud.run('launch', 'r', '--detach', '--', 'score', 'x y')
    assert (status, 'already runs' in err, RAN in err, '--job' in err) == (2, True, True, True)
    assert not cloud.calls('worker.sh" stop')
    cloud.run('stop', 'r')


def test_a_stop_that_fails_is_told(cloud):
    cloud.run('create', 'r', *POD)
    cloud.run('push', 'r')
    assert cloud.run('stop', 'r')[0] == 0
    cloud.write('rules.json', [{'match': 'stop job', 'kill': {'r': [1]}}])
    status, _, err = cloud.run('stop', 'r')
    assert (status, "'job' could not be stopped on r (ssh: connect" in err) == (2, True)
    # A start that is to be undone says so too.
    cloud.write('exits', 'wait')
    life = Life(TpuVm(Fleet('r', 'v5p-16', zone='z'), Shell()))
    with pytest.raises(Refusal, match=r'started on 1 of 2 hosts .* and could not be stopped on r'):
        Job(life).start(['.venv/bin/python', 'x'])


def test_a_failure_whose_other_hosts_cannot_be_stopped_says_so(cloud):
    cloud.write('exits', '1')
    cloud.write('rules.json', [{'match': 'stop job', 'err': 'ssh exited', 'status': 255}])
    status, _, err = cloud.run('launch', 'r', *HERE, *TRAIN)
    assert (status, 'the others could not be stopped on r' in err) == (1, True)


def test_a_launch_that_does_not_wait_says_that_the_slice_is_not_there(cloud):
    cloud.write('wait.json', 3)
    status, _, err = cloud.run('launch', 'r', *HERE, '--queued', '--wait', '0', *TRAIN)
    assert (status, 'r is not there yet (r WAITING_FOR_RESOURCES)' in err) == (2, True)
    assert not cloud.calls('scp')
