"""Encryption in whole runs: exact, with every engine, broken off, with hostile clients."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedhive.engines import local
from fedhive.errors import UserError
from fedhive.launch import resume
from fedhive.results.rundir import RunDir
from tests.defenses.protection.hostile import CRIMES, FORGED, SPOILT

HIDDEN = ("model=mlp", "model.hidden=[4]", "protection=encryption", "cipher.clients=20")
EXACT = ("rlwe", "seal")
MASKS = {
    "none": (), "all": (), "first_k": (), "layers": ("mask.names=['3']",),
    "random": ("mask.share=0.3",), "magnitude": (), "label_jacobian": (),
}  # fmt: skip


def facts(played):
    return json.loads((played.directory / "protection.json").read_text())


@pytest.mark.parametrize("mask", MASKS)
def test_ciphers_give_the_bits_of_the_fixed_point_reference(play, mask):
    words = (*HIDDEN, f"mask={mask}", *MASKS[mask])
    wanted = play(*words, "cipher=plain")
    assert wanted.statuses.count("accepted") >= 12
    for cipher in EXACT:
        found = play(*words, f"cipher={cipher}")
        assert found.sha == wanted.sha
        assert facts(found)["hidden"] == facts(wanted)["hidden"]


def test_a_mask_that_hides_nothing_changes_no_bit(play):
    assert play(*HIDDEN, "mask=none").sha == play("model=mlp", "model.hidden=[4]").sha


def test_fine_steps_come_close_to_the_plain_run(play):
    bare = play("model=mlp", "model.hidden=[4]")
    fine = play(*HIDDEN, "cipher=plain", "mask=all", "cipher.bits=30", "cipher.clip=4")
    assert np.abs(fine.model() - bare.model()).max() < 1e-6


@pytest.mark.parametrize("path", ["sum", "bucketed"])
@pytest.mark.parametrize("weighting", ["examples", "samples", "uniform"])
def test_weightings(play, path, weighting):
    words = ("mask=all", f"path={path}", f"combine.weighting={weighting}", "nodes=6")
    fine = play(*HIDDEN, *words, "cipher=plain", "cipher.bits=30", "cipher.clip=4")
    assert fine.statuses.count("accepted") == 18
    if path == "sum":
        bare = play("model=mlp", "model.hidden=[4]", "nodes=6", f"combine.weighting={weighting}")
        assert np.abs(fine.model() - bare.model()).max() < 1e-6


@pytest.mark.parametrize("engine", ["local", "pool"])
def test_engines_give_the_same_bits(play, engine):
    words = (*HIDDEN, "mask=magnitude", "engine=" + engine)
    more = ("engine.workers=2",) if engine == "pool" else ("engine.cohort=true",)
    alone, other = (
        play(*HIDDEN, "mask=magnitude"),
        play(*words, *(more if engine == "pool" else ())),
    )
    assert other.sha == alone.sha


@pytest.mark.parametrize("mask", ["first_k", "label_jacobian"])
def test_broken_off_and_resumed(play, tiny, monkeypatch, tmp_path, mask):
    cfg = tiny(*HIDDEN, f"mask={mask}", "rounds=4")
    whole = play(cfg=cfg)
    run_jobs = local.run_jobs

    def break_off(app, jobs, cohort):
        if jobs[0].message.content["config"]["server-round"] == 3:
            raise KeyboardInterrupt
        return run_jobs(app, jobs, cohort)

    monkeypatch.setattr(local, "run_jobs", break_off)
    with pytest.raises(KeyboardInterrupt):
        play(cfg=cfg)
    monkeypatch.setattr(local, "run_jobs", run_jobs)
    resume(tmp_path / "run-1")
    assert RunDir(tmp_path / "run-1").summary()["model_sha256"] == whole.sha
    again = json.loads((tmp_path / "run-1" / "protection.json").read_text())
    assert again["costs"]["uploads"] == facts(whole)["costs"]["uploads"] == 16


def test_machines_that_drop_out_are_not_in_the_sum(play):
    coming = (
        "availability=markov", "availability.step_s=1.0", "availability.days=0.01",
        "detection_s=0.5", "fleet.rate_sigma=1.5", "fleet.median_rate=20", "nodes=8",
    )  # fmt: skip
    wanted = play(*HIDDEN, *coming, "cipher=plain", "mask=all")
    assert "withdrawn" in wanted.statuses
    assert play(*HIDDEN, *coming, "mask=all").sha == wanted.sha


def test_each_hostile_reply_is_refused_by_its_name_and_the_run_goes_on(play, monkeypatch):
    target = "protection._target_=tests.defenses.protection.hostile.Tampered"
    nodes = f"nodes={len(CRIMES) + 4}"
    played = play(*HIDDEN, target, nodes, "rounds=2", "data.n=400", "selection=all")
    last = {e["node"]: e for e in played.events if e["round"] == 2}
    for node, crime in enumerate(CRIMES, 1):
        event = last[node]
        assert event["status"] == "rejected", (crime, event)
        if crime in SPOILT or crime in FORGED:
            assert f"sealed part: {crime}" in event["reason"], (crime, event["reason"])
    honest = [last[i]["status"] for i in (0, *range(len(CRIMES) + 1, len(CRIMES) + 4))]
    assert honest == ["accepted"] * 4
    assert facts(played)["costs"]["refused"]["Tampered"] == 2
    assert played.summary["rounds_not_opened"] == 0


def test_too_few_clients_for_a_sum_leave_the_model_as_it_is(play):
    played = play(*HIDDEN, "keys.least=4", "selection.k=3", "mask=all")
    assert played.summary["rounds_not_opened"] == 3
    assert set(played.statuses) == {"rejected"}
    assert "TooFewClients" in played.events[0]["reason"]
    assert len({record["accuracy"] for record in played.rounds}) == 1


REFUSED = {
    "needs plain text to judge clients": (
        "mask=all", "path=select_then_sum", "combine=robust", "combine.rule=multi_krum",
        "combine.pre=[]",
        "combine.f=1", "nodes=8",
    ),
    "the rule needs every client's update in plain text": (
        "mask=all", "combine=robust", "combine.f=1", "nodes=8",
    ),
    "it does not pick whole clients": (
        "path=select_then_sum", "combine=robust", "combine.rule=geometric_median", "nodes=8",
        "combine.pre=[]",
    ),
    "works coordinate by coordinate": (
        "path=select_then_sum", "combine=robust", "combine.rule=trimmed_mean", "nodes=8",
        "combine.pre=[]",
    ),
    "there is no rule that picks clients": ("path=select_then_sum",),
    "stages before the rule": (
        "path=select_then_sum", "combine=robust", "combine.rule=krum", "nodes=8",
        "combine.pre=[nearest_neighbor_mixing]",
    ),
    "needs at least 3 groups": ("path=bucketed",),
    "late replies are kept": ("trigger=buffer", "trigger.k=2"),
    "also send 'control'": ("combine=scaffold", "client=scaffold"),
    "works on single clients' models": ("combine=mifa",),
    "sums at most 3 clients exactly": ("cipher=plain", "cipher.clients=3"),
    "would have to open sealed ones": ("attack=alie",),
    "cannot open what a protection hides": ("strategy=flower_fedavg",),
    "learns from the norms of single updates": ("mask=all", "trigger=dynamic_backup"),
    "model has 2 layers": ("mask.k=3",),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_work_is_refused_before_the_run(play, tmp_path, reason):
    with pytest.raises(UserError, match=reason):
        play(*HIDDEN, *REFUSED[reason])
    assert not list(tmp_path.glob("*/rounds.jsonl"))


def test_without_protection_nothing_is_added(play):
    played = play()
    assert not (played.directory / "protection.json").exists()
    assert played.summary["encrypted_share"] is None


def test_transfers_are_timed_with_what_is_sealed(play):
    slow = ("fleet.median_up_mbps=0.01", "nodes=2", "rounds=1", "partition=iid")
    bare = play("model=mlp", "model.hidden=[4]", *slow).events[0]
    sealed = play(*HIDDEN, "mask=all", *slow).events[0]
    more = sealed["bytes_up"] / bare["bytes_up"]
    longer = (sealed["end_s"] - sealed["done_s"]) / (bare["end_s"] - bare["done_s"])
    assert more > 5
    assert longer == pytest.approx(more, rel=0.3)


NOISED = ("protection=encryption_dp", "model=mlp", "model.hidden=[4]", "cipher.clients=20")


def test_noise_is_added_before_anything_is_encrypted(play):
    words = (*NOISED, "mask=all", "cipher.clip=8", "cipher.bits=24", "combine.weighting=uniform")
    found, plain = play(*words, "cipher=plain"), play(*words, "cipher=plain")
    assert found.sha == plain.sha
    alone = play(
        "model=mlp", "model.hidden=[4]", "protection=dp_client", "protection.noise=client",
        "combine.weighting=uniform",
    )  # fmt: skip
    assert np.abs(found.model() - alone.model()).max() < 1e-4  # the same noise, in fixed point
    assert found.summary["epsilon"] == alone.summary["epsilon"] > 0.0
    assert found.summary["encrypted_share"] == 1.0
    assert set(facts(found)) == {"encryption", "clientlevel"}


def test_noise_by_the_server_cannot_be_combined_with_encryption(play, tiny):
    cfg = tiny(*NOISED)
    cfg["protection"]["layers"][1]["noise"] = "server"
    with pytest.raises(UserError, match="it would have to clip each client's update"):
        play(cfg=cfg)
