"""Count the GPUs that a variable such as ``CUDA_VISIBLE_DEVICES`` names."""

from __future__ import annotations

import re

__all__ = ["visible_devices"]

_DEVICE = re.compile(r"[0-9]+|(?:GPU|MIG)-\S+")


def visible_devices(text: str) -> list[str]:
    """Return the devices that a process sees with this value of ``CUDA_VISIBLE_DEVICES``.

    CUDA stops at the first word that is no device (CUDA programming guide, "CUDA environment
    variables"), so ``-1`` and ``NoDevFiles`` hide all devices and ``0,-1,1`` shows one. A slice of
    a GPU (``MIG-...``) is a device.
    """
    devices = []
    for word in text.split(","):
        if not _DEVICE.fullmatch(word.strip()):
            break
        devices.append(word.strip())
    return devices
