"""Tell the points of the time loop and record the simulated time."""

from __future__ import annotations

import math
from typing import Any

from ips_core.config.time_loop import time_points
from ips_core.services.base import ServicesBase

__all__ = ["TimeLoopServices"]


class TimeLoopServices(ServicesBase):
    """The time loop and the simulated time."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.time_loop: list[float] | None = None

    def get_time_loop(self) -> list[float]:
        """Return the times of section [TIME_LOOP].

        Returns
        -------
        list of float
            START to FINISH in NSTEP steps, that is NSTEP + 1 times (MODE = REGULAR), or VALUES
            (MODE = EXPLICIT). Every call returns the same list object.

        Raises
        ------
        KeyError
            The section, or a key in it, is missing.
        ValueError
            MODE is unknown, NSTEP is not a positive integer, or a value is neither a number nor
            arithmetic such as ``10**2``.
        """
        if self.time_loop is None:
            if "TIME_LOOP" not in self.sim_conf:
                raise KeyError("section [TIME_LOOP] is missing")
            self.time_loop = time_points(self.sim_conf["TIME_LOOP"])
        return self.time_loop

    def update_time_stamp(self, new_time_stamp: float = -1) -> None:
        """Record the simulated time, which all later events carry as ``phystimestamp``.

        Parameters
        ----------
        new_time_stamp : float
            Simulated time; a str with a number is accepted. Default: -1.

        Raises
        ------
        ValueError
            The value is not a finite number.
        """
        value = new_time_stamp
        try:
            # A plain number: the framework could not unpickle a class of the component's script.
            number = int(value) if isinstance(value, int) else float(value)
            finite = math.isfinite(number)  # JSON has no infinity and no NaN.
        except (ArithmeticError, TypeError, ValueError):
            finite = False
        if not finite:
            raise ValueError(f"time stamp {value!r}: expected a number")
        self.link.emit("IPS_UPDATE_TIME_STAMP", f"Timestamp = {value}", phystimestamp=number)
