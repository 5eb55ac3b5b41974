"""The likelihood-ratio attack, offline: models that never saw the record say what is normal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from attacks.inference.probe import Floats, Probe, Records
from attacks.inference.rehearsal import Rehearsal
from fedhive import seeding
from fedhive.leakage.view import Exchange, View


@dataclass(frozen=True)
class Lira:
    """Offline LiRA of Carlini et al. (S&P 2022, section V-E) on the rounds of a view.

    In each round the adversary rehearses local training from the same model with ``shadows``
    random subsets of its own data. A record's log(p / (1 - p)) under these is N(mu, sigma^2) if
    it was not used, and the score is (observed - mu) / sigma, averaged over rounds: a one-sided
    test of "not used in this round", whose p-values Phi(-score) are right for one round if the
    rehearsal is.

    Assumptions: the adversary's data have the subject's law and contain no candidate; rate, steps,
    batch size and number of examples are known; log odds are near Gaussian. Departs from the
    paper in that shadows train for one round from the model that was sent, not from scratch:
    what earlier rounds left of the record in that model is common to all and does not count.

    Args:
        data: of the adversary.
        shadows: how many in a round.
        rounds: "last" or "all".
        pooled: one sigma for all records, as the paper advises for few shadows.
        seed: of the rehearsals.
    """

    data: Records
    shadows: int = 16
    rounds: Literal["last", "all"] = "all"
    pooled: bool = True
    seed: int = 0

    def __call__(
        self, view: View, crowd: Sequence[View], probe: Probe, records: Records
    ) -> Floats:
        """Mean score of each record, [n].

        Raises:
            ValueError: if too little is known or the adversary has too few data.
        """
        if self.shadows < 2:
            raise ValueError("at least two shadows are needed")
        rehearsal = Rehearsal(probe.model, view)
        chosen = view.exchanges[-1:] if self.rounds == "last" else view.exchanges
        return np.asarray(
            np.mean([self._round(each, rehearsal, probe, records) for each in chosen], axis=0)
        )

    def _round(
        self, each: Exchange, rehearsal: Rehearsal, probe: Probe, records: Records
    ) -> Floats:
        observed = probe.confidences(each.sent + each.seen, records)
        shadows = []
        for number in range(self.shadows):
            rng = seeding.stream(self.seed, "lira", each.round, number)
            update = rehearsal.update(each, rehearsal.subset(self.data, rng), rng)
            shadows.append(probe.confidences(each.sent + update, records))
        return one_sided(observed, np.stack(shadows), self.pooled)


def one_sided(observed: Floats, out: Floats, pooled: bool) -> Floats:
    """(observed - mean) / deviation of what models without the record say.

    Args:
        observed: [n].
        out: [shadows, n].
        pooled: take the root mean square of all records' deviations.
    """
    deviation = out.std(axis=0, ddof=1)
    if pooled:
        deviation = np.full_like(deviation, np.sqrt(np.mean(deviation**2)))
    return np.asarray((observed - out.mean(axis=0)) / np.maximum(deviation, 1e-12))
