"""Reading recorded carbon intensity: what Electricity Maps exports, or one column a zone."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from fedhive.errors import UserError
from fedhive.world.carbon_series import (
    HOUR_S,
    MOST_G_PER_KWH,
    Account,
    After,
    Hourly,
    check_account,
    stamp,
)
from fedhive.world.tracefiles import columns, lines, number

NAMES = {"direct": ("direct",), "life_cycle": ("life cycle", "lca")}
"""How Electricity Maps has called its two columns over the years."""
UTC_HEADING = re.compile(r"utc(?!\s*[+\-\u2212]?\s*\d)")
"""UTC, but not UTC+1."""


@dataclass
class _Zone:
    """What has been read of one zone: hours since 1970 and intensities, without gaps."""

    first: int
    values: list[float] = field(default_factory=list)

    @property
    def next(self) -> int:
        return self.first + len(self.values)


def electricity_maps(
    path: str,
    *,
    account: Account,
    start: str | None = None,
    beyond: After = "loop",
) -> Hourly:
    """Recorded series: a CSV file (or ``.csv.gz``), or a folder of them in order of their names.

    Two layouts are understood. *As exported*: a row per hour and zone, with the columns
    ``Datetime (UTC)``, ``Zone id`` and ``Carbon intensity gCO2eq/kWh (direct)`` and ``(Life
    cycle)`` or ``(LCA)``, of which ``account`` picks one. *Wide*: the time and one column a zone;
    which account it is, no column says, so ``account`` is the user's word. Hours are in order, and
    none is missing or twice. Of several zones the hours are used that all of them have.

    Args:
        path: file or folder.
        account: ``"life_cycle"`` or ``"direct"``.
        start: hour of the record (UTC) at which the run begins; null for its first.
        beyond: what holds outside of the record: ``"loop"`` repeats it, ``"fail"`` refuses.

    Raises:
        UserError: for what cannot be read or makes no sense, with file and line.
    """
    check_account(account)
    zones: dict[str, _Zone] = {}
    files = _files(Path(path).expanduser())
    for file in files:
        for where, zone, hour, value in _rows(file, account):
            _append(zones, where, zone, hour, value)
    if not zones:
        raise UserError(f"carbon: {path} holds no hour")
    first = max(zone.first for zone in zones.values())
    last = min(zone.next for zone in zones.values())
    if first >= last:
        raise UserError(f"carbon: the zones of {path} have no hour in common")
    table = np.array([z.values[first - z.first : last - z.first] for z in zones.values()]).T
    lead = 0 if start is None else _hour(stamp(str(start), "carbon.start")) - first
    if not 0 <= lead < last - first:
        raise UserError(
            f"carbon.start={start} is not in {path}, which has {_name(first)} to {_name(last - 1)}"
        )
    wide = len(files) == 1 and not _is_export(_header(files[0]))
    source = f"{files[0]}:1" if wide else path
    return Hourly(table, tuple(zones), account=account, lead_h=lead, beyond=beyond, source=source)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(f for f in path.iterdir() if f.name.endswith((".csv", ".csv.gz")))
        if not found:
            raise UserError(f"there is no .csv or .csv.gz file in {path}; check carbon.path")
        return found
    if not path.is_file():
        raise UserError(f"there is no file {path}; check carbon.path")
    return [path]


def _append(zones: dict[str, _Zone], where: str, zone: str, hour: int, value: float) -> None:
    known = zones.setdefault(zone, _Zone(hour))
    if hour < known.next:
        told = "twice" if known.first <= hour else "out of order"
        raise UserError(f"{where}: hour {_name(hour)} of {zone} is {told}")
    if hour > known.next:
        raise UserError(
            f"{where}: {zone} goes on at {_name(hour)}, but {_name(known.next)} is missing; "
            "fill the gap or cut the file"
        )
    known.values.append(value)


def _rows(file: Path, account: Account) -> Iterator[tuple[str, str, int, float]]:
    """Where, zone, hour since 1970 and intensity of each cell."""
    rows = columns(file, None)
    header = _header(file)
    time, utc = _time_column(file, header)
    if _is_export(header):
        zone_at = [name.casefold() for name in header].index("zone id")
        value_at = _account_column(file, header, account)
        for where, *cells in rows:
            hour = _read_hour(where, cells[time], utc)
            yield where, cells[zone_at], hour, _read_value(where, cells[value_at])
        return
    at = [(i, name) for i, name in enumerate(header) if i != time]
    if len({name for _, name in at}) != len(at) or not all(name for _, name in at):
        raise UserError(f"{file}:1: every column needs a zone's name of its own")
    for where, *cells in rows:
        hour = _read_hour(where, cells[time], utc)
        for i, name in at:
            yield where, name, hour, _read_value(f"{where}: {name}", cells[i])


def _header(file: Path) -> list[str]:
    return [name.strip() for name in next(csv.reader(lines(file)), [])]


def _is_export(header: Sequence[str]) -> bool:
    """Whether rows name their zone, as in exports, and columns do not."""
    return "zone id" in [name.casefold() for name in header]


def _time_column(file: Path, header: Sequence[str]) -> tuple[int, bool]:
    """Where the time stands, and whether its heading says UTC."""
    for i, name in enumerate(header):
        if name.casefold().startswith(("datetime", "timestamp")):
            return i, bool(UTC_HEADING.search(name.casefold()))
    raise UserError(
        f"{file}:1: no column of times; expected 'Datetime (UTC)' or datetime_utc, "
        f"found {', '.join(header) or 'nothing'}"
    )


def _account_column(file: Path, header: Sequence[str], account: Account) -> int:
    for i, name in enumerate(header):
        lowered = name.casefold()
        if lowered.startswith("carbon intensity") and any(n in lowered for n in NAMES[account]):
            return i
    raise UserError(
        f"{file}:1: no column 'Carbon intensity gCO2eq/kWh ({NAMES[account][0]})', which "
        f"carbon.account={account} asks for; it has {', '.join(header)}"
    )


def _read_hour(where: str, text: str, utc: bool) -> int:
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"{where}: {text!r} is not a time such as 2023-06-01 12:00:00") from None
    if read.tzinfo is None and not utc:
        raise UserError(
            f"{where}: {text!r} may be any zone's time; write UTC into the column's heading "
            "(datetime_utc) or a Z behind the time"
        )
    if read.utcoffset():  # neither unknown nor zero
        raise UserError(f"{where}: {text!r} is not in UTC; convert the times to UTC")
    if read.minute or read.second or read.microsecond:
        raise UserError(f"{where}: {text!r} is not a whole hour; hourly data are needed")
    return _hour(read)


def _read_value(where: str, text: str) -> float:
    if not text:
        raise UserError(f"{where}: no intensity; fill the gap or cut the file")
    value = number(where, text)
    if not 0.0 <= value <= MOST_G_PER_KWH:
        raise UserError(f"{where}: {text} is not 0 to {MOST_G_PER_KWH:g} gCO2eq/kWh")
    return value


def _hour(time: datetime) -> int:
    return int(time.replace(tzinfo=UTC).timestamp() // HOUR_S)


def _name(hour: int) -> str:
    return f"{datetime.fromtimestamp(0, UTC) + timedelta(hours=hour):%Y-%m-%d %H:%M}"
