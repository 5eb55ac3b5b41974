"""How many workers this machine can feed."""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Physical cores that this process may use: affinity and container limits count."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    logical, physical = psutil.cpu_count(logical=True), psutil.cpu_count(logical=False)
    if logical and physical:
        allowed = math.ceil(allowed * min(1.0, physical / logical))
    return max(1, min(allowed, _container_limit()))


def _container_limit() -> int:
    try:
        quota, period = CGROUP_QUOTA.read_text().split()
        return max(1, math.floor(int(quota) / int(period)))
    except (OSError, ValueError):
        return 1 << 30
