"""One file per architecture."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqzoo.models.transformer import Transformer, TransformerConfig

__all__ = ['Transformer', 'TransformerConfig']

_HOMES = {'Transformer': 'transformer', 'TransformerConfig': 'transformer'}


def __getattr__(name: str) -> Any:
    """Imports a model when it is first asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
