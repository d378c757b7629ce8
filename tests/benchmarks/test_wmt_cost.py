"""What full runs on WMT 2014 need stands in a page that says what the program says."""

import pathlib

import pytest

RESULTS = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks' / 'results'


@pytest.mark.slow
def test_the_page_is_what_the_program_says(benchmark_program):
    wanted = benchmark_program('wmt_cost').page()
    assert (RESULTS / 'wmt14_cost.md').read_text('utf-8') == wanted, 'python benchmarks/wmt_cost.py'
    assert 'an estimate' in wanted
