"""Kept counts are those of the modules, and are used for nothing else."""

import dataclasses
import json

import pytest

from seqzoo.analysis import known_sizes
from seqzoo.analysis.parameters import count_parameters
from seqzoo.configuration import load_config


@pytest.fixture
def counted(monkeypatch):
    """The models that had to be counted."""
    seen = []

    def count(model):
        seen.append(model)
        return count_parameters(model)

    monkeypatch.setattr(known_sizes, 'count_parameters', count)
    known_sizes._kept.cache_clear()
    yield seen
    known_sizes._kept.cache_clear()


def test_the_file_holds_what_the_modules_have():
    kept = json.loads(known_sizes.sizes_file().read_text('utf-8'))
    assert kept == known_sizes.sizes(), 'run python -m seqzoo.analysis.known_sizes'


def test_a_named_configuration_need_not_be_counted(counted):
    model = load_config('transformer_base_wmt14_ende').nominal_model()
    assert known_sizes.known_size(model) == 63_045_632
    assert not counted


def test_a_changed_configuration_is_counted(counted):
    model = load_config('transformer_tiny_numerals').nominal_model()
    narrower = dataclasses.replace(model, mlp_dim=model.mlp_dim // 2)
    assert known_sizes.known_size(narrower) < known_sizes.known_size(model)
    assert counted == [narrower]


@pytest.mark.parametrize('text', [None, '<<<<<<< ours', '[]'])
def test_without_a_file_everything_is_counted(counted, monkeypatch, tmp_path, text):
    file = tmp_path / 'sizes.json'
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(known_sizes, 'sizes_file', lambda: file)
    model = load_config('transformer_tiny_numerals').nominal_model()
    assert known_sizes.known_size(model) == count_parameters(model)
    assert counted == [model]
