"""A volunteer's configuration: one TOML file, written once, changed by its owner."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fedhive.config import nearest
from fedhive.errors import UserError

DEFAULT_HOME = Path("~/.fedhive/join")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True)
class Limits:
    """What the hive's work may take of this machine.

    Args:
        threads: processor threads that a task may use.
        cpu_share: share of the time that a task may run, above 0, at most 1.
        memory_gb: end a task that needs more; 0 for no limit.
        disk_gb: of temporary files, and of any one file.
        nice: how readily a task makes way for others, 0 to 19.
        upload_mbps: megabits per second sent to the hive; 0 for no limit.
        download_mbps: megabits per second received; 0 for no limit.
        monthly_gb: of network traffic in a calendar month; 0 for no limit.
    """

    threads: int = 1
    cpu_share: float = 1.0
    memory_gb: float = 4.0
    disk_gb: float = 2.0
    nice: int = 10
    upload_mbps: float = 0.0
    download_mbps: float = 0.0
    monthly_gb: float = 0.0


@dataclass(frozen=True)
class When:
    """When this machine works for the hive.

    Args:
        idle_only: only while nobody uses keyboard and mouse, and nothing else needs the processor.
        idle_minutes: for how long nobody must have.
        busy_percent: other programs' share of the processor above which the machine is not idle.
        mains_only: never on battery.
        hours: for each day of the week, e.g. ``mon = "20:00-08:00"``; a day that is not named is
            free all day if no day is named, else never.
        pause_for: names of programs, e.g. ``["zoom", "steam"]``, beside which it does not work.
    """

    idle_only: bool = False
    idle_minutes: float = 5.0
    busy_percent: float = 25.0
    mains_only: bool = True
    hours: dict[str, str] = field(default_factory=dict)
    pause_for: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """All that a volunteer decides.

    Args:
        hive: its name.
        address: ``host:port`` of its SuperLink.
        name: what this machine is called; the operator registers it under this name.
        sandbox: run the hive's code in a sandbox, or not at all.
        share: what is told to the hive about this machine: ``nothing``, or its ``facts``.
        data: folders that the hive's code may read.
        gpu: let it use graphics processors.
        partition: which part of the hive's data this machine holds; -1 for what the hive says.
        poll_s: how often to look for work, seconds.
        limits: what it may take.
        when: when it may run.
    """

    hive: str
    address: str
    name: str
    sandbox: bool = True
    share: str = "facts"
    data: tuple[str, ...] = ()
    gpu: bool = False
    partition: int = -1
    poll_s: float = 1.0
    limits: Limits = field(default_factory=Limits)
    when: When = field(default_factory=When)


RANGES: Mapping[str, tuple[float, float]] = {
    "threads": (1, 1024), "cpu_share": (0.01, 1.0), "memory_gb": (0, 1e6), "disk_gb": (0.001, 1e6),
    "nice": (0, 19), "upload_mbps": (0, 1e6), "download_mbps": (0, 1e6), "monthly_gb": (0, 1e6),
    "idle_minutes": (0, 1440), "busy_percent": (0, 100), "partition": (-1, 10_000_000),
    "poll_s": (0.05, 60.0),
}  # fmt: skip


def load(path: Path) -> Settings:
    """The configuration in a file.

    Raises:
        UserError: naming file, key and what to write instead.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"there is no {path}; join a hive with `fedhive join INVITATION`"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from error
    limits = Limits(**_checked(path, "limits.", Limits, found.pop("limits", {})))
    when = When(**_checked(path, "when.", When, found.pop("when", {})))
    rest = _checked(path, "", Settings, found, {"limits", "when"})
    try:
        settings = Settings(**rest, limits=limits, when=when)
    except TypeError as error:
        raise UserError(f"{path}: {str(error).split(') ')[-1]}") from error
    if settings.share not in ("facts", "nothing"):
        raise UserError(f'{path}: share must be "facts" or "nothing", got "{settings.share}"')
    for day, span in when.hours.items():
        if day not in DAYS:
            raise UserError(f"{path}: when.hours.{day}: days are called {', '.join(DAYS)}")
        try:
            parse_span(span)
        except ValueError as error:
            raise UserError(f'{path}: when.hours.{day}: "{span}" {error}') from error
    return settings


def _checked(
    path: Path, prefix: str, kind: type, found: Any, other: set[str] | None = None
) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise UserError(f"{path}: {prefix.rstrip('.')} must be a table")
    known = {f.name: str(f.type) for f in fields(kind) if f.name not in (other or set())}
    values: dict[str, Any] = {}
    for key, value in found.items():
        if key not in known:
            raise UserError(f"{path}: no setting {prefix}{key}{nearest(key, known)}")
        values[key] = _typed(path, prefix + key, known[key], value)
        if key in RANGES and not RANGES[key][0] <= values[key] <= RANGES[key][1]:
            low, high = RANGES[key]
            raise UserError(f"{path}: {prefix}{key} must be between {low:g} and {high:g}")
    return values


def _typed(path: Path, key: str, kind: str, value: Any) -> Any:
    if kind.startswith("tuple"):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UserError(f'{path}: {key} must be a list of words, e.g. ["a", "b"]')
        return tuple(value)
    if kind.startswith("dict"):
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise UserError(f'{path}: {key} must name hours by day, e.g. mon = "20:00-08:00"')
        return dict(value)
    wanted: Any = {"int": int, "float": (int, float), "bool": bool, "str": str}[kind]
    if not isinstance(value, wanted) or (kind != "bool" and isinstance(value, bool)):
        raise UserError(f"{path}: {key} must be {kind}, got {value!r}")
    return float(value) if kind == "float" else value


def parse_span(text: str) -> tuple[int, int]:
    """``"20:00-08:00"`` as minutes of the day (from, to); all day is ``"00:00-24:00"``.

    Raises:
        ValueError: for anything else.
    """
    parts = text.split("-")
    try:
        ends = [int(h) * 60 + int(m) for h, m in (part.strip().split(":") for part in parts)]
    except ValueError:
        ends = []
    if len(ends) != 2 or not all(0 <= end <= 1440 for end in ends) or ends[0] == ends[1]:
        raise ValueError('is no span of hours, e.g. "20:00-08:00"')
    return ends[0], ends[1]


TEXT = """\
# What this machine does for the hive {hive}. Change it as you like, then `fedhive join restart`.
hive = {hive}
address = {address}
name = {name}
sandbox = {sandbox}  # false: the hive's code runs with all your rights. Do not.
share = {share}  # "facts": tell the hive how fast this machine is and when it is on; or "nothing"
data = {data}  # folders that the hive's code may read
gpu = {gpu}
partition = {partition}  # which part of the hive's data is here; -1: as the hive says
poll_s = {poll_s}

[limits]
threads = {threads}
cpu_share = {cpu_share}  # 0.5: half of the time
memory_gb = {memory_gb}  # a task that needs more is ended
disk_gb = {disk_gb}
nice = {nice}  # 19 makes way for everything else
upload_mbps = {upload_mbps}  # 0: no limit
download_mbps = {download_mbps}
monthly_gb = {monthly_gb}  # of traffic in a calendar month; 0: no limit

[when]
idle_only = {idle_only}
idle_minutes = {idle_minutes}
busy_percent = {busy_percent}
mains_only = {mains_only}
pause_for = {pause_for}  # programs beside which it does not work, e.g. ["zoom"]

[when.hours]  # e.g. mon = "20:00-08:00"; nothing here: any time
{hours}"""


def dumps(settings: Settings) -> str:
    """The configuration as a commented file."""
    flat = asdict(settings)
    hours = "".join(
        f"{day} = {json.dumps(span)}\n" for day, span in flat["when"].pop("hours").items()
    )
    flat = {**flat, **flat.pop("limits"), **flat.pop("when")}
    return TEXT.format(**{k: _toml(v) for k, v in flat.items()}, hours=hours)


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return json.dumps(list(value))
    return json.dumps(value)


def save(path: Path, settings: Settings) -> None:
    """Write the configuration, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(dumps(settings), encoding="utf-8")
    os.chmod(temporary, 0o600)
    os.replace(temporary, path)
