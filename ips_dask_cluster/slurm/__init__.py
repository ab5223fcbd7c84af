"""Read what Slurm allocated, and build what is asked of it."""

__all__: list[str] = []
