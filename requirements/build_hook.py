"""Puts the named configurations into a wheel, as `seqzoo/_configs`; hatchling calls it.

An editable install is the checkout itself, whose `configs/` are found where they are: a copy
beside them would only grow old.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfigurationsHook(BuildHookInterface):
    """Adds `configs/` to wheels that are not editable."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds; `version` is `'standard'` or `'editable'`."""
        if version != 'editable':
            build_data['force_include']['configs'] = 'seqzoo/_configs'
