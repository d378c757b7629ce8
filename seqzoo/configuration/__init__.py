"""Configurations as frozen dataclasses: found by name, overridden, written as JSON, compared.

Nothing here knows what an experiment is. A configuration file is a Python file with a function
`experiment()` that returns a frozen dataclass (of frozen dataclasses), and perhaps `VARIANTS`,
named sets of overrides:

    VARIANTS = {
        'pre_norm': {'model.norm': 'pre'},
        'half': {'model.num_layers': 3, 'train.steps': 50_000},
    }

An override names a field by its dotted path. On the command line it is `--model.num-layers 2`, or
`--model.num_layers=2`; tuples are written with commas, `none` is `None`, and a bare
`--batch.packing` is `True`.
"""

from seqzoo.configuration.codec import Difference, config_source, differences, from_json, to_json
from seqzoo.configuration.files import (
    config_names,
    configs_folder,
    find_config,
    nearest,
    variants,
)
from seqzoo.configuration.overrides import Option, options, override
from seqzoo.configuration.saved import load_config

__all__ = [
    'Difference',
    'Option',
    'config_names',
    'config_source',
    'configs_folder',
    'differences',
    'find_config',
    'from_json',
    'load_config',
    'nearest',
    'options',
    'override',
    'to_json',
    'variants',
]
