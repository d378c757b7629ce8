"""Every model of the zoo keeps its promises. `battery.py` holds them and finds the models."""

import importlib.util
import pathlib
import sys

import pytest

from seqzoo.layers.mixture import MixtureConfig
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.recurrent_lm import RecurrentLMConfig

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
    assert {type(config).__name__ for config in CONFIGS} >= {
        'BertConfig',
        'BertPretrainingConfig',
        'BiLMConfig',
        'BiLMPretrainingConfig',
        'ByteNetConfig',
        'ByteNetLMConfig',
        'CaptionerConfig',
        'ConvS2SConfig',
        'DenseConfig',
        'ElmoConfig',
        'LabelerConfig',
        'RecurrentEncoderConfig',
        'RecurrentLMConfig',
        'RecurrentSeq2SeqConfig',
        'TCNConfig',
        'TCNEncoderConfig',
        'TransformerConfig',
        'WaveNetConfig',
    }


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ('check', 'config'),
    [
        pytest.param(check, config, id=f'{type(config).__name__}-{check.__name__}')
        for config in CONFIGS
        for check in battery.checks_for(config, slow=True)
    ],
)
def test_the_model_keeps_its_costly_promise(check, config):
    check(config)


@pytest.mark.slow
def test_a_mixture_and_every_kind_of_dropout_take_the_same_step_over_devices():
    layers = RecurrentConfig(
        cell=LSTM(hidden_dim=6), num_layers=2, input_dropout_rate=0.3, dropout_rate=0.3,
        output_dropout_rate=0.3, variational=True, weight_drop_rate=0.5,
    )  # fmt: skip
    config = RecurrentLMConfig(
        vocab_size=11, embed_dim=6, layers=layers, tie=True, embedding_dropout_rate=0.3,
        activation_weight=2.0, temporal_activation_weight=1.0,
        mixture=MixtureConfig(num_experts=4, top_k=2, mlp_dim=8),
    )  # fmt: skip
    battery.a_step_over_devices_is_that_of_one_device(config)
