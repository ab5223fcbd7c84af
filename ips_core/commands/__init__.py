"""Provide the commands of the command line besides running a simulation."""

__all__: list[str] = []
