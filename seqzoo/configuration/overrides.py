"""Typed overrides of the fields of nested dataclasses, by dotted path."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seqzoo.configuration import annotations
from seqzoo.errors import UserError


@dataclass(frozen=True)
class Option:
    """One field that can be overridden.

    Attributes:
        path: `model.num_layers`.
        type: what it may hold, in words.
        value: what it holds.
    """

    path: str
    type: str
    value: Any


def options(config: Any, prefix: str = '') -> Iterator[Option]:
    """Every field below `config` that an override may name, in the order of the dataclasses."""
    for field, annotation in annotations.fields(type(config)).items():
        value, path = getattr(config, field), f'{prefix}{field}'
        if annotations.is_config(value):
            yield from options(value, f'{path}.')
        else:
            yield Option(path, annotations.in_words(annotation), value)


@dataclass(frozen=True)
class _Text:
    """A value as typed on the command line; `None` for an option without a value."""

    text: str | None


def override(config: Any, overrides: Sequence[str] | Mapping[str, Any]) -> Any:
    """A copy of `config` with fields replaced, all at once, so that they are validated together.

    Args:
        config: a frozen dataclass.
        overrides: `['--model.num-layers', '2']` as on the command line, or
            `{'model.num_layers': 2}`, which may also be nested: `{'model': {'num_layers': 2}}`.

    Raises:
        UserError: an unknown path (with the nearest one), or a value of the wrong type.
    """
    tree: dict[str, Any] = {}
    for path, value in overrides.items() if isinstance(overrides, Mapping) else _flags(overrides):
        _insert(tree, path.split('.'), value, path)
    return _replace(config, tree, '', config) if tree else config


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, _Text]]:
    """`['--model.num-layers', '2', '--seed=1']` -> `model.num_layers: '2'`, `seed: '1'`."""
    waiting, before = list(arguments), ''
    while waiting:
        flag = waiting.pop(0)
        if not flag.startswith('--'):
            raise UserError(
                f'unexpected argument {flag!r}{before} (separate several values by commas)'
            )
        name, equals, text = flag[2:].partition('=')
        value: str | None = text if equals else None
        if not equals and waiting and not waiting[0].startswith('--'):
            value = waiting.pop(0)
        before = f' after --{name}'
        yield name.replace('-', '_'), _Text(value)


def _insert(tree: dict[str, Any], keys: list[str], value: Any, path: str) -> None:
    """Puts `value` into nested dictionaries; a later value of the same path wins."""
    if isinstance(value, Mapping):
        node = tree.setdefault(keys[0], {}) if len(keys) == 1 else None
        if isinstance(node, dict):
            for key, inner in value.items():
                _insert(node, str(key).split('.'), inner, f'{path}.{key}')
            return
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise UserError(f'{_flag(path)} contradicts the value given for {key}')
    tree[keys[-1]] = value


def _replace(config: Any, tree: Mapping[str, Any], prefix: str, root: Any) -> Any:
    fields, changes = annotations.fields(type(config)), {}
    for name, value in tree.items():
        path = f'{prefix}{name}'
        if name not in fields:
            path = '.'.join([path, *_keys(value)])
            raise UserError(f'unknown option {_flag(path)}{_nearest(path, root)}')
        current, annotation = getattr(config, name), fields[name]
        if isinstance(value, dict) and not annotations.is_config(current):
            kind = annotations.config_type(annotation)
            if kind is None and any(isinstance(inner, _Text) for inner in value.values()):
                raise UserError(
                    f'{_flag(path)} is a single value and has no option {next(iter(value))!r}'
                )
            current = current if kind is None else annotations.construct(kind, path, {})
        if isinstance(value, dict) and annotations.is_config(current):
            changes[name] = _replace(current, value, f'{path}.', root)
        else:
            changes[name] = _convert(value, annotation, path, current)
    return annotations.construct(type(config), prefix.rstrip('.'), changes, old=config)


def _keys(value: Any) -> Iterator[str]:
    """The way down to the first leaf of nested dictionaries."""
    while isinstance(value, dict) and value:
        key = next(iter(value))
        yield key
        value = value[key]


def _convert(value: Any, annotation: Any, path: str, current: Any) -> Any:
    typed = isinstance(value, _Text)
    try:
        return (
            annotations.read(value.text, annotation)
            if typed
            else annotations.conform(value, annotation)
        )
    except annotations.Mismatch:
        pass
    if annotations.is_config(current) and typed:
        example = next(options(current, f'{path}.'), None)
        raise UserError(
            f'{_flag(path)} is a group of options'
            + (f', such as {_flag(example.path)}' if example else '')
        )
    if typed and value.text is None:
        raise UserError(f'{_flag(path)} needs a value: {annotations.in_words(annotation)}')
    given = value.text if typed else value
    raise UserError(f'{_flag(path)} must be {annotations.in_words(annotation)}, not {given!r}')


def _nearest(path: str, root: Any) -> str:
    known = [option.path for option in options(root)]
    tail = path.rpartition('.')[2]
    close = [p for p in known if p.rpartition('.')[2] == tail]  # --num-layers, --modle.num-layers
    close = close or difflib.get_close_matches(path, known, n=1, cutoff=0.5)
    return (
        f'; did you mean {" or ".join(map(_flag, close[:3]))}?'
        if close
        else ' (`seqzoo show CONFIG` lists them)'
    )


def _flag(path: str) -> str:
    return '--' + path.replace('_', '-')
