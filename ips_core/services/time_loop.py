"""Services about the time that is simulated."""

from __future__ import annotations

import math
from typing import Any

from ips_core.config.time_loop import time_points
from ips_core.services.base import ServicesBase

__all__ = ["TimeLoopServices"]


class TimeLoopServices(ServicesBase):
    """The time loop and its present point."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.time_loop: list[float] | None = None

    def get_time_loop(self) -> list[float]:
        """Return the times of section [TIME_LOOP].

        Returns
        -------
        list of float
            START to FINISH in NSTEP steps, so NSTEP + 1 times (MODE REGULAR), or VALUES (EXPLICIT).
            Always the same list.

        Raises
        ------
        KeyError
            The section, or a key in it, is missing.
        ValueError
            A value is no number; START, FINISH, NSTEP and VALUES may be arithmetic, as ``10**2``.
        """
        if self.time_loop is None:
            if "TIME_LOOP" not in self.sim_conf:
                raise KeyError("section [TIME_LOOP] is missing")
            self.time_loop = time_points(self.sim_conf["TIME_LOOP"])
        return self.time_loop

    def update_time_stamp(self, new_time_stamp: float = -1) -> None:
        """Tell the simulation log the simulated time, which all events carry from now on.

        Parameters
        ----------
        new_time_stamp : float
            The time; a text that is a number will do.

        Raises
        ------
        ValueError
            It is no number, or not a finite one.
        """
        value = new_time_stamp
        try:
            # no class of the component's own: the framework would have to know it, too
            number = int(value) if isinstance(value, int) else float(value)
            finite = math.isfinite(number)  # JSON knows no others
        except (ArithmeticError, TypeError, ValueError):
            finite = False
        if not finite:
            raise ValueError(f"time stamp {value!r}: expected a number")
        self.link.emit("IPS_UPDATE_TIME_STAMP", f"Timestamp = {value}", phystimestamp=number)
