"""Carry calls and messages between the framework and the components' processes."""

__all__: list[str] = []
