"""Provide the part of ``ipsframework.messages`` that components use."""

from __future__ import annotations

__all__ = ["Message"]


class Message:
    """Outcomes for ``Component.terminate`` and ``Framework.terminate_all_sims``."""

    SUCCESS = 0
    FAILURE = 1
