"""Where the events of a simulation go besides its log: a text file, a web page, a portal."""

__all__: list[str] = []
