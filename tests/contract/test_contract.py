"""Every model of the zoo keeps its promises. `battery.py` holds them and finds the models."""

import importlib.util
import pathlib
import sys

import pytest

# The tests are no package (importmode=importlib), so the battery is loaded by its path.
_spec = importlib.util.spec_from_file_location(
    'battery', pathlib.Path(__file__).with_name('battery.py')
)
assert _spec is not None
assert _spec.loader is not None
battery = sys.modules.setdefault('battery', importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(battery)

CONFIGS = [config.tiny() for config in battery.configurations()]


def test_the_battery_finds_the_models():
    assert 'TransformerConfig' in {type(config).__name__ for config in CONFIGS}


@pytest.mark.parametrize(
    ('check', 'config'),
    [
        pytest.param(check, config, id=f'{type(config).__name__}-{check.__name__}')
        for config in CONFIGS
        for check in battery.checks_for(config)
    ],
)
def test_the_model_keeps_its_promise(check, config):
    check(config)
