"""Provide ``ipsframework.__version__``, in a separate module because the look-up is slow."""

from ips_core.version import ips_core_version

__all__ = ["VERSION"]

VERSION = ips_core_version()
