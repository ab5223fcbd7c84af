"""Adapt the job steps to distributed's cluster classes."""

__all__: list[str] = []
