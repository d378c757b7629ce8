"""Several processes that are one slice measure it together."""

import json

import pytest


@pytest.mark.slow
def test_a_slice_of_two_hosts_measures_itself_and_one_of_them_writes(launch, tmp_path):
    words = ['bench', 'transformer_tiny_numerals', '--synthetic', '--steps=2', '--repeats=2']
    words += ['--model.num-layers=1', '--model.embed-dim=16', '--model.mlp-dim=32', '--json']
    words += ['--model.num-heads=2', '--batch.tokens=64', '--output', tmp_path]
    first, second = launch(words, count=2, devices=1).ends()
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert second.out == ''
    result = json.loads(first.out)
    assert json.loads((tmp_path / 'scaling.json').read_text()) == result
    (measured,) = result['measurements']
    assert (measured['devices'], measured['processes']) == (2, 2)
    # What both hosts provide of the rows of a batch is counted once.
    assert measured['tokens_per_round'] == measured['positions_per_round'] == 2 * 64
