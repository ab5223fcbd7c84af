"""The part of ``ipsframework.messages`` that components touch."""

from __future__ import annotations

__all__ = ["Message"]


class Message:
    """How something went, for ``Component.terminate`` and ``Framework.terminate_all_sims``."""

    SUCCESS = 0
    FAILURE = 1
