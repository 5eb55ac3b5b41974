"""Forecasts of carbon intensity, made from the past only, and how good they are.

Time is cut into the run's hours: slot k is [k, k + 1) hours after the run began, slots below 0
are history. A server knows the mean intensity of every slot that has begun, the present one
included, as live services tell it; of later slots it knows nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from fedhive import seeding
from fedhive.world.carbon import CarbonSignal
from fedhive.world.past import FutureError

Floats = npt.NDArray[np.float64]
HOUR_S = 3600.0
DAY, WEEK = 24, 168


class CarbonPast:
    """What may be known at a time of a signal.

    Args:
        signal: intensity by zone and time.
        now_s: the present, seconds since the run began.
        first_s: since when it is known, at most 0; None for the signal's own ``first_s``, or 0
            if it has none.
    """

    foresight: ClassVar[bool] = False

    def __init__(self, signal: CarbonSignal, now_s: float, first_s: float | None = None) -> None:
        self._signal = signal
        self.now_s = now_s
        own = getattr(signal, "first_s", 0.0)
        self.slot = math.floor(now_s / HOUR_S)
        self.first = math.ceil((own if first_s is None else first_s) / HOUR_S)

    def slots(self, zone: str, first: int, count: int) -> Floats:
        """Intensities of the slots ``first``, ``first`` + 1, ..., gCO2e/kWh, [count].

        Raises:
            FutureError: if one of them has not begun.
        """
        if first + count - 1 > self.slot and not self.foresight:
            raise FutureError(
                f"intensity of slot {first + count - 1} asked for in slot {self.slot}"
            )
        table = getattr(self._signal, "slots", None)
        if table is not None:
            return np.asarray(table(zone, first, count), dtype=np.float64)
        mean = self._signal.mean_g_per_kwh
        at = range(first, first + count)
        return np.array([mean(zone, HOUR_S * k, HOUR_S * (k + 1)) for k in at], dtype=np.float64)


class CarbonForesight(CarbonPast):
    """A past that also shows the future: for forecasters that are oracles, and for scoring."""

    foresight: ClassVar[bool] = True


class CarbonForecaster(Protocol):
    """What intensity is to be expected."""

    @property
    def oracle(self) -> bool:
        """True if it must be given the future (`CarbonForesight`)."""
        ...

    def forecast(self, past: CarbonPast, zone: str, hours: int) -> Floats:
        """Intensities of the present slot (known) and those after it, gCO2e/kWh, [hours]."""
        ...


def carbon_past(forecaster: CarbonForecaster, signal: CarbonSignal, now_s: float) -> CarbonPast:
    """What this forecaster is to be shown at ``now_s``."""
    return (CarbonForesight if forecaster.oracle else CarbonPast)(signal, now_s)


class CarbonOutlook:
    """What a scheduler sees of intensity: of each node's zone, the past and a forecast.

    Args:
        forecaster: who is asked.
        past: what it may know.
        zones: each node's zone.
    """

    def __init__(
        self, forecaster: CarbonForecaster, past: CarbonPast, zones: Mapping[int, str]
    ) -> None:
        self.zones, self.slot = zones, past.slot
        self._forecaster, self._past = forecaster, past
        self._made: dict[tuple[str, int], Floats] = {}

    def start_s(self, ahead: int) -> float:
        """When the slot ``ahead`` of the present one begins, seconds since the run began."""
        return HOUR_S * (self.slot + ahead)

    def forecast(self, nodes: Sequence[int], hours: int) -> Floats:
        """Intensities of the present slot (known) and those after it, gCO2e/kWh, [n, hours]."""
        table = np.empty((len(nodes), hours))
        for i, node in enumerate(nodes):
            table[i] = self._zone(self.zones[node], hours)
        return table

    def past(self, nodes: Sequence[int], hours: int) -> Floats:
        """Intensities of the last slots, the present one last, [n, at most ``hours``]."""
        first = max(self._past.first, self.slot + 1 - hours)
        rows = [self._past.slots(self.zones[n], first, self.slot + 1 - first) for n in nodes]
        return np.array(rows).reshape(len(nodes), self.slot + 1 - first)

    def _zone(self, zone: str, hours: int) -> Floats:
        """A forecast of whole days, made once, cut."""
        days = -(-hours // DAY)
        if (zone, days) not in self._made:
            self._made[zone, days] = self._forecaster.forecast(self._past, zone, DAY * days)
        return self._made[zone, days][:hours]


@dataclass(frozen=True)
class Persistence:
    """As now, for ever."""

    oracle: ClassVar[bool] = False

    def forecast(self, past: CarbonPast, zone: str, hours: int) -> Floats:
        """The present slot's intensity, [hours]."""
        return np.full(hours, past.slots(zone, past.slot, 1)[0])


@dataclass(frozen=True)
class SeasonalNaive:
    """The mean of the same hour a day before and a week before.

    For slots further ahead, the latest such days and weeks that are known. Before a week is known
    the day counts alone, before a day the present does.
    """

    oracle: ClassVar[bool] = False

    def forecast(self, past: CarbonPast, zone: str, hours: int) -> Floats:
        """The present slot's intensity, then those expected, [hours]."""
        first = max(past.first, past.slot + 1 - WEEK)
        known = past.slots(zone, first, past.slot - first + 1)
        ahead = np.arange(hours)
        found = []
        for period in (DAY, WEEK):
            back = -(-ahead // period) * period  # the fewest whole periods
            if len(known) >= period:
                found.append(known[len(known) - 1 + ahead - back])
        made = np.mean(found, axis=0) if found else np.full(hours, known[-1])
        made[:1] = known[-1]
        return np.asarray(made)


@dataclass(frozen=True)
class Perfect:
    """What will be: only in simulation."""

    oracle: ClassVar[bool] = True

    def forecast(self, past: CarbonPast, zone: str, hours: int) -> Floats:
        """The slots themselves, [hours]."""
        return past.slots(zone, past.slot, hours)


@dataclass(frozen=True)
class Noisy:
    """What will be, wrong by a given share on average: only in simulation.

    Each intensity is multiplied by 1 + e. The errors of neighbouring hours resemble each other
    (correlation ``memory`` an hour), those of forecasts made in different hours do not.

    Args:
        error: mean of |e| (the MAPE), 0 to 0.5.
        memory: correlation of the errors of neighbouring hours, 0 to below 1.
        seed: of the errors.
    """

    error: float = 0.1
    memory: float = 0.9
    seed: int = 0
    oracle: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.error <= 0.5:
            raise ValueError(f"error must be 0 to 0.5, got {self.error}")
        if not 0.0 <= self.memory < 1.0:
            raise ValueError(f"memory must be 0 to below 1, got {self.memory}")

    def forecast(self, past: CarbonPast, zone: str, hours: int) -> Floats:
        """The present slot's intensity, then wrong ones, [hours]."""
        truth = past.slots(zone, past.slot, hours)
        rng = seeding.stream(self.seed, f"carbon.forecast.{zone}", past.slot - past.first)
        shocks = rng.standard_normal(hours)
        error = np.empty(hours)
        level = 0.0
        for i, shock in enumerate(shocks.tolist()):
            level = shock if i == 0 else self._next(level, shock)
            error[i] = level
        # E|N(0, s)| = s sqrt(2 / pi); cut on both sides, so that the mean error stays 0.
        error *= self.error * math.sqrt(math.pi / 2.0)
        error[:1] = 0.0
        return np.asarray(truth * (1.0 + np.clip(error, -1.0, 1.0)))

    def _next(self, level: float, shock: float) -> float:
        return self.memory * level + math.sqrt(1.0 - self.memory**2) * shock


@dataclass(frozen=True)
class CarbonScores:
    """How good forecasts were.

    Args:
        mae: mean absolute error, gCO2e/kWh.
        mape: mean of |error| / truth over hours with truth above 0; None if there are none.
        rank: mean Spearman correlation of the hours' order; a forecast without any order counts
            0, days without any are left out; None if there are no others.
        forecasts: how many forecasts.
    """

    mae: float
    mape: float | None
    rank: float | None
    forecasts: int


def score(
    forecaster: CarbonForecaster,
    signal: CarbonSignal,
    zones: Sequence[str],
    slots: Sequence[int],
    hours: int = DAY,
) -> CarbonScores:
    """Score forecasts of the ``hours`` slots after each of ``slots``, over all zones.

    Args:
        forecaster: whom.
        signal: what came true.
        zones: of which zones.
        slots: when forecasts are made.
        hours: how far ahead; the present slot, which is known, is not scored.
    """
    errors, shares, ranks = [], [], []
    for zone in zones:
        for slot in slots:
            truth = CarbonForesight(signal, HOUR_S * slot).slots(zone, slot + 1, hours)
            past = carbon_past(forecaster, signal, HOUR_S * slot)
            error = np.abs((made := forecaster.forecast(past, zone, hours + 1)[1:]) - truth)
            errors.append(error.mean())
            shares += list(error[truth > 0.0] / truth[truth > 0.0])
            if np.ptp(truth) > 0.0:
                ranks.append(rank_correlation(made, truth))
    return CarbonScores(
        float(np.mean(errors)),
        float(np.mean(shares)) if shares else None,
        float(np.mean(ranks)) if ranks else None,
        len(errors),
    )


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's correlation, equal values sharing their mean rank; 0 if one is constant."""
    x, y = (_ranks(v) for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size else 0.0


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse.reshape(-1)])
