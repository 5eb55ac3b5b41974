"""Private local training: DP-SGD with Poisson batches, on Opacus' per-example clipping."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from defenses.dp.accountant import Spent, opacus
from defenses.dp.noise import Noise
from fedhive.errors import UserError
from fedhive.learning.sgd import LocalJob, LocalResult, LocalSGD

Clipping = Literal["ghost", "materialised"]


class PrivateSGD(LocalSGD):
    """`LocalSGD` whose gradients are those of DP-SGD.

    Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang: Deep Learning with Differential
    Privacy, CCS 2016, algorithm 1. In every step each example takes part by a coin of its own,
    with probability q = L / n for batches of L on average; with g_i the gradient of example i,

        (1 / L) (sum_i g_i min(1, C / |g_i|) + z C N(0, 1)).

    What follows (momentum, weight decay, anchors, control variates) only looks at that and costs
    no privacy. A job of K batches is K such steps whose L is the mean length of its batches, so
    the work is what was planned, on average. L, n and K are public.

    Args:
        model: the network, copied; each example's output must depend on that example alone.
        options: keyword arguments of `LocalSGD`.
        clip: C, largest Euclidean norm of an example's gradient.
        noise_multiplier: z.
        clipping: ``ghost`` finds norms without making each example's gradient (Li, Tramer, Liang
            and Hashimoto, ICLR 2022), ``materialised`` makes them; both give the same gradients.

    Raises:
        UserError: for a model or options under which the promise would not hold, or if Opacus is
            missing.
    """

    def __init__(
        self,
        model: nn.Module,
        options: Mapping[str, Any],
        clip: float,
        noise_multiplier: float,
        clipping: Clipping = "ghost",
    ) -> None:
        check_options(options)
        check_model(model)
        super().__init__(model, **options)
        opacus()
        from opacus.grad_sample import GradSampleModuleFastGradientClipping

        self.clip, self.noise_multiplier = clip, noise_multiplier
        self.clipped = GradSampleModuleFastGradientClipping(
            self.flat.module,
            loss_reduction="sum",
            max_grad_norm=clip,
            use_ghost_clipping=clipping == "ghost",
        )
        self._noise: Noise | None = None
        self._expected = 1.0

    def run_private(self, global_params: Tensor, job: LocalJob, noise: Noise) -> LocalResult:
        """Train from ``global_params`` (float32 [P]) on one client's data.

        Args:
            global_params: left as they are.
            job: what was planned; its order is not used, only how many batches of what length.
            noise: where coins and noise come from.

        Returns:
            The result with the planned number of samples (how many took part is secret) and a
            loss of NaN (the true one is secret too).
        """
        planned, spent = len(job.order), cost(job, self.noise_multiplier)
        members = [
            np.flatnonzero(noise.uniform(len(job.y)) < spent.rate) for _ in range(spent.steps)
        ]
        order = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *members]))
        private = replace(job, order=order, batches=[len(batch) for batch in members])
        self._noise, self._expected = noise, planned / max(1, spent.steps)
        try:
            result = self.run(global_params, private)
        finally:
            self._noise = None
        return replace(result, samples=planned, loss=float("nan"))

    def _differentiate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """NaN, and the private gradients of one batch."""
        assert self._noise is not None
        sums = self._clipped_sums(x, y)
        scale = self.noise_multiplier * self.clip
        noise = torch.from_numpy(self._noise.normal(sum(g.numel() for g in sums)))
        pieces = torch.split(noise, [g.numel() for g in sums])
        grads = [
            g.add(piece.view(g.shape), alpha=scale).div_(self._expected)
            for g, piece in zip(sums, pieces, strict=True)
        ]
        return torch.tensor(float("nan")), grads

    def _clipped_sums(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """Sum of the examples' clipped gradients, one tensor a parameter; zeros for no example."""
        parameters = self.flat.parameters
        if len(y) == 0:
            return [torch.zeros_like(parameter) for parameter in parameters]
        losses = F.cross_entropy(self.clipped(x), y, reduction="none")
        with warnings.catch_warnings():  # that no gradient of the inputs was asked for
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            torch.autograd.backward(losses.sum(), retain_graph=True)
            factors = self.clipped.get_clipping_coef()
            self._forget()
            self.clipped.disable_hooks()
            try:
                torch.autograd.backward((factors * losses).sum())
            finally:
                self.clipped.enable_hooks()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        self._forget()
        return grads

    def _forget(self) -> None:
        for parameter in self.flat.parameters:
            parameter.grad = None


def cost(job: LocalJob, noise_multiplier: float) -> Spent:
    """What a job costs each of the client's examples."""
    return cost_of(len(job.y), len(job.batches), len(job.order), noise_multiplier)


def cost_of(examples: int, steps: int, samples: int, noise_multiplier: float) -> Spent:
    """What ``steps`` steps on ``samples`` of ``examples`` examples in all cost each of them."""
    rate = samples / (steps * examples) if steps else 0.0
    return Spent(noise_multiplier, min(1.0, rate), steps)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse local training that does not fit.

    Raises:
        UserError: naming the option.
    """
    if options.get("max_grad_norm") is not None:
        raise UserError(
            "client.max_grad_norm clips the batch's gradient, DP-SGD each example's before the "
            "noise: use protection.clip and client.max_grad_norm=null"
        )
    if options.get("precision", "float32") != "float32":
        raise UserError(
            "client.precision: in bfloat16 an example's norm, and with it the clipping, is only "
            "known to a few per mille; DP-SGD needs client.precision=float32"
        )
    if "loss" in options:
        raise UserError("client: DP-SGD needs the loss of each example; only cross entropy works")


def check_model(model: nn.Module) -> None:
    """Refuse models in which one example's gradient depends on others.

    Raises:
        UserError: naming the layer.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm):
            raise UserError(
                f"model: layer {name!r} is {type(layer).__name__}, which mixes the examples of a "
                "batch: no example's influence is bounded then; use GroupNorm, as model=convnet"
            )
    opacus()
    from opacus.validators import ModuleValidator

    errors = ModuleValidator.validate(copy.deepcopy(model).train(), strict=False)
    if errors:
        raise UserError(f"model: DP-SGD cannot clip it example by example: {errors[0]}")
