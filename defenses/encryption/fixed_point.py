"""Floats as integers, so that sums are exact and nothing but the sum is in them.

A value v in [-clip, clip] becomes the integer round(v / step) with step = clip / levels and
levels = 2^(bits - 1) - 1. What lies outside is cut to the clip and counted; NaN and infinity are
refused. A decrypted sum is an integer times the step: it carries no noise that depends on the key
(which is what published CKKS results leak, Li and Micciancio, EUROCRYPT 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.encryption.errors import NotFinite

_MAGIC = 1.5 * 2.0**52
_MAGIC_BITS = np.array(_MAGIC).view(np.int64)[()]


@dataclass(frozen=True)
class FixedPoint:
    """How floats become integers and back.

    Args:
        clip: largest magnitude that is kept, in the values' own unit, > 0.
        bits: of a value, sign included, 2 to 31.

    Raises:
        ValueError: for a clip or bits out of range.
    """

    clip: float
    bits: int

    def __post_init__(self) -> None:
        if not (0 < self.clip < 1e30):
            raise ValueError(f"clip must be a positive number, got {self.clip}")
        if not 2 <= self.bits <= 31:
            raise ValueError(f"bits must be between 2 and 31, got {self.bits}")

    @property
    def levels(self) -> int:
        """The integer that ``clip`` becomes."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def step(self) -> float:
        """The distance between neighbouring values."""
        return self.clip / self.levels

    def encode(
        self, values: NDArray[np.floating], rng: np.random.Generator | None = None
    ) -> tuple[NDArray[np.int64], int]:
        """Values as integers in [-levels, levels].

        Args:
            values: [m], finite.
            rng: for stochastic rounding, which is right on average; None rounds to the nearest.

        Returns:
            The integers, int64 [m], and how many values were cut to the clip.

        Raises:
            NotFinite: for NaN or infinity.
        """
        # In float64: in float32, 31-bit levels and the products would be rounded twice.
        scaled = np.multiply(values, 1.0 / self.step, dtype=np.float64)
        largest = max(float(scaled.max(initial=0.0)), -float(scaled.min(initial=0.0)))
        if not np.isfinite(largest):
            raise NotFinite("values to encrypt contain NaN or infinity")
        saturated = 0
        if largest > self.levels:
            # A float32 clip may lie a rounding above the float64 one: that is not out of range.
            saturated = int(np.count_nonzero(np.abs(scaled) > self.levels * (1 + 1e-6)))
            np.clip(scaled, -self.levels, self.levels, out=scaled)
        if rng is not None:
            scaled += rng.random(scaled.shape)
            np.floor(scaled, out=scaled)
            np.minimum(scaled, self.levels, out=scaled)
        # Adding 1.5 * 2^52 rounds to the nearest and leaves the integer in the lower bits.
        scaled += _MAGIC
        ints: NDArray[np.int64] = scaled.view(np.int64)
        ints -= _MAGIC_BITS
        return ints, saturated

    def integers(self, values: NDArray[Any]) -> tuple[NDArray[np.integer], int]:
        """Floats encoded, integers as they are; and how many values were cut.

        Raises:
            NotFinite: for NaN or infinity.
            ValueError: for integers outside [-levels, levels].
        """
        if values.dtype.kind == "f":
            return self.encode(values)
        if int(values.max(initial=0)) > self.levels or int(values.min(initial=0)) < -self.levels:
            raise ValueError(f"integers to encrypt must be within -/+{self.levels}")
        return values, 0

    def decode(self, ints: NDArray[np.integer]) -> NDArray[np.float64]:
        """Integers, or sums of them, in the values' unit: float64 [m]."""
        values: NDArray[np.float64] = np.multiply(ints, self.step, dtype=np.float64)
        return values
