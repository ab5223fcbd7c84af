"""Programs that components launch one by one: what they need, their command lines, their ends."""

__all__: list[str] = []
