"""Files and directories of a simulation."""

__all__: list[str] = []
