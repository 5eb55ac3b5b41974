"""Differential privacy of whole clients: clipped updates and noise, by the server or by each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from flwr.app import ArrayRecord, Context, Message
from numpy.typing import NDArray

from defenses.dp import guard
from defenses.dp.accountant import Method, Spent, epsilon, opacus
from defenses.dp.clipping import AdaptiveClip, clipped
from defenses.dp.example import NOISE_SOURCE
from defenses.dp.ledger import Ledger
from defenses.dp.noise import Noise, Seeded, System, source_for
from defenses.dp.refusals import check_server_noise
from defenses.dp.sampling import Sampling, refuse_losses, sampling_of
from defenses.protection.base import Handler, Mod, Protection, Release, Request, Step
from fedhive.client import bench_of, client_number
from fedhive.errors import UserError
from fedhive.flower import flatten_record, from_flat, layout_of, records_of
from fedhive.world.clock import VirtualClock, clock_of
from fedhive.world.instructions import round_of

if TYPE_CHECKING:
    from fedhive.leakage.view import View

Vector = NDArray[np.float32]
UNCHECKED = Sampling(None, "no amplification by sampling: the run's configuration is not known")


class ClientLevel(Protection):
    """The models that are released are differentially private in each client's whole data.

    Neighbours: one client's updates are zero, in all rounds ("zero-out": that it is there, and
    when, is public). With u_i the updates of the round's clients, all of weight 1,

        ``server``: the model moves by (sum_i u_i min(1, C / |u_i|) + z C N(0, 1)) / m,

    where m is the number of clients asked, on average under Poisson sampling (McMahan, Ramage,
    Talwar, Zhang, ICLR 2018, the estimator with fixed denominator), so that absent clients count
    as updates of zero. It holds against whoever sees models, not against the server. With
    ``client``, each client clips and adds noise of z C to its own update before it leaves: it
    holds against the server too, needs far more clients for the same accuracy, and any rule may
    combine the replies. A client's rounds then add up without any amplification.

    Clients send no losses and answer no evaluations.

    Args:
        noise: who adds it.
        noise_multiplier: z, noise relative to the clipping norm.
        clip: C, largest norm of an update; the first one if it adapts.
        delta: of the promise; well below 1 / number of clients.
        accountant: ``prv`` or ``rdp``.
        adaptive: how C follows the updates' norms (``server`` only); None for a fixed C.
        seed: of the server's noise in a simulation.

    Raises:
        ValueError: for a number out of its range, or adaptive clipping without the server.
    """

    def __init__(
        self,
        noise: Literal["server", "client"] = "server",
        noise_multiplier: float = 1.0,
        clip: float = 1.0,
        delta: float = 1e-5,
        accountant: Method = "prv",
        adaptive: AdaptiveClip | None = None,
        seed: int = 0,
    ) -> None:
        if not 0.0 <= noise_multiplier < 1e6 or not 0.0 < clip < 1e12 or not 0.0 < delta < 1.0:
            raise ValueError(
                "need noise_multiplier >= 0, clip > 0 and 0 < delta < 1, got "
                f"{noise_multiplier}, {clip} and {delta}"
            )
        if adaptive is not None and noise != "server":
            raise ValueError("adaptive clipping counts short updates at the server: noise=server")
        self.by_server = noise == "server"
        self.noise_multiplier, self.clip, self.delta = noise_multiplier, clip, delta
        self.accountant, self.adaptive, self.seed = accountant, adaptive, seed
        self.moves_alone = self.by_server  # that nobody took part must not show
        self.sampling, self._secret = UNCHECKED, False
        self.ledger, self.released = Ledger(), 0
        self._asked, self._idle = 0, 0

    # ---- before the run -----------------------------------------------------------------------

    def check(self, cfg: Mapping[str, Any]) -> None:
        """Refuse methods in which one client's influence is not bounded by C."""
        refuse_losses(cfg)
        self.sampling = sampling_of(cfg)
        self._secret = bool((cfg.get("selection") or {}).get("secret", False))
        nodes = int(cfg["nodes"])
        if self.delta * nodes >= 1.0:
            raise UserError(
                f"protection.delta={self.delta:g} allows giving away one of {nodes} clients "
                f"whole; use a delta well below {1 / nodes:.1g}"
            )
        if self.by_server:
            check_server_noise(cfg, self)
        if self.sampling.rate is not None:
            opacus()

    # ---- client -------------------------------------------------------------------------------

    def mods(self, node_number: int) -> Sequence[Mod]:
        """One mod, the same for every node."""
        return (self._guarded,)

    def _guarded(self, message: Message, context: Context, call_next: Handler) -> Message:
        guard.refuse_questions(message)
        reply = guard.without_secrets(call_next(message, context))
        if self.by_server or message.metadata.message_type != "train" or not reply.has_content():
            return reply
        return self._noised(message, context, reply)

    def _noised(self, message: Message, context: Context, reply: Message) -> Message:
        """The reply with its update clipped and noised."""
        record = records_of(reply.content, ArrayRecord)["arrays"]
        layout = layout_of(record)
        sent = flatten_record(records_of(message.content, ArrayRecord)["arrays"], layout)
        update = clipped(flatten_record(record, layout) - sent, self.clip)
        keys = round_of(message), client_number(context)
        noise = source_for(context, bench_of(context).seed, "dp-client", *keys)
        guard.spend(context, Spent(self.noise_multiplier, 1.0, 1))
        update += self.noise_multiplier * self.clip * noise.normal(update.size)
        model = np.ascontiguousarray(sent + update, np.float32)
        reply.content["arrays"] = from_flat(model, layout)
        return reply

    # ---- server -------------------------------------------------------------------------------

    def prepare(self, request: Request, grid: Any) -> bool:
        """A new round: nobody was asked yet."""
        self._asked, self._idle = 0, len(request.idle)
        real = grid is not None and not isinstance(clock_of(grid), VirtualClock)
        if real and self.sampling.rate is not None and not self._secret:
            self.sampling = Sampling(None, (
                "no amplification by sampling: the coins follow from the run's seed, which every "
                "machine is told; set selection.secret=true on real machines"
            ))  # fmt: skip
        return True

    def settings(self, request: Request) -> Mapping[str, Any]:
        """Nothing is sent; notes who was asked.

        Raises:
            UserError: for a selection that weights clients unequally.
        """
        unequal = [w for w in (request.weights or {}).values() if w != 1.0]
        if self.by_server and unequal:
            raise UserError(
                f"the selection gives a client the weight {unequal[0]:g}: with noise by the "
                "server one client's influence is bounded only where all weigh the same; use "
                "selection=uniform or poisson"
            )
        self._asked += len(request.chosen)
        for node in request.chosen:  # asked counts as done: somebody may have seen the answer
            self.ledger.answered(node, Spent(self.noise_multiplier, 1.0, 1))
        return {}

    def reveal(self, step: Step) -> Release:
        """The noisy mean of the clipped updates; the proposed model if clients noised already."""
        if not self.by_server:
            return Release(step.proposed)
        if not self._idle:
            return Release(None, "nobody was on")
        current, cohort = step.cohort.current, step.cohort
        bases = cohort.bases or [current] * len(cohort.models)
        updates = [model - base for model, base in zip(cohort.models, bases, strict=True)]
        rate = self.sampling.rate
        expected = self._asked if rate is None else rate * self._idle
        if not expected:
            return Release(None, "nobody was asked")
        noise = self._noise(step)
        z = self.noise_multiplier
        if self.adaptive is not None:
            z = self.adaptive.noise_multiplier(z, expected)
        total = np.zeros(current.size, np.float64)
        for update in updates:
            total += clipped(update, self.clip)
        total += z * self.clip * noise.normal(current.size).astype(np.float64)
        if self.adaptive is not None:
            self.clip = self.adaptive.next(self.clip, updates, expected, noise)
        self.released += 1
        return Release((current + total / expected).astype(np.float32))

    def _noise(self, step: Step) -> Noise:
        grid = step.grid
        if grid is not None and isinstance(clock_of(grid), VirtualClock):
            return Seeded(self.seed, "dp-server", step.cohort.round)
        return System()

    def epsilon(self) -> float | None:
        """Of the client whose updates were used most so far; None without noise."""
        if self.by_server and self.sampling.rate is not None:
            spent = Spent(self.noise_multiplier, self.sampling.rate, self.released)
            found = epsilon([spent], self.delta, self.accountant)
        else:
            found = self.ledger.largest(self.delta, self.accountant)
        return found if math.isfinite(found) else None

    def summary(self) -> dict[str, Any]:
        """``epsilon`` and ``delta``."""
        return {"epsilon": self.epsilon(), "delta": self.delta}

    def facts(self) -> dict[str, Any]:
        """What is promised, to whom, and why epsilon is what it is."""
        return {
            "kind": "differential privacy of clients",
            "unit": "one client (its updates replaced by zero in all rounds)",
            "holds_against": (
                "whoever sees the models, but neither the server nor those on the line to it"
                if self.by_server
                else "whoever sees the clients' replies, the server included"
            ),
            **self.summary(),
            "noise_multiplier": self.noise_multiplier,
            "clip": self.clip,
            "accountant": self.accountant,
            "releases": self.released if self.by_server else None,
            "sampling": self.sampling.why if self.by_server else ALL_KNOWN,
            "why": self._why(),
            "noise_source": NOISE_SOURCE,
            "not_covered": (
                "that a client takes part and when, its number of examples, and anything that "
                "many clients' data have in common"
            ),
        }

    def _why(self) -> str:
        if not self.noise_multiplier:
            return "no noise, no promise: epsilon is infinite"
        if self.by_server and self.sampling.rate is not None:
            return (
                "each model released adds noise of z times the clipping norm to a sum into which "
                "every client came by a coin of its own; epsilon adds up over all releases"
            )
        return (
            "a client's epsilon adds up over the rounds in which it was asked; the largest of all "
            "clients' is given"
        )

    def state(self) -> dict[str, Any]:
        """The ledger, the number of releases and the clipping norm."""
        return {"ledger": self.ledger.state(), "released": self.released, "clip": self.clip}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a state given by `state`."""
        self.ledger.restore(state["ledger"])
        self.released, self.clip = int(state["released"]), float(state["clip"])

    # ---- what is left to see ------------------------------------------------------------------

    def view(self, view: View) -> View:
        """The same numbers, declared clipped and noised where this role sees them so.

        Noise by the server is on what clients see of each other's (the models); the server, the
        line and the device see updates as they are. Noise by clients is on everything but what
        the device's own system sees.
        """
        if view.role == "device" or (self.by_server and view.role != "client"):
            return view
        if self.by_server:
            sigma = self.noise_multiplier * self.clip * max(abs(w) for w in view.weights)
        else:
            lengths = math.sqrt(sum(weight**2 for weight in view.weights))
            sigma = self.noise_multiplier * self.clip * lengths
        clip = self.clip * abs(view.weights[0]) if len(view.subjects) == 1 else view.channel.clip
        law = replace(view.channel, clip=clip, sigma=math.hypot(view.channel.sigma, sigma))
        return view.come_through(law)


ALL_KNOWN = (
    "no amplification by sampling: the server, against whom this holds, knows who takes part"
)
