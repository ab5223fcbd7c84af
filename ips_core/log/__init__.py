"""What is written down of a simulation: events, the log, and where else they go."""

__all__: list[str] = []
