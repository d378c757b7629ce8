"""Checks of hyperparameters, for `__post_init__`: what no run can mean is refused when it is built.

The command line reads options by the annotations of their fields; `check_types` holds those to
them who build a configuration in Python.
"""

from typing import Any

from seqzoo.configuration import annotations
from seqzoo.errors import ConfigError


def check_types(config: Any) -> None:
    """Raises `ConfigError` if a field of a dataclass holds what its annotation does not allow."""
    for name, annotation in annotations.fields(type(config)).items():
        value = getattr(config, name)
        try:
            annotations.conform(value, annotation)
        except annotations.Mismatch:
            wanted = annotations.in_words(annotation)
            raise ConfigError(f'{name} is {value!r}: it must be {wanted}') from None


def check_sizes(config: Any, *names: str, least: float = 1) -> None:
    """Raises `ConfigError` if one of these fields is below `least`; `None` passes."""
    for name in names:
        size = getattr(config, name)
        # Not `size < least`, which NaN would pass.
        if size is not None and not size >= least:
            raise ConfigError(f'{name} is {size}: give at least {least}')


def check_rates(config: Any, *names: str) -> None:
    """Raises `ConfigError` if one of these fields is no share of a whole; `None` passes."""
    for name in names:
        rate = getattr(config, name)
        if rate is not None and not 0.0 <= rate < 1.0:
            raise ConfigError(f'{name} is {rate}: a rate lies in [0, 1)')
