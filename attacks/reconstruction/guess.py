"""What an attack hands back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Guess:
    """Reconstructed examples of one subject.

    Args:
        samples: float32 [k, ...], in the units of training; best first where there are scores.
        labels: int64 [k], -1 where unknown.
        certified: bool [k]: the attack proves that this is one example, not a mixture.
        scores: float64 [k], smaller is surer; what it means is the attack's own.
        facts: plain numbers on how it went.
    """

    samples: NDArray[np.float32]
    labels: NDArray[np.int64]
    certified: NDArray[np.bool_]
    scores: NDArray[np.float64]
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        k = len(self.samples)
        if not len(self.labels) == len(self.certified) == len(self.scores) == k:
            raise ValueError("a guess needs a label, a certificate and a score for each sample")

    def __len__(self) -> int:
        return len(self.samples)


def guessed(
    samples: NDArray[Any],
    labels: NDArray[np.int64] | None = None,
    certified: NDArray[np.bool_] | None = None,
    scores: NDArray[Any] | None = None,
    **facts: Any,
) -> Guess:
    """A guess with what is not given filled in as unknown."""
    k = len(samples)
    return Guess(
        np.asarray(samples, np.float32),
        np.full(k, -1, np.int64) if labels is None else np.asarray(labels, np.int64),
        np.zeros(k, np.bool_) if certified is None else np.asarray(certified, np.bool_),
        np.zeros(k) if scores is None else np.asarray(scores, np.float64),
        facts,
    )
