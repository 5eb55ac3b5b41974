"""Interrupted anywhere and resumed: the same model, rounds and events as without the break."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedhive import server
from fedhive.engines import local
from fedhive.errors import UserError
from fedhive.launch import resume
from fedhive.results.rundir import RunDir
from tests.conftest import Played

ROUNDS = 4
SIX = ("nodes=6", f"rounds={ROUNDS}")
SLOW = ("fleet.rate_sigma=1.5", "fleet.median_rate=20")
COMING_AND_GOING = (
    "availability=markov", "availability.step_s=1.0", "availability.days=0.01", "detection_s=0.5",
    *SLOW,
)  # fmt: skip
STALE = ("trigger=deadline", "trigger.seconds=0.8", "trigger.keep=true", *SLOW)
STAY = ("forecast=markov", "forecast.step_s=1", "local_work=fit_stay", "local_work.q=0.3")
METHODS: dict[str, tuple[str, ...]] = {
    "nesterov": ("server_opt=nesterov",),
    "fedavgm": ("server_opt=fedavgm",),
    "fedadam": ("server_opt=fedadam",),
    "fedyogi": ("server_opt=fedyogi",),
    "fedprox": ("client=fedprox",),
    "scaffold": ("client=scaffold", "combine=scaffold"),
    "feddyn": ("client=feddyn", "combine=feddyn"),
    "stragglers": ("trigger=deadline", "trigger.seconds=0.8", *SLOW),
    "first of many": ("trigger=first_k", "trigger.k=1", *SLOW),
    "withdrawals": (*COMING_AND_GOING, "server_opt=nesterov"),
    "notice": (*COMING_AND_GOING, "withdrawal=notice", "withdrawal.seconds=0.3"),
    "return": (*COMING_AND_GOING, "withdrawal=return", "trigger=deadline", "trigger.seconds=2"),
    "late replies": (*STALE, "combine=refl", "selection=refl", "selection.k=3"),
    "buffer": ("trigger=buffer", "trigger.k=2", "selection=concurrency", "combine=fedbuff", *SLOW),
    "mifa": ("combine=mifa", "combine.wait_for_all=false"),
    "fedvarp": ("combine=fedvarp",),
    "fedawe": (*COMING_AND_GOING, "combine=fedawe"),
    "oort": ("selection=oort", "selection.k=3", *SLOW),
    "probes": ("selection=pow_d", "selection.k=2", "selection.d=4", *SLOW),
    "ca_fed": (*COMING_AND_GOING, "selection=ca_fed", "combine=inverse_probability"),
    "adaptive": ("trigger=adaptive_deadline", "trigger.first_s=1", "trigger.min_s=0.1", *SLOW),
    "backup": ("trigger=dynamic_backup", *SLOW),
    "forecast": (*COMING_AND_GOING, "fleet.median_rate=500", *STAY),
    "attacked": ("attack=sign_flip", "attack.fraction=0.5"),
    "worker momentum": ("client=worker_momentum", "local_work=steps", "local_work.steps=2"),
    "sybil resistant": (
        "combine=sybil_resistant",
        "combine.similarity=hardened_foolsgold",
        "combine.f=0",
        "combine.reputation={_target_: defenses.identities.Reputation}",
        "combine.kept=4",
        "combine.rule={centered_clipping: {tau: 0.1}}",
        "combine.probation_rounds=3",
        "identities=simulated",
        "identities.churn=2",
        "attack=sign_flip",
        "attack.fraction=0.5",
    ),
    "strikes": ("containment.max_strikes=1", "containment.max_norm=0.12"),
    "cohort": ("engine.cohort=true",),
    "flower_fedavg": ("strategy=flower_fedavg", "strategy.fraction_train=0.5"),
    "flower_fedavgm": ("strategy=flower_fedavgm", "strategy.fraction_train=0.5"),
    "flower_fedadam": ("strategy=flower_fedadam", "strategy.fraction_train=0.5"),
    "flower_fedyogi": ("strategy=flower_fedyogi",),
}


MUST_SHOW = {
    "strikes": "rejected",
    "stragglers": "late",
    "first of many": "unneeded",
    "withdrawals": "withdrawn",
}


def record(directory: Path) -> dict[str, Any]:
    """Everything that a run says of itself but wall time."""
    run = RunDir(directory)
    without = [{k: v for k, v in line.items() if k != "wall_s"} for line in run.rounds()]
    summary = {k: v for k, v in run.summary().items() if k != "time_wall_s"}
    return {
        "rounds": without, "events": run.events(), "summary": summary,
        "accounts": run.accounts(), "machines": run.machines(), "split": run.split(),
    }  # fmt: skip


class Break:
    """Interrupts a run, as Ctrl-C does, when its clients have worked in the given round.

    Or at its end, if they have nothing to do in it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: int | None = None
        self.run_jobs = local.run_jobs
        self.play_round = server.play_round
        monkeypatch.setattr(local, "run_jobs", self)
        monkeypatch.setattr(server, "play_round", self.whole_round)

    def __call__(self, app: Any, jobs: Sequence[Any], cohort: bool) -> Any:
        replies = self.run_jobs(app, jobs, cohort)
        for job in jobs:
            self.strike(job.message.content["config"]["server-round"])
        return replies

    def whole_round(self, strategy: Any, server_round: int, *rest: Any, **more: Any) -> Any:
        arrays = self.play_round(strategy, server_round, *rest, **more)
        self.strike(server_round)
        return arrays

    def strike(self, server_round: int) -> None:
        if server_round == self.at:
            self.at = None
            raise KeyboardInterrupt


@pytest.fixture
def interrupt(monkeypatch) -> Break:
    return Break(monkeypatch)


def same(resumed: Path, whole: dict[str, Any]) -> None:
    found = record(resumed)
    for part, value in whole.items():
        assert found[part] == value, part


@pytest.fixture
def method(play, tiny) -> Callable[[str], Callable[[], Played]]:
    """``method(name)``: what plays it, from a configuration composed once."""

    def make(name: str) -> Callable[[], Played]:
        words = METHODS[name]
        own = any(word.startswith(("selection=", "strategy=")) for word in words)
        cfg = tiny(*SIX, *words, *(() if own else ("selection.k=3",)))
        return lambda: play(cfg=cfg)

    return make


@pytest.mark.parametrize("name", METHODS)
def test_broken_off_in_any_round(name: str, method, interrupt, tmp_path):
    play = method(name)
    whole = record(play().directory)
    assert len(whole["rounds"]) == ROUNDS
    assert MUST_SHOW.get(name, "accepted") in {event["status"] for event in whole["events"]}
    for at in range(2, ROUNDS + 1):
        interrupt.at = at
        with pytest.raises(KeyboardInterrupt):
            play()
        directory = tmp_path / f"run-{at - 1}"
        assert len(RunDir(directory).rounds()) == at - 1
        assert RunDir(directory).summary()["rounds"] == at - 1
        resume(directory)
        same(directory, whole)


def test_broken_off_twice(method, interrupt, tmp_path):
    play = method("scaffold")
    whole = record(play().directory)
    interrupt.at = 2
    with pytest.raises(KeyboardInterrupt):
        play()
    interrupt.at = 4
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "run-1")
    for _ in range(2):  # the second finds nothing left to do
        resume(tmp_path / "run-1")
        same(tmp_path / "run-1", whole)


def test_rare_checkpoints_lose_nothing(play, tiny, interrupt, tmp_path):
    cfg = tiny(*SIX, "checkpoint_every=3", "server_opt=fedadam")
    whole = record(play(cfg=cfg).directory)
    interrupt.at = 4
    with pytest.raises(KeyboardInterrupt):
        play(cfg=cfg)
    resume(tmp_path / "run-1")
    same(tmp_path / "run-1", whole)


def test_broken_off_before_the_first_checkpoint(method, interrupt, tmp_path):
    interrupt.at = 1
    with pytest.raises(KeyboardInterrupt):
        method("nesterov")()
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        resume(tmp_path / "run-0")


def test_another_configuration_is_refused(method, interrupt, tmp_path):
    interrupt.at = 3
    with pytest.raises(KeyboardInterrupt):
        method("nesterov")()
    path = tmp_path / "run-0" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 9}))
    with pytest.raises(UserError, match=r"config\.json was changed"):
        resume(tmp_path / "run-0")
