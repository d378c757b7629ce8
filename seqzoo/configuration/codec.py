"""Nested frozen dataclasses as JSON, and the differences between two of them.

Each dataclass becomes an object whose `"@type"` is `module:QualName`. A type that a configuration
file defines itself has `<config>` for its module, because the file moves: a run keeps a copy, and
`from_json` is told where.

A saved configuration may be older than the code: a field that has been added since takes its
default, which for that reason has to mean what was done before there was a choice.
"""

import dataclasses
import enum
import importlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqzoo.configuration import annotations
from seqzoo.configuration.files import FILE_MODULE, load_file, nearest
from seqzoo.errors import UserError

_TYPE, _CONFIG = '@type', '<config>'


def to_json(config: Any) -> str:
    """A dataclass of dataclasses, tuples, numbers, text and `None` as indented JSON.

    Raises:
        UserError: a field holds something else; it is named.
    """
    return json.dumps(_encode(config, ''), indent=2, ensure_ascii=False, allow_nan=False) + '\n'


def from_json(text: str, config_file: Path | None = None) -> Any:
    """The dataclass that `to_json` wrote.

    Args:
        text: JSON.
        config_file: the configuration file, or its copy, for types that it defines.

    Raises:
        UserError: not such JSON, or a type or field that is unknown, missing or wrong; it is named.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f'the saved configuration is not JSON: {error}') from error
    if not isinstance(value, dict) or _TYPE not in value:
        raise UserError('the saved configuration has no "@type" at its top level')
    return _decode(value, '', config_file)


def config_source(config: Any) -> Path | None:
    """The configuration file that defines a type used in `config`: a run keeps a copy of it."""
    for value in _walk(config):
        module = type(value).__module__
        if annotations.is_config(value) and module.startswith(FILE_MODULE):
            return Path(str(sys.modules[module].__file__))
    return None


@dataclass(frozen=True)
class Difference:
    """One field in which two configurations differ; a side that has no such field holds `None`."""

    path: str
    left: Any
    right: Any

    def __str__(self) -> str:
        return f'{self.path}: {_shown(self.left)} -> {_shown(self.right)}'


def differences(left: Any, right: Any, path: str = '') -> list[Difference]:
    """The fields in which two configurations differ; another type is one difference.

    Args:
        left: a dataclass, or any value that a field may have.
        right: what it is compared with.
        path: where both are, to begin the paths of the differences with.
    """
    return list(_compare(_encode(left, path), _encode(right, path), path))


def _compare(left: Any, right: Any, path: str) -> Iterator[Difference]:
    if not (isinstance(left, dict) and isinstance(right, dict)) or left.get(_TYPE) != right.get(
        _TYPE
    ):
        if left != right or isinstance(left, bool) != isinstance(right, bool):
            yield Difference(path or 'the whole', left, right)
        return
    for name in [*left, *(key for key in right if key not in left)]:
        yield from _compare(left.get(name), right.get(name), f'{path}.{name}' if path else name)


def _shown(value: Any) -> str:
    if isinstance(value, dict) and _TYPE in value:
        return value[_TYPE].rpartition(':')[2]
    return f'({", ".join(map(_shown, value))})' if isinstance(value, list) else str(value)


def _walk(value: Any) -> Iterator[Any]:
    """`value` and everything inside it."""
    yield value
    inner: Iterable[Any] = ()
    if annotations.is_config(value):
        inner = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, (tuple, list)):
        inner = value
    for part in inner:
        yield from _walk(part)


def _encode(value: Any, path: str) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (tuple, list)):
        return [_encode(item, f'{path}[{i}]') for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(key): _encode(item, f'{path}.{key}') for key, item in value.items()}
    if annotations.is_config(value):
        module = (
            _CONFIG if type(value).__module__.startswith(FILE_MODULE) else type(value).__module__
        )
        encoded = {_TYPE: f'{module}:{type(value).__qualname__}'}
        for name in annotations.fields(type(value)):
            encoded[name] = _encode(getattr(value, name), f'{path}.{name}'.lstrip('.'))
        return encoded
    raise UserError(
        f'{path or "the configuration"} cannot be saved: {value!r} is no number, text or dataclass'
    )


def _decode(value: Any, path: str, config_file: Path | None) -> Any:
    """Objects with a "@type" become dataclasses; the rest waits for the annotation of its field."""
    if isinstance(value, list):
        return [_decode(item, f'{path}[{i}]', config_file) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if _TYPE not in value:
        return {key: _decode(item, f'{path}.{key}', config_file) for key, item in value.items()}
    kind = _find_type(value[_TYPE], path, config_file)
    fields, where = annotations.fields(kind), f'{path}.' if path else ''
    added = annotations.with_defaults(kind)
    for name in value:
        if name != _TYPE and name not in fields:
            known = nearest(name, fields)
            raise UserError(
                f'{where}{name} of the saved configuration is unknown to {kind.__name__}{known}'
            )
    changes = {}
    for name, annotation in fields.items():
        if name not in value:
            if name in added:
                continue
            raise UserError(f'{where}{name} is missing from the saved configuration')
        decoded = _decode(value[name], f'{where}{name}', config_file)
        try:
            changes[name] = annotations.conform(decoded, annotation)
        except annotations.Mismatch:
            wanted = annotations.in_words(annotation)
            shown = _shown(value[name])
            raise UserError(
                f'{where}{name} of the saved configuration must be {wanted}, not {shown}'
            ) from None
    return annotations.construct(kind, path, changes)


def _find_type(name: str, path: str, config_file: Path | None) -> type:
    module_name, _, qualified = str(name).partition(':')
    where = f'{path or "the saved configuration"} is of type {name}'
    if module_name == _CONFIG:
        if config_file is None:
            raise UserError(
                f'{where}, which its configuration file defines, but there is no copy of that file'
            )
        found: Any = load_file(config_file)
    else:
        try:
            found = importlib.import_module(module_name)
        except ImportError as error:
            raise UserError(
                f'{where}, which cannot be imported ({error}); is its folder on PYTHONPATH?'
            ) from error
    for part in qualified.split('.'):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise UserError(f'{where}, but {module_name} has no such dataclass')
    return found
