"""The tangent of an update at the data, and the spectrum of J^T J: whole, sketched, or its top."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of a positive semi-definite matrix, or quadratures of their density.

    Args:
        values: eigenvalues, or Ritz values, [probes, k], at least 0.
        weights: how many of all eigenvalues each stands for, [probes, k]; each row sums to d.
    """

    values: Floats
    weights: Floats

    @property
    def size(self) -> int:
        """d."""
        return round(float(self.weights[0].sum()))

    def trace(self, function: Callable[[Floats], Floats]) -> float:
        """tr f(matrix), estimated over probes if it was sketched."""
        return float((self.weights * function(self.values)).sum(1).mean())

    def deviation(self, function: Callable[[Floats], Floats]) -> float:
        """Standard error of `trace`; 0 if the spectrum is exact."""
        each = (self.weights * function(self.values)).sum(1)
        return float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else 0.0

    def extremes(self) -> tuple[float, float]:
        """(smallest, largest) value; from within if it was sketched."""
        return float(self.values.min()), float(self.values.max())


def spectrum_of(matrix: Floats) -> Spectrum:
    """The exact spectrum of a symmetric positive semi-definite matrix [d, d]."""
    values = np.linalg.eigvalsh(matrix).clip(min=0.0)[None]
    return Spectrum(values, np.ones_like(values))


def lanczos(
    product: Callable[[Floats], Floats],
    size: int,
    rng: np.random.Generator,
    probes: int,
    depth: int,
) -> Spectrum:
    """Stochastic Lanczos quadrature of a matrix of which only products with vectors are known.

    Golub and Meurant; Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 2017: for a random sign
    vector v the Ritz values of ``depth`` Lanczos steps, weighted by the squares of their vectors'
    first entries, integrate functions like v^T f(A) v. Steps are orthogonalised against all
    earlier ones.

    Args:
        product: A v for v [d].
        size: d.
        rng: of the probes.
        probes: how many; the error falls with their root.
        depth: steps each, at most d.
    """
    k = min(depth, size)
    values, weights = np.zeros((probes, k)), np.zeros((probes, k))
    for row in range(probes):
        basis = np.zeros((k, size))
        alpha, beta = np.zeros(k), np.zeros(k)
        v = rng.choice([-1.0, 1.0], size) / np.sqrt(size)
        steps = 0
        for step in range(k):
            basis[step] = v
            w = product(v)
            alpha[step] = v @ w
            for _ in range(2):  # twice is enough (Kahan and Parlett)
                w = w - basis[: step + 1].T @ (basis[: step + 1] @ w)
            beta[step] = float(np.linalg.norm(w))
            steps = step + 1
            if beta[step] <= 1e-12 * max(1e-300, float(np.abs(alpha[:steps]).max())):
                break
            v = w / beta[step]
        off = beta[: steps - 1]
        ritz, vectors = np.linalg.eigh(np.diag(alpha[:steps]) + np.diag(off, 1) + np.diag(off, -1))
        values[row] = max(0.0, float(ritz[-1]))  # of weight 0 where it ended early
        values[row, :steps] = ritz.clip(min=0.0)
        weights[row, :steps] = size * vectors[0] ** 2
    return Spectrum(values, weights)


class Tangent:
    """The Jacobian of a function's visible coordinates at a point, as products.

    J^T w is a backward pass. J v is one through that pass, which is linear in w: so anything
    works that autograd can differentiate twice, and no step is as long as the Jacobian.

    Args:
        function: x [n, ...] to u [P].
        x: the point.
        visible: bool [P]; rows outside are left out.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], x: Tensor, visible: Tensor | None = None
    ) -> None:
        self.x = x.detach().clone().requires_grad_()
        out = function(self.x).flatten()
        self._out = out if visible is None else out[visible]
        self.value = self._out.detach()
        self._weights = torch.zeros_like(self._out, requires_grad=True)
        [self._back] = torch.autograd.grad(
            self._out, self.x, self._weights, create_graph=True, materialize_grads=True
        )

    def forward(self, v: Tensor) -> Tensor:
        """J v [m] for v of the shape of x."""
        if not self._back.requires_grad:
            return torch.zeros_like(self.value)
        [out] = torch.autograd.grad(
            self._back, self._weights, v, retain_graph=True, materialize_grads=True
        )
        return out

    def backward(self, w: Tensor) -> Tensor:
        """J^T w, of the shape of x, for w [m]."""
        [out] = torch.autograd.grad(
            self._out, self.x, w, retain_graph=True, materialize_grads=True
        )
        return out

    def normal(self, v: Floats) -> Floats:
        """J^T J v, float64 [d]."""
        direction = torch.from_numpy(v).to(self.x.dtype).view_as(self.x)
        product = self.backward(self.forward(direction)).flatten()
        return product.double().numpy()

    def jacobian(self) -> Floats:
        """J, float64 [m, d]: by columns, or by rows where there are fewer of them."""
        m, d = self.value.numel(), self.x.numel()
        out = np.empty((m, d))
        if m < d:
            for i in range(m):
                w = torch.zeros_like(self.value)
                w[i] = 1.0
                out[i] = self.backward(w).flatten().numpy()
            return out
        for i in range(d):
            v = torch.zeros_like(self.x).flatten()
            v[i] = 1.0
            out[:, i] = self.forward(v.view_as(self.x)).numpy()
        return out


def spectral_norm(
    tangent: Tangent, rng: np.random.Generator, tolerance: float = 1e-4, most: int = 200
) -> float:
    """||J||_2 by power iteration on J^T J, from below; Fisher information leakage times sigma.

    Args:
        tangent: J.
        rng: of the first direction.
        tolerance: relative change of a step at which it ends.
        most: steps at most.
    """
    v = rng.normal(size=tangent.x.numel())
    v /= np.linalg.norm(v)
    found = 0.0
    for _ in range(most):
        w = tangent.normal(v)
        norm = float(np.linalg.norm(w))
        if norm == 0.0:
            return 0.0
        v, last, found = w / norm, found, norm
        if abs(found - last) <= 2.0 * tolerance * found:
            break
    return float(np.sqrt(found))
