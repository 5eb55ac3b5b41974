"""What a volunteer's machine tells a hive about itself, if its owner lets it."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

from fedhive.join.settings import Settings


def facts(settings: Settings, psutil: Any = None) -> dict[str, Any]:
    """Speed, memory, hours and place in time: declared, nothing that names a person.

    Args:
        settings: the volunteer's.
        psutil: the module, or something like it.
    """
    if settings.share == "nothing":
        return {}
    if psutil is None:
        import psutil
    import fedhive

    battery = getattr(psutil, "sensors_battery", lambda: None)()
    return {
        "fedhive": fedhive.__version__,
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "threads": settings.limits.threads,
        "cpu_share": settings.limits.cpu_share,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "battery": battery is not None,
        "sandbox": settings.sandbox,
        "idle_only": settings.when.idle_only,
        "hours": dict(settings.when.hours),
        "utc_offset_s": time.localtime().tm_gmtoff,
    }
