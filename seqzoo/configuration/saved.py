"""A configuration by name, by file, or as a run saved it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqzoo.configuration import files
from seqzoo.configuration.codec import from_json
from seqzoo.configuration.overrides import override
from seqzoo.errors import UserError


def load_config(name_or_path: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Any:
    """The experiment of a configuration, with its variant and then `overrides` applied.

    Args:
        name_or_path: a name out of `configs/`, the path of a `.py` file, either perhaps with
            `:VARIANT`, or the path of the `experiment.json` of a run.
        overrides: see `override`.

    Raises:
        UserError: no such configuration, it fails, or an override is unknown or of the wrong type.
    """
    if not str(name_or_path).endswith('.json'):
        return files.load_config(name_or_path, overrides)
    path = Path(name_or_path).expanduser()
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'there is no configuration file {path} that can be read') from error
    types = path.parent / 'config.py'  # a run keeps a copy of the file whose types it needs
    try:
        saved = from_json(text, types if types.exists() else None)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    return override(saved, overrides)
