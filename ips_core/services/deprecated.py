"""Services by their names of before 2020; each says once what it is called now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ips_core.services.staging import StagingServices

__all__ = ["DeprecatedServices"]


class DeprecatedServices(StagingServices):
    """Names that components written for the first releases of IPS use."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._told: set[str] = set()

    def stage_plasma_state(self) -> None:
        """Do as :meth:`stage_state`, its name now."""
        self._tell("stage_plasma_state", "stage_state")
        self.stage_state()

    def update_plasma_state(self, plasma_state_files: Iterable[str] | None = None) -> None:
        """Do as :meth:`update_state`, its name now."""
        self._tell("update_plasma_state", "update_state")
        self.update_state(plasma_state_files)

    def merge_current_plasma_state(
        self,
        partial_state_file: str,
        logfile: str | None = None,
        merge_binary: str | None = None,
    ) -> Any:
        """Do as :meth:`merge_current_state`, its name now."""
        self._tell("merge_current_plasma_state", "merge_current_state")
        return self.merge_current_state(partial_state_file, logfile, merge_binary)

    def getGlobalConfigParameter(self, param: str) -> Any:
        """Do as :meth:`get_config_param`, its name now."""
        self._tell("getGlobalConfigParameter", "get_config_param")
        return self.get_config_param(param)

    def _tell(self, old: str, new: str) -> None:
        if old not in self._told:
            self._told.add(old)
            self.logger.warning("%s is deprecated: it is called %s now", old, new)
