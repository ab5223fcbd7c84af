"""Fit the job steps into distributed's cluster classes."""

__all__: list[str] = []
