"""A coin for each node: the sampling that differential privacy gains from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strategies.selection import Choice, within
from strategies.view import View


@dataclass(frozen=True)
class Poisson:
    """Each idle node with probability ``rate``, by a coin of its own.

    The number of nodes varies: k of n on average for ``rate`` = k / n, and sometimes nobody. The
    coins depend on nothing but the seed, the round and the node's id, not on who else is there.

    McMahan, Ramage, Talwar, Zhang: Learning Differentially Private Recurrent Language Models,
    ICLR 2018, section 2.2 (users are sampled so).

    Args:
        rate: probability q of heads, in (0, 1].
        secret: take the coins from the operating system, so that nobody who knows the run's seed
            knows them; on real machines only then does privacy gain. The run cannot be repeated.
    """

    rate: float = 0.3
    secret: bool = False

    def __post_init__(self) -> None:
        within(1e-9, 1.0, rate=self.rate)

    def select(self, view: View) -> list[Choice]:
        """Whoever's coin shows heads."""
        coins = self._secret(view.idle) if self.secret else self._seeded(view, view.idle)
        return [
            Choice(node, probability=self.rate)
            for node, coin in zip(view.idle, coins, strict=True)
            if coin < self.rate
        ]

    def _seeded(self, view: View, nodes: Sequence[int]) -> list[float]:
        """Numbers in [0, 1), one a node, the same whoever else is there."""
        salt = int(view.rng("selection").integers(2**63))
        words = [np.random.SeedSequence([salt, node]).generate_state(1)[0] for node in nodes]
        return [float(word) * 2.0**-32 for word in words]

    def _secret(self, nodes: Sequence[int]) -> list[float]:
        words = np.frombuffer(os.urandom(8 * len(nodes)), np.uint64) >> np.uint64(11)
        return [float(word) * 2.0**-53 for word in words]
