"""Fleets after real devices: phones as FLASH measured them, classes of machines, a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from fedhive.errors import UserError
from fedhive.world.devices import ZONES, Device, ListedFleet
from fedhive.world.intervals import Floats

SCORE_DECILES = (
    -3.173, -1.993, -1.567, -0.670, -0.272, 0.0, 0.227, 0.734, 1.516, 1.669, 2.711,
)  # fmt: skip
"""Logarithm of a phone's AI-Benchmark score over the median's, at 0, 10, ..., 100 % of the 333
phones in PKU-Chengxu/FLASH (BSD-2)."""

TRAINING_PER_SCORE = 0.49
"""Training speed grows as score to this power: mean slope of the logarithms over the CNNs (CelebA,
FEMNIST) that FLASH timed on a Nexus S, a Redmi Note 7 Pro and a Pixel 4."""

WIFI_UP_MBPS, WIFI_UP_SIGMA = 25.4, 0.682
WIFI_DOWN_MBPS, WIFI_DOWN_SIGMA = 42.4, 0.471
WIFI_CORRELATION = 0.448
"""Geometric mean, deviation of the logarithm, and correlation of both directions' logarithms, over
the mean WiFi speeds of FLASH's 19 users (kB/s there). Their speeds vary by 40 % from moment to
moment, which a machine here does not."""


@dataclass(frozen=True)
class PhoneFleet:
    """Phones: speed and WiFi drawn from FLASH's tables, power by class, spread over zones in turn.

    Args:
        median_rate: training speed of the median phone, samples/s of the run's model.
        speed_spread: how far phones lie apart: 1 as benchmarked, 0 all equal.
        wifi: bandwidth over FLASH's.
        latency_s: delay before each transfer, s.
        train_w: power of training above idle, W, of slow, middling and fast phones, a third each.
        comm_w: power of communication above idle, W.
        wait_w: power of waiting above idle, W.
        net_j_per_byte: network energy, J/byte.
        zones: carbon zones to use, in order; empty for all that fedhive knows.
    """

    median_rate: float = 50.0
    speed_spread: float = 1.0
    wifi: float = 1.0
    latency_s: float = 0.05
    train_w: tuple[float, float, float] = (2.98, 5.44, 6.33)
    comm_w: float = 1.0
    wait_w: float = 0.0
    net_j_per_byte: float = 0.0
    zones: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key in ("median_rate", "wifi"):
            if not getattr(self, key) > 0.0:
                raise ValueError(f"{key} must be above 0, got {getattr(self, key)}")
        if not 0.0 <= self.speed_spread <= 3.0:
            raise ValueError(f"speed_spread must be 0 to 3, got {self.speed_spread}")
        _check_zones(self.zones)

    def __call__(self, n: int, rng: np.random.Generator) -> list[Device]:
        """Draw ``n`` phones."""
        rank = rng.random(n)
        score = np.interp(rank, np.linspace(0.0, 1.0, len(SCORE_DECILES)), SCORE_DECILES)
        rates = self.median_rate * np.exp(TRAINING_PER_SCORE * self.speed_spread * score)
        normal = rng.standard_normal((2, n))
        mixed = WIFI_CORRELATION * normal[0] + math.sqrt(1 - WIFI_CORRELATION**2) * normal[1]
        ups = self.wifi * WIFI_UP_MBPS * np.exp(WIFI_UP_SIGMA * normal[0])
        downs = self.wifi * WIFI_DOWN_MBPS * np.exp(WIFI_DOWN_SIGMA * mixed)
        power = np.asarray(self.train_w)[(3.0 * rank).astype(np.int64)]
        return [
            Device(
                **_place(i, self.zones), rate=float(rates[i]), up_bps=1e6 * float(ups[i]),
                down_bps=1e6 * float(downs[i]), train_w=float(power[i]), latency_s=self.latency_s,
                comm_w=self.comm_w, wait_w=self.wait_w, net_j_per_byte=self.net_j_per_byte,
            )
            for i in range(n)
        ]  # fmt: skip


@dataclass(frozen=True)
class DeviceClass:
    """Machines of one kind.

    Args:
        name: for people.
        share: of the machines that are of this kind; shares are scaled to sum to 1.
        rate: training speed in the fleet's unit.
        train_w: power of training above idle, W.
        up_mbps: upload bandwidth, Mbit/s.
        down_mbps: download bandwidth, Mbit/s.
    """

    name: str
    share: float
    rate: float
    train_w: float
    up_mbps: float = 100.0
    down_mbps: float = 100.0


@dataclass(frozen=True)
class ClassFleet:
    """Machines of a few kinds, drawn by their shares and spread over zones in turn.

    Args:
        classes: the kinds.
        rate_unit: samples/s of the run's model that a class's rate of 1 means.
        rate_sigma: deviation of the logarithm of the speed within a kind.
        latency_s: delay before each transfer, s.
        comm_w: power of communication above idle, W.
        wait_w: power of waiting above idle, W.
        net_j_per_byte: network energy, J/byte.
        zones: carbon zones to use, in order; empty for all that fedhive knows.
    """

    classes: tuple[DeviceClass, ...]
    rate_unit: float = 1.0
    rate_sigma: float = 0.1
    latency_s: float = 0.02
    comm_w: float = 3.0
    wait_w: float = 0.0
    net_j_per_byte: float = 0.0
    zones: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.classes or not all(kind.share > 0.0 for kind in self.classes):
            raise UserError("fleet.classes must hold at least one class, each with share above 0")
        if not self.rate_unit > 0.0:
            raise ValueError(f"rate_unit must be above 0, got {self.rate_unit}")
        if not 0.0 <= self.rate_sigma <= 5.0:
            raise ValueError(f"rate_sigma must be between 0 and 5, got {self.rate_sigma}")
        _check_zones(self.zones)

    def __call__(self, n: int, rng: np.random.Generator) -> list[Device]:
        """Draw ``n`` machines."""
        share: Floats = np.array([kind.share for kind in self.classes])
        drawn = rng.choice(len(self.classes), size=n, p=share / share.sum())
        speeds = self.rate_unit * np.exp(self.rate_sigma * rng.standard_normal(n))
        return [self._device(i, self.classes[drawn[i]], float(speeds[i])) for i in range(n)]

    def _device(self, i: int, kind: DeviceClass, speed: float) -> Device:
        place = _place(i, self.zones)
        place["name"] = f"{kind.name}-{place['name']}"
        return Device(
            **place, rate=kind.rate * speed, up_bps=1e6 * kind.up_mbps,
            down_bps=1e6 * kind.down_mbps, train_w=kind.train_w, latency_s=self.latency_s,
            comm_w=self.comm_w, wait_w=self.wait_w, net_j_per_byte=self.net_j_per_byte,
        )  # fmt: skip


def fleet_file(path: str) -> ListedFleet:
    """Machines listed in a YAML or JSON file, one mapping each with the fields of `Device`.

    ``name`` may be left out, and where ``zone`` is one that fedhive knows, ``latitude`` and
    ``longitude`` too.

    Args:
        path: the file.

    Raises:
        UserError: for a file that cannot be read or an entry that makes no machine.
    """
    file = Path(path).expanduser()
    rows = listed_rows(file, "fleet.path")
    return ListedFleet(
        tuple(listed_device(f"{file}: machine {i}", i, row) for i, row in enumerate(rows))
    )


def listed_rows(file: Path, setting: str) -> list[dict[str, Any]]:
    """The mappings in a YAML or JSON file of machines.

    Args:
        file: where.
        setting: that named it.

    Raises:
        UserError: for a file that cannot be read or holds no list of mappings.
    """
    import yaml
    from omegaconf import OmegaConf

    try:
        # Read as the configuration is, where 2e7 is a number; plain YAML takes it for text.
        rows = OmegaConf.to_container(OmegaConf.load(file))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {file}; check {setting}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', error)}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{file}{line}: not YAML ({getattr(error, 'problem', '')})") from error
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{file}: expected a list of machines, one mapping each")
    found: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"{file}: machine {i}: expected a mapping, got {row!r}")
        found.append({str(key): value for key, value in row.items()})
    return found


def listed_device(where: str, i: int, row: Mapping[str, Any]) -> Device:
    """A machine from a mapping with the fields of `Device`.

    Args:
        where: what mistakes are told to be in.
        i: its place in the list, for a name where it has none.
        row: the mapping.

    Raises:
        UserError: if it makes no machine.
    """
    _, latitude, longitude = ZONES.get(str(row.get("zone")), ("", math.nan, math.nan))
    guessed = {"name": f"machine-{i:03d}", "latitude": latitude, "longitude": longitude}
    given = {**row, **{key: value for key, value in guessed.items() if key not in row}}
    known = {field.name: field for field in fields(Device)}
    for key, value in given.items():
        if key not in known:
            raise UserError(f"{where}: no such field {key!r}; fields are {', '.join(known)}")
        text = known[key].type == "str"
        if not isinstance(value, str if text else int | float) or isinstance(value, bool):
            raise UserError(
                f"{where}: {key} must be {'text' if text else 'a number'}, got {value!r}"
            )
    if math.isnan(given["latitude"]) or math.isnan(given["longitude"]):
        raise UserError(f"{where}: latitude and longitude are missing, and the zone is unknown")
    try:
        return Device(**given)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error


def _place(i: int, zones: tuple[str, ...]) -> dict[str, Any]:
    names = zones or tuple(ZONES)
    zone = names[i % len(names)]
    city, latitude, longitude = ZONES[zone]
    name = f"{city.lower().replace(' ', '-')}-{i:03d}"
    return {"name": name, "zone": zone, "latitude": latitude, "longitude": longitude}


def _check_zones(zones: tuple[str, ...]) -> None:
    unknown = [zone for zone in zones if zone not in ZONES]
    if unknown:
        raise UserError(f"fleet.zones: unknown zone {unknown[0]!r}; known: {', '.join(ZONES)}")
