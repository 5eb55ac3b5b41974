"""The server's side of a run on real machines: runs inside Flower's ServerApp."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from flwr.serverapp import Grid
from rich.console import Console

from fedhive import config
from fedhive.deploy.bundle import RUN_KEY
from fedhive.deploy.grid import HiveGrid
from fedhive.deploy.hive import SUBMISSIONS
from fedhive.deploy.notes import Notes
from fedhive.deploy.trace import write_trace
from fedhive.deploy.wire import Courier, said
from fedhive.errors import UserError
from fedhive.results import rundir
from fedhive.results.display import Display
from fedhive.results.rundir import RunDir
from fedhive.server import Session, Watcher, default_run_dir
from fedhive.world.roster import Roster, roster_of


def serve(grid: Grid, text: str, submission: str) -> None:
    """Play a run and report to whoever submitted it.

    Args:
        grid: the SuperLink's.
        text: the composed configuration.
        submission: its name, 32 hexadecimal digits.
    """
    try:
        _serve(grid, text, submission)
    except UserError as error:
        _say(said("mistake", text=str(error)))
        raise
    except KeyboardInterrupt:
        _say(said("stopped"))
        raise


def _serve(grid: Grid, text: str, submission: str) -> None:
    cfg = config.loads(text)
    order = _order(submission)
    here = order.get("run_dir") is not None
    directory = Path(str(order["run_dir"])) if here else _own_directory(cfg, submission)
    goes_on = bool(order.get("resume")) or (not here and RunDir.holds_run(directory))
    run_dir = RunDir(directory) if here or goes_on else RunDir.create(directory)
    courier = Courier(run_dir.path, _say)
    watchers: list[Watcher] = [_Rounds(), *([] if here else [courier])]
    watchers += [w for w in _built(cfg) if w is not None]
    engine = cfg["engine"]
    notes = Notes(lambda row: _say(said("note", row=row)))
    hive = HiveGrid(
        grid, int(cfg["nodes"]), float(engine["poll_s"]), float(engine["patience_s"]), notes,
        roster=_roster(cfg),
    )  # fmt: skip
    torch.set_num_threads(1)  # as in a simulation: more threads would change sums
    _say(said("began", run_dir=str(run_dir.path) if here else None))
    with _recorded(hive, run_dir), Display(console=Console(quiet=True)) as display:
        session = Session(hive, text, run_dir, watchers)
        if goes_on:
            session.resume()
            notes.write("resumed", hive.clock.now, "", "the server began anew")
        least = engine.get("least")
        hive.meet(int(cfg["nodes"] if least is None else least), float(engine["wait_s"]))
        session.run(display)
    if not here:
        courier.deliver()
    _say(said("ended"))


@contextlib.contextmanager
def _recorded(hive: HiveGrid, run_dir: RunDir) -> Iterator[None]:
    """Write down who was there, whatever ends the run."""
    before = run_dir.notes()
    try:
        yield
    finally:
        run_dir.write_json(rundir.MACHINES, hive.rows())
        presence = hive.presence()
        run_dir.write_json(rundir.AVAILABILITY, presence, compact=True)
        write_trace(run_dir.path / "availability.csv", presence, hive.clock.now)
        run_dir.write_json(rundir.HIVE, [*before, *hive.notes.rows], compact=True)


class _Rounds:
    """Tells of each round."""

    def start(self, config: Any, run_dir: Path, group: str | None) -> None:
        """Nothing."""

    def round(self, record: Any) -> None:
        """One line."""
        _say(said("round", record=dict(record)))

    def finish(self, summary: Any) -> None:
        """Nothing."""


def _built(cfg: dict[str, Any]) -> list[Any]:
    return [
        config.build(cfg.get("logger"), "logger"),
        *config.build(cfg.get("callbacks") or [], "callbacks"),
    ]


def _roster(cfg: dict[str, Any]) -> Roster | None:
    """What the operator has sent along about the machines; None if nothing."""
    rows = cfg["engine"].get("machines")
    return None if rows is None else roster_of(cfg, rows)


def _order(submission: str) -> dict[str, Any]:
    """What the operator left for this run on this very machine; empty if they are elsewhere."""
    if not re.fullmatch(r"[0-9a-f]{32}", submission):
        raise UserError(f"{RUN_KEY} names no submission; start runs with `fedhive run`")
    folder = os.environ.get(SUBMISSIONS)
    path = Path(folder) / f"{submission}.json" if folder else None
    if path is None or not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return dict(found)


def _own_directory(cfg: dict[str, Any], submission: str) -> Path:
    """Where a server keeps a run of somebody elsewhere: by its name, to find it again."""
    return default_run_dir(cfg).parents[1] / "submitted" / submission


def _say(line: str) -> None:
    print(line, flush=True)
