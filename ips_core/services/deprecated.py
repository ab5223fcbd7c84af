"""Offer services under their names from before 2020.

The first use of an old name logs a warning with the new name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ips_core.services.staging import StagingServices

__all__ = ["DeprecatedServices"]


class DeprecatedServices(StagingServices):
    """Old names, which components for the first releases of IPS use."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._told: set[str] = set()

    def stage_plasma_state(self) -> None:
        """Call :meth:`stage_state`, the new name."""
        self._tell("stage_plasma_state", "stage_state")
        self.stage_state()

    def update_plasma_state(self, plasma_state_files: Iterable[str] | None = None) -> None:
        """Call :meth:`update_state`, the new name, with the same parameter."""
        self._tell("update_plasma_state", "update_state")
        self.update_state(plasma_state_files)

    def merge_current_plasma_state(
        self,
        partial_state_file: str,
        logfile: str | None = None,
        merge_binary: str | None = None,
    ) -> Any:
        """Call :meth:`merge_current_state`, the new name, with the same parameters."""
        self._tell("merge_current_plasma_state", "merge_current_state")
        return self.merge_current_state(partial_state_file, logfile, merge_binary)

    def getGlobalConfigParameter(self, param: str) -> Any:
        """Call :meth:`get_config_param`, the new name, with the same parameter."""
        self._tell("getGlobalConfigParameter", "get_config_param")
        return self.get_config_param(param)

    def _tell(self, old: str, new: str) -> None:
        if old not in self._told:
            self._told.add(old)
            self.logger.warning("%s is deprecated: it is called %s now", old, new)
