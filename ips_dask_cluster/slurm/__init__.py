"""Talk to Slurm: what it allocated, what it is asked, and how its steps start."""

__all__: list[str] = []
