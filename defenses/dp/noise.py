"""Where noise and sampling coins come from.

In a simulation they come from streams of the run's seed, so that a run can be repeated: who knows
the seed can subtract the noise, and the guarantee is that of the same mechanism with unknown
noise. On real machines every number comes from the operating system's generator.
"""

from __future__ import annotations

import os
from typing import Literal, Protocol

import numpy as np
from flwr.app import Context
from numpy.typing import NDArray
from scipy.special import ndtri

from fedhive import seeding
from fedhive.world.instructions import SIMULATED

Source = Literal["seeded", "os.urandom"]


class Noise(Protocol):
    """A source of randomness for one task."""

    source: Source

    def normal(self, n: int) -> NDArray[np.float32]:
        """Standard normal numbers, float32 [n]."""
        ...

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Uniform numbers in (0, 1), float64 [n]."""
        ...


class Seeded:
    """Repeatable: a stream of the run's seed (`fedhive.seeding.stream`).

    Args:
        seed: of the run.
        component: who draws.
        *keys: what for.
    """

    source: Source = "seeded"

    def __init__(self, seed: int, component: str, *keys: int) -> None:
        self._rng = seeding.stream(seed, component, *keys)

    def normal(self, n: int) -> NDArray[np.float32]:
        """Standard normal numbers, float32 [n]."""
        return self._rng.standard_normal(n, np.float32)

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1), float64 [n]."""
        return self._rng.random(n)


class System:
    """Unpredictable: the operating system's generator, read anew for every number."""

    source: Source = "os.urandom"

    def normal(self, n: int) -> NDArray[np.float32]:
        """Standard normal numbers by the inverse distribution function, float32 [n]."""
        numbers: NDArray[np.float64] = ndtri(self.uniform(n))
        return numbers.astype(np.float32)

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Uniform numbers in (0, 1), odd multiples of 2^-54, float64 [n]."""
        bits = np.frombuffer(os.urandom(8 * n), np.uint64) >> np.uint64(11)
        uniform: NDArray[np.float64] = (bits.astype(np.float64) + 0.5) * 2.0**-53
        return uniform


def is_simulated(context: Context) -> bool:
    """Whether this machine is one of a simulated world, by its own node config."""
    return bool(context.node_config.get(SIMULATED, False))


def source_for(context: Context, seed: int, component: str, *keys: int) -> Noise:
    """The noise of one task of this machine: seeded in a simulation, else the system's."""
    return Seeded(seed, component, *keys) if is_simulated(context) else System()
