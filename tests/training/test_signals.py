"""Signals stop the loop after a step, and leave the handlers as they were."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from seqzoo.training.signals import Stopped, StopRequest


@pytest.mark.parametrize(
    ('number', 'status', 'code'),
    [(signal.SIGINT, 'interrupted', 130), (signal.SIGTERM, 'preempted', 75)],
)
def test_a_signal_asks_to_stop_after_the_step(number, status, code):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.after(1)
        assert (stop.status, stop.exit_status, stop.requested) == (None, 0, False)
        os.kill(os.getpid(), number)
        assert stop.after(2)
        assert stop.requested
    assert (stop.status, stop.exit_status) == (status, code)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(
    ('number', 'raised'), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Stopped)]
)
def test_a_signal_before_there_is_anything_to_save_leaves_at_once(number, raised):
    with StopRequest(at_once=True), pytest.raises(raised):
        os.kill(os.getpid(), number)
    with StopRequest(at_once=True) as stop:
        stop.note()
        os.kill(os.getpid(), number)
        assert stop.after(1)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize(
    ('number', 'raised'), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Stopped)]
)
def test_a_signal_whose_exception_python_drops_is_not_lost(number, raised):
    class Finalised:
        def __del__(self):
            os.kill(os.getpid(), number)  # what is raised here is printed, and no more

    with StopRequest(at_once=True) as stop:
        finalised = Finalised()
        del finalised
        with pytest.raises(raised):
            stop.note()


def test_a_second_interrupt_leaves_at_once():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.status == 'interrupted'


def test_sigterm_after_an_interrupt_stays_an_interruption():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.after(1)
        assert stop.status == 'interrupted'


def test_time_that_is_up_is_up_at_once_and_no_interruption():
    with StopRequest() as stop:
        assert stop.expire()
        assert not stop.after(1)
        assert stop.exit_status == 0


def test_outside_the_main_thread_nothing_is_installed():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        with StopRequest() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.after(1)))
            stop.request('preempted')
            seen.append(stop.after(2))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False), True]


def test_a_program_finishes_its_step_and_leaves_with_the_status():
    program = """
import sys, time
from seqzoo.training.signals import Stopped, StopRequest
with StopRequest() as stop:
    for step in range(1, 1000):
        print('begin', step, flush=True)
        time.sleep(0.2)
        print('end', step, flush=True)
        if stop.after(step):
            break
sys.exit(stop.exit_status)
"""
    child = subprocess.Popen(
        [sys.executable, '-c', program],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert child.stdout.readline() == 'begin 1\n'
    child.terminate()
    output, _ = child.communicate(timeout=60)
    assert output == 'end 1\n'
    assert child.returncode == 75
