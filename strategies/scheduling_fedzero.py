r"""FedZero: train only on excess energy, the most useful machines, the shortest round.

Wiesner, Khalili, Grinwald, Agrawal, Thamsen, Kao, e-Energy 2024, arXiv 2305.15092. For the least
number of time slots d for which n machines can do their least work:

.. math:: \max \sum_c b_c \sigma_c \sum_t m_{ct}
   \quad \text{s.t.} \quad \sum_{c \in p} m_{ct} \delta_c \le r_{pt},\;
   m_{ct} \le s_{ct},\; b_c m^{min}_c \le \sum_t m_{ct} \le b_c m^{max}_c,\; \sum_c b_c = n

with batches m, machine c's joules a batch, its spare capacity s, and the energy r of its power
domain p. Solved by HiGHS through scipy, a free solver.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fleet:
    """The machines of a FedZero problem, c of them, and their energy.

    Args:
        spare: batches that each can compute in each slot, [c, t].
        energy_j: excess energy of each power domain in each slot, [p, t].
        domain: each machine's power domain, int [c].
        joules: of one batch, above 0, [c].
        least: batches that a chosen machine must do, [c].
        most: batches that it may do, [c].
        utility: of a batch, not negative (`oort_utility`), [c].
    """

    spare: Floats
    energy_j: Floats
    domain: npt.NDArray[np.int64]
    joules: Floats
    least: Floats
    most: Floats
    utility: Floats

    def first(self, slots: int) -> Fleet:
        """The same for fewer slots."""
        return Fleet(
            self.spare[:, :slots], self.energy_j[:, :slots], self.domain, self.joules,
            self.least, self.most, self.utility,
        )  # fmt: skip

    def of(self, rows: npt.NDArray[np.int64]) -> Fleet:
        """The same for some of the machines."""
        return Fleet(
            self.spare[rows], self.energy_j, self.domain[rows], self.joules[rows],
            self.least[rows], self.most[rows], self.utility[rows],
        )  # fmt: skip

    def possible(self) -> Bools:
        """Who could do the least work if it had its domain's energy for itself, [c]."""
        alone = np.minimum(self.spare, self.energy_j[self.domain] / self.joules[:, None])
        return np.asarray(alone.sum(1) >= self.least)


@dataclass(frozen=True)
class Allocation:
    """What FedZero decided.

    Args:
        slots: d, how long the round takes.
        batches: of each machine in each slot, [c, d]; 0 for those not chosen.
        chosen: which machines, bool [c].
        value: of the objective.
    """

    slots: int
    batches: Floats
    chosen: Bools
    value: float


def oort_utility(samples: npt.ArrayLike, mean_square_loss: npt.ArrayLike) -> Floats:
    """Statistical utility of Oort and FedZero: samples * sqrt(mean of squared losses), [c]."""
    root = np.sqrt(np.asarray(mean_square_loss, dtype=np.float64))
    return np.asarray(np.asarray(samples, dtype=np.float64) * root)


def fedzero(fleet: Fleet, n: int, *, gap: float = 1e-4) -> Allocation | None:
    """The best choice of ``n`` machines in the shortest round that allows one.

    Whether ``d`` slots suffice is found by bisection: more slots never take a choice away.

    Args:
        fleet: the machines and forecasts, over the longest round allowed.
        n: how many machines to choose, at least 1.
        gap: relative gap to the optimum at which the solver may stop.

    Returns:
        The choice, or None if even the longest round allows none.
    """
    low, high = 1, fleet.spare.shape[1]
    if high < 1 or not _feasible(fleet, n, high):
        return None
    while low < high:
        middle = (low + high) // 2
        if _feasible(fleet, n, middle):
            high = middle
        else:
            low = middle + 1
    return _solve(fleet.first(low), n, fleet.utility, gap)


def fedzero_excluded(
    excluded: npt.ArrayLike,
    took_part: npt.ArrayLike,
    utility: npt.ArrayLike,
    participations: npt.ArrayLike,
    *,
    factor: float,
    alpha: float,
    mean: float,
    draws: npt.ArrayLike,
) -> Bools:
    """FedZero's fairness, as in the authors' code: who sits out, bool [c].

    Of those who took part, those at or below the ``factor`` quantile of their utilities are
    excluded. Then everyone excluded is released with probability min(alpha / (participations -
    mean), 1), or surely if it took part no more often than ``mean``.

    Args:
        excluded: who sat out until now, bool [c].
        took_part: who took part in the last round, bool [c].
        utility: statistical utility, [c].
        participations: rounds in which each took part, [c].
        factor: share of the participants to exclude, 0 to 1.
        alpha: how readily to release.
        mean: participations that are a fair share: the mean of the last day's active machines.
        draws: uniform random numbers in [0, 1), [c].
    """
    out, part = np.array(excluded, dtype=bool), np.asarray(took_part, dtype=bool)
    if not part.any():
        return out
    use = np.asarray(utility, dtype=np.float64)
    out |= part & (use <= np.quantile(use[part], factor))
    beyond = np.asarray(participations, dtype=np.float64) - mean
    chance = np.where(beyond > 0.0, alpha / np.where(beyond > 0.0, beyond, 1.0), 1.0)
    return np.asarray(out & (np.asarray(draws, dtype=np.float64) >= chance))


def _feasible(fleet: Fleet, n: int, slots: int) -> bool:
    short = fleet.first(slots)
    if int(short.possible().sum()) < n:
        return False
    return _solve(short, n, np.zeros_like(fleet.utility), 1.0) is not None


def _solve(fleet: Fleet, n: int, utility: Floats, gap: float) -> Allocation | None:
    """The integer program: batches of all slots of the machines that are possible, then b."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, hstack, kron

    rows = np.flatnonzero(fleet.possible())
    c, t = len(rows), fleet.spare.shape[1]
    if c < n:
        return None
    spare, joules = fleet.spare[rows], fleet.joules[rows]
    domains = csr_array(
        (joules, (fleet.domain[rows], np.arange(c))), shape=(len(fleet.energy_j), c)
    )
    total = kron(csr_array(np.eye(c)), csr_array(np.ones((1, t))), format="csr")
    energy = kron(domains, csr_array(np.eye(t)), format="csr")
    none = csr_array((len(fleet.energy_j) * t, c))
    chosen = csr_array(np.concatenate([np.zeros((1, c * t)), np.ones((1, c))], axis=1))
    least, most = (csr_array(np.diag(-x[rows])) for x in (fleet.least, fleet.most))
    found = milp(
        np.concatenate([-np.repeat(utility[rows], t), np.zeros(c)]),
        integrality=np.concatenate([np.zeros(c * t), np.ones(c)]),
        bounds=Bounds(0.0, np.concatenate([spare.ravel(), np.ones(c)])),
        constraints=[
            LinearConstraint(hstack([energy, none]), -np.inf, fleet.energy_j.ravel()),
            LinearConstraint(hstack([total, least]), 0.0, np.inf),
            LinearConstraint(hstack([total, most]), -np.inf, 0.0),
            LinearConstraint(chosen, n, n),
        ],
        options={"mip_rel_gap": gap},
    )
    if found.status == 2:
        return None
    if found.x is None:
        raise RuntimeError(f"HiGHS: {found.message}")
    mask = np.zeros(len(fleet.spare), dtype=bool)
    mask[rows] = found.x[c * t :] > 0.5
    batches = np.zeros(fleet.spare.shape)
    batches[rows] = np.clip(found.x[: c * t].reshape(c, t), 0.0, spare)
    batches[~mask] = 0.0
    return Allocation(t, batches, mask, float(utility @ batches.sum(1)))
