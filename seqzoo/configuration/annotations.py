"""What the annotation of a field allows: in words, read from text, and checked against a value."""

import ast
import collections.abc
import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from seqzoo.errors import UserError

_SEQUENCES = (tuple, collections.abc.Sequence)
_NOT_FINITE = ('inf', '-inf', 'nan')  # JSON has no numbers for these; they are saved as text
_WORDS = {
    int: 'a whole number',
    float: 'a number',
    bool: 'true or false',
    str: 'text',
    type(None): 'none',
}


class Mismatch(Exception):
    """A value that the annotation of a field does not allow; the caller knows which field."""


@functools.cache
def fields(kind: type) -> dict[str, Any]:
    """The annotations of the fields that the constructor of a dataclass takes, by name."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def with_defaults(kind: type) -> set[str]:
    """The names of the fields that the constructor of a dataclass can do without."""
    missing = dataclasses.MISSING
    return {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is not missing or field.default_factory is not missing
    }


def is_config(value: Any) -> bool:
    """Whether `value` is an instance of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def construct(kind: Any, path: str, changes: Mapping[str, Any], old: Any = None) -> Any:
    """`kind(**changes)`, or `old` with `changes`; what `__post_init__` refuses is a `UserError`."""
    try:
        return kind(**changes) if old is None else dataclasses.replace(old, **changes)
    except (ValueError, TypeError) as error:
        text = ' '.join(str(error).split())
        raise UserError(f'{path}: {text}' if path else text) from error


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, `str` last, because any text is one."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return (
        tuple(sorted(typing.get_args(annotation), key=lambda a: a is str))
        if union
        else (annotation,)
    )


def config_type(annotation: Any) -> type | None:
    """The dataclass that an optional field would hold, if there is exactly one."""
    found = [m for m in members(annotation) if isinstance(m, type) and dataclasses.is_dataclass(m)]
    return found[0] if len(found) == 1 else None


def in_words(annotation: Any) -> str:
    """The type of a field as a user would say it: `'a whole number or none'`."""
    alternatives, arguments = members(annotation), typing.get_args(annotation)
    if len(alternatives) > 1:
        return ' or '.join(in_words(member) for member in alternatives)
    if typing.get_origin(annotation) is Literal:
        return ' or '.join(str(a) for a in arguments)
    if _is_enum(annotation):
        return ' or '.join(member.name for member in annotation)
    if typing.get_origin(annotation) in _SEQUENCES:
        inner = [in_words(a) for a in arguments if a is not ...]
        return 'values separated by commas: ' + (
            f'each {inner[0]}' if len(set(inner)) == 1 else ', '.join(inner)
        )
    return _WORDS.get(annotation) or getattr(annotation, '__name__', str(annotation))


def read(text: str | None, annotation: Any) -> Any:
    """The value that `text` on the command line stands for; `None` is an option without a value.

    Raises:
        Mismatch: it stands for no value of this type.
    """
    for member in members(annotation):
        try:
            return _read_one(text, member)
        except (ValueError, SyntaxError, Mismatch):
            continue
    raise Mismatch


def _read_one(text: str | None, annotation: Any) -> Any:
    if text is None:
        return True if annotation is bool else _refuse()
    if annotation is str or annotation is Any:
        return text
    text = text.strip()
    if annotation is type(None):
        return None if text.lower() == 'none' else _refuse()
    if annotation is bool:
        return _only([text.lower() == 'true'] if text.lower() in ('true', 'false') else [])
    if annotation is int:
        # 1e5 steps are a whole number too.
        return int(float(text)) if 'e' in text and float(text).is_integer() else int(text)
    if annotation is float:
        return float(text)
    if typing.get_origin(annotation) is Literal:
        return _only([a for a in typing.get_args(annotation) if str(a) == text])
    if _is_enum(annotation):
        return _only([m for m in annotation if text in (m.name, str(m.value))])
    if typing.get_origin(annotation) in _SEQUENCES:
        if text.startswith(('(', '[')):
            return conform(ast.literal_eval(text), annotation)
        parts = [part for part in text.split(',') if part.strip()]
        return tuple(
            read(part, kind)
            for part, kind in zip(parts, _items(annotation, len(parts)), strict=True)
        )
    return _refuse()


def conform(value: Any, annotation: Any) -> Any:
    """`value` as the annotation has it.

    Lists become tuples, names members of an enumeration, whole numbers floats.

    Raises:
        Mismatch: the annotation does not allow it.
    """
    for member in members(annotation):
        try:
            return _conform_one(value, member)
        except Mismatch:
            continue
    raise Mismatch


def _conform_one(value: Any, annotation: Any) -> Any:
    origin = typing.get_origin(annotation)
    if annotation is Any:
        return tuple(conform(item, Any) for item in value) if isinstance(value, list) else value
    if origin is Literal:
        return _only(
            [a for a in typing.get_args(annotation) if a == value and type(a) is type(value)]
        )
    if _is_enum(annotation) and isinstance(value, str):
        return (
            value
            if isinstance(value, annotation)
            else _only([m for m in annotation if m.name == value])
        )
    if origin in _SEQUENCES or annotation is tuple:
        if not isinstance(value, (list, tuple)):
            _refuse()
        kinds = [Any] * len(value) if annotation is tuple else _items(annotation, len(value))
        return tuple(conform(item, kind) for item, kind in zip(value, kinds, strict=True))
    if origin in (dict, collections.abc.Mapping):
        kind, inner = typing.get_args(annotation)
        return (
            {conform(k, kind): conform(v, inner) for k, v in value.items()}
            if isinstance(value, Mapping)
            else _refuse()
        )
    if annotation is float and (type(value) is int or value in _NOT_FINITE):
        return float(value)
    if annotation is int and isinstance(value, bool):
        _refuse()
    kind = origin or annotation
    return value if not isinstance(kind, type) or isinstance(value, kind) else _refuse()


def _is_enum(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, enum.Enum)


def _items(annotation: Any, count: int) -> list[Any]:
    """The annotation of each of the `count` items of a tuple."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple and arguments[1:] != (...,):
        return list(arguments) if len(arguments) == count else _refuse()
    return [arguments[0]] * count


def _only(found: Sequence[Any]) -> Any:
    return found[0] if found else _refuse()


def _refuse() -> typing.NoReturn:
    raise Mismatch
