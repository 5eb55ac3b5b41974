"""What a server can know when it decides: the only thing that parts of a strategy may look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from defenses.identities import Identity
from fedhive.world.carbon_forecast import CarbonOutlook
from fedhive.world.devices import Device


@dataclass
class NodeHistory:
    """What a node has shown so far.

    Args:
        examples: training examples it reported last; None before its first accepted reply.
        loss: mean training loss it reported last.
        loss_rms: root mean square of its samples' training losses, if it reported that.
        steps: optimiser steps of its last accepted reply.
        samples: samples trained on for its last accepted reply, counted with repetition.
        duration_s: seconds from sending to its last accepted reply.
        selected: how often it was asked.
        completed: how often its reply was accepted.
        withdrawn: how often it left before it had replied.
        late: how often its reply came too late to be used.
        last_round: the last round in which its reply was accepted, 0 for never.
        last_selected: the last round in which it was asked, 0 for never.
        slow: replies in a row, up to the last, that took far longer than its profile promises.
    """

    examples: int | None = None
    loss: float | None = None
    loss_rms: float | None = None
    steps: int | None = None
    samples: int | None = None
    duration_s: float | None = None
    selected: int = 0
    completed: int = 0
    withdrawn: int = 0
    late: int = 0
    last_round: int = 0
    last_selected: int = 0
    slow: int = 0


class Outlook(Protocol):
    """What may be expected of the machines, forecast from the past only."""

    def p_on(self, nodes: Sequence[int], after_s: float) -> NDArray[np.float64]:
        """P(on at now + ``after_s``) of each node, [n]."""
        ...

    def p_stay(self, nodes: Sequence[int], for_s: float) -> NDArray[np.float64]:
        """P(on during all of [now, now + ``for_s``]) of each node, [n]; 0 for those off now."""
        ...


class Unforeseen:
    """The outlook of a server without a forecaster: who is on stays on."""

    def __init__(self, online: Sequence[int] = ()) -> None:
        self._online = frozenset(online)

    def p_on(self, nodes: Sequence[int], after_s: float) -> NDArray[np.float64]:
        """1 for nodes that are on now, 0 for others."""
        return np.array([float(node in self._online) for node in nodes])

    def p_stay(self, nodes: Sequence[int], for_s: float) -> NDArray[np.float64]:
        """The same."""
        return self.p_on(nodes, for_s)


@dataclass(frozen=True)
class View:
    """The server's knowledge at the start of a round.

    Args:
        round: the round about to start, from 1.
        now_s: seconds since the run began.
        online: ids of the nodes that are on, ascending.
        idle: those among them that owe no reply.
        history: by node id; nodes never asked may be missing.
        rng: a named random stream of this round, e.g. ``rng("selection")``.
        profiles: what machines declared about themselves, by node id; empty where nobody did.
            Speeds that replies have disproved are replaced by what was measured.
        outlook: forecasts of who will be on.
        model_bytes: size of the model on the wire.
        target_s: seconds after which the trigger closes the round; None if it sets no limit.
        probed: losses of the current model, as reported by the nodes that were probed.
        carbon: past and forecast carbon intensity by node; None where there is no signal.
        identity: who stands behind a node; nothing is known of nodes that were never asked,
            unless the selection has ``by_identity``.
    """

    round: int
    now_s: float
    online: tuple[int, ...]
    idle: tuple[int, ...]
    history: Mapping[int, NodeHistory]
    rng: Callable[[str], np.random.Generator] = field(repr=False)
    profiles: Mapping[int, Device] = field(default_factory=dict)
    outlook: Outlook = field(default_factory=Unforeseen)
    model_bytes: int = 0
    target_s: float | None = None
    probed: Mapping[int, float] = field(default_factory=dict)
    carbon: CarbonOutlook | None = None
    identity: Callable[[int], Identity] = field(default=lambda node: Identity(), repr=False)

    def past(self, node: int) -> NodeHistory:
        """The node's history, empty if it was never asked."""
        return self.history.get(node, NodeHistory())

    def seconds(self, node: int, samples: float) -> float | None:
        """Seconds from asking ``node`` to train on ``samples`` to its reply.

        By its declared profile; without one, its last duration scaled by the samples; None if
        nothing is known.
        """
        device = self.profiles.get(node)
        if device is not None:
            transfers = device.download_s(self.model_bytes) + device.upload_s(self.model_bytes)
            return transfers + device.train_s(samples)
        past = self.past(node)
        if past.duration_s is None or not past.samples:
            return None
        return past.duration_s * samples / past.samples
