"""Processes find each other, name who is missing, and notice who is gone; here as threads."""

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from seqzoo.errors import UserError
from seqzoo.parallel import processes
from seqzoo.parallel.rendezvous import MissingProcesses, Place, meet
from seqzoo.parallel.watch import LOST, Watch


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(('localhost', 0))
        return f'localhost:{free.getsockname()[1]}'


def all_meet(places, timeout=10):
    """What each of them got: a circle or an exception."""

    def one(place):
        try:
            return meet(place, {'name': f'number {place.process_id}'}, timeout=timeout)
        except UserError as error:
            return error

    with ThreadPoolExecutor(len(places)) as threads:
        return list(threads.map(one, places))


def test_all_learn_what_all_have_said(address):
    circles = all_meet([Place(address, 3, number) for number in (2, 0, 1)])
    for circle in circles:
        assert [said['name'] for said in circle.hellos] == ['number 0', 'number 1', 'number 2']
        circle.close()


def test_those_who_came_hear_who_did_not(address):
    found = all_meet([Place(address, 4, number) for number in (0, 2)], timeout=1)
    for error in found:
        assert isinstance(error, MissingProcesses)
        assert error.missing == (1, 3)
        assert 'processes 1, 3 of 4 did not come' in str(error)
    assert set(found[0].hellos) == {0, 2}


def test_two_processes_with_one_number_are_told(address):
    found = all_meet([Place(address, 3, number) for number in (0, 1, 1)], timeout=2)
    assert sum('two processes have the id 1' in str(error) for error in found) == 1


def test_unlike_numbers_of_processes_are_told(address):
    found = all_meet([Place(address, 2, 0), Place(address, 3, 1)], timeout=1)
    assert 'started with 3 processes, process 0 with 2' in str(found[1])


def test_a_stranger_at_the_port_does_no_harm(address):
    def disturb():
        host, port = address.split(':')
        for _ in range(20):
            with contextlib.suppress(OSError), socket.create_connection((host, int(port))) as line:
                line.sendall(b'GET / HTTP/1.1\r\n\r\n')
            time.sleep(0.01)

    thread = threading.Thread(target=disturb)
    thread.start()
    circles = all_meet([Place(address, 2, 0), Place(address, 2, 1)])
    thread.join()
    assert all(len(circle.hellos) == 2 for circle in circles)
    for circle in circles:
        circle.close()


@pytest.mark.parametrize('coordinator', ['host', 'host:', ':1', 'host:0', 'host:70000', 'host:x'])
def test_an_address_that_cannot_be_is_refused(coordinator):
    with pytest.raises(UserError, match='give HOST:PORT'):
        Place(coordinator, 2, 0)


def test_a_number_beyond_the_last_is_refused():
    with pytest.raises(UserError, match='number them from 0 to 1'):
        Place('host:1', 2, 2)


class Ended:
    """Stands for the end of a process."""

    def __init__(self):
        self.status = None
        self.happened = threading.Event()

    def __call__(self, status):
        self.status = status
        self.happened.set()


@pytest.fixture
def watched(address):
    """Three processes that watch each other: watches and ends."""
    circles = all_meet([Place(address, 3, number) for number in range(3)])
    ends = [Ended() for _ in circles]
    watches = [Watch(c, e, grace=0.2) for c, e in zip(circles, ends, strict=True)]
    for watch in watches:
        watch.start()
    yield circles, watches, ends
    for watch in watches:
        watch.leave(0)


@pytest.mark.parametrize('dead', [0, 1])
def test_a_death_ends_all_others_whatever_they_wait_for(watched, dead, capfd):
    circles, watches, ends = watched
    watches[dead]._judge = lambda *news: None  # the dead pass nothing on
    for connection in circles[dead].connections.values():  # as the kernel does for the dead
        connection.shutdown(socket.SHUT_RDWR)
    living = {0, 1, 2} - {dead}
    for number in living:
        assert ends[number].happened.wait(5)
        assert ends[number].status == LOST
        assert f'process {dead} on' in watches[number].verdict().message
    assert f'process {dead} on' in capfd.readouterr().err


def test_a_failure_is_passed_on_with_its_status(watched):
    _, watches, ends = watched
    watches[2].leave(2, 'no such file')
    for number in (0, 1):
        assert ends[number].happened.wait(5)
        assert ends[number].status == 2
        assert watches[number].verdict().message == 'no such file'


def test_leaving_in_order_ends_nobody(watched):
    _, watches, ends = watched
    watches[1].leave(0)
    watches[0].leave(0)
    time.sleep(0.5)
    assert [end.status for end in ends] == [None, None, None]
    assert watches[2].verdict() is None


def test_a_process_on_its_way_out_is_left_alone(watched):
    _, watches, ends = watched
    watches[1].leave(2, 'no such file')
    watches[2].leave(2, 'no such file either')
    time.sleep(0.5)
    assert ends[2].status is None


def test_several_processes_are_told_by_the_options_the_environment_and_the_cluster():
    found = processes.find('host:1', 2, 1, environment={})
    assert found.place == Place('host:1', 2, 1)
    stated = {
        'JAX_COORDINATOR_ADDRESS': 'host:2',
        'JAX_NUM_PROCESSES': '3',
        'JAX_PROCESS_ID': '0',
    }
    assert processes.find(environment=stated).place == Place('host:2', 3, 0)
    assert processes.find(process_id=2, environment=stated).place == Place('host:2', 3, 2)
    assert processes.find(environment={}) is None
    assert processes.find(processes=1, environment={}) is None


def test_a_step_of_a_cluster_job_is_several_processes_but_its_batch_script_is_not(monkeypatch):
    job = {
        'SLURM_JOB_ID': '77',
        'SLURM_STEP_NODELIST': 'node[3-4]',
        'SLURM_NTASKS': '2',
        'SLURM_PROCID': '1',
        'SLURM_LOCALID': '0',
        'SLURM_STEP_NUM_NODES': '2',
    }
    assert processes.find(environment=job) is None
    step = {**job, 'SLURM_STEP_NUM_TASKS': '2'}
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    found = processes.find(environment=step)
    assert found.by_cluster
    assert (found.place.processes, found.place.process_id) == (2, 1)
    assert found.place.coordinator.startswith('node3:')


@pytest.mark.parametrize(
    ('stated', 'missing'),
    [({'processes': 2}, '--coordinator and --process-id'), ({'process_id': 0}, '--processes')],
)
def test_half_an_answer_is_refused(stated, missing):
    with pytest.raises(UserError, match=missing):
        processes.find(**stated, environment={})
