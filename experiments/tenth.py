"""A part of Fashion-MNIST."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedhive.learning import datasets
from fedhive.learning.data import Dataset


def load(train: int = 10_000, test: int = 2_000) -> Dataset:
    """The first pictures of each class: ``train`` and ``test`` of them in all."""
    data = datasets.fashion_mnist()
    kept, held = _first(data.y_train, train // 10), _first(data.y_test, test // 10)
    return replace(
        data,
        x_train=np.ascontiguousarray(data.x_train[kept]), y_train=data.y_train[kept],
        x_test=np.ascontiguousarray(data.x_test[held]), y_test=data.y_test[held],
    )  # fmt: skip


def _first(labels: np.ndarray, each: int) -> np.ndarray:
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:each] for c in range(10)]))
