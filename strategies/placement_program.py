"""The integer program behind `strategies.placement_security`, solved by HiGHS through scipy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NOBODY = -1
"""The plan of a client that gets no work."""
KERNEL = 60
"""How many of the closest decisions are settled anew when a relaxation is rounded."""
SLACK = 1e-7
"""HiGHS keeps constraints only this well; rows are scaled to it."""


@dataclass(frozen=True)
class Program:
    """Choose at most one cell a row, at least cost.

    Args:
        cost: of each cell, [n, p].
        allowed: cells that may be chosen, [n, p].
        rows: coupling constraints, coefficients [n, p] and right side: sum <= right side.
        cohort: plans of which none or at least ``least`` cells together may be chosen, [p].
        least: see there.
    """

    cost: Floats
    allowed: NDArray[np.bool_]
    rows: Mapping[str, tuple[Floats, float]]
    cohort: NDArray[np.bool_]
    least: int

    def dual_bound(self, duals: Floats) -> float:
        """What any choice costs at least, at given prices of the coupling constraints.

        By weak duality this holds for any prices that are not negative, so prices found for one
        set of allowed cells bound every other.

        Args:
            duals: price of each of ``rows``, in their order, >= 0.
        """
        reduced = self.cost.copy()
        paid = 0.0
        for price, (coefficients, limit) in zip(duals, self.rows.values(), strict=True):
            reduced += price * coefficients
            paid += price * limit
        best = np.where(self.allowed, reduced, np.inf).min(axis=1, initial=np.inf)
        return float(np.minimum(best, 0.0).sum() - paid)


@dataclass(frozen=True)
class Bounded:
    """What was found, and what cannot be beaten.

    Args:
        plan: chosen cell by row, -1 for none, int64 [n]; None if nothing was found.
        bound: no choice costs less; infinite if none is possible.
        programs: solved on the way.
        duals: prices of the coupling constraints, from the relaxation; None if it has no solution.
    """

    plan: Ints | None
    bound: float
    programs: int
    duals: Floats | None = None


def cheapest(program: Program, exact: bool) -> Bounded:
    """The cheapest choice, or one close to it with a bound.

    The cohort's "none or at least m" is tried relaxed first; only where the answer has too few,
    both cases are solved.

    Args:
        program: what is given.
        exact: solve integer programs to the end; else a relaxation, rounded.
    """
    one = _Cells(program, program.allowed).solved(exact)
    if one.plan is None or _cohort_holds(program, one.plan):
        return one
    none = replace(program, allowed=program.allowed & ~program.cohort)
    enough = np.broadcast_to(-program.cohort.astype(float), program.cost.shape)
    some = replace(program, rows={**program.rows, "cohort": (enough, -float(program.least))})
    found = [_Cells(case, case.allowed).solved(exact) for case in (none, some)]
    best = found[int(np.argmin([_cost(program, each.plan) for each in found]))].plan
    bound = max(one.bound, min(each.bound for each in found))
    programs = one.programs + sum(each.programs for each in found)
    return Bounded(best, bound, programs, one.duals)


def _cohort_holds(program: Program, plan: Ints) -> bool:
    chosen = plan[plan != NOBODY]
    count = int(program.cohort[chosen].sum())
    return count == 0 or count >= program.least


def _cost(program: Program, plan: Ints | None) -> float:
    if plan is None:
        return math.inf
    who = np.flatnonzero(plan != NOBODY)
    return float(program.cost[who, plan[who]].sum())


class _Cells:
    """The allowed cells of a program as variables; clients beyond them may be settled already.

    Args:
        program: what is given.
        open: cells that are variables, [n, p].
        settled: plan of the clients without variables, int64 [n].
    """

    def __init__(
        self, program: Program, open: NDArray[np.bool_], settled: Ints | None = None
    ) -> None:
        self.program = program
        n = len(program.cost)
        self.settled = np.full(n, NOBODY) if settled is None else settled
        self.rows, self.columns = np.nonzero(open)
        self.cost = program.cost[self.rows, self.columns]
        fixed = np.flatnonzero(self.settled != NOBODY)
        at = fixed, self.settled[fixed]
        coupling, right = [], []
        for coefficients, limit in program.rows.values():
            coupling.append(coefficients[self.rows, self.columns])
            right.append(limit - float(coefficients[at].sum()))
        self.coupling = np.array(coupling).reshape(len(coupling), len(self.cost))
        self.right = np.array(right)
        self.fixed_cost = float(program.cost[at].sum())
        present, local = np.unique(self.rows, return_inverse=True)
        ones = np.ones(len(self.cost))
        self.single = sparse.csr_matrix(
            (ones, (local, np.arange(len(self.cost)))), shape=(len(present), len(self.cost))
        )

    def solved(self, exact: bool) -> Bounded:
        """Relaxed first, for a bound and prices; then as integers, all of it or what is close."""
        if not len(self.cost):
            return self.integer()
        done = linprog(
            self.cost,
            A_ub=sparse.vstack([self.single, sparse.csr_matrix(self.coupling)], format="csc"),
            b_ub=np.concatenate([np.ones(self.single.shape[0]), self.right]),
            bounds=(0.0, 1.0), method="highs-ds",
        )  # fmt: skip
        if done.x is None:
            return Bounded(None, math.inf, 1)
        duals = np.maximum(-done.ineqlin.marginals[self.single.shape[0] :], 0.0)
        bound = self.program.dual_bound(duals)
        if exact:
            found = self.integer()
            return Bounded(found.plan, max(bound, found.bound), 2, duals)
        plan, programs = self._rounded(done.x, duals)
        return Bounded(plan, bound, 1 + programs, duals)

    def integer(self, **options: float) -> Bounded:
        """As an integer program."""
        if not len(self.cost):
            good = bool((self.right >= -SLACK).all())
            return Bounded(
                self.settled if good else None, self.fixed_cost if good else math.inf, 0
            )
        constraints = [
            LinearConstraint(self.single, -np.inf, 1.0),
            LinearConstraint(self.coupling, -np.inf, self.right),
        ]
        done = milp(
            self.cost, constraints=constraints, bounds=Bounds(0.0, 1.0),
            integrality=np.ones(len(self.cost)), options={"mip_rel_gap": 0.0, **options},
        )  # fmt: skip
        if done.x is None:
            # Stopped by time without a solution tells nothing; otherwise there is none.
            return Bounded(None, -math.inf if done.status == 1 else math.inf, 1)
        return Bounded(self._plan(done.x), self.fixed_cost + float(done.mip_dual_bound), 1)

    def _rounded(self, x: Floats, duals: Floats) -> tuple[Ints | None, int]:
        """The relaxation's decisions, the undecided and the closest ones settled as integers."""
        regret = self._regret(duals)
        undecided = np.unique(self.rows[(x > 1e-6) & (x < 1.0 - 1e-6)])
        plan = self._plan(x)
        programs = 0
        for size in (KERNEL, 8 * KERNEL):
            kernel = np.union1d(undecided, np.argsort(regret, kind="stable")[:size])
            open_ = np.zeros_like(self.program.allowed)
            open_[kernel] = self.program.allowed[kernel]
            rest = plan.copy()
            rest[kernel] = NOBODY
            found = _Cells(self.program, open_, rest).integer(time_limit=1.0, mip_rel_gap=1e-3)
            programs += 1
            if found.plan is not None:
                break
        return found.plan, programs

    def _regret(self, duals: Floats) -> Floats:
        """How much worse each client's second best choice is, at the relaxation's prices, [n]."""
        n, p = self.program.cost.shape
        reduced = np.full((n, p + 1), np.inf)
        reduced[:, p] = 0.0  # no work
        reduced[self.rows, self.columns] = self.cost + duals @ self.coupling
        two = np.partition(reduced, 1, axis=1)
        return np.asarray(two[:, 1] - two[:, 0])

    def _plan(self, x: Floats) -> Ints:
        plan = self.settled.copy()
        chosen = x > 0.5
        plan[self.rows[chosen]] = self.columns[chosen]
        return plan
