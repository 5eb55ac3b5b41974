"""Clipping updates, with a norm that is fixed or follows a quantile of theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.dp.noise import Noise

Vector = NDArray[np.float32]


def clipped(update: Vector, norm: float) -> NDArray[np.float64]:
    """``update`` min(1, norm / |update|), float64 [P] in memory of its own."""
    out: NDArray[np.float64] = update.astype(np.float64)
    length = float(np.linalg.norm(out))
    if length > norm:
        out *= norm / length
    return out


@dataclass(frozen=True)
class AdaptiveClip:
    """The clipping norm follows a quantile of the updates' norms, privately.

    Andrew, Thakkar, McMahan, Ramaswamy: Differentially Private Learning with Adaptive Clipping,
    NeurIPS 2021, algorithm 1. With b_i = 1 where |u_i| <= C, the fraction of short updates is
    estimated with noise of standard deviation sigma_b on the sum of b_i - 1/2, and
    C <- C exp(-rate (fraction - quantile)). The count is a release of its own, whose cost comes
    out of the round's: the updates get noise of z_u C with 1 / z_u^2 = 1 / z^2 - 1 / (2 sigma_b)^2
    (theorem 1), so that both together cost what noise of z alone would.

    Args:
        quantile: gamma, share of updates that should be short.
        rate: eta_C, how fast the norm follows.
        count_noise: sigma_b as a share of the number of clients m; the paper uses 1 / 20.
    """

    quantile: float = 0.5
    rate: float = 0.2
    count_noise: float = 0.05

    def __post_init__(self) -> None:
        if not 0.0 <= self.quantile <= 1.0 or not self.rate > 0.0 or not self.count_noise > 0.0:
            raise ValueError(
                "need 0 <= quantile <= 1, rate > 0 and count_noise > 0, got "
                f"{self.quantile}, {self.rate} and {self.count_noise}"
            )

    def noise_multiplier(self, z: float, expected: float) -> float:
        """z_u, the noise on the updates that leaves room for that on the count.

        Args:
            z: of the round as a whole; 0 for no noise at all.
            expected: m, clients a round.

        Raises:
            ValueError: if the count alone would cost as much as the round may.
        """
        if z == 0.0:
            return 0.0
        left = z**-2 - (2.0 * self.count_noise * expected) ** -2
        if left <= 0.0:
            raise ValueError(
                f"with noise_multiplier {z:g} and {expected:g} clients a round, count_noise must "
                f"be above {z / (2.0 * expected):.2g}, or counting short updates costs everything"
            )
        return float(left**-0.5)

    def next(self, norm: float, updates: Sequence[Vector], expected: float, noise: Noise) -> float:
        """The next round's clipping norm.

        Args:
            norm: C, this round's.
            updates: of the clients that replied, float32 [P] each, before clipping.
            expected: m, clients a round.
            noise: for the count.
        """
        short = [float(np.linalg.norm(update.astype(np.float64))) <= norm for update in updates]
        count = sum(float(b) - 0.5 for b in short)
        count += self.count_noise * expected * float(noise.normal(1)[0])
        fraction = count / expected + 0.5
        return norm * math.exp(-self.rate * (fraction - self.quantile))
