"""Two honest clients that hold exactly the same data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedhive.learning import datasets
from fedhive.learning.data import Dataset


def load(split_seed: int = 0) -> Dataset:
    """MNIST digits, every training row twice: row i and row i + n are the same."""
    data = datasets.mnist5k(split_seed=split_seed)
    return replace(
        data,
        x_train=np.concatenate([data.x_train] * 2),
        y_train=np.concatenate([data.y_train] * 2),
    )


@dataclass(frozen=True)
class Twins:
    """The tenth client holds copies of what the first one holds.

    Attributes:
        inner: deals the first half of the rows; its last ``outsiders`` clients are outsiders.
        outsiders: how many of those there are.
    """

    inner: Any
    outsiders: int = 0

    def __call__(
        self, labels: Any, groups: Any, n_clients: int, rng: np.random.Generator
    ) -> list[Any]:
        half = len(labels) // 2
        parts = self.inner(labels[:half], None, n_clients - 1, rng)
        honest = n_clients - 1 - self.outsiders
        return [*parts[:honest], parts[0] + half, *parts[honest:]]
