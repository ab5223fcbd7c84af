"""Ask Slurm, build srun command lines and explain its errors."""

__all__: list[str] = []
