"""Several values in one coefficient: digits of a number, so that adding numbers adds digits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.encryption.errors import Overflowed


@dataclass(frozen=True)
class Packing:
    """Values in [-levels, levels], of which up to ``clients`` are added, as digits.

    Args:
        levels: largest magnitude of a value.
        clients: most summands.
        room: a packed number and its sums must have so many different values, below 2^53.
        unit: blocks are padded to whole multiples of so many coefficients.

    Raises:
        ValueError: if not even one value fits.
    """

    levels: int
    clients: int
    room: int
    unit: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(
                f"values up to {self.levels} of {self.clients} clients do not fit into a "
                "coefficient: take fewer bits or fewer clients"
            )

    @cached_property
    def base(self) -> int:
        """B: every digit of a sum lies in [-(B - 1) / 2, (B - 1) / 2], with a little to spare.

        What is to spare no honest sum reaches: garbage in an upload shows in the sum.
        """
        half = self.clients * self.levels
        return 2 * (half + max(half // 128, 1)) + 1

    @cached_property
    def k(self) -> int:
        """Values in a coefficient."""
        k = 0
        while self.base ** (k + 1) <= self.room:
            k += 1
        return k

    @cached_property
    def modulus(self) -> int:
        """B^k: packed numbers lie in [-(B^k - 1) / 2, (B^k - 1) / 2]."""
        return int(self.base**self.k)

    def coefficients(self, count: int) -> int:
        """How many coefficients ``count`` values take, padding included."""
        return self.unit * -(-count // (self.unit * self.k))

    def pack(self, ints: NDArray[Any]) -> NDArray[np.int64]:
        """Values as packed numbers: int64 [coefficients(m)]; values far apart share one."""
        k = self.k
        coefficients = self.coefficients(len(ints))
        if len(ints) < k * coefficients:
            ints = np.concatenate([ints, np.zeros(k * coefficients - len(ints), ints.dtype)])
        digits = ints.astype(np.int64, copy=False).reshape(k, coefficients)
        packed: NDArray[np.int64] = digits[k - 1].copy()
        for digit in digits[-2::-1]:
            packed *= self.base
            packed += digit
        return packed

    def sums(self, packed: NDArray[np.floating], count: int, clients: int) -> NDArray[np.int64]:
        """The sums that some numbers hold, in `pack`'s order.

        Args:
            packed: float64 [coefficients], sums of packed numbers.
            count: values, the rest is padding.
            clients: how many were added.

        Returns:
            int64 [count].

        Raises:
            Overflowed: for what so many honest clients cannot have made.
        """
        digits = np.empty((self.k, len(packed)), dtype=np.int64)
        for digit in digits[:-1]:
            rest = np.rint(packed / self.base)
            digit[:] = packed - rest * self.base
            packed = rest
        digits[-1] = packed
        values = digits.reshape(-1)
        largest = max(int(values.max()), -int(values.min()))
        if largest > clients * self.levels or values[count:].any():
            raise Overflowed("a sum is none that its clients can have made")
        return values[:count]
