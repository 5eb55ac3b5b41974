"""Who is malicious, and where the attack is mounted (group ``attack``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from flwr.app import Context, Message

from attacks.bait import Bait
from attacks.exchange import Handler, Mod, Trained, recall, remember, round_of, trained
from attacks.knowledge import Round
from attacks.plot import Plot
from fedhive import config, seeding
from fedhive.compose import text_of
from fedhive.flower import Malformed
from fedhive.world.availability import Availability
from fedhive.world.devices import Device

__all__ = [
    "Collusion",
    "Handler",
    "Infiltration",
    "Mod",
    "Nobody",
    "check_share",
    "drawn_members",
    "plot_rng",
]


def drawn_members(
    nodes: int, seed: int, fraction: float, count: int | None = None, last: bool = False
) -> frozenset[int]:
    """The malicious machines of a run, drawn from their own random stream.

    Args:
        nodes: number of machines.
        seed: of the run.
        fraction: share of the machines, rounded to the nearest number of machines.
        count: number of malicious machines, instead of a share.
        last: the last ones instead of drawn ones, so that the honest ones stay the same while
            their number grows.

    Raises:
        ValueError: if there are fewer machines than that.
    """
    number = round(fraction * nodes) if count is None else count
    if number > nodes:
        raise ValueError(f"{number} malicious machines among {nodes}: set count or nodes")
    if last:
        return frozenset(range(nodes - number, nodes))
    drawn = seeding.stream(seed, "attack").choice(nodes, number, replace=False)
    return frozenset(int(i) for i in drawn)


def check_share(fraction: float, count: int | None) -> None:
    """Refuse impossible shares and numbers of machines.

    Raises:
        ValueError: naming the one that cannot be.
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    if count is not None and count < 0:
        raise ValueError(f"count must be at least 0, got {count}")


@dataclass(frozen=True)
class Nobody:
    """A world without adversaries."""

    def members(self, nodes: int, seed: int) -> frozenset[int]:
        """Nobody."""
        return frozenset()

    def mods(self) -> Sequence[Mod]:
        """Nothing."""
        return ()


@dataclass(frozen=True)
class Infiltration:
    """A share of the machines is malicious; each runs the same Flower client mod.

    Args:
        behaviour: what a malicious machine runs around its trainer.
        fraction: share of the machines, rounded to the nearest number of machines.
        count: number of malicious machines, instead of a share.
        place: "drawn" at random, or the "last" machines.
        bait: what they pretend so as to be picked; None for nothing.

    Raises:
        ValueError: for a share or number that cannot be.
    """

    behaviour: Mod
    fraction: float = 0.2
    count: int | None = None
    place: Literal["drawn", "last"] = "drawn"
    bait: Bait | None = None

    def __post_init__(self) -> None:
        check_share(self.fraction, self.count)

    def members(self, nodes: int, seed: int) -> frozenset[int]:
        """Drawn once per run from its own random stream."""
        return drawn_members(nodes, seed, self.fraction, self.count, self.place == "last")

    def mods(self) -> Sequence[Mod]:
        """The one behaviour."""
        return (self.behaviour,)

    def pretend(
        self, devices: Sequence[Device], availability: Availability, seed: int
    ) -> tuple[Sequence[Device], Availability]:
        """The machines as they are declared, and when they are on; see `attacks.bait`."""
        return _pretended(self.bait, self.members(len(devices), seed), devices, availability)


@dataclass(frozen=True)
class Collusion:
    """Machines that act as one, in a simulated world: their replies are rewritten together.

    The world hands over the replies of every batch that it computes (`rewrite`). This is the only
    place for omniscient adversaries, and no real deployment has it: there, colluders meet in
    `attacks.rendezvous`.

    Args:
        plot: what they do.
        fraction: share of the machines, rounded to the nearest number of machines.
        count: number of malicious machines, instead of a share.
        place: "drawn" at random, or the "last" machines.
        behaviours: Flower client mods that each of them runs besides, such as data poisoning.
        bait: what they pretend so as to be picked; None for nothing.

    Raises:
        ValueError: for a share or number that cannot be.
    """

    plot: Plot
    fraction: float = 0.2
    count: int | None = None
    place: Literal["drawn", "last"] = "drawn"
    behaviours: Sequence[Mod] = field(default=())
    bait: Bait | None = None

    def __post_init__(self) -> None:
        check_share(self.fraction, self.count)

    def members(self, nodes: int, seed: int) -> frozenset[int]:
        """Drawn once per run from its own random stream."""
        return drawn_members(nodes, seed, self.fraction, self.count, self.place == "last")

    def mods(self) -> Sequence[Mod]:
        """The behaviours; what is crafted together is no mod."""
        return tuple(self.behaviours)

    def pretend(
        self, devices: Sequence[Device], availability: Availability, seed: int
    ) -> tuple[Sequence[Device], Availability]:
        """The machines as they are declared, and when they are on; see `attacks.bait`."""
        return _pretended(self.bait, self.members(len(devices), seed), devices, availability)

    def rewrite(
        self,
        messages: Sequence[Message],
        replies: Sequence[Message],
        nodes: Sequence[int],
        contexts: Sequence[Context],
    ) -> list[Message]:
        """The replies of a batch, the colluders' rewritten.

        Rows are taken in the order of machine numbers, round by round. What the plot remembers
        stays in the context of the lowest-numbered colluder.

        Args:
            messages: the instructions of the batch.
            replies: what the machines answered, in the same order; changed in place.
            nodes: their machine numbers, in the same order.
            contexts: the contexts of all machines of the world, by number.

        Returns:
            The replies, in the same order.
        """
        seed = int(config.loads(text_of(contexts[0].run_config))["seed"])
        members = self.members(len(contexts), seed)
        if not members:
            return list(replies)
        rounds: dict[int, dict[int, Trained]] = {}
        for message, reply, node in zip(messages, replies, nodes, strict=True):
            taken = _readable(message, reply)
            if taken is not None:
                rounds.setdefault(round_of(message), {})[node] = taken
        for number, batch in sorted(rounds.items()):
            if members & batch.keys():
                self._rewrite_round(number, batch, members, seed, contexts[min(members)])
        return list(replies)

    def _rewrite_round(
        self,
        number: int,
        batch: dict[int, Trained],
        members: frozenset[int],
        seed: int,
        leader: Context,
    ) -> None:
        bad = sorted(members & batch.keys())
        good = sorted(batch.keys() - members)
        facts = Round(
            number=number,
            n=len(batch),
            f=len(bad),
            rng=plot_rng(seed, number),
            model=batch[bad[0]].model,
            colluders=torch.stack([batch[i].update for i in bad]),
            honest=torch.stack([batch[i].update for i in good]) if good else None,
            honest_nodes=good,
        )
        rows, memory = self.plot.rows(facts, recall(leader))
        remember(leader, memory)
        for node, row in zip(bad, rows, strict=True):
            batch[node].send(row)


def _pretended(
    bait: Bait | None,
    members: frozenset[int],
    devices: Sequence[Device],
    availability: Availability,
) -> tuple[Sequence[Device], Availability]:
    if bait is None:
        return devices, availability
    return bait.declared(devices, members), bait.shown(availability, members)


def plot_rng(seed: int, number: int) -> np.random.Generator:
    """The colluders' common random stream in a round; no communication needed to share it."""
    return seeding.stream(seed, "plot", number)


def _readable(message: Message, reply: Message) -> Trained | None:
    try:
        return trained(message, reply)
    except (Malformed, KeyError):  # some other attack's or a broken machine's: not our business
        return None
