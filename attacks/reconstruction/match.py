"""One engine for all attacks that search for inputs whose update looks like the one seen.

First Adam on a robust objective with priors finds the basin, then L-BFGS on the exact one
sharpens. DLG, Inverting Gradients, attacks on FedAvg, on masked and on noisy views differ only in
the view, the forward model and a `Recipe`. Search runs in one thread: on shared cores more cost
more wall time than they bring.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks.reconstruction.forward import Forward
from attacks.reconstruction.lbfgs import minimise
from attacks.reconstruction.scene import Scene
from fedhive.leakage.view import View

Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How to search.

    Args:
        adam_steps: steps of the first stage; 0 for none.
        adam_lr: its step length, in units of the inputs' half range.
        decay: ``cosine`` to 0, or ``steps``: a tenth after 3/8, 5/8 and 7/8 (Geiping et al.).
        sign: of gradients: ``hard`` sign, ``soft`` tanh that hardens (breaching's "modern"), or
            ``none``.
        adam_objective: ``cosine`` (1 - cosine similarity) or ``l2``.
        tv: weight of total variation in the first stage.
        polish: evaluations in the second stage, L-BFGS; 0 for none.
        polish_tv: weights of total variation in the second stage, one after the other for equal
            parts of the evaluations. Falling ones lead through what the gradient alone leaves
            open: 8 dB on four images, 5 on one (untrained sigmoid LeNet, one seed).
        noise: standard deviation of the start around grey, in units of the half range; 1 with
            ``start="normal"`` is the literature's.
        box: keep candidates in the inputs' range.
        restarts: independent starts; the best match wins.
        soft_labels: labels are searched too (DLG), from a start near uniform.
    """

    adam_steps: int = 200
    adam_lr: float = 0.1
    decay: Literal["cosine", "steps"] = "cosine"
    sign: Literal["hard", "soft", "none"] = "soft"
    adam_objective: Literal["cosine", "l2"] = "cosine"
    tv: float = 0.02
    polish: int = 800
    polish_tv: tuple[float, ...] = (1e-3, 1e-4, 1e-5, 0.0)
    noise: float = 0.2
    box: bool = True
    restarts: int = 1
    soft_labels: bool = False


DEFAULT = Recipe()
INVERTING_GRADIENTS = Recipe(
    adam_steps=1000, decay="steps", sign="hard", tv=0.2, polish=0, noise=1.0
)
"""Geiping et al. (NeurIPS 2020), 1000 of their 24,000 steps."""
DLG = Recipe(adam_steps=0, polish=1000, polish_tv=(0.0,), tv=0.0, box=False, soft_labels=True)
"""Zhu et al. (NeurIPS 2019), from grey, with a line search that cannot diverge."""
IDLG = replace(DLG, soft_labels=False)
"""Zhao et al. (2020): the same with the label known beforehand."""


@dataclass(frozen=True, eq=False)
class Match:
    """What a search has found.

    Args:
        x: inputs float32 [n, ...].
        y: classes int64 [n].
        loss: of the exact objective, relative to the target's square; 0 is a perfect match.
        cpu_s: processor time spent, seconds.
        evaluations: of the forward model.
    """

    x: Tensor
    y: Tensor
    loss: float
    cpu_s: float
    evaluations: int


def match(
    view: View,
    scene: Scene,
    forward: Forward,
    labels: Tensor | None,
    n: int,
    recipe: Recipe = DEFAULT,
    rng: np.random.Generator | None = None,
) -> Match:
    """Inputs whose update comes near what the view shows of its last exchange.

    Args:
        view: what is seen.
        scene: the public side.
        forward: what a candidate would have sent.
        labels: int64 [n]; None only with ``recipe.soft_labels``.
        n: how many examples to look for.
        recipe: how to search.
        rng: of the starts.

    Raises:
        ValueError: without labels, where they are not searched.
    """
    if labels is None and not recipe.soft_labels:
        raise ValueError("labels are needed, or a recipe that searches for them")
    rng = rng or np.random.default_rng(0)
    with _quick(scene.model):
        began = time.process_time()
        best: Match | None = None
        search = _Search(view, scene, forward, recipe)
        for _ in range(max(1, recipe.restarts)):
            x, y = search.run(labels, n, rng)
            found = Match(x, y, search.exact_value(x, y), 0.0, search.evaluations)
            if best is None or not math.isfinite(best.loss) or found.loss < best.loss:
                best = found
        assert best is not None
        hard = best.y if best.y.dtype == torch.int64 else best.y.argmax(1)
        spent = time.process_time() - began
        return Match(best.x, hard, best.loss, spent, search.evaluations)


class _Search:
    """The two stages on one view."""

    def __init__(self, view: View, scene: Scene, forward: Forward, recipe: Recipe) -> None:
        self.scene, self.forward, self.recipe = scene, forward, recipe
        self.target = torch.from_numpy(view.gradient().copy())
        mask = torch.from_numpy(view.visible)
        self.index = None if bool(mask.all()) else mask.nonzero().squeeze(1)
        if self.index is not None:
            self.target = self.target[self.index]
        self.norm2 = float(self.target.square().sum()) or 1.0
        self.scaled = view.channel.scale_known and view.channel.clip is None
        known = view.knows.lr is not None and view.knows.steps is not None
        self.scaled = self.scaled and known
        lr = view.knows.lr or 1.0
        self.variance = view.channel.variance / (lr * (view.knows.steps or 1)) ** 2
        self.half = 0.5 * (scene.high - scene.low)
        self.evaluations = 0

    # ---- objectives ---------------------------------------------------------------------------

    def predicted(self, x: Tensor, y: Tensor) -> Tensor:
        self.evaluations += 1
        flat = self.forward(x, y if y.dtype == torch.int64 else y.softmax(1))
        return flat if self.index is None else flat[self.index]

    def cosine(self, x: Tensor, y: Tensor) -> Tensor:
        flat = self.predicted(x, y)
        length = torch.linalg.vector_norm(flat) * math.sqrt(self.norm2) + 1e-30
        similarity: Tensor = torch.dot(flat, self.target) / length
        return 1.0 - similarity

    def exact(self, x: Tensor, y: Tensor) -> Tensor:
        """Squared distance over the target's square; at the best scale where that is unknown."""
        if self.scaled:
            return (self.predicted(x, y) - self.target).square().sum() / self.norm2
        return 2 * self.cosine(x, y)  # 1 - cos^2 near a match, but not blind to the sign

    def exact_value(self, x: Tensor, y: Tensor) -> float:
        with torch.enable_grad():
            return float(self.exact(x, y).detach())

    def polished(self, x: Tensor, y: Tensor, weight: float) -> Tensor:
        """The exact objective and the prior, which weighs more where noise makes data doubtful."""
        loss = self.exact(x, y)
        if self.variance > 0:
            # -log posterior, over the target's square: noise power times the prior's slope.
            weight += 2 * self.variance / self.norm2 * TV_SLOPE * x.numel()
        return loss + weight * total_variation(x, self.half) if weight else loss

    # ---- stages -------------------------------------------------------------------------------

    def run(
        self, labels: Tensor | None, n: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        shape = (n, *self.scene.input_shape)
        start = rng.normal(self.scene.grey, self.recipe.noise * self.half, shape)
        x = torch.from_numpy(start.astype(np.float32))
        if labels is None:
            small = rng.normal(0.0, 0.1, (n, self.scene.classes)).astype(np.float32)
            y = torch.from_numpy(small)
        else:
            y = labels
        if self.recipe.adam_steps:
            x = self.adam(x, y)
        shares = len(self.recipe.polish_tv)
        for weight in self.recipe.polish_tv if self.recipe.polish else ():
            x, y = self.lbfgs(x, y, weight, self.recipe.polish // shares)
        if self.recipe.box:
            x = x.clamp(self.scene.low, self.scene.high)
        return x, y

    def adam(self, x: Tensor, y: Tensor) -> Tensor:
        """Adam (Kingma & Ba 2015) on the inputs; the candidate of least objective."""
        recipe, x = self.recipe, x.clone().requires_grad_()
        mean, power = torch.zeros_like(x), torch.zeros_like(x)
        best, least = x.detach().clone(), math.inf
        objective = self.cosine if recipe.adam_objective == "cosine" else self.exact
        for step in range(recipe.adam_steps):
            loss = objective(x, y)
            if recipe.tv:
                loss = loss + recipe.tv * total_variation(x, 1.0)
            [grad] = torch.autograd.grad(loss, x)
            value = float(loss.detach())
            with torch.no_grad():
                if value < least:
                    least = value
                    best.copy_(x)
                grad = _signed(grad, recipe.sign, 1 - step / recipe.adam_steps)
                mean.mul_(0.9).add_(grad, alpha=0.1)
                power.mul_(0.999).addcmul_(grad, grad, value=0.001)
                rate = recipe.adam_lr * self._decay(step / recipe.adam_steps)
                scale = math.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
                x.addcdiv_(mean, power.sqrt().add_(1e-8), value=-rate * scale)
                if recipe.box:
                    x.clamp_(self.scene.low, self.scene.high)
        return best

    def _decay(self, done: float) -> float:
        if self.recipe.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        return 0.1 ** sum(done >= cut for cut in (3 / 8, 5 / 8, 7 / 8))

    def lbfgs(
        self, x: Tensor, y: Tensor, weight: float, evaluations: int
    ) -> tuple[Tensor, Tensor]:
        """Sharpen by L-BFGS: the best candidate met; labels too where they are searched."""
        wanted = [x] if y.dtype == torch.int64 else [x, y]

        def function(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            flat = torch.from_numpy(point.astype(np.float32))
            cuts = torch.split(flat, [part.numel() for part in wanted])
            parts = [
                cut.view(part.shape).requires_grad_()
                for cut, part in zip(cuts, wanted, strict=True)
            ]
            loss = self.polished(parts[0], parts[1] if len(parts) > 1 else y, weight)
            grads = torch.autograd.grad(loss, parts)
            gradient = torch.cat([grad.reshape(-1) for grad in grads]).double().numpy()
            return float(loss.detach()), gradient

        start = torch.cat([part.detach().reshape(-1) for part in wanted]).double().numpy()
        found = torch.from_numpy(minimise(function, start, evaluations).astype(np.float32))
        best = torch.split(found, [part.numel() for part in wanted])
        return best[0].view(x.shape), best[1].view(y.shape) if len(best) > 1 else y


TV_SLOPE = 4.0
"""Inverse mean absolute difference of neighbouring pixels of natural images, in half ranges."""


def total_variation(x: Tensor, half: float) -> Tensor:
    """Mean absolute difference of neighbouring pixels, over both directions; 0 for flat rows.

    Args:
        x: [n, ..., height, width]; inputs without two spatial sides have none.
        half: half the inputs' range, the unit.
    """
    if x.dim() < 4:
        return x.new_zeros(())
    across = (x[..., :, 1:] - x[..., :, :-1]).abs().mean()
    down = (x[..., 1:, :] - x[..., :-1, :]).abs().mean()
    return (across + down) / half


def _signed(grad: Tensor, sign: str, left: float) -> Tensor:
    if sign == "hard":
        return grad.sign()
    return (grad * left).tanh() / left if sign == "soft" else grad


NARROW = 16
"""Up to so many channels oneDNN's convolutions cost more to set up than they save."""


@contextlib.contextmanager
def _quick(model: nn.Module) -> Iterator[None]:
    """One thread, and the convolutions that are faster for this model."""
    widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    narrow = bool(widths) and max(widths) <= NARROW
    flags: Any = torch.backends.mkldnn
    before = flags.set_flags(_enabled=False)[0] if narrow else True
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if narrow:
            flags.set_flags(_enabled=before)
