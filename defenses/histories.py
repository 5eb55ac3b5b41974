"""What identities have sent so far, added up: what similarity defences look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fedhive.errors import UserError
from strategies.combine import State

HISTORY, SEEN = "history.", "seen."
"""Keys of the state: an identity's sum of updates, and the last round in which it replied."""


class Histories:
    """Sums of updates by identity, in the state that a strategy's checkpoints save.

    Args:
        rate: weights float [n] from histories float [n, d] (`defenses.sybil.foolsgold`); None for
            no histories and equal weights.
        memory: what is kept of a history in each round in which its identity replies.
        features: only the last so many parameters; None for all.
        kept: of how many identities at most.

    Raises:
        UserError: for a number out of its range.
    """

    def __init__(
        self,
        rate: Callable[..., Tensor] | None,
        memory: float = 1.0,
        features: int | None = None,
        kept: int = 1000,
    ) -> None:
        if not 0.0 <= memory <= 1.0 or kept < 1 or (features is not None and features < 1):
            raise UserError(
                "combine needs 0 <= memory <= 1, features >= 1 and kept >= 1, "
                f"got {memory}, {features} and {kept}"
            )
        self.rate, self.memory, self.features, self.kept = rate, memory, features, kept

    def learn(
        self, names: Sequence[str], moves: Sequence[Tensor], round: int, state: State
    ) -> tuple[State, Tensor]:
        """Add a cohort's updates to their histories, and rate those.

        Two nodes with one key are one identity: their updates are added up, and both get its rate.

        Args:
            names: of the identities.
            moves: float32 [d] each, finite.
            round: from 1.
            state: of the rule; not changed.

        Returns:
            (the new state, float64 [n] in [0, 1]).
        """
        if self.rate is None:
            return state, torch.ones(len(names), dtype=torch.float64)
        state, distinct = dict(state), list(dict.fromkeys(names))
        for name in distinct:
            if HISTORY + name in state:
                state[HISTORY + name] = np.float32(self.memory) * state[HISTORY + name]
            state[SEEN + name] = np.array([round], np.float32)
        for name, move in zip(names, moves, strict=True):
            part = (move if self.features is None else move[-self.features :]).numpy()
            past = state.get(HISTORY + name)
            state[HISTORY + name] = part.copy() if past is None else past + part
        sums = torch.stack([torch.from_numpy(state[HISTORY + name]) for name in distinct])
        found = dict(zip(distinct, self._rated(sums), strict=True))
        self._forget(state)
        return state, torch.tensor([found[name] for name in names], dtype=torch.float64)

    def _rated(self, sums: Tensor) -> list[float]:
        assert self.rate is not None
        fine = sums.isfinite().all(1)
        rated = torch.zeros(len(sums), dtype=torch.float64)  # a sum that overflowed is nothing
        if bool(fine.any()):
            rated[fine] = self.rate(sums[fine]).double()
        rates: list[float] = rated.clamp(0.0, 1.0).tolist()
        return rates

    def _forget(self, state: State) -> None:
        """Leave the identities that were seen last: new names must not fill the memory."""
        seen = [
            (float(at[0]), key.removeprefix(SEEN))
            for key, at in state.items()
            if key.startswith(SEEN)
        ]
        for _, name in sorted(seen)[: max(0, len(seen) - self.kept)]:
            del state[HISTORY + name], state[SEEN + name]
