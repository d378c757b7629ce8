"""seqzoo: sequence models in JAX and Flax, trained on TPU, GPU and CPU.

The public interface is small:

    import seqzoo

    experiment = seqzoo.load_experiment('transformer_tiny_numerals', {'train.steps': 500})
    seqzoo.train(experiment, 'runs/numerals')
    run = seqzoo.load_run('runs/numerals')
    print(run.predict(['forty-two'])[0].text)

Models of others, in Hugging Face's file format, come in as runs and go out again:

    seqzoo.import_weights('opus-mt-en-de', 'runs/marian')
    seqzoo.export_weights('runs/marian', 'opus-tuned')

A model is a Flax module like any other:

    from seqzoo.models import TransformerConfig

    model = TransformerConfig(vocab_size=1000, num_layers=2, embed_dim=64, num_heads=4).build()
    variables = model.init(key, source, target)
    features = model.apply(variables, source, target).features

Everything is imported when it is first asked for, so that `import seqzoo` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from seqzoo.errors import UserError

if TYPE_CHECKING:
    from seqzoo.experiment import Experiment
    from seqzoo.training import Run, TrainResult, evaluate, load_run, train
    from seqzoo.training.exchange import export_weights, import_weights

__version__ = '0.1.0'

_HOMES = {
    'Experiment': 'seqzoo.experiment',
    'Run': 'seqzoo.training',
    'TrainResult': 'seqzoo.training',
    'evaluate': 'seqzoo.training',
    'export_weights': 'seqzoo.training.exchange',
    'import_weights': 'seqzoo.training.exchange',
    'load_run': 'seqzoo.training',
    'train': 'seqzoo.training',
}

__all__ = [
    'Experiment',
    'Run',
    'TrainResult',
    'UserError',
    'evaluate',
    'export_weights',
    'import_weights',
    'load_experiment',
    'load_run',
    'train',
]


def load_experiment(
    name: str, overrides: dict[str, Any] | None = None, **fields: Any
) -> 'Experiment':
    """The experiment of a configuration.

    Args:
        name: of a file in `configs/`, `NAME:VARIANT`, or the path of a `.py` file.
        overrides: values by dotted path, such as `{'model.num_layers': 2}`.
        **fields: fields of the experiment itself, such as `seed=1`.

    Raises:
        UserError: an unknown name or field, or a value of the wrong type.
    """
    from seqzoo.configuration import load_config

    return load_config(name, {**(overrides or {}), **fields})


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
