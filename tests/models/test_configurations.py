"""What no model can mean is refused where its configuration is built, in Python as elsewhere."""

import dataclasses
import typing

import pytest

from seqzoo.configuration.checks import check_sizes
from seqzoo.errors import ConfigError
from seqzoo.models.base import ModelConfig
from seqzoo.models.transformer import TransformerConfig


@pytest.mark.parametrize(
    ('wrong', 'said'),
    [
        ({'norm': 'mid'}, "norm is 'mid': it must be post or pre"),
        ({'positions': 'rope'}, 'it must be sinusoidal or learned'),
        ({'dtype': 'float16'}, 'it must be float32 or bfloat16'),
        ({'mlp_activation': 'foo'}, 'it must be relu or gelu'),
        ({'remat': 'some'}, 'it must be none or full or dots'),
        ({'attention_implementation': 'flash'}, 'it must be auto or xla or splash or cudnn'),
        ({'num_layers': 2.5}, 'num_layers is 2.5: it must be a whole number'),
        ({'num_heads': True}, 'num_heads is True: it must be a whole number'),
        ({'embed_dim': '64'}, "embed_dim is '64': it must be a whole number"),
        ({'key_dim': 0}, 'key_dim is 0: give at least 1'),
        ({'norm_epsilon': -1.0}, 'norm_epsilon is -1.0: give at least 0'),
        ({'norm_epsilon': float('nan')}, 'norm_epsilon is nan'),
        ({'dropout_rate': float('nan')}, 'a rate lies in'),
    ],
)
def test_a_transformer_is_refused(wrong, said):
    with pytest.raises(ConfigError) as caught:
        TransformerConfig(vocab_size=100, **wrong)
    assert said in str(caught.value)


def families():
    """Every configuration of a model that can be built, in order of its name."""
    found, left = set(), [ModelConfig]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if not kind.__abstractmethods__ and kind.__module__.startswith('seqzoo.'):
            found.add(kind)
    return sorted(found, key=lambda kind: kind.__name__)


@pytest.mark.parametrize('kind', families(), ids=lambda kind: kind.__name__)
def test_every_family_holds_its_fields_to_their_annotations(kind):
    tiny, hints = kind.tiny(), typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if hints[field.name] is not typing.Any:
            with pytest.raises(ConfigError, match=field.name):
                dataclasses.replace(tiny, **{field.name: object()})


def test_a_whole_number_will_do_for_a_number_and_nothing_for_what_may_be_open():
    assert TransformerConfig(vocab_size=100, norm_epsilon=1, key_dim=None).key_dim is None


def test_nan_is_below_every_least():
    with pytest.raises(ConfigError):
        check_sizes(dataclasses.make_dataclass('C', ['size'])(float('nan')), 'size', least=0)
