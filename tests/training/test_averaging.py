"""Snapshots and their mean, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqzoo.errors import UserError
from seqzoo.training.averaging import Snapshots, average, newest
from seqzoo.training.checkpoint import Checkpoints


def make_params(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        'kernel': rng.normal(size=(8, 6)).astype(np.float32),
        'bias': rng.normal(size=3).astype(jnp.bfloat16),
    }


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run') / 'snapshots'
    with Snapshots(folder, keep=4) as snapshots:
        for step in range(10, 70, 10):
            snapshots.save(step, jax.tree.map(jnp.asarray, make_params(step)))
        assert snapshots.steps() == [30, 40, 50, 60]
    return folder


SHAPES = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), make_params(0))


def assert_is_mean(params, steps):
    for name, leaf in params.items():
        every = np.stack([make_params(step)[name].astype(np.float64) for step in steps])
        assert leaf.dtype == SHAPES[name].dtype
        # bfloat16 is rounded once, at the end: half a unit in its last place.
        tolerance = 4e-3 if leaf.dtype == jnp.bfloat16 else 3e-7
        np.testing.assert_allclose(
            np.asarray(leaf, np.float64), every.mean(0), rtol=tolerance, atol=1e-7
        )


def test_the_average_of_the_last_is_the_mean(folder):
    assert_is_mean(average(folder, SHAPES, last=3), [40, 50, 60])
    assert_is_mean(average(folder, SHAPES, last=1), [60])


def test_the_newest_up_to_a_step_leave_out_what_came_later(folder):
    assert newest(folder, 2) == [50, 60]
    assert newest(folder, 2, up_to=50) == [40, 50]
    assert newest(folder, 2, up_to=49) == [30, 40]
    with pytest.raises(UserError, match=r'3 snapshots .* holds 2 of step 40 or earlier'):
        newest(folder, 3, up_to=40)


def test_the_average_of_chosen_steps_is_their_mean(folder):
    assert_is_mean(average(folder, SHAPES, steps=[30, 60]), [30, 60])


def test_too_few_snapshots_are_an_error_that_says_how_many_there_are(folder, tmp_path):
    with pytest.raises(UserError, match=r'5 snapshots .* holds 4'):
        average(folder, SHAPES, last=5)
    with pytest.raises(UserError, match='holds 0'):
        average(tmp_path / 'none', SHAPES, last=1)
    with pytest.raises(UserError, match=r'no snapshot of steps \[31\]'):
        average(folder, SHAPES, steps=[30, 31])


def test_the_average_lies_where_the_shapes_say(folder):
    if jax.device_count() < 4:
        pytest.skip('needs 4 devices')
    mesh = Mesh(np.array(jax.devices()[:4]), ('data',))
    shapes = {
        'kernel': jax.ShapeDtypeStruct(
            (8, 6), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec('data'))
        ),
        'bias': jax.ShapeDtypeStruct(
            (3,), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec())
        ),
    }
    params = average(folder, shapes, last=4)
    assert params['kernel'].sharding.spec == PartitionSpec('data')
    assert_is_mean(params, [30, 40, 50, 60])


def test_resume_checkpoints_can_be_averaged_too(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            params = jax.tree.map(jnp.asarray, make_params(step))
            checkpoints.save(step, {'params': params, 'opt_state': params}, {})
    assert_is_mean(average(tmp_path, SHAPES, last=2), [1, 2])


def test_a_damaged_snapshot_is_an_error_not_another_average(tmp_path):
    with Snapshots(tmp_path, keep=3) as snapshots:
        for step in (1, 2, 3):
            snapshots.save(step, jax.tree.map(jnp.asarray, make_params(step)))
    (tmp_path / '2' / 'state' / 'manifest.ocdbt').write_bytes(b'')
    with pytest.raises(UserError, match='step 2'):
        average(tmp_path, SHAPES, last=3)
