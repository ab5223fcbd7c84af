"""Write and read the simulation log, and pass its events on to other sinks."""

__all__: list[str] = []
