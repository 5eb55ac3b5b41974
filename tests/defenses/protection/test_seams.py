"""What a protection leaves to see, several at once, and what none of them does."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from defenses.encryption import masks
from defenses.encryption.keys_committee import Committee
from defenses.encryption.keys_shared import Shared
from defenses.encryption.plain import Plain
from defenses.encryption.rlwe import Rlwe
from defenses.protection import Protection, Release, Request, SentModel, Stack, Step
from defenses.protection.encryption import Encryption
from defenses.protection.paths import Sum
from fedhive.errors import UserError
from fedhive.leakage.view import Exchange, Knowledge, View
from strategies.combine import Cohort, Mean
from tests.fedhive.world.worlds import world

LAYOUT = [("0.weight", (2, 1, 2, 2)), ("0.bias", (2,)), ("3.weight", (3, 2)), ("3.bias", (3,))]
P = 19
SECRET = Rlwe(clip=1.0, clients=20)


def encryption(cipher=SECRET, keys=None, mask=None) -> Encryption:
    return Encryption(
        mask or masks.FirstK(), cipher, keys or Committee(size=5, threshold=3), Sum()
    )


def seen(role: str = "server", subjects: tuple[int, ...] = (1000,)) -> View:
    ones = np.ones(P, np.float32)
    weights = tuple(1.0 / len(subjects) for _ in subjects)
    nothing = Knowledge(labels=None, examples=None, lr=None, steps=None, batch_size=None)
    return View(
        role, subjects, weights, (Exchange(1, ones, ones),), np.ones(P, np.bool_), LAYOUT,
        knows=nothing,
    )  # fmt: skip


@pytest.mark.parametrize("role", ["server", "eavesdropper", "client"])
def test_hidden_coordinates_of_one_client_vanish_from_the_view(role):
    left = encryption().view(seen(role))
    assert not left.visible[:10].any()
    assert left.visible[10:].all()
    assert not left.exchanges[0].seen[:10].any()


def test_what_stays_to_be_seen():
    assert encryption().view(seen(subjects=(1000, 1001))).visible.all()  # a sum, which is opened
    assert encryption().view(seen("device")).visible.all()
    assert encryption(Plain(clip=1.0), Shared()).view(seen()).visible.all()
    assert encryption(keys=Shared()).view(seen("client")).visible.all()  # all have the one key
    assert not encryption(keys=Shared()).view(seen("server")).visible[:10].any()


def test_the_masks_share_is_told_for_the_plan_and_summary():
    protection = encryption(Plain(clip=1.0), Shared())
    assert protection.sealed_bytes(0, LAYOUT) > 4 * 10
    request = Request(1, np.zeros(P, np.float32), LAYOUT, {})
    assert protection.prepare(request, None)
    assert protection.summary()["encrypted_share"] == pytest.approx(10 / 19)
    assert protection.summary()["bytes_sealed"] == 0


def test_a_state_comes_back():
    one = encryption()
    one.prepare(Request(1, np.zeros(P, np.float32), LAYOUT, {}), None)
    one.meter.refuse("Tampered")
    other = encryption()
    other.restore(one.state())
    assert (other.run, other.meter, other._layout) == (one.run, one.meter, one._layout)


class Louder(Protection):
    """Doubles the proposed model, and marks messages on their way out."""

    def __init__(self, mark: str, records: tuple[str, ...] = ()) -> None:
        self.mark, self.records = mark, records

    def mods(self, node_number):
        def mod(message, context, call_next):
            reply = call_next(message, context)
            reply.append(self.mark)
            return reply

        return (mod,)

    def open(self, content, sent):
        return content, self.mark

    def reveal(self, step):
        assert set(step.opened) == {self.mark}
        return Release(step.proposed * 2, self.mark, {7: self.mark})

    def screen(self, opened, server_round, grid):
        return {node: self.mark for node, found in opened.items() if found != self.mark}

    def settings(self, request):
        return {self.mark: 1}

    def facts(self):
        return {"kind": self.mark}


def test_layers_of_a_stack_act_in_order():
    stack = Stack([Louder("outer"), Louder("inner")])
    handler = lambda message, context: []  # noqa: E731
    from fedhive.chain import wrap

    assert wrap(stack.mods(0), handler)(None, None) == ["inner", "outer"]
    current = np.ones(3, np.float32)
    _, opened = stack.open(RecordDict(), SentModel(7, 1, current, []))
    assert opened == ("outer", "inner")
    cohort = Cohort([7], [current], [1], [1.0], {}, current, 1)
    release = stack.reveal(Step(cohort, current, [opened], Mean(), {}, None))
    assert release.model.tolist() == [4.0] * 3
    assert release.reason == "outer; inner"
    assert stack.screen({7: opened}, 1, None) == {}
    assert stack.settings(Request(1, current, [], {})) == {"outer": 1, "inner": 1}
    assert stack.prepare(Request(1, current, [], {}), None)
    assert stack.sealed_bytes(0, LAYOUT) == 0


def test_layers_that_use_the_same_name_are_refused():
    with pytest.raises(UserError, match="two layers use 'sealed'"):
        Stack([Louder("a", ("sealed",)), Louder("b", ("sealed",))])
    with pytest.raises(UserError, match="two layers send the setting 'a'"):
        Stack([Louder("a"), Louder("a")]).settings(Request(1, np.ones(1, np.float32), [], {}))


def test_queries_go_to_the_layer_that_answers():
    stack = Stack([Louder("outer"), encryption(Plain(clip=1.0), Shared())])
    [context] = world(1).contexts
    with pytest.raises(ValueError, match="about nothing"):
        stack.answer(Message(RecordDict({}), 1000, "query.he_share"), context)
    with pytest.raises(ValueError, match="Louder answers no queries"):
        Louder("a").answer(Message(RecordDict({}), 1000, "query.he_share"), context)


def test_no_protection_does_nothing():
    none, current = Protection(), np.ones(3, np.float32)
    cohort = Cohort([7], [current], [1], [1.0], {}, current, 1)
    assert none.reveal(Step(cohort, current, [None], Mean(), {}, None)).model is current
    assert none.view(view := seen()) is view
    assert (none.mods(0), none.summary(), none.state(), none.disbelieved(9, 1)) == ((), {}, {}, "")
