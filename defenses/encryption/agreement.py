"""Masks that follow from data, agreed upon without anybody showing a map.

Before the first round every voter maps how much its coordinates tell (`sensitivity`), scales the
map to [0, 1] and encrypts it like an update. Only the sum is opened; the server takes the top p of
it, and the mask's digest is pinned: clients refuse any other one in the rest of the run.

What this tells: the sum of the maps, and the mask itself, to everybody. One voter moves the sum
of a coordinate by 1 at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.encryption import masks
from defenses.encryption.masks import Bools, LinearFirst
from defenses.encryption.sensitivity import Sample, Score
from fedhive import seeding
from fedhive.errors import UserError
from fedhive.flower import Layout
from fedhive.learning.workbench import Workbench

Vector = NDArray[np.float32]
Vote = Literal["values", "ranks"]


@dataclass(frozen=True)
class Sensitive:
    """The coordinates that tell most about the clients' data.

    Args:
        score: a function of `defenses.encryption.sensitivity`, or one like them.
        share: of all coordinates, in (0, 1].
        samples: how many of its samples a voter looks at.
        vote: ``values`` for maps divided by their largest value; ``ranks`` for the coordinates'
            ranks, which give every voter the same say everywhere.
        voters: how many clients are asked; null for all that are on.
        least_voters: with fewer maps there is no mask, and it is tried again.
        linear_first: as for `defenses.encryption.masks.Layers`.

    Raises:
        ValueError: for a share or a number out of range.
    """

    score: Score
    share: float = 0.1
    samples: int = 64
    vote: Vote = "values"
    voters: int | None = None
    least_voters: int = 2
    linear_first: LinearFirst = "whole"

    from_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        masks.check_share(self.share)
        if self.samples < 1 or self.least_voters < 2:
            raise ValueError("samples must be at least 1, least_voters at least 2")
        if self.voters is not None and self.voters < self.least_voters:
            raise ValueError(f"voters must be at least least_voters = {self.least_voters}")

    def choose(self, layout: Layout) -> Bools:
        """No mask follows from the model alone.

        Raises:
            UserError: always.
        """
        raise UserError("mask: this mask follows from data and must be agreed upon first")

    def vote_of(
        self, bench: Workbench, client: int, params: Vector, task: Mapping[str, Any]
    ) -> Vector:
        """A client's map, float32 [P] in [0, 1].

        Args:
            bench: the process's workbench.
            client: its number.
            params: the current model [P].
            task: settings of the question; ``server-round`` seeds the probes.
        """
        x, y = bench.samples(client)
        rng = seeding.stream(bench.seed, "mask", int(task.get("server-round", 0)), client)
        chosen = torch.from_numpy(np.sort(rng.permutation(len(y))[: self.samples]))
        start = torch.from_numpy(np.array(params, np.float32))

        def trained(steps: int) -> torch.Tensor:
            job = bench.job(client, {"local-steps": steps, "server-round": 0}, None)
            return bench.train(start, [job], cohort=False)[0].params

        sample = Sample(bench.model, start, x[chosen], y[chosen], rng, trained)
        return scaled(self.score(sample), self.vote)

    def agreed(self, total: NDArray[np.integer], layout: Layout) -> Bools:
        """The mask that a sum of maps (integers [P]) gives."""
        hidden = masks.top(total, masks.count_of(self.share, total.size))
        return masks.whole_first(hidden, layout, self.linear_first)

    def plausible(self, hidden: Bools, layout: Layout) -> bool:
        """Whether a mask from the server hides as much as was asked for."""
        return int(hidden.sum()) >= masks.count_of(self.share, hidden.size)


def scaled(scores: Vector, vote: Vote) -> Vector:
    """A map in [0, 1], float32 [P].

    Raises:
        ValueError: if it is not finite or has negative values.
    """
    if not np.isfinite(scores).all() or (scores < 0.0).any():
        raise ValueError("a map of sensitivities must be finite and not negative")
    if vote == "ranks":
        ranks = np.empty(scores.size, np.float64)
        ranks[np.argsort(scores, kind="stable")] = np.arange(1, scores.size + 1)
        return (ranks / scores.size).astype(np.float32)
    largest = float(scores.max(initial=0.0))
    return scores / np.float32(largest) if largest > 0.0 else np.zeros_like(scores)
