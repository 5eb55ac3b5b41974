"""Machines that bring next to no data of their own: a partition for comparing with and without.

Adding liars to a hive must not take data away from the honest machines, nor change who of them
holds what. Else the damage of an attack and the loss of data cannot be told apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhive.errors import UserError
from fedhive.learning.dealing import Parts
from fedhive.learning.partition import Partitioner

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Outsiders:
    """The last ``count`` clients share a few rows; the others get all else, as ``inner`` deals it.

    The rows set aside are the same whatever ``count`` is, 0 included. Use with
    ``attack.place=last``.

    Attributes:
        inner: how the first clients' data are dealt.
        count: clients that are outsiders.
        rows: rows set aside for all of them together, dealt evenly; at least one each.
        label: set aside only rows of this class; None for any.
    """

    inner: Partitioner
    count: int = 0
    rows: int = 100
    label: int | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.count < 0 or self.rows < max(1, self.count):
            raise UserError(
                f"partition needs 0 <= count <= rows, got count={self.count}, rows={self.rows}"
            )

    def __call__(
        self, labels: Ints, groups: Ints | None, n_clients: int, rng: np.random.Generator
    ) -> Parts:
        """Sets rows aside, deals the rest to the first clients, and those to the last.

        Raises:
            UserError: if there are too few rows or clients.
        """
        free = np.arange(len(labels)) if self.label is None else np.flatnonzero(
            labels == self.label
        )  # fmt: skip
        if len(free) < self.rows or n_clients <= self.count:
            raise UserError(
                f"partition.rows={self.rows} of {len(free)} such rows, and partition.count="
                f"{self.count} of {n_clients} clients, cannot be set aside"
            )
        aside = rng.permutation(free)[: self.rows]
        rest = np.setdiff1d(np.arange(len(labels)), aside)
        owned = None if groups is None else groups[rest]
        honest = self.inner(labels[rest], owned, n_clients - self.count, rng)
        parts = [rest[part] for part in honest]
        if self.count:
            parts += [np.sort(part) for part in np.array_split(aside, self.count)]
        return parts
