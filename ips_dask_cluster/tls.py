"""Write the TLS certificates of a cluster to files that the steps can read.

distributed's ``Security.temporary()`` holds keys as text, but distributed's command lines take
paths; so the text is written to the run directory, readable by its owner only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed.security import Security

__all__ = ["tls_arguments"]


def tls_arguments(security: Security | None, role: str, directory: Path) -> list[str]:
    """Return the ``--tls-...`` arguments of distributed's command lines for a role.

    The list is empty without ``security``, or if that has no certificates. Keys that are held as
    text are written to ``directory``, with mode 0600.
    """
    if security is None:
        return []
    settings = security.get_tls_config_for_role(role)
    arguments = []
    for key, option in (("ca_file", "--tls-ca-file"), ("cert", "--tls-cert"), ("key", "--tls-key")):
        value = settings.get(key)
        if value is None:
            continue
        arguments += [option, _as_file(value, directory / f"{role}-{key}.pem")]
    return arguments


def _as_file(value: str, path: Path) -> str:
    if "\n" not in value:  # it is a path that the user gave
        return value
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(value)
    return str(path)
