"""The environment in which Flower's own programs run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # A run must not install packages, neither on the server nor at volunteers' homes.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
}


def flower_environment(home: Path) -> dict[str, str]:
    """This process's environment, with Flower's settings and a home of its own.

    Args:
        home: where Flower keeps apps and settings (``FLWR_HOME``).
    """
    path = os.environ.get("PATH", os.defpath)
    # Flower's programs start each other by name.
    return {
        **os.environ,
        **SETTINGS,
        "FLWR_HOME": str(home),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), path]),
        "PYTHONPATH": _import_path(),
    }


def _import_path() -> str:
    """So that a clone that is run from its own folder finds itself in child processes too."""
    here = str(Path(__file__).parents[2])
    given = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return os.pathsep.join([*given, *([] if here in given else [here])])
