"""What `Checkpoints` promises: bit-equal, the right ones kept, damage noticed, kills survived."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqzoo.errors import UserError
from seqzoo.training.checkpoint import SET_ASIDE, Checkpoints
from seqzoo.training.integrity import CHECKSUMS


@flax.struct.dataclass
class State:
    step: Any
    params: Any
    variables: Any
    carry: Any
    opt_state: Any
    key: Any


def make_state(seed: int = 0, *, rows: int = 64) -> State:
    rng = np.random.default_rng(seed)
    params = {
        'layer': {
            'kernel': jnp.asarray(rng.normal(size=(rows, 48)), jnp.float32),
            'bias': jnp.asarray(rng.normal(size=8), jnp.bfloat16),
        }
    }
    transformation = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    return State(
        step=jnp.int32(seed),
        params=params,
        variables={},
        carry=(),
        opt_state=transformation.init(params),
        key=jax.random.key(seed),
    )


def abstract(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


def bits(leaf: jax.Array) -> tuple[str, bytes]:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), np.asarray(jax.random.key_data(leaf)).tobytes()
    return str(leaf.dtype), np.asarray(leaf).tobytes()


def assert_bit_equal(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert bits(ours) == bits(theirs)


def biggest_file(folder: Path) -> Path:
    return max(
        (path for path in folder.rglob('*') if path.is_file()), key=lambda path: path.stat().st_size
    )


def flip(path: Path, at: int, bit: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= bit
    path.write_bytes(content)


def test_a_state_comes_back_bit_equal_with_keys_bfloat16_and_optimizer(tmp_path):
    state = make_state(3)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, {'position': 7, 'history': [1.5, None]})
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(abstract(state))
    assert restored is not None
    assert restored.step == 7
    assert restored.meta == {'position': 7, 'history': [1.5, None]}
    assert_bit_equal(restored.state, state)


def test_an_empty_folder_restores_nothing(tmp_path):
    with Checkpoints(tmp_path / 'new') as checkpoints:
        assert checkpoints.restore(abstract(make_state())) is None
        assert checkpoints.restore_params(abstract(make_state().params)) is None
        assert (checkpoints.steps(), checkpoints.latest(), checkpoints.best()) == ([], None, None)


def test_donating_the_state_after_a_save_does_not_change_what_is_saved(tmp_path):
    state = make_state(1, rows=4000)
    want = {name: np.array(leaf) for name, leaf in state.params['layer'].items()}
    overwrite = jax.jit(
        lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 1, tree), donate_argnums=0
    )
    shapes = abstract(state.params)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {'params': state.params}, {})
        jax.block_until_ready(overwrite(state.params))
        restored = checkpoints.restore_params(shapes)
    assert restored is not None
    for name, leaf in restored.state['layer'].items():
        np.testing.assert_array_equal(np.asarray(leaf), want[name])


@pytest.mark.parametrize(('mode', 'kept'), [('max', [1, 3, 4]), ('min', [0, 3, 4])])
def test_the_newest_and_the_best_survive(tmp_path, mode, kept):
    state = make_state()
    with Checkpoints(tmp_path, keep=2, best_metric='bleu', best_mode=mode) as checkpoints:
        for step, bleu in enumerate([1.0, 9.0, 3.0, 4.0, float('nan')]):
            checkpoints.save(step, state, {}, metrics={'bleu': bleu})
        assert checkpoints.steps() == kept
        assert checkpoints.best() == kept[0]
        assert checkpoints.latest() == 4
    # Another process sees the same.
    with Checkpoints(tmp_path, best_metric='bleu', best_mode=mode, read_only=True) as checkpoints:
        assert (checkpoints.steps(), checkpoints.best()) == (kept, kept[0])


def test_saves_without_metrics_do_not_count_as_best_and_do_not_pile_up(tmp_path):
    with Checkpoints(tmp_path, keep=1, best_metric='bleu') as checkpoints:
        checkpoints.save(1, make_state(), {}, metrics={'bleu': 5.0})
        for step in (2, 3, 4):
            checkpoints.save(step, make_state(), {})
        assert checkpoints.steps() == [1, 4]
        assert checkpoints.best() == 1


@pytest.mark.parametrize('where', [100, -100])
def test_a_flipped_bit_is_noticed_and_the_next_older_one_used(tmp_path, caplog, where):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        checkpoints.save(2, make_state(2), {})
    damaged = biggest_file(tmp_path / '2')
    flip(damaged, where)
    with Checkpoints(tmp_path) as checkpoints, caplog.at_level(logging.WARNING):
        restored = checkpoints.restore(abstract(make_state()))
        params = checkpoints.restore_params(abstract(make_state().params))
    assert restored is not None
    assert params is not None
    assert (restored.step, params.step) == (1, 1)
    assert_bit_equal(restored.state, make_state(1))
    assert str(tmp_path / '2') in caplog.text
    assert damaged.name in caplog.text


def test_a_flipped_bit_anywhere_never_changes_what_is_restored(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {'x': 1})
        checkpoints.save(2, make_state(2), {'x': 2})
    rng = np.random.default_rng(0)
    shapes = abstract(make_state())
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        for path in sorted(path for path in (tmp_path / '2').rglob('*') if path.is_file()):
            content = path.read_bytes()
            if not content:
                continue
            flip(path, int(rng.integers(len(content))), 1 << int(rng.integers(8)))
            restored = checkpoints.restore(shapes)
            assert restored is not None
            assert restored.meta == {'x': restored.step}
            assert_bit_equal(restored.state, make_state(restored.step))
            path.write_bytes(content)


@pytest.mark.parametrize('harm', ['truncate', 'remove', 'remove_all', 'list'])
def test_other_damage_is_noticed_too(tmp_path, caplog, harm):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        checkpoints.save(2, make_state(2), {})
    path = biggest_file(tmp_path / '2')
    if harm == 'truncate':
        os.truncate(path, path.stat().st_size // 2)
    elif harm == 'remove':
        path.unlink()
    elif harm == 'remove_all':
        for file in [file for file in (tmp_path / '2').rglob('*') if file.is_file()]:
            file.unlink()
    else:
        (tmp_path / '2' / CHECKSUMS).write_text('{"state')
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(abstract(make_state()))
    assert restored is not None
    assert restored.step == 1
    assert 'damaged' in caplog.text


def test_no_good_checkpoint_is_an_error_that_says_what_was_found(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        checkpoints.save(2, make_state(2), {})
        checkpoints.wait()
        for step in (1, 2):
            flip(biggest_file(tmp_path / str(step)), 50)
        with pytest.raises(UserError, match=r'no good checkpoint .*step 2: .*; step 1: '):
            checkpoints.restore(abstract(make_state()))


def test_going_back_behind_a_damaged_checkpoint_replaces_it(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), {})
        checkpoints.wait()
        flip(biggest_file(tmp_path / '3'), 50)
        assert checkpoints.restore(abstract(make_state())).step == 2
        checkpoints.save(3, make_state(33), {'again': True})
        restored = checkpoints.restore(abstract(make_state()))
        assert checkpoints.steps() == [2, 3]
    assert restored.meta == {'again': True}
    assert_bit_equal(restored.state, make_state(33))
    assert not (tmp_path / SET_ASIDE).exists()


def test_an_explicit_step_is_restored_or_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        checkpoints.save(2, make_state(2), {})
        assert_bit_equal(checkpoints.restore(abstract(make_state()), 1).state, make_state(1))
        with pytest.raises(UserError, match=r'no checkpoint of step 5; there are .*1, 2'):
            checkpoints.restore(abstract(make_state()), 5)


def test_another_model_is_refused_with_the_arrays_that_differ(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(), {})
        with pytest.raises(
            UserError, match=r'layer/kernel is \(64, 48\) there and \(65, 48\) here'
        ):
            checkpoints.restore(abstract(make_state(rows=65)))
        params = {'other': abstract(make_state().params)['layer']}
        with pytest.raises(UserError, match='params/other/bias is not in it'):
            checkpoints.restore_params(params)
        without = make_state().replace(opt_state=())
        with pytest.raises(UserError, match=r'opt_state/.* is only in it'):
            checkpoints.restore(abstract(without))


def test_parts_of_the_state_are_restored_by_name(tmp_path):
    state = make_state(4).replace(variables={'batch_stats': {'mean': jnp.arange(5.0)}})
    part = {'params': state.params, 'variables': state.variables}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        assert_bit_equal(checkpoints.restore_part(abstract(part)).state, part)


@pytest.mark.parametrize('shape', [(8, 1), (2, 4), (1, 1)])
def test_a_state_is_restored_onto_another_mesh(tmp_path, shape):
    if jax.device_count() < 8:
        pytest.skip('needs 8 devices')

    def placed(tree, mesh):
        def place(leaf):
            split = leaf.ndim == 2
            spec = PartitionSpec('data', 'tensor') if split else PartitionSpec()
            return jax.device_put(leaf, NamedSharding(mesh, spec))

        return jax.tree.map(place, tree)

    devices = np.array(jax.devices())
    state = placed(make_state(5), Mesh(devices[:4].reshape(2, 2), ('data', 'tensor')))
    count = shape[0] * shape[1]
    wanted = placed(make_state(0), Mesh(devices[:count].reshape(shape), ('data', 'tensor')))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        restored = checkpoints.restore(abstract(wanted))
    assert_bit_equal(restored.state, state)
    for ours, theirs in zip(jax.tree.leaves(restored.state), jax.tree.leaves(wanted), strict=True):
        assert ours.sharding == theirs.sharding


def test_a_reader_leaves_the_folder_as_it_is(tmp_path):
    with Checkpoints(tmp_path / 'missing', read_only=True) as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.restore(abstract(make_state())) is None
    assert not (tmp_path / 'missing').exists()
    with Checkpoints(tmp_path) as writer:
        writer.save(1, make_state(), {})
        writer.wait()
        unfinished = tmp_path / '2.orbax-checkpoint-tmp'
        unfinished.mkdir()
        with Checkpoints(tmp_path, read_only=True) as reader:
            assert reader.steps() == [1]
            writer.save(3, make_state(), {})
            writer.wait()
            assert reader.steps() == [1, 3]
        assert unfinished.exists()


def run_child(code: str, *arguments: str, **kwargs: Any) -> subprocess.Popen:
    root = Path(__file__).resolve().parents[2]
    prelude = (
        'import sys\n'
        f'sys.path[:0] = [{str(root)!r}, {str(root / "tests" / "training")!r}]\n'
        'from test_checkpoint import *\n'
    )
    return subprocess.Popen(
        [sys.executable, '-c', prelude + code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'XLA_FLAGS': ''},
        **kwargs,
    )


def test_kill_in_mid_save_leaves_the_previous_checkpoint(tmp_path):
    child = run_child(
        """
class Stuck(Checkpoints):
    def _write_checksums(self):
        if self._saving == 2:  # every array is written, nothing is committed
            print('writing', flush=True)
            time.sleep(60)
        super()._write_checksums()

checkpoints = Stuck(Path(sys.argv[1]))
checkpoints.save(1, make_state(1), {})
checkpoints.save(2, make_state(2), {})
time.sleep(60)
""",
        str(tmp_path),
    )
    assert child.stdout.readline() == 'writing\n'
    child.kill()
    child.communicate()
    assert list(tmp_path.glob('2.*tmp*')), 'the kill came too late to mean anything'
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(abstract(make_state()))
        assert restored.step == 1
        assert_bit_equal(restored.state, make_state(1))
        checkpoints.save(2, make_state(2), {})
        assert checkpoints.steps() == [1, 2]
    assert not list(tmp_path.glob('*tmp*'))


@pytest.mark.slow
def test_kills_at_random_moments_never_lose_more_than_the_save_in_progress(tmp_path):
    rng = np.random.default_rng(0)
    newest = 0
    for _ in range(8):
        child = run_child(
            """
checkpoints = Checkpoints(Path(sys.argv[1]))
restored = checkpoints.restore(abstract(make_state(rows=3000)))
step = restored.step if restored else 0
print('ready', flush=True)
while True:
    step += 1
    checkpoints.save(step, make_state(step, rows=3000), {'step': step})
    checkpoints.wait()
    print(step, flush=True)
""",
            str(tmp_path),
        )
        assert child.stdout.readline() == 'ready\n'
        time.sleep(float(rng.uniform(0.05, 1.0)))
        child.send_signal(signal.SIGKILL)
        output, _ = child.communicate()
        newest = max([newest, *map(int, output.split())])
        with Checkpoints(tmp_path) as checkpoints:
            restored = checkpoints.restore(abstract(make_state(rows=3000)))
        if restored is None:
            assert newest == 0
            continue
        assert restored.step >= newest
        assert restored.meta == {'step': restored.step}
        assert_bit_equal(restored.state, make_state(restored.step, rows=3000))
    assert newest > 0


def test_a_full_disk_keeps_what_there_was_and_says_so(tmp_path):
    # A limit on the size of a file refuses the write as a full disk does.
    child = run_child(
        """
import resource
checkpoints = Checkpoints(Path(sys.argv[1]))
checkpoints.save(1, make_state(1), {})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoints.save(2, make_state(2, rows=2000), {})
    checkpoints.wait()
except UserError as error:
    print(error)
assert checkpoints.steps() == [1], checkpoints.steps()
assert_bit_equal(checkpoints.restore(abstract(make_state())).state, make_state(1))
checkpoints.save(2, make_state(2, rows=1), {})
assert checkpoints.steps() == [1, 2]
checkpoints.close()
""",
        str(tmp_path),
    )
    output, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    assert re.search(r'checkpoint of step 2 could not be saved .*File too large.* steps 1', output)
    assert not list(tmp_path.glob('*tmp*'))


def test_a_healthy_run_says_nothing_on_the_terminal(tmp_path):
    child = run_child(
        """
with Checkpoints(Path(sys.argv[1]), best_metric='loss') as checkpoints:
    for step in range(3):
        checkpoints.save(step, make_state(step), {})
with Checkpoints(Path(sys.argv[1]), read_only=True) as checkpoints:
    checkpoints.restore(abstract(make_state()))
    checkpoints.restore_params(jax.eval_shape(lambda: make_state().params))
""",
        str(tmp_path),
    )
    assert child.communicate(timeout=120) == ('', '')


def test_every_file_but_the_commit_marks_is_under_a_checksum(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(), {})
    listed = set(json.loads((tmp_path / '1' / CHECKSUMS).read_text()))
    files = {
        path.relative_to(tmp_path / '1').as_posix()
        for path in (tmp_path / '1').rglob('*')
        if path.is_file()
    }
    unlisted = {Path(name).name for name in files - listed}
    assert unlisted <= {CHECKSUMS, '_CHECKPOINT_METADATA', 'commit_success.txt'}
    assert listed <= files
