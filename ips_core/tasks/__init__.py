"""Run one task, in this process or another, and make its record. No module here knows of pools."""

__all__: list[str] = []
