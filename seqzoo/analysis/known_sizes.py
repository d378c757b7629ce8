"""The sizes of the named configurations, counted once and kept in `configs/sizes.json`.

To count parameters, a model is traced: a quarter of a second each, which sixty configurations make
too long for a list. A kept count belongs to the JSON of its model configuration, and is not used
for any other; tests hold the file to the modules.

    python -m seqzoo.analysis.known_sizes    # count anew
"""

import functools
import hashlib
import json
from pathlib import Path

from seqzoo.analysis.parameters import count_parameters
from seqzoo.configuration import config_names, load_config
from seqzoo.configuration.codec import to_json
from seqzoo.configuration.files import configs_folder
from seqzoo.models.base import ModelConfig


def known_size(model: ModelConfig) -> int:
    """The number of parameters of `model`: the kept one, else counted by `count_parameters`."""
    kept = _kept().get(_digest(model))
    return count_parameters(model) if kept is None else kept


def sizes() -> dict[str, int]:
    """What the file should hold: the parameters of every named configuration, counted now.

    Keys are the digests of the configurations at their nominal vocabulary.
    """
    models = [load_config(name).nominal_model() for name in config_names()]
    return {_digest(model): count_parameters(model) for model in models}


def sizes_file() -> Path:
    """Where counts are kept: beside the configurations, in a checkout or in a wheel."""
    return configs_folder() / 'sizes.json'


@functools.cache
def _kept() -> dict[str, int]:
    # Without the file, or with one that a merge has spoiled, everything is counted.
    try:
        found = json.loads(sizes_file().read_text('utf-8'))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(model: ModelConfig) -> str:
    return hashlib.sha256(to_json(model).encode()).hexdigest()[:16]


if __name__ == '__main__':
    text = json.dumps(sizes(), indent=1, sort_keys=True)
    sizes_file().write_text(text + '\n', 'utf-8')
