"""Names of slices, and widths that fill a matrix unit; no compiler is asked."""

import importlib.util
import subprocess
import sys

import pytest

from seqzoo.analysis import slices
from seqzoo.analysis.matrix_unit import idle_share, wasted
from seqzoo.analysis.slices import find_slice, parse_topology
from seqzoo.errors import UserError
from seqzoo.models.transformer import TransformerConfig


@pytest.mark.parametrize(
    ('name', 'chip', 'shape'),
    [('v5e:4x4', 'v5e', (4, 4)), ('V5P:2x2x1', 'v5p', (2, 2, 1)), ('tpu7x:2x2x1', '7x', (2, 2, 1))],
)
def test_a_topology_names_a_chip_and_how_many_stand_along_each_axis(name, chip, shape):
    found, sizes = parse_topology(name)
    assert (found.name, sizes) == (chip, shape)


@pytest.mark.parametrize(
    ('name', 'sentence'),
    [
        ('v5x:2x2', 'did you mean v5'),
        ('h100:2x2', 'there are v3, v4'),
        ('v5e', 'written with 2 numbers'),
        ('v4:2x2', 'written with 3 numbers, such as v4:2x2x1'),
        ('v5e:axb', 'written with 2 numbers'),
        ('v5e:0x2', 'no slice of no chips'),
        ('v5e:1000x1000', 'the largest slice of v5e has 256 chips'),
    ],
)
def test_other_names_are_refused_with_a_hint(name, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_topology(name)


def test_without_a_compiler_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(slices, 'has_compiler', lambda: False)
    with pytest.raises(UserError, match=r"pip install 'seqzoo\[tpu\]'"):
        find_slice('v5e:2x2')


def test_a_folder_called_libtpu_is_no_compiler(tmp_path, monkeypatch):
    (tmp_path / 'libtpu').mkdir()
    program = 'from seqzoo.analysis.slices import has_compiler; print(has_compiler())'
    if importlib.util.find_spec('libtpu') is not None:
        pytest.skip('a real one is installed')
    result = subprocess.run(
        [sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ['False']


def test_filling_is_what_whole_tiles_leave_empty():
    assert idle_share(128, 128) == 0
    assert idle_share(96, 128) == 0.25
    assert idle_share(129, 128) == 1 - 129 / 256


def test_only_widths_that_waste_much_are_told_and_what_the_mesh_splits_is_split():
    config = TransformerConfig(
        vocab_size=1024, num_layers=1, embed_dim=512, mlp_dim=640, num_heads=4
    )
    options = {'rows': 16, 'length': 64, 'is_recurrent': False}
    assert wasted(config, {}, **options) == []
    by_name = {w.what: w for w in wasted(config, {'mlp': 2, 'heads': 2, 'vocab': 2}, **options)}
    assert by_name.keys() == {'mlp'}
    assert (by_name['mlp'].size, round(by_name['mlp'].share, 3)) == (320, 0.167)
    assert '320' in by_name['mlp'].sentence
    uneven = {w.what for w in wasted(config, {}, rows=16, length=50, is_recurrent=False)}
    assert uneven == {'length'}
    assert {w.what for w in wasted(config, {}, rows=5, length=50, is_recurrent=True)} == {'rows'}
