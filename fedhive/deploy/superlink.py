"""The process of a hive's SuperLink: ``python -m fedhive.deploy.superlink ARGUMENTS``."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from fedhive.flower import run_superlink

    run_superlink(sys.argv[1:])
