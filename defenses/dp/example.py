"""Differential privacy of single examples: every client trains with DP-SGD."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message, MetricRecord, RecordDict
from torch import Tensor

from defenses.dp import guard
from defenses.dp.accountant import Method, Spent, epsilon
from defenses.dp.ledger import Ledger
from defenses.dp.noise import source_for
from defenses.dp.sampling import refuse_losses
from defenses.dp.sgd import Clipping, PrivateSGD, check_model, check_options, cost, cost_of
from defenses.protection.base import Handler, Mod, Protection, Request, SentModel
from fedhive.client import TRAINER, client_number
from fedhive.config import dumps
from fedhive.errors import UserError
from fedhive.learning.sgd import LocalJob, LocalResult
from fedhive.learning.workbench import Workbench, workbench
from fedhive.world.instructions import round_of

if TYPE_CHECKING:
    from fedhive.leakage.view import View

MOST_STEPS = 10_000_000  # a node that claims more is not believed


class ExampleLevel(Protection):
    """Each client's replies are differentially private in each of its examples.

    Neighbours: one example's gradients are zero (Kairouz et al., ICML 2021, "zero-out"), so that
    a client's number of examples is public. The promise holds against whoever sees all replies,
    the server included. Steps are amplified by the Poisson sampling of batches that every client
    does itself, and by nothing else: who takes part in a round is known to the server.

    Clients send no losses and answer no evaluations, which no noise would cover. Each keeps its
    account in its own memory; the server's is made from the replies that it read.

    Args:
        noise_multiplier: z, noise relative to ``clip``.
        clip: C, largest norm of an example's gradient.
        delta: of the promise; below 1 / n for clients with n examples.
        budget: epsilon above which a client trains no more; None for no limit.
        accountant: ``prv`` or ``rdp``.
        clipping: ``ghost`` or ``materialised``, see `PrivateSGD`.

    Raises:
        ValueError: for a number out of its range.
    """

    def __init__(
        self,
        noise_multiplier: float = 1.0,
        clip: float = 1.0,
        delta: float = 1e-5,
        budget: float | None = None,
        accountant: Method = "prv",
        clipping: Clipping = "ghost",
    ) -> None:
        if not 0.0 <= noise_multiplier < 1e6 or not 0.0 < clip < 1e12:
            raise ValueError(
                f"need noise_multiplier >= 0 and clip > 0, got {noise_multiplier} and {clip}"
            )
        if not 0.0 < delta < 1.0 or (budget is not None and not budget > 0.0):
            raise ValueError(f"need 0 < delta < 1 and budget > 0, got {delta} and {budget}")
        self.noise_multiplier, self.clip, self.delta = noise_multiplier, clip, delta
        self.budget, self.accountant, self.clipping = budget, accountant, clipping
        self.ledger = Ledger()
        self._lr: float | None = None
        self._trainer: tuple[Workbench, PrivateSGD] | None = None

    # ---- before the run -----------------------------------------------------------------------

    def check(self, cfg: Mapping[str, Any]) -> None:
        """Refuse methods that look at losses, move data, or cannot clip example by example."""
        refuse_losses(cfg)
        if cfg.get("placement") is not None:
            raise UserError(
                "placement gives one example to several machines, each of which would account for "
                "it alone: with protection=dp_example use placement=null"
            )
        bench = workbench(dumps(cfg))
        options = bench.algorithm.options()
        check_options(options)
        check_model(bench.model)
        self._lr = float(options["lr"])
        most = max(len(part) for part in bench.parts)
        if self.delta * most >= 1.0:
            raise UserError(
                f"protection.delta={self.delta:g} allows giving away one of a client's {most} "
                f"examples whole; use a delta well below {1 / most:.1g}"
            )

    # ---- client -------------------------------------------------------------------------------

    def mods(self, node_number: int) -> Sequence[Mod]:
        """One mod, the same for every node."""
        return (self._guarded,)

    def _guarded(self, message: Message, context: Context, call_next: Handler) -> Message:
        guard.refuse_questions(message)
        if message.metadata.message_type != "train":
            return call_next(message, context)

        def trainer(bench: Workbench, params: Tensor, job: LocalJob) -> LocalResult:
            return self._train(bench, params, job, message, context)

        vars(context)[TRAINER] = trainer
        try:
            return guard.without_secrets(call_next(message, context))
        finally:
            vars(context).pop(TRAINER, None)

    def _train(
        self, bench: Workbench, params: Tensor, job: LocalJob, message: Message, context: Context
    ) -> LocalResult:
        spent = cost(job, self.noise_multiplier)
        self._keep_to_budget(context, spent)
        keys = round_of(message), client_number(context)
        noise = source_for(context, bench.seed, "dp-example", *keys)
        guard.spend(context, spent)
        return self._private(bench).run_private(params, job, noise)

    def _keep_to_budget(self, context: Context, spent: Spent) -> None:
        if self.budget is None:
            return
        history = [*guard.account_of(context), spent]
        for method in ("rdp", self.accountant):
            if epsilon(history, self.delta, method) <= self.budget:
                return
        raise UserError(f"this client's privacy budget of epsilon {self.budget:g} is used up")

    def _private(self, bench: Workbench) -> PrivateSGD:
        if self._trainer is None or self._trainer[0] is not bench:
            options = bench.algorithm.options()
            trainer = PrivateSGD(
                bench.model, options, self.clip, self.noise_multiplier, self.clipping
            )
            self._trainer = bench, trainer
        return self._trainer[1]

    # ---- server -------------------------------------------------------------------------------

    def settings(self, request: Request) -> Mapping[str, Any]:
        """Nothing is sent; notes who was asked."""
        self.ledger.asked(request.chosen)
        return {}

    def open(self, content: RecordDict, sent: SentModel) -> tuple[RecordDict, Any]:
        """The reply as it is; notes what it cost."""
        metrics = content.get("metrics")
        if isinstance(metrics, MetricRecord):
            names = ("num-examples", "steps", "samples")
            examples, steps, samples = (_count(metrics.get(name)) for name in names)
            if examples and steps and samples:
                spent = cost_of(examples, steps, samples, self.noise_multiplier)
                self.ledger.answered(sent.node, spent)
        return content, None

    def epsilon(self) -> float | None:
        """Of the client whose data was used most so far, at ``delta``; None without noise."""
        found = self.ledger.largest(self.delta, self.accountant)
        return found if math.isfinite(found) else None

    def summary(self) -> dict[str, Any]:
        """``epsilon`` and ``delta``."""
        return {"epsilon": self.epsilon(), "delta": self.delta}

    def facts(self) -> dict[str, Any]:
        """What is promised, to whom, and why epsilon is what it is."""
        promised = self.noise_multiplier > 0.0
        median = self.ledger.median(self.delta) if promised else None
        return {
            "kind": "differential privacy of examples",
            "unit": "one example of one client (its gradients replaced by zero)",
            "holds_against": "whoever sees the clients' replies, the server included",
            **self.summary(),
            "epsilon_median": median,
            "noise_multiplier": self.noise_multiplier,
            "clip": self.clip,
            "budget": self.budget,
            "accountant": self.accountant,
            "sampling": (
                "amplified by Poisson sampling of each client's batches; not by the selection of "
                "clients, whom the server knows"
            ),
            "why": WHY_EXAMPLE if promised else "no noise, no promise: epsilon is infinite",
            "noise_source": NOISE_SOURCE,
            "not_covered": (
                "how many examples a client has, whether and when it takes part, and anything "
                "that many of its examples have in common"
            ),
        }

    def state(self) -> dict[str, Any]:
        """The ledger."""
        return {"ledger": self.ledger.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a state given by `state`."""
        self.ledger.restore(state["ledger"])

    # ---- what is left to see ------------------------------------------------------------------

    def view(self, view: View) -> View:
        """The same numbers, declared to carry the noise of all local steps.

        With K steps at rate lr on batches of L, the update holds noise of lr z C sqrt(K) / L a
        coordinate. That is its law for plain SGD with one step; with more, later gradients depend
        on earlier noise, and with momentum there is more of it, so it is a lower bound. The
        update is a clipped one only for one step on one example. The device's own system sees
        the training itself.
        """
        if view.role == "device":
            return view
        knows, steps = view.knows, view.knows.steps or 1
        lr = knows.lr if knows.lr is not None else self._lr
        length = mean_batch(knows.examples, knows.batch_size, steps)
        if lr is None or length is None:
            raise ValueError("the noise on an update follows from lr and batch_size or examples")
        one = self.noise_multiplier * self.clip * lr * math.sqrt(steps) / length
        sigma = one * math.sqrt(sum(weight**2 for weight in view.weights))
        single = len(view.subjects) == 1 and steps == 1 and length == 1
        clip = self.clip * lr if single else view.channel.clip
        law = replace(view.channel, clip=clip, sigma=math.hypot(view.channel.sigma, sigma))
        return view.come_through(law)


WHY_EXAMPLE = (
    "each step adds noise of z times the clipping norm to the sum of the gradients of a batch "
    "into which every example came by a coin of its own; epsilon adds up over all local steps of "
    "all rounds in which a client took part, and the largest of all clients' is given"
)
NOISE_SOURCE = (
    "in a simulation, streams of the run's seed: for research, since who knows the seed can "
    "subtract the noise; on real machines the operating system's generator (os.urandom)"
)


def mean_batch(examples: int | None, batch_size: int | None, steps: int) -> float | None:
    """L, examples in a batch on average: a pass over the data ends with a shorter batch.

    Exact for whole passes and for parts of one; else not too small, so that noise is not
    overstated. None if neither number is known.
    """
    if examples is None or batch_size is None:
        return examples if batch_size is None else batch_size
    passes = -(-examples // batch_size)
    return examples / passes if steps % passes == 0 else min(batch_size, examples)


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 1 <= value <= MOST_STEPS else None
