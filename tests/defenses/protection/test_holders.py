"""Who opens sums: a committee asked over the grid, and what it refuses."""

from __future__ import annotations

import json

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from defenses.encryption.keys_committee import Committee
from defenses.encryption.keys_shared import Shared
from defenses.protection import opening
from defenses.protection.opening import Meter, ask_holders, asker
from tests.defenses.protection.test_runs import HIDDEN
from tests.fedhive.world.worlds import world

MEMBERS = "keys.nodes=[1000,1001,1002,1003,1004]"
COMMITTEE = (*HIDDEN, "keys=committee", MEMBERS, "keys.threshold=3", "keys.least=3", "nodes=8")


def facts(played):
    return json.loads((played.directory / "protection.json").read_text())


def shares(played, number=1):
    return [e for e in played.events if e["kind"] == "query.he_share" and e["round"] == number]


@pytest.mark.parametrize("more", [("mask=all",), ("mask=first_k", "engine=pool")], ids=" ".join)
def test_members_open_sums_over_the_grid_to_the_same_bits(play, more):
    wanted = play(*HIDDEN, "nodes=8", "cipher=plain", *more)
    found = play(*COMMITTEE, *more)
    assert found.sha == wanted.sha
    assert {event["node"] for event in shares(found)} == {0, 1, 2, 3, 4}
    answers = [event["bytes_up"] for event in shares(found)]
    assert max(answers) < 10_000  # a member's answers, at any size of the model
    assert facts(found)["costs"]["query_bytes"] > 0
    assert "fewer than 3 members with the server" in str(facts(found)["sight"])


def test_a_committee_agrees_on_a_mask_and_opens_groups(play):
    words = ("mask=magnitude", "path=bucketed", "combine.weighting=uniform", "keys.least=2")
    found = play(*COMMITTEE, *words)
    assert found.summary["rounds_not_opened"] == 0
    assert found.sha == play(*HIDDEN, *words[:3], "nodes=8", "cipher=plain").sha


def test_a_committee_inside_the_server_for_quick_simulations(play):
    inside = tuple(word for word in COMMITTEE if word != MEMBERS)
    found = play(*inside, "mask=all", "keys.size=5")
    assert found.sha == play(*HIDDEN, "nodes=8", "cipher=plain", "mask=all").sha
    assert not shares(found)


def answering(monkeypatch, silent: set[int]) -> None:
    """Members that are asked and do not answer."""
    real = opening.ask_holders

    def ask(grid, questions, number, meter):
        left = {node: q for node, q in questions.items() if node not in silent}
        return real(grid, left, number, meter)

    monkeypatch.setattr(opening, "ask_holders", ask)


def test_as_many_answers_as_needed_are_enough(play, monkeypatch):
    answering(monkeypatch, {1000, 1003})
    assert play(*COMMITTEE, "mask=all").summary["rounds_not_opened"] == 0


def test_with_one_answer_too_few_nothing_is_opened_and_the_model_stays(play, monkeypatch):
    answering(monkeypatch, {1000, 1003, 1004})
    found = play(*COMMITTEE, "mask=all")
    assert found.summary["rounds_not_opened"] == 3
    assert {e["status"] for e in found.events if e["kind"] == "train"} == {"rejected"}
    assert len({record["accuracy"] for record in found.rounds}) == 1
    assert "TooFewAnswers" in facts(found)["costs"]["lost"]["1"]


def test_a_member_answers_once_a_round(play, monkeypatch):
    """The second question of a round, over other clients, is refused by every member."""
    seen = []
    real = opening.ask_holders

    def twice(grid, questions, number, meter):
        answers = real(grid, questions, number, meter)
        seen.append((number, len(answers), len(real(grid, questions, number, meter))))
        return answers

    monkeypatch.setattr(opening, "ask_holders", twice)
    found = play(*COMMITTEE, "mask=all", "rounds=1")
    assert found.summary["rounds_not_opened"] == 0
    assert seen == [(1, 5, 5), (1, 5, 0)]  # checking shares may be repeated, opening may not


def test_ciphers_with_one_key_cannot_serve_a_committee(play):
    from fedhive.errors import UserError

    with pytest.raises(UserError, match="keys=committee cannot serve cipher=plain"):
        play(*COMMITTEE, "cipher=plain")


def test_holders_that_are_not_there_are_not_asked():
    grid, meter = world(2), Meter()
    assert ask_holders(grid, {5000: b"x"}, 1, meter) == {}
    assert meter.query_bytes == 0
    assert asker(Shared(), grid, 1, meter) is None
    assert asker(Committee(nodes=[1000, 1001, 1002], threshold=2), None, 1, meter) is None


def test_a_run_without_protection_answers_no_question(tiny):
    from fedhive import config
    from fedhive.chain import answer

    [context, *_] = world(1).contexts
    context.run_config["fedhive-config"] = config.dumps(tiny())
    asked = Message(
        RecordDict({"config": ConfigRecord({"about": "share"})}), 1000, "query.he_share"
    )
    with pytest.raises(ValueError, match="no protection"):
        answer(asked, context)
