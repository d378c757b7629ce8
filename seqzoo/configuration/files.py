"""Configuration files: where they are, how they are run, which variants they offer."""

import difflib
import importlib.util
import sys
import traceback
import types
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqzoo.configuration.annotations import is_config
from seqzoo.configuration.overrides import override
from seqzoo.errors import UserError

# A configuration file becomes a module of this name and a checksum of its path.
FILE_MODULE = '_seqzoo_config_'


def configs_folder() -> Path:
    """Where named configurations live: inside an installed wheel, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / '_configs'
    return installed if installed.is_dir() else package.parent / 'configs'


def config_names() -> list[str]:
    """The names that `find_config` knows, sorted."""
    return sorted(file.stem for file in configs_folder().glob('[!_]*.py'))


def find_config(name_or_path: str | Path) -> types.ModuleType:
    """The module of a configuration file.

    Args:
        name_or_path: a name out of `configs/` or a path to a `.py` file, perhaps with `:VARIANT`.

    Raises:
        UserError: no such name, file or variant, or the file does not run or has no `experiment()`.
    """
    name, variant = _split_variant(str(name_or_path))
    if name.endswith('.py') or '/' in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f'there is no configuration file {name}')
    else:
        path, names = configs_folder() / f'{name}.py', config_names()
        if name not in names:
            close = nearest(name, names)
            raise UserError(f'there is no configuration {name!r}{close} (`seqzoo list` shows all)')
    module = load_file(path)
    if not callable(getattr(module, 'experiment', None)):
        raise UserError(f'the configuration file {path} has no function experiment()')
    if variant is not None and variant not in variants(module):
        names = list(variants(module))
        known = f'it has {", ".join(names)}' if names else 'it has no variants'
        raise UserError(f'{name} has no variant {variant!r}{nearest(variant, names)} ({known})')
    return module


def variants(module: types.ModuleType) -> Mapping[str, Mapping[str, Any]]:
    """The named sets of overrides of a configuration file."""
    return getattr(module, 'VARIANTS', {})


def load_config(name_or_path: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Any:
    """The experiment of a configuration, with its variant and then `overrides` applied.

    Args:
        name_or_path: see `find_config`.
        overrides: see `override`.

    Raises:
        UserError: no such configuration, it fails, or an override is unknown or of the wrong type.
    """
    module = find_config(name_or_path)
    name, variant = _split_variant(str(name_or_path))
    try:
        experiment = module.experiment()
    except Exception as error:
        raise UserError(
            f'experiment() in {module.__file__} failed: {_one_line(error, str(module.__file__))}'
        ) from error
    if not is_config(experiment):
        raise UserError(
            f'experiment() in {module.__file__} returned {experiment!r}, not an Experiment'
        )
    if variant is not None:
        try:
            experiment = override(experiment, variants(module)[variant])
        except UserError as error:
            raise UserError(f'variant {variant!r} of {name}: {error}') from error
    return override(experiment, overrides)


def nearest(name: str, names: Iterable[str]) -> str:
    """`'; did you mean NAME?'` with the most similar of `names`, or `''` when none is."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f'; did you mean {close[0]}?' if close else ''


def load_file(path: Path) -> types.ModuleType:
    """Runs a configuration file as a module; a second call gives the same module and types.

    Raises:
        UserError: the file is missing or raises.
    """
    path = path.resolve()
    name = f'{FILE_MODULE}{zlib.crc32(str(path).encode()):08x}'
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    # As `python FILE` does, so that a file beside it can be imported.
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(
            f'the configuration file {path} does not run: {_one_line(error, str(path))}'
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _split_variant(text: str) -> tuple[str, str | None]:
    name, colon, variant = text.rpartition(':')
    return (name, variant) if colon and '/' not in variant else (text, None)


def _one_line(error: BaseException, file: str) -> str:
    """What went wrong, and in which line of the configuration file."""
    text = ' '.join(str(error).split())
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    place = f' (line {lines[-1]})' if lines else ''
    return (text if isinstance(error, UserError) else f'{type(error).__name__}: {text}') + place
