"""Another protection for each client: whole runs, too small cohorts, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from defenses.protection.by_capability import ByCapability
from fedhive import config
from fedhive.errors import UserError
from fedhive.trust.fleet import Listed, Shares

BASE = ("protection=by_capability", "mask=all", "nodes=6")


def levels(*given: int) -> tuple[str, ...]:
    return (
        "protection.levels={_target_: fedhive.trust.fleet.Listed, levels: "
        f"[{', '.join(map(str, given))}]}}",
    )


NO_NOISE = (
    "protection.plans=["
    "{_target_: strategies.placement_security.Plan, name: encrypted, level: 2, exposure: 0.1, "
    "cohort: true}, {_target_: strategies.placement_security.Plan, name: plain, level: 0, "
    "exposure: 1.0}]",
)
MIXED = (*BASE, *NO_NOISE, *levels(2, 0, 3, 1, 2, 0), "selection.k=6")


def protection(tiny, *overrides: str) -> ByCapability:
    return config.build(tiny(*overrides)["protection"], "protection")


# ---- who gets what -----------------------------------------------------------------------------


def test_the_best_that_each_level_permits(tiny):
    found = protection(tiny, *BASE, *levels(0, 1, 2, 3, 2, 0))
    assert found.names == ["noised", "noised", "encrypted", "encrypted", "encrypted", "noised"]
    assert found.facts()["by_capability"] == {
        "plans": {"shielded": 0, "encrypted": 3, "noised": 3, "plain": 0},
        "levels": {"0": 2, "1": 1, "2": 2, "3": 1, "4": 0}, "cohort": 3,
    }  # fmt: skip


def test_too_few_for_a_cohort_get_the_next_best(tiny):
    assert set(protection(tiny, *BASE, *levels(0, 1, 2, 3, 0, 0)).names) == {"noised"}


def test_levels_are_drawn_by_shares_and_the_same_in_every_hive():
    drawn = Shares(sandbox=0.8, tpm=0.5, secure_boot=0.5, tee=0.5, seed=1)
    many = drawn(4000)
    assert (drawn(10) == many[:10]).all()
    shares = [(many >= level).mean() for level in range(1, 5)]
    assert np.allclose(shares, [0.8, 0.4, 0.2, 0.1], atol=0.03)
    with pytest.raises(UserError, match="lists 2 machines but nodes=3"):
        Listed([1, 2])(3)
    with pytest.raises(ValueError, match="0 to 4"):
        Listed([5])
    with pytest.raises(ValueError, match="tpm must be 0 to 1"):
        Shares(tpm=1.5)


# ---- runs --------------------------------------------------------------------------------------


def test_a_mixed_run_learns_what_an_open_one_does(play):
    """Half of the clients encrypted, half plain: the same mean, but for rounding."""
    mixed, plain = play(*MIXED), play("nodes=6", "selection.k=6")
    assert set(mixed.statuses) == {"accepted"}
    difference = np.abs(mixed.model() - plain.model()).max()
    assert 0.0 < difference < 1e-3 * np.abs(plain.model()).max()
    facts = json.loads((mixed.directory / "protection.json").read_text())
    assert facts["by_capability"]["plans"] == {"encrypted": 3, "plain": 3}


def test_all_encrypted_is_encryption(play):
    everybody = play(*BASE, *NO_NOISE, *levels(2, 2, 2, 2, 2, 2), "selection.k=6")
    alone = play("protection=encryption", "mask=all", "nodes=6",
                 "selection.k=6")  # fmt: skip
    assert np.allclose(everybody.model(), alone.model(), atol=1e-5)


def test_nobody_trusted_and_no_noise_is_no_protection(play):
    open_ = play(*BASE, *NO_NOISE, *levels(0, 0, 1, 1, 0, 0), "selection.k=6")
    assert open_.sha == play("nodes=6", "selection.k=6").sha


def test_a_cohort_that_is_too_small_is_not_opened(play):
    """Three encrypted clients in all, but a round asks four: rarely all three."""
    run = play(*(w for w in MIXED if not w.startswith("selection")), "selection.k=3", "rounds=4")
    for number in range(1, 5):
        events = [event for event in run.events if event["round"] == number]
        sealed = [event for event in events if event["node"] in (0, 2, 4)]
        expected = "accepted" if len(sealed) >= 3 else "rejected"
        assert {event["status"] for event in sealed} <= {expected}
        for event in sealed:
            if expected == "rejected":
                assert "fewer than a cohort of 3" in event["reason"]
    assert "rejected" in run.statuses


def test_a_run_with_noise_and_encryption(play):
    run = play(*BASE, *levels(0, 1, 2, 3, 2, 0), "selection.k=6", "eval_every=1")
    assert set(run.statuses) == {"accepted"}
    assert run.summary["accuracy"] is not None


# ---- what the solver chose ---------------------------------------------------------------------


def test_what_the_plan_chose_is_used(tiny, tmp_path):
    cfg = tiny(*BASE, *levels(2, 2, 2, 2, 0, 0), "protection.rules.replies=4")
    planned = config.build(cfg["protection"], "protection").plan_for(cfg)
    file = tmp_path / "plan.json"
    file.write_text(planned.as_json())
    found = protection(
        tiny, *BASE, *levels(2, 2, 2, 2, 0, 0), f"protection.chosen={file}"
    )  # fmt: skip
    for name, wanted in zip(found.names, planned.chosen, strict=True):
        assert name == wanted or wanted is None
    assert planned.expected_replies() >= 4 - 1e-6
    assert sum(map(sum, planned.counts().values())) == 6


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"chosen": ["plain"]}, "not for nodes=6"),
        ({"chosen": ["encrypted"] * 6}, "does not permit"),
        ({"chosen": ["secret"] * 6}, "does not permit"),
        ({}, "cannot be used"),
        ([], "cannot be used"),
    ],
)
def test_a_file_that_is_no_plan(tiny, tmp_path, told, reason):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(told))
    with pytest.raises(UserError, match=reason):
        protection(tiny, *BASE, *levels(2, 2, 2, 1, 0, 0), f"protection.chosen={file}")


# ---- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ((*levels(4, 4, 4, 0, 0, 0),), "a simulation cannot shield"),
        ((*levels(2, 2, 2, 0, 0, 0), "combine=mifa"), "use combine=mean"),
        ((*levels(2, 2, 2, 0, 0, 0), "protection.layers.noised.noise=server"), "noise=client"),
    ],
)
def test_what_cannot_be_mixed(play, overrides, reason):
    with pytest.raises(UserError, match=reason):
        play(*BASE, *overrides)


def test_no_plan_for_a_level(tiny):
    only = ("protection.plans=[{_target_: strategies.placement_security.Plan, name: encrypted, "
            "level: 2, exposure: 0.1}]")  # fmt: skip
    with pytest.raises(UserError, match=r"no plan of protection\.plans is for machine 1"):
        protection(tiny, *BASE, only, *levels(2, 1, 2, 2, 2, 2))
