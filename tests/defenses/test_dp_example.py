"""Example-level privacy in whole runs: what leaves a client, what it costs, what survives."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from defenses.dp import guard
from defenses.dp.accountant import Spent, epsilon
from defenses.dp.example import ExampleLevel
from defenses.dp.ledger import Ledger
from defenses.dp.noise import source_for
from defenses.protection.base import Request, SentModel
from fedhive.errors import UserError
from fedhive.launch import launch, resume
from fedhive.leakage.store import ViewStore
from fedhive.leakage.view import Channel, Exchange, Knowledge, View
from fedhive.results.checkpoint import load
from fedhive.results.rundir import RunDir
from tests.fedhive.test_volatile import Stop

DP = ("protection=dp_example", "selection=all")
EACH = Spent(1.0, 1 / 3, 3)
"""What a round costs a client of the tiny experiment: 24 examples in batches of 8."""


def accounts(run) -> list[tuple]:
    plain = load(RunDir(run.path if hasattr(run, "path") else run)).plain["contexts"]
    rows = {name.split("/")[0]: row["values"] for name, row in plain.items() if "privacy" in name}
    return [
        tuple(zip(r["noise"], r["rates"], r["steps"], strict=True))
        for _, r in sorted(rows.items())
    ]


def test_a_run_says_what_it_cost(play):
    played = play(*DP)
    expected = epsilon([Spent(1.0, 1 / 3, 9)], 1e-5)
    assert played.summary["epsilon"] == pytest.approx(expected)
    assert played.summary["delta"] == 1e-5
    costs = [row["epsilon"] for row in played.rounds]
    assert costs == pytest.approx([epsilon([Spent(1.0, 1 / 3, 3 * r)], 1e-5) for r in (1, 2, 3)])
    # The clients' own accounts, in their memory, agree with the server's.
    assert accounts(played.directory) == [((1.0, pytest.approx(1 / 3), 9),)] * 4


def test_plain_runs_promise_nothing(play):
    played = play("rounds=1")
    assert played.summary["epsilon"] is None
    assert played.summary["delta"] is None
    assert played.rounds[0]["epsilon"] is None


def test_epsilon_survives_a_break(tiny, tmp_path):
    cfg = tiny(*DP, "rounds=4")
    whole = launch(cfg, tmp_path / "whole")
    cfg["callbacks"] = [{"_target_": "tests.fedhive.test_volatile.Stop", "after": 2}]
    Stop.armed = True
    with pytest.raises(KeyboardInterrupt):
        launch(cfg, tmp_path / "cut")
    Stop.armed = False
    try:
        resumed = resume(tmp_path / "cut")
    finally:
        Stop.armed = True
    assert resumed["epsilon"] == whole["epsilon"] == epsilon([Spent(1.0, 1 / 3, 12)], 1e-5)
    assert resumed["model_sha256"] == whole["model_sha256"]
    assert accounts(tmp_path / "cut") == accounts(tmp_path / "whole")


def test_no_loss_leaves_a_client_and_no_question_is_answered(tiny):
    protection = ExampleLevel()
    [mod] = protection.mods(0)
    message = Message(RecordDict({"arrays": ArrayRecord([np.zeros(2, np.float32)])}), 1, "train")

    def inner(message, context):
        metrics = MetricRecord({"num-examples": 3, "train-loss": 1.5, "train-loss-rms": 2.0})
        return Message(RecordDict({"metrics": metrics}), dst_node_id=1, message_type="train")

    context = Context(1, 1, {}, RecordDict(), {})
    assert dict(mod(message, context, inner).content["metrics"]) == {"num-examples": 3}
    assert "trainer" not in vars(context)
    question = Message(RecordDict(), 1, "evaluate")
    with pytest.raises(UserError, match="does not evaluate"):
        mod(question, context, inner)


def test_a_client_stops_when_its_budget_is_used_up(play, tiny):
    two = epsilon([Spent(1.0, 1 / 3, 6)], 1e-5)
    cfg = tiny(*DP)
    cfg["protection"] = cfg["strategy"]["protection"] = {**cfg["protection"], "budget": two + 0.01}
    played = play(cfg=cfg)
    assert [row["completed"] for row in played.rounds] == [4, 4, 0]
    assert played.statuses.count("error") == 4
    assert accounts(played.directory) == [((1.0, pytest.approx(1 / 3), 6),)] * 4


def test_an_account_of_many_kinds():
    context = Context(1, 1, {}, RecordDict(), {})
    assert guard.account_of(context) == ()
    for spent in (Spent(1.0, 0.5, 3), Spent(2.0, 0.5, 1), Spent(1.0, 0.5, 4)):
        guard.spend(context, spent)
    assert guard.account_of(context) == (Spent(1.0, 0.5, 7), Spent(2.0, 0.5, 1))
    assert isinstance(context.state[guard.ACCOUNT], ConfigRecord)


def test_the_ledger_counts_what_may_have_been_seen():
    ledger = Ledger()
    ledger.asked([1, 2])
    assert ledger.largest(1e-5, "prv") == 0.0  # nothing was heard of anybody
    ledger.answered(1, Spent(1.0, 1.0, 2))
    assert ledger.largest(1e-5, "prv") == epsilon([Spent(1.0, 1.0, 2)], 1e-5)
    ledger.asked([1])  # under way, or read by somebody on the line
    assert ledger.largest(1e-5, "prv") == epsilon([Spent(1.0, 1.0, 4)], 1e-5)
    again = Ledger()
    again.restore(json.loads(json.dumps(ledger.state())))
    assert again == ledger


def test_a_reply_that_lies_about_its_work_is_not_counted():
    protection = ExampleLevel()
    sent = SentModel(7, 1, np.zeros(1, np.float32), [("w", (1,))])
    for metrics in ({"num-examples": 3, "steps": 10**12, "samples": 3}, {"steps": 1}):
        protection.open(RecordDict({"metrics": MetricRecord(metrics)}), sent)
    assert protection.epsilon() == 0.0
    request = Request(1, np.zeros(1, np.float32), [("w", (1,))], {7: None})
    assert protection.settings(request) == {}
    assert protection.facts()["epsilon"] == 0.0


def test_without_noise_nothing_is_promised(play):
    played = play(*DP, "protection.noise_multiplier=0.0", "rounds=1")
    assert played.summary["epsilon"] is None
    assert _one_round(0.0).epsilon() is None
    assert "infinite" in _one_round(0.0).facts()["why"]


def _one_round(z: float) -> ExampleLevel:
    protection = ExampleLevel(noise_multiplier=z)
    protection.ledger.answered(1, Spent(z, 1.0, 1))
    return protection


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("selection=pow_d",), "PowerOfChoice looks at clients' losses"),
        (("placement=proportional",), "placement"),
        (("client.max_grad_norm=1.0",), "protection.clip"),
        (("protection.delta=0.1",), "a delta well below"),
        (("strategy=flower_fedavg",), "strategy=hive"),
    ],
)
def test_combinations_that_break_the_promise_are_refused(play, overrides, message):
    with pytest.raises(UserError, match=message):
        play(*(DP if "selection=" not in overrides[0] else DP[:1]), *overrides)


@pytest.mark.parametrize("bad", [{"clip": 0.0}, {"delta": 1.0}, {"budget": -1.0}])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="need"):
        ExampleLevel(**bad)


@pytest.mark.parametrize("client", ["fedprox", "worker_momentum"])
def test_what_only_looks_at_noised_gradients_goes_along(play, client):
    played = play(*DP, f"client={client}", "client.batch_size=8", "rounds=2")
    assert played.summary["epsilon"] == pytest.approx(epsilon([Spent(1.0, 1 / 3, 6)], 1e-5))


def test_scaffold_goes_along(play):
    played = play(*DP, "client=scaffold", "combine=scaffold", "client.batch_size=8", "rounds=2")
    assert played.statuses.count("accepted") == 8


def _view(role="server", **knows) -> View:
    update = np.ones(3, np.float32)
    exchange = Exchange(1, np.zeros(3, np.float32), update)
    return View(
        role, (1,), (1.0,), (exchange,), np.ones(3, bool), [("w", (3,))], Channel(),
        Knowledge(**knows),
    )  # fmt: skip


def test_the_view_declares_the_noise_of_all_steps():
    protection = ExampleLevel(noise_multiplier=2.0, clip=0.5)
    seen = protection.view(_view(lr=0.1, steps=4, batch_size=8, examples=24))
    assert seen.channel.sigma == pytest.approx(0.1 * 2.0 * 0.5 * 2.0 / 8)
    assert seen.channel.clip is None  # a mean of clipped gradients is no clipped update
    single = protection.view(_view(lr=0.1, steps=1, batch_size=8, examples=1)).channel
    assert (single.clip, single.sigma) == (pytest.approx(0.05), pytest.approx(0.1))
    whole = protection.view(_view(lr=0.1, steps=3, batch_size=8, examples=20)).channel
    assert whole.sigma == pytest.approx(0.1 * 2.0 * 0.5 * math.sqrt(3) / (20 / 3))
    assert protection.view(_view("device")).channel == Channel()
    with pytest.raises(ValueError, match="lr and batch_size"):
        protection.view(_view())


def test_wire_and_view_agree():
    """One step on zero data: the reply is the noise that the view declares."""
    from defenses.dp.noise import Seeded
    from defenses.dp.sgd import PrivateSGD
    from fedhive.learning import models
    from fedhive.learning.sgd import LocalJob

    model = models.build(models.mlp, (5,), 3, 0)
    x, y = torch.randn(16, 5), torch.zeros(16, dtype=torch.int64)
    job, start = LocalJob(x, y, torch.arange(8), [8]), models.flatten(model)
    moves = [
        PrivateSGD(model, {"lr": 0.1}, 0.5, z).run_private(start, job, Seeded(3, "x")).params
        for z in (0.0, 2.0)
    ]
    declared = ExampleLevel(noise_multiplier=2.0, clip=0.5).view(
        _view(lr=0.1, steps=1, batch_size=8, examples=16)
    )
    noise = (moves[1] - moves[0]).numpy()
    assert noise.std() == pytest.approx(declared.channel.sigma, rel=0.05)


def test_an_observer_records_the_noise_that_was_added(play):
    played = play("data.n=80", "observer=server", "rounds=1", *DP, "protection.clip=0.25")
    views = ViewStore(played.directory / "views").views()
    assert len(views) == 4
    sigma = 0.05 * 1.0 * 0.25 * math.sqrt(3) / (20 / 3)  # 20 examples in batches of 8
    for view in views.values():
        assert view.channel.sigma == pytest.approx(sigma)


def test_noise_inside_encryption(play):
    """A stack: noised by the client, then encrypted, and the promise is still accounted."""
    played = play("protection=dp_encryption", "selection=all", "rounds=1")
    assert played.statuses == ["accepted"] * 4
    assert played.summary["epsilon"] == played.rounds[0]["epsilon"] == epsilon([EACH], 1e-5)
    told = json.loads((played.directory / "protection.json").read_text())
    assert {layer["kind"] for layer in told.values()} == {
        "encryption", "differential privacy of examples",
    }  # fmt: skip


def test_only_a_world_s_machines_take_repeatable_noise():
    """A server cannot make a real machine believe that it is simulated: its owner says so."""
    real = Context(1, 1000, {"partition-id": 0}, RecordDict(), {"simulated": True})
    world = Context(1, 1000, {"partition-id": 0, "simulated": True}, RecordDict(), {})
    assert source_for(real, 0, "x").source == "os.urandom"
    assert source_for(world, 0, "x").source == "seeded"


def test_without_opacus_the_run_does_not_begin(play, monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(UserError, match=r"pip install 'fedhive\[dp\]'"):
        play(*DP)
