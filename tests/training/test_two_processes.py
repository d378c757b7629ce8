"""Checkpoints and stop requests of a run of two JAX processes on this machine."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.training.checkpoint import Checkpoints

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
from pathlib import Path
import jax
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 2)
address, rank, folder, expires = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
jax.distributed.initialize(address, num_processes=2, process_id=rank)
import time
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from seqzoo.training.checkpoint import Checkpoints
from seqzoo.training.signals import StopRequest

mesh = Mesh(np.array(jax.devices()), ('data',))
split, whole = NamedSharding(mesh, PartitionSpec('data')), NamedSharding(mesh, PartitionSpec())
shardings = {'params': split, 'step': whole}
init = jax.jit(
    lambda: {'params': jnp.arange(16.0), 'step': jnp.int32(0)}, out_shardings=shardings
)
update = jax.jit(
    lambda state: {'params': state['params'] + state['params'].sum(), 'step': state['step'] + 1},
    out_shardings=shardings,
)
shapes = jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    jax.eval_shape(init), shardings,
)
with Checkpoints(folder) as checkpoints, StopRequest() as stop:
    restored = checkpoints.restore(shapes)
    state, step = (restored.state, restored.step) if restored else (init(), 0)
    print('from', step, flush=True)
    while step < 2000:
        state = jax.block_until_ready(update(state))
        step += 1
        if step % 10 == 0:
            state['params'] = state['params'] * 0 + step
        time.sleep(0.02)
        if step == 5:
            print('running', flush=True)
        if expires and step == 8 + rank:
            stop.expire()
        if stop.after(step):
            break
    checkpoints.save(step, state, {'step': step})
    checkpoints.wait()
print('stopped', step, stop.status, flush=True)
"""


def start(folder: Path, *more: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(('localhost', 0))
        address = f'localhost:{free.getsockname()[1]}'
    environment = {**os.environ, 'XLA_FLAGS': ''}
    return [
        subprocess.Popen(
            [sys.executable, '-c', PROGRAM, address, str(rank), str(folder), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).resolve().parents[2],
        )
        for rank in range(2)
    ]


def says(child: subprocess.Popen, *lines: str) -> bool:
    """Whether the program printed these lines in this order.

    Gloo talks on standard output too, in pieces that may share a line with the program's.
    """
    for line in lines:
        while not (said := child.stdout.readline()).endswith(f'{line}\n'):
            if not said:
                return False
    return True


def finish(children: list[subprocess.Popen]) -> list[tuple[str, str]]:
    try:
        return [child.communicate(timeout=120) for child in children]
    finally:
        for child in children:
            child.kill()


@pytest.mark.parametrize(
    ('number', 'said'), [(signal.SIGTERM, 'preempted'), (signal.SIGINT, 'interrupted')]
)
def test_a_signal_to_one_process_stops_both_after_the_same_step_saved(tmp_path, number, said):
    children = start(tmp_path)
    for child in children:
        assert says(child, 'from 0', 'running')
    children[1].send_signal(number)
    ends = finish(children)
    first, second = (output.splitlines()[-1].split() for output, _ in ends)
    assert first[0] == 'stopped', ends[0][1]
    assert first == second == ['stopped', first[1], said]
    step = int(first[1])
    shapes = {
        'params': jax.ShapeDtypeStruct((16,), jnp.float32),
        'step': jax.ShapeDtypeStruct((), jnp.int32),
    }
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(shapes)  # by one process
    assert restored is not None
    assert restored.step == int(restored.state['step']) == step
    assert np.isfinite(np.asarray(restored.state['params'])).all()
    assert (tmp_path / str(step) / 'checksums.json').exists()


def test_when_time_is_up_on_the_first_both_stop_after_the_same_step_and_nobody_interrupted(
    tmp_path,
):
    children = start(tmp_path, 'expires')
    first, second = (output.splitlines()[-1].split() for output, _ in finish(children))
    assert first == second
    assert first[0] == 'stopped'
    assert 8 < int(first[1]) < 2000
    assert first[2] == 'None'


def test_two_processes_agree_to_leave_a_damaged_checkpoint_alone(tmp_path):
    shapes = {'params': jnp.arange(16.0), 'step': jnp.int32(0)}
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 1999):
            checkpoints.save(step, {**shapes, 'step': jnp.int32(step)}, {})
    (tmp_path / '1999' / 'state' / 'manifest.ocdbt').write_bytes(b'')
    children = start(tmp_path)
    for child in children:
        assert says(child, 'from 1', 'running')
    children[0].terminate()
    ends = finish(children)
    assert [child.returncode for child in children] == [0, 0], ends
    step = int(ends[0][0].split()[-2])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1, step], 'the abandoned future is gone'
