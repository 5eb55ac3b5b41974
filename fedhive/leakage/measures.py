"""How much a view tells about its subject's data, without attacking: the linear-Gaussian measure.

Near the data x an update is close to linear in it, so a view is close to a Gaussian channel

    u = J x + sigma n,   n ~ N(0, I),   x ~ N(., tau^2 I),

with J the Jacobian of the visible coordinates. There everything is known: the mutual information,
the smallest error of unbiased estimates (Cramer and Rao) and of any estimate (Bayes), and with it
the PSNR that the best attack would reach. All follow from the eigenvalues of J^T J / sigma^2, the
Fisher information of x.

Assumptions: the network is replaced by its tangent at x, so the numbers are exact for linear
models and local approximations for others, no bounds: at high noise an attack leaves the tangent's
reach, and at very low noise optimisers stop before the bound. The prior knows nothing of images
but their variance; an attacker that knows more does better. Labels, and the true x to linearise
at, are the judge's, not the adversary's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fedhive.leakage.tangent import Spectrum, Tangent, lanczos, spectrum_of
from fedhive.leakage.view import Channel, View

Floats = NDArray[np.float64]
Update = Callable[[Tensor], Tensor]
"""What the subject would have sent for inputs x [n, ...]: float [P], in the units of `seen`,
before the channel, differentiable with PyTorch's autograd (twice, as a gradient is)."""

UNIFORM = 1.0 / math.sqrt(12.0)
"""Standard deviation of numbers spread evenly over [0, 1], a prior for pixels."""
DENSE = 40_000_000
"""Largest Jacobian, in numbers, that is made whole; beyond it its spectrum is sketched."""


@dataclass(frozen=True, eq=False)
class LinearLeakage:
    """What a linear-Gaussian view tells of d unknown numbers.

    Args:
        spectrum: eigenvalues of J^T J / sigma^2, with their weights (d in all).
        tau: standard deviation of each unknown before anything is seen.
    """

    spectrum: Spectrum
    tau: float

    @property
    def unknowns(self) -> int:
        """d."""
        return self.spectrum.size

    @property
    def mutual_information(self) -> float:
        """I(x; u) = 1/2 log det(I + tau^2 J^T J / sigma^2), nats."""
        return 0.5 * self.spectrum.trace(lambda e: np.log1p(self.tau**2 * e))

    @property
    def bayes_mse(self) -> float:
        """Mean squared error a coordinate of the posterior mean, which none undercuts.

        tr((J^T J / sigma^2 + I / tau^2)^-1) / d.
        """
        return self.spectrum.trace(lambda e: 1.0 / (e + self.tau**-2)) / self.unknowns

    @property
    def cramer_rao(self) -> float:
        """Smallest mean squared error a coordinate of unbiased estimates.

        tr((J^T J / sigma^2)^-1) / d; infinite if J^T J is singular.
        """
        low, high = self.spectrum.extremes()
        if low <= 1e-12 * high:
            return math.inf
        return self.spectrum.trace(lambda e: 1.0 / e) / self.unknowns

    @property
    def fisher_leakage(self) -> float:
        """eta = ||J||_2 / sigma: an unbiased estimate of any direction errs by 1 / eta^2 at least.

        Hannun, Guo, van der Maaten: Measuring Data Leakage in Machine-Learning Models with Fisher
        Information, UAI 2021.
        """
        return math.sqrt(self.spectrum.extremes()[1])

    @property
    def mean_fisher_leakage(self) -> float:
        """tr(J^T J / sigma^2) / d: unbiased estimates err by its inverse a coordinate at least.

        Guo, Karrer, Chaudhuri, van der Maaten: Bounding Training Data Reconstruction in Private
        (Deep) Learning, ICML 2022, theorem 1; weaker than `cramer_rao` (arithmetic, harmonic mean)
        and defined where that is infinite.
        """
        return self.spectrum.trace(lambda e: e) / self.unknowns

    def psnr(self, peak: float = 1.0) -> float:
        """PSNR in dB of the best estimate, for data in a range of ``peak``."""
        return 10.0 * math.log10(peak**2 / self.bayes_mse)


def of_jacobian(
    jacobian: ArrayLike, sigma: float, tau: float, about: Sequence[int] | None = None
) -> LinearLeakage:
    """The measure of a known linear channel.

    Args:
        jacobian: J of the visible coordinates, [m, d].
        sigma: standard deviation of the noise a coordinate, above 0.
        tau: of the prior.
        about: the unknowns that are asked about, all others then being noise with the same prior
            (Schur complement of the information); None for all.

    Raises:
        ValueError: for sigma or tau that are not above 0.
    """
    if not sigma > 0.0 or not tau > 0.0:
        raise ValueError(f"sigma and tau must be above 0, got {sigma} and {tau}")
    j = np.asarray(jacobian, np.float64)
    information = j.T @ j / sigma**2
    if about is not None:
        mine = np.zeros(len(information), bool)
        mine[list(about)] = True
        cross = information[np.ix_(mine, ~mine)]
        others = information[np.ix_(~mine, ~mine)] + np.eye(int((~mine).sum())) / tau**2
        information = information[np.ix_(mine, mine)] - cross @ np.linalg.solve(others, cross.T)
    return LinearLeakage(spectrum_of(information), tau)


def of_view(
    view: View,
    updates: Update | Sequence[Update],
    x: Tensor,
    tau: float = UNIFORM,
    rng: np.random.Generator | None = None,
    probes: int = 8,
    depth: int = 40,
) -> LinearLeakage:
    """What a view tells of the inputs ``x``, near them.

    The channel's clipping is part of what is differentiated, its noise and quantiser (as noise of
    step^2 / 12) are sigma. Without either, sigma is the rounding of float32 numbers.

    Args:
        view: what is seen; only its mask, channel and number of exchanges count.
        updates: one for each exchange, or one for the only exchange.
        x: the data, float [n, ...].
        tau: standard deviation of the prior.
        rng: for the sketch of large Jacobians; needed beyond `DENSE` numbers.
        probes: random probes of the sketch.
        depth: Lanczos steps a probe.

    Raises:
        ValueError: for as many updates as there are no exchanges, or a missing ``rng``.
    """
    functions = [updates] if callable(updates) else list(updates)
    if len(functions) != len(view.exchanges):
        raise ValueError(f"{len(functions)} updates for {len(view.exchanges)} exchanges")
    visible = torch.from_numpy(view.visible)
    tangents = [Tangent(through(view.channel, f), x, visible) for f in functions]
    sigma = math.sqrt(view.channel.variance)
    if sigma == 0.0:
        sigma = rounding([tangent.value for tangent in tangents])
    d, m = x.numel(), int(visible.sum())
    if d * m * len(tangents) <= DENSE:
        gram = np.zeros((d, d))
        for tangent in tangents:
            j = tangent.jacobian()
            gram += j.T @ j
        return LinearLeakage(spectrum_of(gram / sigma**2), tau)
    if rng is None:
        raise ValueError("a Jacobian of this size is sketched, which needs a random generator")

    def information(v: Floats) -> Floats:
        total: Floats = np.zeros(d)
        for tangent in tangents:
            total += tangent.normal(v)
        return total / sigma**2

    return LinearLeakage(lanczos(information, d, rng, probes, depth), tau)


def through(channel: Channel, update: Update) -> Update:
    """The update as the channel's clipping, and a hidden scale, leave it; noise apart."""

    def seen(x: Tensor) -> Tensor:
        u = update(x)
        norm = u.norm()
        if channel.clip is not None and float(norm.detach()) > channel.clip:
            u = u * (channel.clip / norm)
        return u if channel.scale_known else u / u.norm()

    return seen


def rounding(values: Sequence[Tensor]) -> float:
    """Standard deviation of float32's rounding of numbers of this size; tiny, never 0."""
    together = torch.cat([value.flatten() for value in values]).double()
    return max(float(together.square().mean().sqrt()) * 2.0**-24, 1e-30)


def secure_sum(clients: int, dimension: int) -> float:
    """What the sum of N updates tells of one of them, nats: d / 2 log(N / (N - 1)).

    Exact for updates that are independent, Gaussian and of equal covariance of rank d, seen as
    their exact sum: the others are noise of N - 1 times one's covariance. Elkordy, Zhang,
    Ezzeldin, Psounis, Avestimehr: How Much Privacy Does Federated Learning with Secure Aggregation
    Guarantee?, PoPETs 2023, bound the general case, in which it falls like 1 / N as well.

    Raises:
        ValueError: for a single client, whose update the sum is.
    """
    if clients < 2:
        raise ValueError("the sum of one update is that update: infinite information")
    return 0.5 * dimension * math.log(clients / (clients - 1))
