"""What malicious machines pretend in order to be picked more often.

Selection by forecasts, profiles or carbon trusts what machines say and show. A clean zone, a fast
processor and few watts are only said: nobody measures them at a stranger's home. Being always on
costs an adversary nothing either, whose identities are processes in one place. The ledger goes on
charging what such a machine truly draws where it truly is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedhive.world.availability import Availability
from fedhive.world.devices import ZONES, Device


@dataclass(frozen=True)
class Bait:
    """How malicious machines present themselves; None leaves a fact as it is.

    Args:
        zone: the carbon zone in which they say they are; of `fedhive.world.devices.ZONES` their
            location is moved along.
        rate: the training speed that they declare, samples/s.
        train_w: the power that they declare, W.
        always_on: they never leave.

    Raises:
        ValueError: for a rate or power that no device has.
    """

    zone: str | None = None
    rate: float | None = None
    train_w: float | None = None
    always_on: bool = False

    def __post_init__(self) -> None:
        if self.rate is not None and not 0.0 < self.rate < math.inf:
            raise ValueError(f"rate must be above 0, got {self.rate}")
        if self.train_w is not None and not 0.0 <= self.train_w < math.inf:
            raise ValueError(f"train_w must not be negative, got {self.train_w}")

    def declared(self, devices: Sequence[Device], members: frozenset[int]) -> list[Device]:
        """The devices as a server is told of them."""
        return [self._device(d) if i in members else d for i, d in enumerate(devices)]

    def shown(self, availability: Availability, members: frozenset[int]) -> Availability:
        """When machines are on, the members always if they do not leave."""
        return Present(availability, members) if self.always_on and members else availability

    def _device(self, device: Device) -> Device:
        if self.zone is not None:
            place = ZONES.get(self.zone, ("", device.latitude, device.longitude))
            device = replace(device, zone=self.zone, latitude=place[1], longitude=place[2])
        if self.rate is not None:
            device = replace(device, rate=self.rate)
        return device if self.train_w is None else replace(device, train_w=self.train_w)


@dataclass(frozen=True)
class Present:
    """An availability some of whose machines never leave.

    Args:
        others: when all the others are on.
        members: numbers of those that are always on.
    """

    others: Availability
    members: frozenset[int]

    @property
    def start_s(self) -> float:
        """When the recording of the others begins, seconds; minus infinity if it has no begin."""
        return float(getattr(self.others, "start_s", -math.inf))

    def is_on(self, node: int, t_s: float) -> bool:
        """Whether machine ``node`` is on at ``t_s``."""
        return node in self.members or self.others.is_on(node, t_s)

    def next_change(self, node: int, t_s: float) -> float:
        """The first time after ``t_s`` at which it goes on or off; infinity if never."""
        return math.inf if node in self.members else self.others.next_change(node, t_s)

    def intervals(self, node: int, t0_s: float, t1_s: float) -> list[tuple[float, float]]:
        """The parts of [t0_s, t1_s) in which it is on."""
        if node not in self.members:
            return self.others.intervals(node, t0_s, t1_s)
        return [(t0_s, t1_s)] if t1_s > t0_s else []
