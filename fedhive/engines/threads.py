"""One torch thread a process."""

from __future__ import annotations

import torch


class OneThread:
    """Holds torch in this process to one thread, then gives back what was.

    Sums depend on how they are split over threads: with one thread everywhere, all engines give
    the same bits. It is also the fastest choice as soon as processes share the cores.
    """

    def __init__(self) -> None:
        self._before: int | None = None

    def take(self) -> None:
        """From now on one thread."""
        if self._before is None:
            self._before = torch.get_num_threads()
            torch.set_num_threads(1)

    def give_back(self) -> None:
        """As many threads as before; safe to call twice."""
        if self._before is not None:
            torch.set_num_threads(self._before)
            self._before = None
