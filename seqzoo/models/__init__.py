"""One file per architecture."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqzoo.models.dense import Dense, DenseConfig
    from seqzoo.models.labeler import LabeledEncoder, LabelerConfig
    from seqzoo.models.recurrent_encoder import RecurrentEncoder, RecurrentEncoderConfig
    from seqzoo.models.recurrent_lm import RecurrentLM, RecurrentLMConfig
    from seqzoo.models.transformer import Transformer, TransformerConfig

__all__ = [
    'Dense',
    'DenseConfig',
    'LabeledEncoder',
    'LabelerConfig',
    'RecurrentEncoder',
    'RecurrentEncoderConfig',
    'RecurrentLM',
    'RecurrentLMConfig',
    'Transformer',
    'TransformerConfig',
]

_HOMES = {
    'Dense': 'dense',
    'DenseConfig': 'dense',
    'LabeledEncoder': 'labeler',
    'LabelerConfig': 'labeler',
    'RecurrentEncoder': 'recurrent_encoder',
    'RecurrentEncoderConfig': 'recurrent_encoder',
    'RecurrentLM': 'recurrent_lm',
    'RecurrentLMConfig': 'recurrent_lm',
    'Transformer': 'transformer',
    'TransformerConfig': 'transformer',
}


def __getattr__(name: str) -> Any:
    """Imports a model when it is first asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
