"""All that is known about one run, gathered for the pages: also about runs that broke off."""

from __future__ import annotations

import functools
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhive.errors import UserError
from fedhive.results.fields import SUMMARY_KEYS
from fedhive.results.rundir import RunDir
from fedhive.results.units import known

Record = dict[str, Any]
SUMMED = (
    "samples",
    "bytes_up",
    "bytes_down",
    "energy_useful_j",
    "energy_wasted_j",
    "carbon_useful_g",
    "carbon_wasted_g",
)


@dataclass(frozen=True)
class Facts:
    """One run as read from its directory.

    Attributes:
        path: The run directory.
        finished: Whether it played all its rounds, or stopped at its target or time as it should.
        summary: Every key of the contract; what a broken run did not write is worked out from
            its rounds, and null where that is impossible.
        rounds: Records of ``rounds.jsonl``.
        events: Records of ``events.jsonl.gz``.
        machines: Profiles, one a node.
        split: ``classes`` and ``counts``, or empty.
        accounts: Seconds of each node.
        availability: When each node was on, by its number as text; empty if unknown.
        forecast: How good forecasts were; empty without a forecaster.
        carbon: Intensities by zone and hour; empty if they do not change.
        protection: What was hidden from whom, and its cost; empty without protection.
        config: The composed configuration, or empty.
        overrides: What was given on the command line, or ``None`` if unknown.
    """

    path: Path
    finished: bool
    summary: Record
    rounds: list[Record]
    events: list[Record]
    machines: list[Record]
    split: Record
    accounts: list[Record]
    availability: dict[str, list[tuple[float, float]]]
    forecast: Record
    carbon: Record
    protection: Record
    config: Record
    overrides: list[str] | None

    @property
    def name(self) -> str:
        """The experiment's name, or the directory's where it has none."""
        return str(self.summary.get("experiment") or self.path.resolve().name)

    @functools.cached_property
    def _names(self) -> dict[Any, Any]:
        return {machine.get("node"): machine.get("name") for machine in self.machines}

    def machine_name(self, node: Any) -> str:
        """What people call a node."""
        return str(self._names.get(node) or f"node {node}")

    def tasks(self) -> list[Record]:
        """The events that are training tasks (older events do not say what they are)."""
        return [event for event in self.events if event.get("kind", "train") == "train"]

    def cumulative(self, *keys: str) -> list[float | None]:
        """Running sum of keys over the rounds; ``None`` before the first known value."""
        total: float | None = None
        sums = []
        for record in self.rounds:
            for key in keys:
                value = known(record.get(key))
                if value is not None:
                    total = (total or 0.0) + value
            sums.append(total)
        return sums


def load(path: str | os.PathLike[str], events: bool = True) -> Facts:
    """Read a run directory.

    Args:
        path: The directory.
        events: Read ``events.jsonl.gz`` too, by far the largest file.

    Raises:
        UserError: If there is no run in it, or one of its files is damaged.
    """
    run = RunDir(path)
    if not RunDir.holds_run(path):
        raise UserError(f"no run in {path}: expected a directory with rounds.jsonl in it")
    rounds, summary, config = run.rounds(), run.summary(), run.config()
    machines = run.machines()
    return Facts(
        path=run.path,
        finished=_finished(summary, config),
        summary=_completed(summary, rounds, config, machines),
        rounds=rounds,
        events=run.events() if events else [],
        machines=machines,
        split=_checked_split(run),
        accounts=run.accounts(),
        availability=run.availability() if events else {},
        forecast=run.forecast(),
        carbon=run.carbon(),
        protection=run.protection(),
        config=config,
        overrides=_overrides(run.path),
    )


def _finished(summary: Record, config: Record) -> bool:
    played, wanted = known(summary.get("rounds")), known(config.get("rounds"))
    if not summary or played is None or wanted is None:
        return bool(summary)
    stopped = config.get("stop_at_target") and summary.get("time_to_target_s") is not None
    limit, reached = known(config.get("time_limit_s")), known(summary.get("time_virtual_s"))
    out_of_time = limit is not None and reached is not None and reached >= limit
    return played >= wanted or bool(stopped) or out_of_time


def _completed(
    summary: Record, rounds: list[Record], config: Record, machines: list[Record]
) -> Record:
    """The summary with what an unfinished run still tells about itself."""
    if summary:
        return {**dict.fromkeys(SUMMARY_KEYS), **summary}
    found: Record = dict.fromkeys(SUMMARY_KEYS)
    for key in ("experiment", "seed"):
        if isinstance(config.get(key), str | int):
            found[key] = config[key]
    found["nodes"] = len(machines) or None
    found["rounds"] = max((record["round"] for record in rounds), default=0)
    accuracy = [x for record in rounds if (x := known(record.get("accuracy"))) is not None]
    losses = [x for record in rounds if (x := known(record.get("loss"))) is not None]
    if accuracy:
        found["accuracy"], found["accuracy_best"] = accuracy[-1], max(accuracy)
    if losses:
        found["loss"] = losses[-1]
    if rounds:
        found["time_virtual_s"] = known(rounds[-1].get("time_s"))
    for key in SUMMED:
        values = [x for record in rounds if (x := known(record.get(key))) is not None]
        found[key] = sum(values) if values else None
    return found


def _checked_split(run: RunDir) -> Record:
    split = run.split()
    if not split:
        return {}
    classes, counts = split.get("classes"), split.get("counts")
    good = (
        isinstance(classes, list)
        and isinstance(counts, list)
        and all(isinstance(row, list) and len(row) == len(classes) for row in counts)
    )
    if not good:
        raise UserError(
            f"{run.path / 'split.json'}: expected 'classes' and 'counts' [clients x classes]; "
            "repair or remove the file"
        )
    return split


def _overrides(path: Path) -> list[str] | None:
    """The command line that Hydra recorded, if this run was started through it."""
    import yaml

    recorded = path / ".hydra" / "overrides.yaml"
    if not recorded.is_file():
        return None
    try:
        found = yaml.safe_load(recorded.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{recorded}: not YAML; repair or remove the file") from error
    return [str(item) for item in found] if isinstance(found, list) else None


def participation(facts: Facts) -> list[Record]:
    """Per machine, how often it was asked and what became of it.

    Returns:
        Rows with ``node``, ``name``, ``asked``, one count per status, ``energy_j``, ``carbon_g``,
        the machine most often accepted first. Machines never asked are rows of zeros.
    """
    nodes = [machine.get("node") for machine in facts.machines]
    rows: dict[Any, Record] = {
        node: {"node": node, "asked": 0, "energy_j": 0.0, "carbon_g": 0.0} for node in nodes
    }
    for event in facts.tasks():
        node = event.get("node")
        row = rows.setdefault(node, {"node": node, "asked": 0, "energy_j": 0.0, "carbon_g": 0.0})
        row["asked"] += 1
        status = str(event.get("status"))
        row[status] = row.get(status, 0) + 1
        for key in ("energy_j", "carbon_g"):
            row[key] += known(event.get(key)) or 0.0
    for node, row in rows.items():
        row["name"] = facts.machine_name(node)
    return sorted(rows.values(), key=lambda row: (-row.get("accepted", 0), row["asked"]))


def gini(counts: list[float]) -> float | None:
    """The Gini coefficient of non-negative counts: 0 all equal, near 1 all to one.

    With sorted x_1..x_n: sum_i (2 i - n - 1) x_i / (n sum x). ``None`` if nobody has any.
    """
    total, n = sum(counts), len(counts)
    if not total:
        return None
    ranked = enumerate(sorted(counts), start=1)
    return sum((2 * i - n - 1) * x for i, x in ranked) / (n * total)


def find_runs(paths: list[Path]) -> list[Path]:
    """The run directories among or below the given ones, in order, each once.

    Raises:
        UserError: If a path does not exist or there is no run in it.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"{path} is not a directory: give run directories or a sweep folder")
        if RunDir.holds_run(path):
            found[path] = None
            continue
        below = [p for p in sorted(_walk(path), key=_natural) if RunDir.holds_run(p)]
        if not below:
            raise UserError(f"no run in or below {path}: give run directories or a sweep folder")
        found.update(dict.fromkeys(below))
    return list(found)


def _walk(path: Path) -> list[Path]:
    folders = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return [q for p in folders for q in ([p] if RunDir.holds_run(p) else _walk(p))]


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Sort key that puts sweep job 10 after job 9."""
    parts = itertools.groupby(str(path), str.isdigit)
    return [(0, int("".join(run))) if digits else (1, "".join(run)) for digits, run in parts]
