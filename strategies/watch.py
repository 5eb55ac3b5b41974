"""What a server sees of its nodes over time, and the views that it makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp import Grid

from defenses.containment import Update
from fedhive import seeding
from fedhive.flower import payload_bytes
from fedhive.world.carbon_forecast import CarbonForecaster, CarbonOutlook, carbon_past
from fedhive.world.clock import clock_of
from fedhive.world.devices import Device
from fedhive.world.forecast import Bound, Forecaster
from fedhive.world.past import Past
from fedhive.world.recorded import RecordedPast
from fedhive.world.scoring import Scorer, Screened
from strategies.view import NodeHistory, Outlook, Unforeseen, View

DISPROVED = 5.0
"""A reply that took so many times what the declared profile promises speaks against the profile;
once may be a transfer of data or a pause, twice in a row is believed."""


class Watch:
    """Remembers what nodes have shown, and makes the views that parts of a strategy get.

    Args:
        forecaster: what may be expected; None for no forecasts.
        seed: of the views' random streams.
        limit_s: gives the trigger's limit; infinite for none.
        screened: leave the forecaster alone while its recent skill is negative.
        carbon: what may be expected of carbon intensity; None for no forecasts of it.
    """

    def __init__(
        self,
        forecaster: Forecaster | None,
        seed: int,
        limit_s: Callable[[], float],
        screened: bool = False,
        carbon: CarbonForecaster | None = None,
    ) -> None:
        self.carbon_forecaster = carbon
        self._zones: tuple[object, dict[int, str]] | None = None
        self.forecaster, self._seed, self._screened = forecaster, seed, screened
        self.scorer: Scorer | None = None
        self._limit_s = limit_s
        self.history: dict[int, NodeHistory] = {}
        self._known: set[int] = set()
        self._declared: Mapping[int, Device] = {}
        self._model_bytes = 0
        self._recorded: RecordedPast | None = None
        self._moved_s = 0.0
        self._saved: Mapping[str, Any] = {}

    @property
    def known(self) -> list[int]:
        """Ids of all nodes seen so far, ascending."""
        return sorted(self._known)

    def of(self, node: int) -> NodeHistory:
        """A node's history, to be added to."""
        return self.history.setdefault(node, NodeHistory())

    def remember(
        self, node: int, update: Update, server_round: int, duration_s: float | None
    ) -> None:
        """Note an accepted reply."""
        past = self.of(node)
        past.examples, past.loss, past.loss_rms = update.examples, update.loss, update.loss_rms
        past.steps, past.samples, past.duration_s = update.steps, update.samples, duration_s
        past.completed += 1
        past.last_round = server_round
        device = self._declared.get(node)
        if device is not None and past.duration_s is not None and past.samples:
            promised = transfers_s(device, self._model_bytes) + device.train_s(past.samples)
            past.slow = past.slow + 1 if past.duration_s > DISPROVED * promised else 0

    def _believed(self) -> Mapping[int, Device]:
        """The declared profiles, with measured speeds where replies have disproved them."""
        doubted = [node for node, past in self.history.items() if past.slow > 1]
        measured = {
            node: _measured(self._declared[node], self.history[node], self._model_bytes)
            for node in doubted
            if node in self._declared
        }
        return {**self._declared, **measured} if measured else self._declared

    def view(
        self,
        server_round: int,
        grid: Grid,
        busy: set[int],
        wave: int = 0,
        arrays: ArrayRecord | None = None,
        probed: Mapping[int, float] | None = None,
    ) -> View:
        """What the server knows now.

        Args:
            server_round: the round about to start.
            grid: asked for who is on.
            busy: nodes that owe a reply.
            wave: how often this round has asked already; each time draws anew.
            arrays: the model, for its size.
            probed: losses of nodes that were probed.
        """
        online = tuple(sorted(grid.get_node_ids()))
        self._known.update(online)
        waves, limit_s = (wave,) if wave else (), self._limit_s()
        self._declared = getattr(grid, "profiles", {})
        if arrays is not None:
            self._model_bytes = payload_bytes(RecordDict({"arrays": arrays}))
        return View(
            round=server_round,
            now_s=clock_of(grid).now,
            online=online,
            idle=tuple(node for node in online if node not in busy),
            history=self.history,
            rng=lambda name: seeding.stream(self._seed, name, server_round, *waves),
            profiles=self._believed(),
            outlook=self._outlook(grid, online),
            model_bytes=0 if arrays is None else self._model_bytes,
            target_s=limit_s if math.isfinite(limit_s) else None,
            probed=probed or {},
            carbon=self._carbon(grid),
        )

    def _carbon(self, grid: Grid) -> CarbonOutlook | None:
        """Intensity as far as it may be known, where machines have said in which zone they are."""
        signal, profiles = getattr(grid, "carbon", None), getattr(grid, "profiles", {})
        if self.carbon_forecaster is None or signal is None or not profiles:
            return None
        past = carbon_past(self.carbon_forecaster, signal, clock_of(grid).now)
        if self._zones is None or self._zones[0] is not profiles:
            self._zones = profiles, {node: device.zone for node, device in profiles.items()}
        return CarbonOutlook(self.carbon_forecaster, past, self._zones[1])

    def _outlook(self, grid: Grid, online: Sequence[int]) -> Outlook:
        if self.forecaster is None:
            return Unforeseen(online)
        past = self._past(grid, online)
        if self.scorer is None:
            self.scorer = Scorer(self.forecaster, past)
            if self._saved.get("scorer") is not None:
                self.scorer.restore(self._saved["scorer"], self._moved_s)
        self.scorer.tick()
        forecaster = Screened(self.forecaster, self.scorer) if self._screened else self.forecaster
        return Bound(forecaster, past)

    def _past(self, grid: Grid, online: Sequence[int]) -> Past:
        """What has been seen on this grid: the world's own record, or one kept here."""
        oracle = self.forecaster is not None and self.forecaster.oracle
        known: Past | None = getattr(grid, "future" if oracle else "past", None)
        if known is not None:
            return known
        if self._recorded is None:
            self._recorded = RecordedPast(clock_of(grid))
            if self._saved.get("past") is not None:
                self._moved_s = self._recorded.restore(self._saved["past"])
        self._recorded.record(online)
        return self._recorded

    def state(self) -> dict[str, Any]:
        """Everything needed to go on from here, as plain data."""
        return {
            "history": {str(node): asdict(past) for node, past in self.history.items()},
            "known": self.known,
            "past": None if self._recorded is None else self._recorded.state(),
            "scorer": None if self.scorer is None else self.scorer.state(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up a state given by `state`."""
        self.history = {int(k): NodeHistory(**past) for k, past in saved["history"].items()}
        self._known = set(saved["known"])
        self._saved = saved


def transfers_s(device: Device, model_bytes: int) -> float:
    """Seconds that a model takes to a machine and back."""
    return device.download_s(model_bytes) + device.upload_s(model_bytes)


def _measured(device: Device, past: NodeHistory, model_bytes: int) -> Device:
    """The machine at the speed of its last reply."""
    assert past.duration_s is not None
    assert past.samples
    training_s = max(past.duration_s - transfers_s(device, model_bytes), past.duration_s / 2)
    return replace(device, rate=past.samples / training_s)
