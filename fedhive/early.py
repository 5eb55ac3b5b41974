"""Reads the data set while torch is being imported.

The import takes most of the time before a run's first round, and one core; reading and normalising
arrays needs little of Python's attention and goes on beside it in a thread. Nothing here
changes a result: whoever never calls `load_data` loses only time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

_loads: dict[str, _Load] = {}


class _Load(threading.Thread):
    """A data set on its way."""

    def __init__(self, load: Callable[[], Any]) -> None:
        super().__init__(name="early-data", daemon=True)
        self.load = load
        self.value: Any = None
        self.failed = False

    def run(self) -> None:
        try:
            self.value = self.load()
        except Exception:  # whoever needs the data will load it again and say what is wrong
            self.failed = True


def load_data(description: Mapping[str, Any]) -> None:
    """Begin to build a data set in the background.

    Args:
        description: the ``data`` group of the composed configuration.
    """
    from fedhive import config

    thread = _Load(lambda: config.build(description, "data"))
    _loads.clear()  # what nobody has fetched until now, nobody will
    _loads[_key(description)] = thread
    thread.start()


def loaded(description: Mapping[str, Any]) -> Any | None:
    """The data set that `load_data` was asked for, once; None if there is none.

    Waits for it to be whole.
    """
    thread = _loads.pop(_key(description), None)
    if thread is None:
        return None
    thread.join()
    return None if thread.failed else thread.value


def _key(description: Mapping[str, Any]) -> str:
    return json.dumps(description, sort_keys=True, default=str)
