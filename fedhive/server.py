"""The server's side of a run: builds the method, plays the rounds, keeps the record."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from rich.console import Console

from fedhive import config
from fedhive.errors import UserError
from fedhive.flower import flatten_record, from_flat
from fedhive.leakage.observer import Observer, listen
from fedhive.learning import weights
from fedhive.learning.workbench import Workbench, sha256, workbench
from fedhive.method import build_strategy, check_method
from fedhive.provenance import git_commit, versions
from fedhive.results import carbon_record
from fedhive.results import checkpoint as checkpoints
from fedhive.results import reference as references
from fedhive.results.checkpoint import Checkpoint
from fedhive.results.display import Display
from fedhive.results.fields import PROTECTION_KEYS
from fedhive.results.recorder import round_record, summarise
from fedhive.results.rundir import RunDir
from fedhive.rounds import play_round, restore_strategy, strategy_state
from fedhive.world.grid import World
from fedhive.world.metered import MeteredGrid
from fedhive.world.scoring import Scorer

SCHEMA = 1
LABEL_BYTES = 8


@dataclass
class Progress:
    """What has happened so far in a run.

    Args:
        rounds: lines of ``rounds.jsonl``.
        participation: accepted replies by node, as events name it.
        leftovers: events booked after the last round.
    """

    rounds: list[dict[str, Any]]
    participation: dict[int, int]
    leftovers: list[dict[str, Any]]

    def count(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Note who took part."""
        for event in events:
            if event["status"] == "accepted":
                node = event["node"]
                self.participation[node] = self.participation.get(node, 0) + 1


class Watcher(Protocol):
    """Something that is told how a run goes: a logger (group ``logger``) or a callback."""

    def start(self, config: Mapping[str, Any], run_dir: Path, group: str | None) -> None:
        """The run begins; ``group`` is the sweep it belongs to."""
        ...

    def round(self, record: Mapping[str, Any]) -> None:
        """A round has ended; ``record`` is its line of ``rounds.jsonl``."""
        ...

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run has ended, or was interrupted."""
        ...


class Guarding(Protocol):
    """A protection, as far as the record of a run is concerned (group ``protection``)."""

    def epsilon(self) -> float | None:
        """Of the differential privacy so far; None if none is promised."""
        ...

    def facts(self) -> dict[str, Any]:
        """The content of ``protection.json``."""
        ...

    def summary(self) -> dict[str, Any]:
        """Further keys of ``summary.json``."""
        ...


class Session:
    """One run on one grid.

    Args:
        grid: a world, or any Flower grid in a `MeteredGrid`.
        text: the composed configuration as JSON text.
        run_dir: where results go.
        watchers: loggers and callbacks: each has ``start``, ``round`` and ``finish``.
        group: the sweep it belongs to, for the watchers.
    """

    def __init__(
        self,
        grid: World | MeteredGrid,
        text: str,
        run_dir: RunDir,
        watchers: Sequence[Watcher] = (),
        group: str | None = None,
    ) -> None:
        self.grid, self.text, self.run_dir = grid, text, run_dir
        self.watchers, self.group = watchers, group
        self.cfg = config.loads(text)
        self.bench: Workbench = workbench(text)
        self.strategy: Strategy = build_strategy(self.cfg)
        check_method(self.bench, self.strategy)
        self.protection: Guarding | None = getattr(self.strategy, "protection", None)
        adversary = config.build(self.cfg.get("attack"), "attack")
        if hasattr(adversary, "rewrite") and not isinstance(self.grid, World):
            raise UserError(
                f"attack: {type(adversary).__name__} sees all replies, which only a simulated "
                "world can show it; use attack=rendezvous or a lone attacker on real machines"
            )
        prepare = getattr(getattr(self.strategy, "placement", None), "prepare", None)
        if prepare is not None:
            x = self.bench.data.x_train
            prepare(len(x), int(x[0].nbytes) + LABEL_BYTES)
        self.screen = config.build(self.cfg.get("containment"), "containment")
        path = self.cfg.get("reference")
        self.reference = None if path is None else references.load(path)
        self.params: NDArray[np.float32] = self.bench.initial.numpy()
        self.arrays: ArrayRecord = from_flat(self.params, self.bench.layout, shared=True)
        self.progress = Progress([], {}, [])
        self.wire = listen(self.grid, self.cfg, self.bench, self.strategy, run_dir.path)

    # ---- the run ------------------------------------------------------------------------------

    def run(self, display: Display) -> dict[str, Any]:
        """Play all rounds that are left; the summary, also when interrupted after a round.

        Raises:
            KeyboardInterrupt: on Ctrl-C, after everything up to the last finished round was saved.
        """
        self._write_preamble()
        for watcher in self.watchers:
            watcher.start(self.cfg, self.run_dir.path, self.group)
        finished = len(self.progress.rounds)
        try:
            for number in range(finished + 1, int(self.cfg["rounds"]) + 1):
                if self._reached_target() or self._out_of_time():
                    break
                record = self._round(number)
                display.update(record)
                for watcher in self.watchers:
                    watcher.round(record)
                if self._due(number):
                    self._checkpoint(number)
            self.progress.leftovers = self.grid.finish()
            self.run_dir.append_events(self.progress.leftovers)
            self.progress.count(self.progress.leftovers)
        finally:
            if isinstance(self.wire, Observer):
                self.wire.flush()
            carbon = self._carbon()
            summary = self._summary(carbon)
            self.run_dir.write_bytes(weights.NAME, weights.pack(self.params, self.bench.layout))
            self.run_dir.write_json("summary.json", summary)
            if self._scorer is not None:
                self.run_dir.write_json("forecast.json", self._scorer.report())
            if self.protection is not None:
                self.run_dir.write_json("protection.json", self.protection.facts())
            if isinstance(self.grid, World):
                accounts = self.grid.ledger.accounts(self.grid.clock.now)
                self.run_dir.write_json("accounts.json", accounts)
                if carbon is not None:
                    self.run_dir.write_json("carbon.json", carbon, compact=True)
                spans = presence(self.grid)
                if spans is not None:
                    self.run_dir.write_json("availability.json", spans, compact=True)
            for watcher in self.watchers:
                watcher.finish(summary)
        return summary

    def _round(self, number: int) -> dict[str, Any]:
        began, sent = time.perf_counter(), self.grid.sent
        self.arrays = play_round(
            self.strategy, number, self.arrays, self._work(), self.wire,
            seed=int(self.cfg["seed"]), timeout_s=float(self.cfg["round_timeout_s"]),
            screen=self.screen,
        )  # fmt: skip
        self.params = flatten_record(self.arrays, self.bench.layout)
        if isinstance(self.wire, Observer):
            self.wire.end_round(number)
        events = self.grid.collect_events()
        loss, accuracy = self._evaluate(number)
        record = round_record(
            number, self.grid.clock.now, time.perf_counter() - began, self.grid.sent - sent,
            events, loss, accuracy,
        )  # fmt: skip
        record["epsilon"] = None if self.protection is None else self.protection.epsilon()
        self.run_dir.append_events(events)
        self.run_dir.append_round(record)
        self.progress.rounds.append(record)
        self.progress.count(events)
        return record

    def _work(self) -> dict[str, int | float]:
        """Settings for the clients beside those that the strategy gives."""
        settings: dict[str, int | float] = {}
        part = config.build(self.cfg.get("local_work"), "local_work")
        if part is not None and not hasattr(self.strategy, "train_round"):
            settings |= part.settings(None, 0)
        if self.cfg.get("lr_schedule") == "cosine":
            settings["lr-factor"] = 0.5 * (1.0 + math.cos(math.pi * self._share_done()))
        return settings

    def _share_done(self) -> float:
        """How much of the run is over, 0 to 1: by time if that is limited, else by rounds."""
        limit = self.cfg.get("time_limit_s")
        if limit is not None:
            return min(1.0, self.grid.clock.now / float(limit))
        return len(self.progress.rounds) / int(self.cfg["rounds"])

    def _out_of_time(self) -> bool:
        limit = self.cfg.get("time_limit_s")
        return limit is not None and self.grid.clock.now >= float(limit)

    def _evaluate(self, number: int) -> tuple[float | None, float | None]:
        last = number == int(self.cfg["rounds"]) or self._out_of_time()
        if number % int(self.cfg["eval_every"]) and not last:
            return None, None
        return self.bench.evaluate(torch.from_numpy(self.params))

    def _reached_target(self) -> bool:
        target = self.cfg.get("target_accuracy")
        if not self.cfg.get("stop_at_target") or not self.progress.rounds:
            return False
        accuracy = self.progress.rounds[-1]["accuracy"]
        return accuracy is not None and target is not None and accuracy >= float(target)

    # ---- checkpoints --------------------------------------------------------------------------

    def _due(self, number: int) -> bool:
        every = int(self.cfg["checkpoint_every"])
        return every > 0 and (number % every == 0 or number == int(self.cfg["rounds"]))

    def _checkpoint(self, number: int) -> None:
        if isinstance(self.wire, Observer):
            self.wire.flush()
        strategy, vectors = strategy_state(self.strategy)
        contexts, memories = checkpoints.pack_contexts(self.grid.contexts)
        world, models = self.grid.state()
        plain = {
            "round": number,
            "config_sha256": _hash(self.text),
            "world": world,
            "strategy": strategy,
            "contexts": contexts,
            "participation": {str(k): v for k, v in self.progress.participation.items()},
            "sizes": self.run_dir.sizes(),
        }
        arrays = {"model": self.params}
        arrays |= {f"strategy.{name}": value for name, value in vectors.items()}
        arrays |= {f"contexts.{name}": value for name, value in memories.items()}
        arrays |= {f"world.{name}": value for name, value in models.items()}
        checkpoints.save(self.run_dir, Checkpoint(plain, arrays))

    def resume(self) -> int:
        """Take up the run directory's checkpoint; the number of the last finished round.

        Raises:
            UserError: if there is none, or it belongs to another configuration.
        """
        saved = checkpoints.load(self.run_dir)
        if saved.plain["config_sha256"] != _hash(self.text):
            raise UserError(
                f"{self.run_dir.path}: config.json was changed since the checkpoint was written"
            )
        self.run_dir.cut(saved.plain["sizes"])
        self.params = np.ascontiguousarray(saved.arrays["model"])
        self.arrays = from_flat(self.params, self.bench.layout, shared=True)
        self.grid.restore(saved.plain["world"], saved.part("world"))
        restore_strategy(self.strategy, saved.plain["strategy"], saved.part("strategy"))
        checkpoints.unpack_contexts(
            self.grid.contexts, saved.plain["contexts"], saved.part("contexts")
        )
        self.progress = Progress(
            self.run_dir.rounds(),
            {int(k): v for k, v in saved.plain["participation"].items()},
            [],
        )
        return int(saved.plain["round"])

    # ---- files --------------------------------------------------------------------------------

    def _write_preamble(self) -> None:
        from fedhive.learning.partition import class_counts

        bench = self.bench
        self.run_dir.write_json("config.json", self.cfg)
        counts = class_counts(bench.data.y_train, bench.parts, len(bench.data.classes))
        self.run_dir.write_json(
            "split.json", {"classes": list(bench.data.classes), "counts": counts.tolist()}
        )
        if isinstance(self.grid, World):
            rows = [device.as_row(i) for i, device in enumerate(self.grid.devices)]
            self.run_dir.write_json("machines.json", rows)

    @property
    def _scorer(self) -> Scorer | None:
        scorer: Scorer | None = getattr(getattr(self.strategy, "watch", None), "scorer", None)
        return scorer

    def _carbon(self) -> dict[str, Any] | None:
        """Intensities that the run met and the scores of forecasts, where they change by hours."""
        if not isinstance(self.grid, World):
            return None
        forecaster = getattr(getattr(self.strategy, "watch", None), "carbon_forecaster", None)
        zones = [device.zone for device in self.grid.devices]
        signal, now_s = self.grid.carbon, self.grid.clock.now
        return carbon_record.carbon_record(signal, zones, now_s, forecaster)

    def _summary(self, carbon: Mapping[str, Any] | None) -> dict[str, Any]:
        accounts: list[dict[str, float]] = []
        rates: list[float] = []
        serving: tuple[float | None, float | None] = None, None
        if isinstance(self.grid, World):
            serving = self.grid.ledger.serving(self.grid.clock.now)
            accounts = self.grid.ledger.accounts(self.grid.clock.now)
            rates = [device.rate for device in self.grid.devices]
        took_part = self.progress.participation
        participation = [took_part.get(i, 0) for i in range(int(self.cfg["nodes"]))]
        if not getattr(self.grid, "numbered", True):
            participation = list(took_part.values())
        engine = (self.cfg.get("engine") or {}).get("_target_", "")
        return {
            "schema": SCHEMA,
            "experiment": self.cfg["experiment"],
            "seed": self.cfg["seed"],
            "engine": _engine_name(self.grid, engine),
            "nodes": self.cfg["nodes"],
            **summarise(
                self.progress.rounds, self.progress.leftovers, participation, accounts, rates,
                self.cfg.get("target_accuracy"), self.reference, serving,
            ),
            **{key: (carbon or {}).get(key) for key in carbon_record.SCORES},
            **({} if self._scorer is None else self._scorer.summary()),
            **dict.fromkeys(PROTECTION_KEYS),
            **({} if self.protection is None else self.protection.summary()),
            "model_sha256": sha256(self.params),
            "config_sha256": _hash(self.text),
            "versions": versions(),
            "git_commit": git_commit(),
        }  # fmt: skip


def presence(
    world: World, most_nodes: int = 500, most_spans: int = 20_000
) -> dict[str, list[tuple[float, float]]] | None:
    """When each machine was on so far: [(on, off), ...], seconds, by number of the machine.

    Returns:
        ``None`` for hives and histories too large to be looked at.
    """
    if len(world.devices) > most_nodes:
        return None
    found: dict[str, list[tuple[float, float]]] = {}
    for node in range(len(world.devices)):
        spans = world.availability.intervals(node, 0.0, world.clock.now)
        most_spans -= len(spans)
        if most_spans < 0:
            return None
        found[str(node)] = spans
    return found


def default_run_dir(cfg: Mapping[str, Any]) -> Path:
    """``runs/<date>/<time>-<experiment>`` below the current folder."""
    return (
        Path.cwd()
        / "runs"
        / time.strftime("%Y-%m-%d")
        / (time.strftime("%H-%M-%S") + f"-{cfg['experiment']}")
    )


def serve(grid: Grid, text: str) -> None:
    """Run on a grid that is not ours; called by the ServerApp under ``flwr run``."""
    cfg = config.loads(text)
    run_dir = RunDir.create(default_run_dir(cfg))
    metered = grid if isinstance(grid, World) else MeteredGrid(grid)
    with Display(console=Console(quiet=True)) as display:
        Session(metered, text, run_dir).run(display)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _engine_name(grid: World | MeteredGrid, target: str) -> str:
    if isinstance(grid, World):
        return grid.engine.name
    return str(getattr(grid, "name", "flower"))
