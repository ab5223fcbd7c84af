"""Stage, keep and merge the files of a simulation."""

__all__: list[str] = []
