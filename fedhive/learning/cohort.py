"""Local training of many clients at once: their models stacked, one product for all.

Small models spend their time in starting operations and in kernels too narrow to be fast. Here one
operation serves a stack of clients, and plain SGD is accumulated right into the weights (see
`fedhive.learning.stacked`). The result is that of `fedhive.learning.sgd.LocalSGD` for each client,
up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedhive.errors import UserError
from fedhive.learning.models import check_state, layout
from fedhive.learning.plan import Plan
from fedhive.learning.sgd import LocalJob, LocalResult, Loss, check_precision, keep_heap
from fedhive.learning.stacked import Chain, Weights
from fedhive.learning.stacking import Unsupported, stack

#: The largest tensor of a stack. About five clients of small models share a stack then; more are
#: no faster and take more memory.
STACK_BYTES = 4 * 2**20


def supports(model: nn.Module) -> str | None:
    """Return None if `CohortSGD` can train ``model``, else the reason why not.

    Supported are nested ``nn.Sequential`` of Linear, Conv2d, GroupNorm, ReLU, Flatten, MaxPool2d
    and AvgPool2d (windows side by side) and ``fedhive.learning.models.ResidualBlock``.
    """
    try:
        stack(model)
    except Unsupported as reason:
        return str(reason)
    return None


def faster_alone(model: nn.Module) -> bool:
    """Whether the stacked kernels also pay for a single client.

    They do for Linear layers and plain convolutions (a client's epoch takes 0.6 to 0.9 of the
    time of autograd's kernels); with GroupNorm they do not. See ``experiments/engine_speed``.
    """
    return supports(model) is None and not any(
        isinstance(module, nn.GroupNorm) for module in model.modules()
    )


def chunk(clients: int, largest: int) -> int:
    """How many clients share a stack, so that stacks are equal and fit the cache.

    Args:
        clients: how many there are in all.
        largest: bytes of the largest tensor that one client needs.

    Returns:
        At least 1; ``ceil(clients / chunk)`` stacks do for all.
    """
    most = max(1, STACK_BYTES // max(1, largest))
    return max(1, math.ceil(clients / math.ceil(max(1, clients) / most)))


class CohortSGD:
    """Stochastic gradient descent of many clients at once; the step is that of `LocalSGD`.

    Jobs may differ in steps and batch lengths: clients are ordered by their steps, so that those
    still at work are always the first of the stack, and a shorter batch is filled with samples
    whose gradient is exactly zero. Same inputs give the same bits on one thread.

    Args:
        model: the network, see `supports`.
        lr: learning rate.
        momentum: as in ``torch.optim.SGD``, without dampening; starts anew with every job.
        weight_decay: L2 penalty.
        anchor: strength of the pull towards the global model.
        max_grad_norm: largest Euclidean norm of a client's gradient; None does not clip.
        precision: "float32", or "bfloat16" to multiply matrices in bfloat16.
        loss: mean loss of a batch; others than the default cost one call per client and step.
        compile: run the step through ``torch.compile``, once per number of active clients and
            batch length. It takes minutes and needs a C++ compiler; little is left to gain here,
            so measure first. Without effect on a ``loss`` other than the default.

    Raises:
        UserError: the model has no stacked form or is not float32, or ``precision`` is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        anchor: float = 0.0,
        max_grad_norm: float | None = None,
        precision: str = "float32",
        loss: Loss = F.cross_entropy,
        compile: bool = False,
    ) -> None:
        check_precision(precision)
        keep_heap()
        check_state(model)
        reason = supports(model)
        if reason is not None:
            raise UserError(f"the model cannot be trained as a cohort: {reason}; use cohort=false")
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.anchor = anchor
        self.max_grad_norm = max_grad_norm
        self.half = precision == "bfloat16"
        self.loss = loss
        self._chain = stack(model)
        self._states = States(model)
        self._step = torch.compile(_step, dynamic=False) if compile else _step
        self._largest: dict[tuple[int, ...], int] = {}

    def run(self, global_params: Tensor, jobs: Sequence[LocalJob]) -> list[LocalResult]:
        """Train every job from ``global_params`` (float32 [P], left as it is).

        Raises:
            ValueError: a job's batches do not add up to its order, or learning rates differ.
        """
        if len({job.lr_factor for job in jobs}) > 1:
            raise ValueError("all jobs of a cohort must have the same lr_factor")
        for job in jobs:
            if sum(job.batches) != len(job.order):
                raise ValueError(f"batches add up to {sum(job.batches)}, not {len(job.order)}")
        results: dict[int, LocalResult] = {}
        # Stacks of equal batches waste the least on filling them up.
        shape = [(-len(job.batches), -max(job.batches, default=0)) for job in jobs]
        longest_first = sorted(range(len(jobs)), key=shape.__getitem__)
        size = chunk(len(jobs), self._largest_of(jobs[longest_first[0]])) if jobs else 1
        for start in range(0, len(jobs), size):
            members = longest_first[start : start + size]
            stacked = self._train(global_params, [jobs[i] for i in members])
            results.update(zip(members, stacked, strict=True))
        return [results[i] for i in range(len(jobs))]

    def _largest_of(self, job: LocalJob) -> int:
        """Bytes of the largest tensor of one client's step, found by a trial forward pass."""
        batch = max(job.batches, default=1)
        key = (batch, *job.x.shape[1:])
        if key not in self._largest:
            size = sum(entry.numel for entry in self._states.entries)
            values = self._states.unpack(torch.zeros(1, size))
            weights = Weights(values, values, 1.0, 0.0, self.half)
            tape: list[object] = []
            with torch.no_grad():
                self._chain.forward(_batch_last(torch.zeros(1, *key)), weights, tape)
            entries = [item for e in tape for item in (e if isinstance(e, tuple) else (e,))]
            sizes = [entry.nbytes for entry in entries if isinstance(entry, Tensor)]
            self._largest[key] = max(sizes + [value.nbytes for value in values])
        return self._largest[key]

    @torch.no_grad()
    def _train(self, origin: Tensor, jobs: Sequence[LocalJob]) -> list[LocalResult]:
        """Train one stack of jobs, which are ordered by falling number of steps."""
        state = self._states.unpack(origin.expand(len(jobs), -1))
        lr = self.lr * jobs[0].lr_factor
        optimiser = _Optimiser(self, state, self._constant(origin, jobs), lr)
        plan = Plan.of(jobs)
        means = torch.zeros(plan.lengths.shape)
        for step in range(len(plan.active)):
            x, y, scale = plan.batch(step)
            active = len(x)
            optimiser.shrink(active)
            weights = optimiser.weights()
            if self.loss is F.cross_entropy:
                means[:active, step] = self._step(self._chain, weights, _batch_last(x), y, scale)
            else:
                lengths = plan.lengths[:active, step].tolist()
                means[:active, step] = _step_of(
                    self.loss, self._chain, weights, _batch_last(x), y, lengths
                )
            optimiser.finish()
        samples = plan.lengths.sum(1)
        losses = (means.double() * plan.lengths).sum(1) / samples.clamp(min=1)
        params = self._states.pack(state)
        return [
            LocalResult(
                params[i], losses[i].item(), int(samples[i]), len(job.batches), job.lr_factor
            )
            for i, job in enumerate(jobs)
        ]

    def _constant(self, origin: Tensor, jobs: Sequence[LocalJob]) -> list[Tensor] | None:
        """drift - anchor * w_0 of each client, or None if zero."""
        if not self.anchor and all(job.drift is None for job in jobs):
            return None
        rows = origin.mul(-self.anchor).repeat(len(jobs), 1)
        for row, job in zip(rows, jobs, strict=True):
            if job.drift is not None:
                row += job.drift
        return self._states.unpack(rows)


class States:
    """The states of C clients, parameter by parameter: [C, out, in] matrices, [C, n] vectors.

    Args:
        model: whose states these are.
    """

    def __init__(self, model: nn.Module) -> None:
        self.entries = layout(model)

    def unpack(self, states: Tensor) -> list[Tensor]:
        """Copy [C, P] into tensors of their own."""
        parts = []
        for entry in self.entries:
            part = states[:, entry.offset : entry.offset + entry.numel].clone(
                memory_format=torch.contiguous_format
            )
            matrix = len(entry.shape) > 1
            parts.append(part.view(len(part), entry.shape[0], -1) if matrix else part)
        return parts

    def pack(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The inverse: each client's state [P], in its own memory."""
        return [torch.cat([part.flatten() for part in row]) for row in zip(*parts, strict=True)]


class _Optimiser:
    """The step of `LocalSGD` for C clients.

    Plain SGD needs nothing: gradients are accumulated into the weights. Otherwise they go to the
    velocity, which without momentum is just the gradient, and with clipping to a gradient first.
    """

    def __init__(
        self,
        sgd: CohortSGD,
        state: list[Tensor],
        constant: list[Tensor] | None,
        lr: float,
    ) -> None:
        self.sgd, self.lr = sgd, lr
        self.state = state
        self.constant = constant
        self.pull = sgd.anchor + sgd.weight_decay
        self.clip = sgd.max_grad_norm is not None
        self.plain = not (sgd.momentum or self.pull or self.clip or constant is not None)
        self.velocity = [] if self.plain else [torch.zeros_like(part) for part in state]
        self.gradient = [torch.zeros_like(part) for part in state] if self.clip else self.velocity

    def shrink(self, active: int) -> None:
        """Leave all but the first ``active`` clients as they are from now on."""
        for name in ("state", "constant", "velocity", "gradient"):
            parts = getattr(self, name)
            if parts is not None:
                setattr(self, name, [part[:active] for part in parts])

    def weights(self) -> Weights:
        """The active clients' parameters and where their gradients go."""
        if self.plain:
            return Weights(self.state, self.state, 1.0, -self.lr, self.sgd.half)
        beta = 0.0 if self.clip else self.sgd.momentum
        return Weights(self.state, self.gradient, beta, 1.0, self.sgd.half)

    def finish(self) -> None:
        """What is left of the step once all gradients are handed over."""
        if self.plain:
            return
        if self.clip:
            self._clip()
        for i, (state, velocity) in enumerate(zip(self.state, self.velocity, strict=True)):
            if self.pull:
                velocity.add_(state, alpha=self.pull)
            if self.constant is not None:
                velocity.add_(self.constant[i])
            state.add_(velocity, alpha=-self.lr)

    def _clip(self) -> None:
        """Shorten each client's gradient to the largest norm and add it to the velocity."""
        norms = [torch.linalg.vector_norm(part.flatten(1), dim=1) for part in self.gradient]
        norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        factor = ((self.sgd.max_grad_norm or 0.0) / (norm + 1e-6)).clamp_(max=1.0)
        for velocity, gradient in zip(self.velocity, self.gradient, strict=True):
            scale = factor.view(-1, *[1] * (gradient.dim() - 1))
            velocity.mul_(self.sgd.momentum).addcmul_(gradient, scale)


def _batch_last(x: Tensor) -> Tensor:
    """View [C, B, ...] as [C, ..., B]."""
    return x.movedim(1, -1)


def _step(chain: Chain, weights: Weights, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """Forward, cross entropy, backward; returns each client's mean loss, float32 [C]."""
    tape: list[object] = []
    logs = torch.log_softmax(chain.forward(x, weights, tape), 1)
    labels = y.unsqueeze(1)
    losses = logs.gather(1, labels).squeeze(1).mul(scale).sum(1).neg()
    # The gradient of a sample's cross entropy is softmax minus one-hot.
    grad = logs.exp_().scatter_add_(1, labels, torch.full_like(labels, -1.0, dtype=logs.dtype))
    chain.backward(grad.mul_(scale.unsqueeze(1)), weights, tape)
    return losses


def _step_of(
    loss: Loss, chain: Chain, weights: Weights, x: Tensor, y: Tensor, lengths: list[int]
) -> Tensor:
    """As `_step` for any mean loss of (outputs [B, classes], labels [B]), by autograd."""
    tape: list[object] = []
    outputs = chain.forward(x, weights, tape)
    with torch.enable_grad():
        outputs.requires_grad_()
        losses = torch.stack([loss(outputs[i, :, :n].T, y[i, :n]) for i, n in enumerate(lengths)])
        (grad,) = torch.autograd.grad(losses.sum(), outputs)
    chain.backward(grad, weights, tape)
    return losses.detach()
