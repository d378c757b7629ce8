"""Slices made, found, lost, made anew and deleted, against a stand-in cloud."""

import json
import shlex

import pytest

from tpu import shell
from tpu.fleet import Fleet, is_missing, remember, resource_name
from tpu.gce import ComputeEngine
from tpu.shell import Answer, Refusal, Shell
from tpu.slices import parse

HERE = ['--slice', 'v5e-8', '--zone', 'us-west4-a', '--poll', '0']
POD = ['--slice', 'v5e-16', '--zone', 'us-west4-a', '--poll', '0']


@pytest.mark.parametrize(
    ('name', 'topology', 'chips', 'hosts', 'machine', 'api'),
    [
        ('v5e-1', 'v5e:1x1', 1, 1, 'ct5lp-hightpu-1t', 'v5litepod-1'),
        ('v5e-8', 'v5e:2x4', 8, 1, 'ct5lp-hightpu-8t', 'v5litepod-8'),
        ('v5litepod-16', 'v5e:4x4', 16, 4, 'ct5lp-hightpu-4t', 'v5litepod-16'),
        ('v5e:4x8', 'v5e:4x8', 32, 8, 'ct5lp-hightpu-4t', 'v5litepod-32'),
        ('v6e-256', 'v6e:16x16', 256, 64, 'ct6e-standard-4t', 'v6e-256'),
        ('v4-8', 'v4:2x2x1', 4, 1, 'ct4p-hightpu-4t', 'v4-8'),
        ('v5p-32', 'v5p:2x2x4', 16, 4, 'ct5p-hightpu-4t', 'v5p-32'),
        ('v5p-128', 'v5p:4x4x4', 64, 16, 'ct5p-hightpu-4t', 'v5p-128'),
        ('tpu7x:2x2x2', '7x:2x2x2', 8, 2, 'tpu7x-standard-4t', '-16'),
    ],
)
def test_a_slice_has_the_names_and_hosts_of_its_kind(name, topology, chips, hosts, machine, api):
    found = parse(name)
    assert (str(found), found.chips, found.hosts) == (topology, chips, hosts)
    assert (found.machine_type, found.accelerator_type) == (machine, api)
    assert found.usual


@pytest.mark.parametrize(
    ('name', 'complaint'),
    [
        ('v5e', 'not the name of a slice'),
        ('v5x-8', 'did you mean v5'),
        ('v5e-7', 'no usual slice has that size'),
        ('v5e-0', 'no usual slice has that size'),
        ('v5p-1', 'no usual slice has that size'),
        ('v5e:0x4', 'multiples of 4'),
        ('v5p:2x2', '3 axes'),
        ('v5e:3x5', 'multiples of 4'),
        ('7x-8', 'give the topology in chips'),
        ('v4-4', 'no usual slice'),
        ('v5p-2', 'smallest slice is v5p-8'),
    ],
)
def test_what_is_no_slice_is_refused_with_what_is_one(name, complaint):
    with pytest.raises(Refusal, match=complaint):
        parse(name)


def test_names_become_names_of_google_and_different_ones_stay_different():
    names = [
        'my-run',
        'my run',
        'My Run',
        'my  run',
        '7 dwarfs',
        'x' * 80,
        'x' * 81,
        'läuft',
        '日本',
    ]
    made = [resource_name(name) for name in names]
    assert made[0] == 'my-run'
    assert len(set(made)) == len(names)
    for name in made:
        assert len(name) <= 41
        assert name[0].isalpha()
        assert set(name) <= set('abcdefghijklmnopqrstuvwxyz0123456789-')


def test_a_slice_is_made_once_however_often_it_is_asked_for(cloud):
    assert cloud.run('create', 'my run', *HERE)[0] == 0
    (node,) = cloud.nodes()
    assert cloud.nodes()[node]['labels'] == {'seqzoo-fleet': resource_name('my run')}
    # The second time the name is enough.
    status, _, err = cloud.run('create', 'my run', '--poll', '0')
    assert status == 0
    assert 'is there already' in err
    assert len(cloud.calls('tpu-vm', 'create')) == 1
    assert cloud.run('create', 'my run', '--slice', 'v5e-16')[0] == 2
    assert cloud.run('delete', 'my run')[0] == 0
    assert cloud.nodes() == {}
    # Deleted twice is deleted; the record is gone too.
    status, _, err = cloud.run('delete', 'my run', *HERE)
    assert (status, 'nothing of my run to delete' in err) == (0, True)
    assert 'no record' in cloud.run('status', 'my run')[2]


@pytest.mark.parametrize(
    ('error', 'sentence'),
    [
        ("Quota 'TPUV5sLitepodPerProjectPerZone' exceeded. Limit: 0", 'no quota for v5e-8'),
        ('There is no more capacity in the zone "us-west4-a"', 'wait in the queue with --queued'),
        ('PERMISSION_DENIED: Permission tpu.nodes.create denied', 'may not do that'),
        ('You do not currently have an active account selected.', 'gcloud auth login'),
        ('INTERNAL: something odd', 'failed with status 1: ERROR: (gcloud) INTERNAL'),
    ],
)
def test_what_google_refuses_is_one_sentence(cloud, error, sentence):
    cloud.write('rules.json', [{'match': 'tpu-vm create', 'err': error}])
    status, _, err = cloud.run('create', 'r', *HERE)
    last = err.strip().splitlines()[-1]
    assert status == 2
    assert sentence in last
    assert last.startswith('tpu: ')
    # The same command again goes on from what there is.
    assert cloud.run('create', 'r', '--poll', '0')[0] == 0


def test_a_name_that_somebody_else_has_is_left_alone(cloud):
    foreign = {'state': 'READY', 'labels': {}, 'hosts': 1, 'dead': []}
    cloud.write('nodes.json', {'r': foreign})
    status, _, err = cloud.run('create', 'r', *HERE)
    assert (status, 'was not made by this tool' in err) == (2, True)
    status, _, err = cloud.run('delete', 'r', *HERE)
    assert (status, 'Nobody is there to answer: add --yes' in err) == (2, True)
    assert 'r' in cloud.nodes()
    assert not cloud.calls('delete')
    # A job may run there; but what Google took away is not deleted to be made anew.
    assert cloud.run('launch', 'r', *HERE, '--poll', '0.05', '--', 'score', 'a', 'b')[0] == 0
    cloud.write('nodes.json', {'r': {**foreign, 'state': 'PREEMPTED'}})
    assert cloud.run('launch', 'r', *HERE, '--', 'score', 'a', 'b')[0] == 2
    assert 'r' in cloud.nodes()
    assert cloud.run('delete', 'r', *HERE, '--yes')[0] == 0
    assert cloud.nodes() == {}


def test_a_person_is_asked_and_may_say_no(cloud, monkeypatch):
    cloud.write('nodes.json', {'r': {'state': 'READY', 'labels': {}, 'hosts': 1, 'dead': []}})
    monkeypatch.setattr(shell.sys.stdin, 'isatty', lambda: True, raising=False)
    monkeypatch.setattr(shell.sys.stdin, 'readline', lambda: 'n\n', raising=False)
    status, _, err = cloud.run('delete', 'r', *HERE)
    assert (status, 'nothing was deleted' in err, 'r' in cloud.nodes()) == (2, True, True)
    monkeypatch.setattr(shell.sys.stdin, 'readline', lambda: 'y\n', raising=False)
    assert cloud.run('delete', 'r', *HERE)[0] == 0
    assert cloud.nodes() == {}


def test_a_start_that_was_overtaken_finds_what_the_other_one_made(cloud):
    cloud.write('nodes.json', {})
    ours = {'state': 'READY', 'labels': {'seqzoo-fleet': 'r'}, 'hosts': 1, 'dead': []}
    # Between the look and the call the slice appears.
    cloud.write('rules.json', [{'match': 'describe r', 'err': 'NOT_FOUND: r was not found'}])
    cloud.write('nodes.json', {'r': ours})
    assert cloud.run('create', 'r', *HERE)[0] == 0
    cloud.write('rules.json', [{'match': 'describe r', 'err': 'NOT_FOUND: r was not found'}])
    cloud.write('nodes.json', {'r': {**ours, 'labels': {}}})
    status, _, err = cloud.run('create', 'r', *HERE)
    assert (status, 'was not made by this tool' in err) == (2, True)


def test_a_preempted_slice_is_made_anew(cloud):
    cloud.run('create', 'r', *HERE, '--spot')
    nodes = cloud.nodes()
    nodes['r']['state'] = 'PREEMPTED'
    cloud.write('nodes.json', nodes)
    assert cloud.run('create', 'r', '--poll', '0')[0] == 0
    assert cloud.nodes()['r']['state'] == 'READY'
    assert len(cloud.calls('tpu-vm', 'create', '--spot')) == 2


def test_a_queue_is_waited_in_and_its_failure_is_told(cloud):
    cloud.write('wait.json', 2)
    words = [*POD, '--queued', '--slices', '2']
    status, _, err = cloud.run('create', 'q', *words)
    assert status == 0
    assert 'WAITING_FOR_RESOURCES' in err
    assert sorted(cloud.nodes()) == ['q-0', 'q-1']
    (call,) = cloud.calls('queued-resources', 'create')
    assert {'--node-count=2', '--node-prefix=q'} <= set(call['words'])
    # The whole request is deleted by one call.
    assert cloud.run('delete', 'q')[0] == 0
    assert (cloud.nodes(), len(cloud.calls('queued-resources', 'delete'))) == ({}, 1)
    cloud.write('wait.json', 99)
    status, _, err = cloud.run('create', 'q', *words, '--wait', '0.5', '--poll', '0.3')
    assert (status, 'go on waiting' in err) == (2, True)
    queue = json.loads((cloud.folder / 'queue.json').read_text())
    queue['q']['failed'] = 'the zone is full'
    cloud.write('queue.json', queue)
    # What failed is asked for anew; it fails again.
    cloud.write('rules.json', [{'match': 'queued-resources create', 'err': 'no more capacity'}])
    status, _, err = cloud.run('create', 'q', '--poll', '0')
    assert (status, 'has no v5e-16 to give now' in err) == (2, True)


def test_newest_chips_come_from_compute_engine_with_all_their_parts(cloud):
    words = ['--slice', '7x:2x2x2', '--zone', 'us-central1-c', '--poll', '0']
    status, _, err = cloud.run('create', 'iron', *words, '--engine', 'tpu-vm')
    assert (status, 'the Cloud TPU API has no TPU 7x' in err) == (2, True)
    # An earlier start got no further than the template: that part is used.
    cloud.write('rules.json', [{'match': 'workload-policy', 'err': 'INTERNAL'}])
    assert cloud.run('create', 'iron', *words)[0] == 2
    assert cloud.run('create', 'iron', *words)[0] == 0
    (group,) = cloud.calls('instance-groups', 'create')
    assert '--size=2' in group['words']
    assert '--workload-policy=regions/us-central1/resourcePolicies/iron' in group['words']
    assert 'RUNNING' in cloud.run('status', 'iron')[1]
    assert cloud.run('delete', 'iron')[0] == 0
    assert (cloud.nodes(), json.loads((cloud.folder / 'parts.json').read_text())) == ({}, {})


@pytest.mark.parametrize(
    ('words', 'complaint'),
    [
        (['create', 'r'], 'no record'),
        (['create', 'r', '--slice', 'v5e-8'], '--zone is missing'),
        (['create', 'r', *POD, '--slices', '2'], 'add --queued'),
        (['create', 'r', *HERE, '--engine', 'gce'], 'Compute Engine has no TPU v5e'),
        (['create', 'r', *HERE, '--engine', 'gke'], 'a container is needed'),
        (['create', '  ', *HERE], 'NAME is empty'),
        (['launch', 'r', *HERE], 'what shall run?'),
        (['launch', 'r', *POD, '--', 'train', 'c', '--run', 'runs/x'], 'every host has a disk'),
        (['launch', 'r', *HERE, '--spot', '--', 'train', 'c', '--run=x'], 'takes its disk along'),
        (['launch', 'r', *HERE, '--', 'train', 'c'], 'needs --run gs://'),
        (['push', 'r', *HERE, '--', 'x'], 'leave out what follows'),
        (['logs', 'r', *HERE, '--worker', '1'], 'counted from 0'),
        (['manifest', 'r', 'helm', *HERE, '--', 'train'], 'One of jobset, xpk, slurm'),
        (['fly', 'r'], 'invalid choice'),
        (['create', 'r', *HERE, '--wait', '-1'], 'not a number of seconds'),
        (['create', 'r', *HERE, '--poll', 'nan'], 'not a number of seconds'),
        (['status', 'r', *HERE, '--job', ''], '--job is empty'),
        (['status', 'caf\udce9', *HERE], 'is not UTF-8'),
        (['launch', 'r', *HERE, '--', 'score', '\udcff'], 'is not UTF-8'),
        (['create', 'r', '--slice', 'v5e:2x8', '--zone', 'z'], 'another shape than 2x8'),
        (['create', 'r', '--slice', 'v6e:4x12', '--zone', 'z'], 'another shape than 4x12'),
        (['create', 'r', *HERE, '--slices', '0'], 'not a whole number from 1 on'),
    ],
)
def test_wrong_input_is_one_sentence_and_touches_nothing(cloud, words, complaint):
    status, _, err = cloud.run(*words)
    assert status == 2
    assert complaint in err
    assert len(err.strip().splitlines()) == 1
    assert not [c for c in cloud.calls() if 'describe' not in c['words']]


@pytest.mark.parametrize('queued', [[], ['--queued']])
def test_an_unusual_shape_is_asked_for_by_its_shape(cloud, queued):
    words = ['--slice', 'v5p:2x2x8', '--zone', 'z-a', '--poll', '0']
    assert cloud.run('create', 'r', *words, *queued)[0] == 0
    (call,) = cloud.calls('create')
    assert {'--type=v5p', '--topology=2x2x8'} <= set(call['words'])
    assert not cloud.calls('--accelerator-type')
    assert cloud.nodes()['r']['hosts'] == 8


@pytest.mark.parametrize(
    ('match', 'out', 'said'),
    [
        ('tpu-vm describe', {'state': 'READY', 'labels': ['x']}, 'not made by this tool'),
        ('tpu-vm describe', [], 'makes no sense'),
        ('tpu-vm describe', 'no json', 'makes no sense'),
        ('queued-resources describe', {'state': 'ACTIVE'}, 'r  ACTIVE'),
        ('queued-resources describe', {'state': {'failedData': 'boom'}, 'tpu': []}, 'boom'),
        ('queued-resources describe', {'tpu': {'nodeSpec': ['x', 5]}}, 'r  UNKNOWN'),
        ('managed list-instances', {}, 'makes no sense'),
        ('managed list-instances', [{'lastAttempt': [], 'instanceStatus': 5}], 'r  5'),
    ],
)
def test_an_answer_that_is_not_as_it_should_be_is_no_traceback(cloud, match, out, said):
    cloud.write('rules.json', [{'match': match, 'out': out}])
    words = ['--slice', 'v6e-8', '--zone', 'z-a', '--poll', '0']
    words += ['--queued'] if 'queued' in match else []
    if 'managed' in match:
        words += ['--engine', 'gce']
        cloud.write('nodes.json', {'r': {'state': 'READY', 'hosts': 1, 'description': ''}})
    status, shown, err = cloud.run('status', 'r', *words)
    assert said in shown + err
    assert status == (2 if 'no sense' in said else 0)


@pytest.mark.parametrize(
    'answer',
    ['[]', {'networkInterfaces': []}, {'networkInterfaces': [{}]}, {'networkInterfaces': 5}],
    ids=str,
)
def test_a_host_without_an_address_is_told(cloud, answer):
    engine = ComputeEngine(Fleet('r', 'v6e-8', zone='z-a', engine='gce'), Shell())
    cloud.write('nodes.json', {'r': {'state': 'READY', 'hosts': 1, 'description': ''}})
    cloud.write('rules.json', [{'match': 'instances describe', 'out': answer}])
    with pytest.raises(Refusal, match=r'no address of the first host|makes no sense'):
        engine.address('r')
    cloud.write('nodes.json', {})
    with pytest.raises(Refusal, match='no address of the first host'):
        engine.address('r')


@pytest.mark.parametrize(
    'wrong',
    [
        {'slice': 5},
        {'slice': 'v9-8'},
        {'engine': 'foo'},
        {'count': '2'},
        {'count': 0},
        {'spot': 1},
        {'zone': None},
        {'other': 1},
    ],
    ids=str,
)
def test_a_record_that_is_damaged_is_one_sentence(cloud, wrong):
    cloud.run('create', 'r', *HERE)
    (file,) = cloud.folder.parent.glob('records/*.json')
    file.write_text(json.dumps({**json.loads(file.read_text()), **wrong}))
    status, _, err = cloud.run('status', 'r')
    assert (status, 'r.json is damaged' in err, len(err.splitlines())) == (2, True, 1)


def test_a_folder_of_records_that_is_none_is_refused(cloud, monkeypatch, tmp_path):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('SEQZOO_TPU_RECORDS', str(tmp_path / 'file'))
    status, _, err = cloud.run('create', 'r', *HERE)
    assert (status, 'cannot be read (Not a directory)' in err) == (2, True)
    with pytest.raises(Refusal, match='cannot be written'):
        remember(Fleet('r', 'v5e-8'))
    assert cloud.calls() == []


def test_a_tool_that_is_missing_is_named(cloud, monkeypatch):
    monkeypatch.setenv('PATH', str(cloud.folder))
    status, _, err = cloud.run('create', 'r', *HERE)
    assert (status, 'gcloud is not on PATH' in err) == (2, True)


def test_what_a_program_said_before_it_hung_is_kept(monkeypatch):
    monkeypatch.setattr(shell, 'ASK_SECONDS', 1.0)
    answer = Shell().ask(['sh', '-c', 'echo half; echo no news >&2; exec sleep 60'])
    assert (answer.status, answer.out) == (124, 'half\n')
    assert answer.said == 'ERROR: sh timed out: it did not end within 1 s'
    quiet = Shell().ask(['sleep', '60'])
    assert (quiet.status, quiet.out) == (124, '')


def test_a_call_that_hangs_may_pass_and_is_one_sentence(cloud, monkeypatch):
    monkeypatch.setattr(shell, 'ASK_SECONDS', 4.0)
    cloud.write('rules.json', [{'match': 'describe r', 'hang': 120, 'times': 1}])
    fleet = Fleet('r', 'v5e-8', zone='z-a')
    with pytest.raises(shell.Passing, match=r'timed out: it did not end within 4 s') as caught:
        ComputeEngine(fleet, Shell()).describe(['gcloud', 'compute', 'x', 'describe', 'r'])
    assert len(str(caught.value).splitlines()) == 1


def test_a_dry_run_prints_what_would_run_and_runs_nothing(cloud):
    words = [
        'launch',
        'my run',
        *POD,
        '--spot',
        '--dry-run',
        '--',
        'train',
        'c',
        '--run',
        'gs://b/my run',
    ]
    status, out, _ = cloud.run(*words)
    assert status == 0
    assert cloud.calls() == []
    assert not cloud.folder.parent.joinpath('records').exists()
    commands = [shlex.split(line) for line in out.splitlines()]
    assert {words[4] for words in commands} == {'describe', 'create', 'scp', 'ssh'}
    start = shlex.split(next(w for w in commands[-1] if w.startswith('--command='))[10:])
    assert start[-6:] == ['-m', 'seqzoo', 'train', 'c', '--run', 'gs://b/my run']


@pytest.mark.parametrize(
    'other',
    [
        ['--zone', 'z2-a'],
        ['--project', 'another'],
        ['--engine', 'gce'],
        ['--slices', '2', '--queued'],
        ['--queued'],
        ['--slice', 'v6e-16'],
    ],
    ids=' '.join,
)
def test_what_is_deleted_is_what_was_made(cloud, other):
    assert cloud.run('create', 'foo', '--slice', 'v6e-8', '--zone', 'z1-a', '--poll', '0')[0] == 0
    status, _, err = cloud.run('delete', 'foo', *other)
    assert (status, "'foo' was made with" in err, 'leave out --' in err) == (2, True, True)
    assert not cloud.calls('delete')
    # The record is there: the name is still enough.
    assert cloud.run('delete', 'foo')[0] == 0
    assert cloud.nodes() == {}


@pytest.mark.parametrize(
    ('text', 'missing'),
    [
        ("NOT_FOUND: Resource 'projects/p/locations/z/nodes/foo' was not found", True),
        ("- The resource 'projects/p/zones/z/instanceGroupManagers/foo' was not found", True),
        ('ResponseError: code=404, message=Not found: projects/p/clusters/c/nodePools/foo.', True),
        ('NOT_FOUND: foo was not found', True),
        ('Zone z was not found', False),
        ('Zone foo was not found', False),
        ("The resource 'projects/foo' was not found", False),
        ("The resource 'projects/foo/zones/z' was not found", False),
        ('NOT_FOUND: Project foo', False),
        ('Not found: projects/p/clusters/foo.', False),
        ("The resource 'projects/p/zones/z/nodes/other-foo' was not found", False),
        ("The resource 'projects/p/zones/z/nodes/foo-1' was not found", False),
        ('gcloud: command not found', False),
    ],
)
def test_only_what_is_asked_for_is_missing(text, missing):
    assert is_missing(Answer(1, '', f'ERROR: (gcloud.x) {text}\n'), 'foo') is missing


@pytest.mark.parametrize(
    'rule',
    [
        {'match': 'describe foo', 'err': 'Zone us-west4-a was not found'},
        {'match': 'describe foo', 'err': "The resource 'projects/p' was not found"},
        {'match': 'tpu-vm delete', 'err': 'Zone us-west4-a was not found'},
        {'match': 'describe foo', 'out': 'null'},
        {'match': 'describe foo', 'out': '[]'},
    ],
    ids=str,
)
def test_a_slice_is_not_forgotten_because_something_else_is_not_found(cloud, rule):
    cloud.run('create', 'foo', *HERE)
    cloud.write('rules.json', [rule])
    status, _, err = cloud.run('delete', 'foo')
    assert (status, err.strip().splitlines()[-1].startswith('tpu: ')) == (2, True)
    assert 'foo' in cloud.nodes()
    assert cloud.run('delete', 'foo')[0] == 0
    assert cloud.nodes() == {}


def test_parts_of_somebody_else_are_neither_used_nor_deleted(cloud):
    words = ['--slice', '7x:2x2x2', '--zone', 'us-central1-c', '--poll', '0']
    template = {'instance-templates/iron': {'properties': {'labels': {'team': 'b'}}}}
    policy = {'resource-policies/iron': {'description': 'of team b'}}
    for theirs, kind in ((template, 'template'), (policy, 'workload policy')):
        cloud.write('parts.json', theirs)
        status, _, err = cloud.run('create', 'iron', *words)
        assert (status, f'{kind} iron is there already, and was not made' in err) == (2, True)
        status, _, err = cloud.run('delete', 'iron', *words)
        assert (status, f'{kind} iron was not made by this tool: it stays' in err) == (0, True)
        assert json.loads((cloud.folder / 'parts.json').read_text()) == theirs
