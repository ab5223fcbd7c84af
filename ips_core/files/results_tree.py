"""Keep the outputs of components in SIM_ROOT/simulation_results.

::

    <time stamp>/components/<component>/<prefix>out.nc     copies of output files
    <component>/out_<time stamp>.nc                        links to them
    plasma_state/<prefix>state_<component>_<time stamp>.nc copies of state files
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

from ips_core.files.copies import copy_file, matching_files, unused_name

__all__ = ["ResultsTree", "stamped"]


def stamped(name: str, stamp: str) -> str:
    """Return a file's name with a stamp before its extension: ``a.b.nc`` gives ``a.b_STAMP.nc``."""
    stem, dot, extension = name.rpartition(".")
    return f"{stem}_{stamp}.{extension}" if dot else f"{name}_{stamp}"


@dataclass(frozen=True)
class ResultsTree:
    """The results of one component at one time stamp."""

    #: SIM_ROOT.
    root: str
    #: Name with number, such as ``WORKERS__Worker_2``.
    component: str
    #: The time stamp.
    stamp: str
    #: OUTPUT_PREFIX.
    prefix: str = ""

    @property
    def _results(self) -> str:
        return os.path.join(self.root, "simulation_results")

    @property
    def outputs(self) -> str:
        """Directory of the copies of output files."""
        return os.path.join(self._results, self.stamp, "components", self.component)

    def keep_outputs(self, directory: str, names: Iterable[str], keep_old: bool) -> None:
        """Copy output files from a directory, link to the copies, and skip names without a match.

        With `keep_old`, existing copies stay and new ones get ``.0``, ``.1`` and so on appended.
        Raise OSError if a file cannot be copied or linked.
        """
        for source in matching_files(directory, names, skip_missing=True):
            name = os.path.basename(source)
            target = os.path.join(self.outputs, self.prefix + name)
            target = unused_name(target) if keep_old else target
            copy_file(source, target)
            self._link(stamped(name, self.stamp), target)

    def _link(self, name: str, target: str) -> None:
        """Create or replace a link; it is relative, so that SIM_ROOT can be moved."""
        folder = os.path.join(self._results, self.component)
        link = os.path.join(folder, name)
        os.makedirs(folder, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(link)
        os.symlink(os.path.relpath(target, folder), link)

    def keep_state(self, directory: str, names: Iterable[str]) -> None:
        """Copy state files from a directory, and skip names without a match.

        Raise OSError if a file cannot be copied.
        """
        for source in matching_files(directory, names, skip_missing=True):
            name = stamped(os.path.basename(source), f"{self.component}_{self.stamp}")
            target = os.path.join(self._results, "plasma_state", self.prefix + name)
            copy_file(source, unused_name(target))
