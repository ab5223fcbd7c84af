"""Write to the simulation's log file (LOG_FILE)."""

from __future__ import annotations

from typing import Any

from ips_core.services.base import ServicesBase

__all__ = ["LoggingServices"]


class LoggingServices(ServicesBase):
    """The methods of Python's loggers; each line carries the component's name.

    The parameters are those of ``logging.Logger``: a message, and arguments for its ``%`` signs.
    """

    def log(self, msg: object, *args: Any) -> None:
        """Log at level INFO."""
        self.logger.info(msg, *args)

    def debug(self, msg: object, *args: Any) -> None:
        """Log at level DEBUG."""
        self.logger.debug(msg, *args)

    def info(self, msg: object, *args: Any) -> None:
        """Log at level INFO."""
        self.logger.info(msg, *args)

    def warning(self, msg: object, *args: Any) -> None:
        """Log at level WARNING."""
        self.logger.warning(msg, *args)

    def error(self, msg: object, *args: Any) -> None:
        """Log at level ERROR."""
        self.logger.error(msg, *args)

    def exception(self, msg: object, *args: Any) -> None:
        """Log at level ERROR, with the traceback of the exception that is being handled."""
        self.logger.exception(msg, *args)

    def critical(self, msg: object, *args: Any) -> None:
        """Log at level CRITICAL."""
        self.logger.critical(msg, *args)
