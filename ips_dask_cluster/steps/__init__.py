"""Place, start and watch the job steps of a cluster."""

__all__: list[str] = []
