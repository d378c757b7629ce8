"""The doctor names what is wrong and what to do, and stays quiet where nothing is."""

import fcntl
import os
import socket
import types

import jax
import pytest

from seqzoo import doctor
from seqzoo.accelerators import Accelerator, find

GPU = Accelerator('cuda', 'nvidia-smi lists GPU 0: Some Card')
NONE = Accelerator('cpu', 'nothing')
VERSIONS = dict.fromkeys(('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain'), '0.10.2')


def test_every_finding_has_a_known_status_and_a_text(tmp_path):
    findings = doctor.diagnose(tmp_path)
    assert {finding.status for finding in findings} <= {'ok', 'warning', 'problem'}
    assert all(finding.text for finding in findings)
    names = [finding.name for finding in findings]
    assert len(names) == len(set(names))
    assert {'python', 'packages', 'devices', 'processes', 'disk', 'memory', 'TPU lock'} <= set(
        names
    )


def test_devices_are_counted_and_named():
    devices, processes = doctor.check_devices(NONE, {})
    assert devices.status == 'ok'
    assert devices.text.startswith(f'{len(jax.devices())} of kind')
    assert processes.text.startswith('process 0 of 1')


def test_an_accelerator_that_jax_does_not_use_is_a_warning(monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
    finding = doctor.check_devices(GPU, {})[0]
    assert finding.status == 'warning'
    assert 'Some Card' in finding.text
    assert 'make install ACCELERATOR=cuda' in finding.text


def test_a_platform_forbidden_by_the_environment_is_named(monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
    finding = doctor.check_devices(GPU, {'JAX_PLATFORMS': 'cpu'})[0]
    assert finding.status == 'warning'
    assert 'JAX_PLATFORMS=cpu forbids it' in finding.text


@pytest.mark.parametrize(('found', 'backend'), [(GPU, 'gpu'), (Accelerator('tpu', 'x'), 'tpu')])
def test_an_accelerator_in_use_is_well(monkeypatch, found, backend):
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    assert doctor.check_devices(found, {})[0].status == 'ok'


def test_a_backend_that_does_not_start_is_a_problem_and_no_crash(monkeypatch):
    def refuse():
        raise RuntimeError('Unable to initialize backend\nand much more')

    monkeypatch.setattr(jax, 'devices', refuse)
    (finding,) = doctor.check_devices(GPU, {})
    assert finding.status == 'problem'
    assert 'Unable to initialize backend' in finding.text
    assert 'and much more' not in finding.text


def test_an_old_python_is_a_problem():
    assert doctor.check_python((3, 10, 9)).status == 'problem'
    assert doctor.check_python((3, 11, 0)).status == 'ok'


def test_jax_and_jaxlib_of_different_releases_are_a_problem():
    assert doctor.check_packages(VERSIONS).status == 'ok'
    assert doctor.check_packages(VERSIONS | {'jaxlib': '0.9.2'}).status == 'problem'


def test_a_missing_package_is_a_problem_that_names_it():
    finding = doctor.check_packages(VERSIONS | {'grain': None})
    assert finding.status == 'problem'
    assert 'grain missing' in finding.text


@pytest.mark.parametrize(
    ('versions', 'status'),
    [
        ({'jaxlib': '0.10.2'}, 'ok'),
        ({'jaxlib': '0.10.2', 'jax-cuda12-plugin': '0.10.2'}, 'ok'),
        ({'jaxlib': '0.10.2', 'jax-cuda12-plugin': '0.9.1'}, 'problem'),
        ({'jaxlib': '0.10.2', 'libtpu': '0.0.42.1'}, 'ok'),
        ({'jaxlib': '0.10.2', 'libtpu': '0.0.42'}, 'ok'),
        ({'jaxlib': '0.10.2', 'libtpu': '0.0.5'}, 'problem'),
        ({'jaxlib': '0.10.2', 'libtpu': '0.0.420'}, 'problem'),
    ],
)
def test_plugins_must_fit_jax(versions, status):
    assert doctor.check_plugins(versions, '0.0.42.*').status == status


def test_the_installed_jax_says_which_libtpu_it_wants():
    assert doctor._libtpu_wanted().startswith('0.0.')


def test_a_lock_file_that_nobody_holds_is_stale(tmp_path):
    path = tmp_path / 'libtpu_lockfile'
    assert doctor.check_tpu_lock(path).status == 'ok'
    path.touch()
    finding = doctor.check_tpu_lock(path)
    assert finding.status == 'warning'
    assert f'rm {path}' in finding.text


def test_a_stale_lock_file_of_another_user_is_a_problem(tmp_path, monkeypatch):
    path = tmp_path / 'libtpu_lockfile'
    path.touch()
    monkeypatch.setattr(os, 'geteuid', lambda: path.stat().st_uid + 1)
    finding = doctor.check_tpu_lock(path)
    assert finding.status == 'problem'
    assert 'sudo rm' in finding.text


@pytest.mark.skipif(not os.path.exists('/proc/locks'), reason='needs the list of locks of Linux')
def test_a_lock_held_by_a_live_process_is_not_called_stale(tmp_path, monkeypatch):
    path = tmp_path / 'libtpu_lockfile'
    with path.open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        me = os.getpid()
        assert doctor._lock_holders(path.stat()) == [me]
        monkeypatch.setattr(os, 'getpid', lambda: me + 1)  # as another process would see it
        finding = doctor.check_tpu_lock(path)
    assert finding.status == 'warning'
    assert f'held by process {me}' in finding.text


def hello(host, **versions):
    return {
        'host': host,
        'versions': {'python': '3.11.7', 'jax': '0.10.2', 'libtpu': '0.0.42.1', **versions},
    }


@pytest.mark.parametrize('package', ['jax', 'jaxlib', 'seqzoo', 'libtpu', 'python'])
def test_a_worker_of_another_version_is_named(package):
    hellos = {0: hello('a'), 1: hello('b', **{package: '9.9'}), 2: hello('c')}
    finding = doctor.compare_workers(hellos)
    assert finding.status == ('warning' if package == 'python' else 'problem')
    assert f'{package} is' in finding.text
    assert '9.9 in process 1 on b' in finding.text
    assert doctor.compare_workers({0: hello('a'), 1: hello('b')}).status == 'ok'


def test_a_worker_without_a_package_that_others_have_is_named():
    bare = hello('b')
    del bare['versions']['libtpu']
    finding = doctor.compare_workers({0: hello('a'), 1: bare})
    assert 'missing in process 1 on b' in finding.text


def test_workers_that_do_not_come_are_named_by_their_numbers():
    with socket.socket() as free:
        free.bind(('localhost', 0))
        address = f'localhost:{free.getsockname()[1]}'
    place = {'coordinator': address, 'processes': 3, 'process_id': 0}
    (finding,) = doctor.check_workers(place, 0.5)
    assert finding.status == 'problem'
    assert 'processes 1, 2 of 3 did not come' in finding.text
    (finding,) = doctor.check_workers({**place, 'process_id': 2}, 0.5)
    assert finding.status == 'problem'
    assert 'process 2 could not reach process 0' in finding.text


def test_a_single_process_has_no_workers(monkeypatch):
    for name in ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'):
        monkeypatch.delenv(name, raising=False)
    assert doctor.check_workers({}, 1) == []


@pytest.mark.parametrize(('free', 'status'), [(0.1, 'problem'), (3, 'warning'), (100, 'ok')])
def test_a_full_disk_is_seen(tmp_path, monkeypatch, free, status):
    usage = types.SimpleNamespace(free=free * 2**30)
    monkeypatch.setattr(doctor.shutil, 'disk_usage', lambda folder: usage)
    assert doctor.check_disk(tmp_path).status == status


@pytest.mark.parametrize(('gib', 'status'), [(1, 'warning'), (8, 'ok')])
def test_little_memory_is_seen(gib, status):
    assert doctor.check_memory(gib * 2**30).status == status
    assert doctor.check_memory(None).status == 'ok'


def test_only_variables_that_matter_to_jax_are_shown():
    text = doctor.check_environment({'JAX_PLATFORMS': 'cpu', 'SECRET': 'hidden'}).text
    assert text == 'JAX_PLATFORMS=cpu'


@pytest.mark.parametrize(
    ('files', 'kind'),
    [
        ([], 'cpu'),
        (['dev/accel0', 'dev/accel1'], 'tpu'),
        (['dev/accel/accel0'], 'cpu'),  # another maker's
        (['dev/nvidia0', 'dev/nvidiactl'], 'cuda'),
        (['dev/nvidiactl'], 'cpu'),  # the driver without a card
        (['dev/vfio/0'], 'cpu'),
        (['dev/vfio/0', 'sys/bus/pci/devices/1/vendor'], 'tpu'),
    ],
)
def test_the_accelerator_is_told_by_its_files(tmp_path, monkeypatch, files, kind):
    for variable in (
        'TPU_ACCELERATOR_TYPE',
        'TPU_NAME',
        'TPU_WORKER_ID',
        'TPU_CHIPS_PER_HOST_BOUNDS',
    ):
        monkeypatch.delenv(variable, raising=False)
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('0x1ae0\n')
    assert find(tmp_path).kind == kind


def test_a_tpu_machine_is_told_by_its_environment(tmp_path, monkeypatch):
    (tmp_path / 'dev' / 'vfio').mkdir(parents=True)
    (tmp_path / 'dev' / 'vfio' / '0').touch()
    monkeypatch.setenv('TPU_WORKER_ID', '0')
    assert find(tmp_path).kind == 'tpu'
