"""Run ``ips.py`` as ``python -m ips_core``."""

import sys

from ips_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
