"""``python -m ips_core``: the same as ``ips.py``."""

import sys

from ips_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
