"""From what was done to how private it is: (epsilon, delta) of a history of noisy releases.

A history is what one record (an example, or a client) may have been part of: so many releases of
a sum to which each record adds a vector of length at most C, with Gaussian noise of standard
deviation z C a coordinate, where each release takes the record in with probability q by a coin of
its own (Poisson sampling); q = 1 is no sampling. Neighbours are histories with and without the
record's vectors.

Numbers are upper bounds by two accountants of Opacus, and exact where there is no sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr

from fedhive.errors import UserError

Method = Literal["prv", "rdp"]
WORTH_IT = 50.0
"""Above this epsilon the PRV accountant is not asked: its grid grows, and nobody needs digits."""


class Spent(NamedTuple):
    """Equal releases in a row.

    Args:
        noise_multiplier: z, noise relative to the longest contribution; 0 for none.
        rate: q, probability of taking the record in, by an independent coin; 1 for always.
        steps: how many releases.
    """

    noise_multiplier: float
    rate: float
    steps: int


History = tuple[Spent, ...]


def merged(history: Iterable[Spent]) -> History:
    """The same releases, equal kinds counted together, in a fixed order.

    Raises:
        ValueError: for a negative z, q outside [0, 1] or negative steps.
    """
    counts: dict[tuple[float, float], int] = {}
    for z, q, steps in history:
        if not z >= 0.0 or not 0.0 <= q <= 1.0 or steps < 0:
            raise ValueError(f"need z >= 0, q in [0, 1] and steps >= 0, got {z}, {q}, {steps}")
        if steps and q:
            counts[float(z), float(q)] = counts.get((float(z), float(q)), 0) + int(steps)
    return tuple(Spent(z, q, steps) for (z, q), steps in sorted(counts.items()))


def opacus() -> Any:
    """The library.

    Raises:
        UserError: if it is not installed, with the command that installs it.
    """
    try:
        import opacus as library
    except ImportError as error:
        raise UserError(
            "protection: differential privacy needs Opacus; pip install 'fedhive[dp]'"
        ) from error
    return library


# ---- without sampling: exact -------------------------------------------------------------------


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Smallest delta of a mu-Gaussian-DP mechanism.

    Balle and Wang, Improving the Gaussian Mechanism, ICML 2018, theorem 8, with sensitivity over
    noise mu: Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu).
    """
    if mu <= 0.0:
        return 0.0
    first = log_ndtr(mu / 2 - epsilon / mu)
    second = epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(-math.exp(first) * math.expm1(min(second - first, 0.0)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon >= 0 of a mu-Gaussian-DP mechanism at ``delta``.

    Releases z_1, z_2, ... without sampling are together mu-GDP with mu^2 = sum 1 / z_i^2
    (Dong, Roth and Su, Gaussian Differential Privacy, corollary 3.3).
    """
    if not math.isfinite(mu):
        return math.inf
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1.0
    return float(brentq(lambda e: gaussian_delta(mu, e) - delta, 0.0, high, xtol=1e-10))


def gdp_mu(history: History) -> float:
    """mu of a history without sampling."""
    return math.sqrt(sum(s.steps / s.noise_multiplier**2 for s in history))


# ---- with sampling -----------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _orders() -> list[float]:
    opacus()
    from opacus.accountants import RDPAccountant

    return [*RDPAccountant.DEFAULT_ALPHAS, 64, 80, 96, 128, 192, 256]


@lru_cache(maxsize=65536)
def _curve(z: float, q: float) -> NDArray[np.float64]:
    """Renyi divergence of one release at each order (Mironov, Talwar, Zhang 2019)."""
    opacus()
    from opacus.accountants.analysis.rdp import compute_rdp

    curve: NDArray[np.float64] = compute_rdp(q=q, noise_multiplier=z, steps=1, orders=_orders())
    return curve


def _rdp(history: History, delta: float) -> float:
    from opacus.accountants.analysis.rdp import get_privacy_spent

    total = sum(_curve(s.noise_multiplier, s.rate) * s.steps for s in history)
    import warnings

    with warnings.catch_warnings():  # that the best order is the smallest or largest
        warnings.simplefilter("ignore")
        epsilon, _ = get_privacy_spent(orders=_orders(), rdp=total, delta=delta)
    return max(0.0, float(epsilon))


def _prv(history: History, delta: float) -> float:
    """Upper bound by numerical composition (Gopi, Lee, Wutschitz 2021), error 0.01 at most."""
    import warnings

    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [tuple(spent) for spent in history]
    with warnings.catch_warnings():  # logarithms of 0 outside the support
        warnings.simplefilter("ignore")
        return max(0.0, float(accountant.get_epsilon(delta=delta)))


def epsilon(history: Iterable[Spent], delta: float, method: Method = "prv") -> float:
    """Epsilon at ``delta`` of a history; 0 for an empty one, infinite without noise.

    Exact where nothing is sampled. Else ``rdp`` gives the bound by Renyi divergences, ``prv`` the
    smaller of that and the one by privacy loss random variables, unless the first is above
    `WORTH_IT`.

    Raises:
        UserError: if Opacus is needed and missing.
        ValueError: for a delta outside (0, 1).
    """
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta must be between 0 and 1, got {delta}")
    return _epsilon(merged(history), delta, method)


@lru_cache(maxsize=65536)
def _epsilon(history: History, delta: float, method: Method) -> float:
    if not history:
        return 0.0
    if any(spent.noise_multiplier == 0.0 for spent in history):
        return math.inf
    if all(spent.rate == 1.0 for spent in history):
        return gaussian_epsilon(gdp_mu(history), delta)
    opacus()
    bound = _rdp(history, delta)
    if method == "rdp" or bound > WORTH_IT:
        return bound
    return min(bound, _prv(history, delta))


def largest(histories: Sequence[Iterable[Spent]], delta: float, method: Method = "prv") -> float:
    """The largest epsilon of several histories; 0 for none.

    PRV is asked only for those whose cheap bound is above the largest found so far.
    """
    cheap = sorted({(epsilon(h, delta, "rdp"), h) for h in map(merged, histories)}, reverse=True)
    most = 0.0
    for bound, history in cheap:
        if bound <= most:
            break
        most = max(most, epsilon(history, delta, method))
    return most


def noise_for(
    target: float, delta: float, rate: float, steps: int, method: Method = "prv"
) -> float:
    """The noise multiplier z for which ``steps`` releases at ``rate`` cost epsilon ``target``.

    Within 0.002, on the private side.

    Raises:
        ValueError: for a target that is not above 0.
    """
    if not target > 0.0:
        raise ValueError(f"epsilon must be above 0, got {target}")

    def cost(name: Method) -> Callable[[float], float]:
        return lambda z: epsilon([Spent(z, rate, steps)], delta, name)

    high = 1.0
    while cost("rdp")(high) > target:
        high *= 2.0
    enough = _least(cost("rdp"), target, 0.0, high, 0.002)
    if method == "rdp" or rate == 1.0:
        return enough
    return _least(cost("prv"), target, enough * 0.6, enough, 0.002)


def _least(
    cost: Callable[[float], float], target: float, low: float, high: float, width: float
) -> float:
    """Smallest z in [low, high] with ``cost`` at most ``target``, from above, within ``width``."""
    while high - low > width:
        middle = (low + high) / 2
        if cost(middle) <= target:
            high = middle
        else:
            low = middle
    return high
