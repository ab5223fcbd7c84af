"""``ipsframework.__version__``; to find it out costs so much that only those pay who ask."""

from ips_core.version import ips_core_version

__all__ = ["VERSION"]

VERSION = ips_core_version()
