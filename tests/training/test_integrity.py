"""Damage to any file of a checkpoint, and trees that it does not hold."""

import jax
import jax.numpy as jnp
import pytest

from seqzoo.training.integrity import CHECKSUMS, damage, differences, write_checksums


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'state' / 'd').mkdir(parents=True)
    (tmp_path / 'state' / 'd' / 'array').write_bytes(bytes(range(256)) * 8)
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta' / 'metadata').write_text('{}')
    (tmp_path / 'commit_success.txt').write_text('1')
    write_checksums(tmp_path)
    return tmp_path


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_what_was_written_is_whole_also_after_the_commit(folder):
    (folder / 'commit_success.txt').write_text('another time')
    assert damage(folder) == ''


def test_a_bit_a_byte_or_a_file_less_is_named(folder):
    file = folder / 'state' / 'd' / 'array'
    content = bytearray(file.read_bytes())
    content[1000] ^= 4
    file.write_bytes(content)
    assert damage(folder) == 'state/d/array is not what was written'
    file.write_bytes(content[:-1])
    assert damage(folder) == 'state/d/array has 2047 bytes, 2048 were written'
    file.unlink()
    assert damage(folder) == 'state/d/array is missing'


@pytest.mark.parametrize('text', ['{"state', '[]', '{"state/d/array": 3}', '\0'])
def test_a_damaged_list_is_damage(folder, text):
    (folder / CHECKSUMS).write_text(text)
    assert CHECKSUMS in damage(folder)


def test_a_missing_list_is_left_to_orbax_but_a_missing_folder_is_not(folder, tmp_path):
    (folder / CHECKSUMS).unlink()
    assert damage(folder) == ''
    assert damage(tmp_path / 'nothing') == 'its files are missing'


def test_other_trees_are_told_apart_by_name_and_shape():
    stored = {'params': {'kernel': array(2, 3), 'bias': array(3)}, 'step': array()}
    assert differences(stored, stored, partial=False) == []
    wanted = {'params': {'kernel': array(2, 4), 'scale': array(3)}}
    shape = 'params/kernel is (2, 3) there and (2, 4) here'
    missing = 'params/scale is not in it'
    assert differences(stored, wanted, partial=True) == [shape, missing]
    assert differences(stored, wanted, partial=False) == [
        *(shape, missing),
        *('params/bias is only in it', 'step is only in it'),
    ]


def test_a_typed_key_is_stored_as_its_numbers():
    key = jax.eval_shape(lambda: jax.random.key(0))
    stored = {'key': jax.eval_shape(jax.random.key_data, key)}
    assert differences(stored, {'key': key}, partial=False) == []
