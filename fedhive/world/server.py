"""What the server draws: for every byte that it handles, and for being there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedhive.world.carbon import JOULES_PER_KWH, CarbonSignal
from fedhive.world.devices import Device


@dataclass(frozen=True)
class Server:
    """A server's power; a shared one works on a message and is somebody else's in between.

    Args:
        active_w: power drawn while it works on a message, W.
        bytes_per_s: bytes of messages, both ways, that it handles in a second.
        dedicated_w: power drawn all the time because it is there for this run alone, W.
        pue: power of the whole data centre over that of its computers, at least 1.
        zone: carbon zone of its electricity; None for the mean of the machines' zones.
    """

    active_w: float = 118.0
    bytes_per_s: float = 1e8
    dedicated_w: float = 0.0
    pue: float = 1.58
    zone: str | None = None

    def __post_init__(self) -> None:
        for key in ("active_w", "dedicated_w"):
            if not 0.0 <= getattr(self, key) < math.inf:
                raise ValueError(f"{key} must not be negative, got {getattr(self, key)}")
        if not 0.0 < self.bytes_per_s < math.inf:
            raise ValueError(f"bytes_per_s must be above 0, got {self.bytes_per_s}")
        if not 1.0 <= self.pue <= 10.0:
            raise ValueError(f"pue must be 1 to 10, got {self.pue}")

    def message_j(self, n_bytes: float) -> float:
        """Joules of handling a message and its reply of ``n_bytes`` together."""
        return self.pue * self.active_w * n_bytes / self.bytes_per_s

    def presence_j(self, seconds: float) -> float:
        """Joules of being there for so long."""
        return self.pue * self.dedicated_w * seconds

    def grams(
        self, signal: CarbonSignal, devices: Sequence[Device], joules: float, t0_s: float,
        t1_s: float,
    ) -> float:  # fmt: skip
        """Emissions in gCO2e of drawing ``joules`` evenly over [t0_s, t1_s]."""
        if not joules:
            return 0.0
        zones = sorted({device.zone for device in devices}) if self.zone is None else [self.zone]
        means = [signal.mean_g_per_kwh(zone, t0_s, t1_s) for zone in zones]
        return joules / JOULES_PER_KWH * math.fsum(means) / len(means)
