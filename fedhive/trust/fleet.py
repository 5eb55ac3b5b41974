"""Trust levels of a hive's machines: drawn by shares in a simulation, or listed.

What volunteers' machines offer was counted once, in 9,000 dumps of firmware tables that people
have uploaded (linuxhw/DMI, CC-BY 4.0): of consumer machines whose firmware is of 2022 or later, 64
to 67 % announce a TPM 2.0; of all ages 22 %. It is a lower bound, since the table that tells is
younger than TPM 2.0. Nobody knows how many have secure boot on and would join in a sandbox: those
shares are assumptions, and settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedhive import seeding
from fedhive.errors import UserError
from fedhive.trust.levels import Level

Ints = NDArray[np.int64]


class Levels(Protocol):
    """Tells the trust level of each machine."""

    def __call__(self, n: int) -> Ints:
        """Levels of machines 0 to n - 1, int64 [n]."""
        ...


@dataclass(frozen=True)
class Shares:
    """Levels drawn by what machines have; each share is of those that have what comes before.

    Args:
        sandbox: machines that declare facts and lock up strangers' code.
        tpm: of those, with a TPM 2.0 that a maker vouches for, enrolled.
        secure_boot: of those, with a measured boot and secure boot on.
        tee: of those, with an attested trusted execution environment.
        seed: of the run.
    """

    sandbox: float = 0.9
    tpm: float = 0.65
    secure_boot: float = 0.5
    tee: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sandbox", "tpm", "secure_boot", "tee"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be 0 to 1, got {getattr(self, name)}")

    def __call__(self, n: int) -> Ints:
        """Drawn for each machine apart, so that machine i is the same in every hive."""
        steps = np.array([self.sandbox, self.tpm, self.secure_boot, self.tee])
        draws = np.array([seeding.stream(self.seed, "trust", i).random(4) for i in range(n)])
        passed = np.cumprod(draws.reshape(n, 4) < steps, axis=1)
        return np.asarray(passed.sum(axis=1), np.int64)


@dataclass(frozen=True)
class Listed:
    """Levels given one by one.

    Args:
        levels: 0 to 4, by number of the machine.
    """

    levels: Sequence[int]

    def __post_init__(self) -> None:
        if any(level not in list(Level) for level in self.levels):
            raise ValueError(f"levels must be 0 to {int(max(Level))}, got {list(self.levels)}")

    def __call__(self, n: int) -> Ints:
        """The listed levels.

        Raises:
            UserError: if there are not as many.
        """
        if len(self.levels) != n:
            raise UserError(
                f"protection.levels lists {len(self.levels)} machines but nodes={n}; make equal"
            )
        return np.array(self.levels, np.int64)
