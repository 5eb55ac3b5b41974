"""Carbon intensity hour by hour, recorded or generated.

Means over any span of time come from sums kept up to every hour. Intensities are rounded to
2^-20 g so that these sums are exact in binary: a mean depends on no rounding along the way.

Two accounts of the same electricity are in use. *Direct* counts what leaves the chimneys,
*life cycle* adds building plants and getting fuel; for Germany they differ by a tenth, for
nuclear and solar power by everything. A signal has one of them and says which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from fedhive import config
from fedhive.errors import UserError

Floats = npt.NDArray[np.float64]
Account = Literal["life_cycle", "direct"]
After = Literal["loop", "fail"]

HOUR_S = 3600.0
GRAINS = 2.0**20
"""Intensities are multiples of 1/`GRAINS` g: with 2^12 g and 2^20 hours a sum has 52 bits."""
MOST_G_PER_KWH = 3000.0
MOST_HOURS = 1 << 20


class Hourly:
    """One intensity an hour for each of several zones; immutable.

    The run begins (time 0) ``lead_h`` hours after the table does, so that the rows before are a
    past that forecasts may learn from.

    Args:
        g_per_kwh: intensities in gCO2e/kWh, float [hours, zones].
        zones: names of the columns.
        account: what the intensities count: ``"life_cycle"`` or ``"direct"``.
        lead_h: rows before the run's begin.
        beyond: what holds outside of the table: ``"loop"`` repeats it, ``"fail"`` refuses.
        source: file, and line, that names the zones, for messages.

    Raises:
        UserError: for an option out of range.
        ValueError: for a table that is empty, not finite, negative or above `MOST_G_PER_KWH`.
    """

    def __init__(
        self,
        g_per_kwh: npt.ArrayLike,
        zones: Sequence[str],
        *,
        account: Account = "life_cycle",
        lead_h: int = 0,
        beyond: After = "loop",
        source: str | None = None,
    ) -> None:
        check_account(account)
        if beyond not in get_args(After):
            raise UserError(f"carbon.beyond must be loop or fail, got {beyond!r}")
        table = np.asarray(g_per_kwh, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != len(zones) or not table.size:
            raise ValueError(f"expected [hours, {len(zones)} zones], got {list(table.shape)}")
        if not (np.isfinite(table).all() and 0.0 <= table.min() <= table.max() <= MOST_G_PER_KWH):
            raise ValueError(f"intensities must be 0 to {MOST_G_PER_KWH:g} gCO2e/kWh")
        if len(table) > MOST_HOURS:
            raise ValueError(f"at most {MOST_HOURS} hours, got {len(table)}")
        if not 0 <= lead_h < len(table):
            raise ValueError(f"lead_h must be 0 to {len(table) - 1}, got {lead_h}")
        self.zones, self.account, self.beyond = tuple(zones), account, beyond
        self.source = source
        self.hours, self.lead_h = len(table), int(lead_h)
        self._columns = {zone: j for j, zone in enumerate(zones)}
        self._table: Floats = np.ascontiguousarray(np.rint(table * GRAINS).T / GRAINS)
        sums = np.zeros((len(zones), self.hours + 1))
        np.cumsum(self._table, axis=1, out=sums[:, 1:])
        self._sums = sums

    @property
    def first_s(self) -> float:
        """When the table begins on the run's clock, at most 0."""
        return -HOUR_S * self.lead_h

    @property
    def last_s(self) -> float:
        """When the table ends on the run's clock."""
        return self.first_s + HOUR_S * self.hours

    def mean_g_per_kwh(self, zone: str, t0_s: float, t1_s: float) -> float:
        """Mean intensity of ``zone`` over [t0_s, t1_s]; at an instant, that of its hour.

        Raises:
            UserError: for a zone that the table does not have; outside of it with ``"fail"``.
            ValueError: if ``t1_s`` is before ``t0_s`` or a time is not finite.
        """
        if not (math.isfinite(t0_s) and t0_s <= t1_s < math.inf):
            raise ValueError(f"no span of time: [{t0_s}, {t1_s}]")
        row = self._row(zone)
        begin, end = (t / HOUR_S + self.lead_h for t in (t0_s, t1_s))
        slot = math.floor(begin)
        if end <= slot + 1:  # within one hour
            self._check(begin, end)
            return float(self._table[row, slot % self.hours])
        self._check(begin, end)
        whole = self._until(row, math.floor(end)) - self._until(row, slot + 1)
        parts = (slot + 1 - begin) * float(self._table[row, slot % self.hours])
        if end > math.floor(end):
            rest = end - math.floor(end)
            parts += rest * float(self._table[row, math.floor(end) % self.hours])
        return (whole + parts) / (end - begin)

    def slots(self, zone: str, first: int, count: int) -> Floats:
        """Intensities of the hours ``first``, ``first`` + 1, ... counted from time 0, [count].

        Raises:
            UserError: as `mean_g_per_kwh`.
        """
        row = self._row(zone)
        at = self.lead_h + first
        if count:
            self._check(at, at + count)
        return np.take(self._table[row], np.arange(at, at + count), mode="wrap")

    def _row(self, zone: str) -> int:
        if zone not in self._columns:
            raise UserError(
                f"{self.source or 'carbon'}: no intensity for zone {zone!r}"
                f"{config.nearest(zone, self.zones)}; known zones: {', '.join(sorted(self.zones))}"
            )
        return self._columns[zone]

    def _until(self, row: int, hour: int) -> float:
        """Sum of the intensities of all hours before ``hour``, exact."""
        cycles, rest = divmod(hour, self.hours)
        return cycles * float(self._sums[row, -1]) + float(self._sums[row, rest])

    def _check(self, begin: float, end: float) -> None:
        if self.beyond == "fail" and not 0.0 <= begin <= end <= self.hours:
            raise UserError(
                f"carbon: the series covers {self.first_s / HOUR_S:g} h to "
                f"{self.last_s / HOUR_S:g} h of the run, which needs "
                f"{begin - self.lead_h:g} h to {end - self.lead_h:g} h; set carbon.beyond=loop, "
                "give a longer series, or run fewer rounds"
            )


def check_account(account: str) -> None:
    """Refuse anything but the two ways of counting.

    Raises:
        UserError: saying which there are.
    """
    if account not in get_args(Account):
        raise UserError(
            f"carbon.account must be life_cycle or direct, got {account!r}: say which of the two "
            "the numbers are, they must not be compared with each other"
        )


def stamp(text: str, option: str) -> datetime:
    """The whole hour that a user named, UTC.

    Raises:
        UserError: if it is none.
    """
    try:
        read = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UserError(
            f"{option} must be a date or hour in UTC such as 2023-06-01 or 2023-06-01T12:00, "
            f"got {text!r}"
        ) from None
    read = read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    if read.minute or read.second or read.microsecond:
        raise UserError(f"{option} must be a whole hour in UTC, got {text!r}")
    return read
