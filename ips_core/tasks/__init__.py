"""Runs one task: where it is, in whatever way, to its record. No module here knows of pools."""

__all__: list[str] = []
