"""Nodes, cores and GPUs: what there is, who has it, who waits."""

__all__: list[str] = []
