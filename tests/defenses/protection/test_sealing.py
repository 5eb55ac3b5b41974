"""The client's half: what it seals, what it refuses to, and what it pins."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from defenses.encryption import masks, sensitivity
from defenses.encryption.agreement import Sensitive
from defenses.encryption.base import Context as SealContext
from defenses.encryption.keys_shared import Shared
from defenses.encryption.plain import Plain
from defenses.protection import sealing
from defenses.protection.encryption import Encryption
from defenses.protection.paths import Sum
from defenses.protection.sealing import Refused, Seal, Tools, agreed_mask
from fedhive.flower import flatten_record, from_flat
from tests.fedhive.world.worlds import world

LAYOUT = [("0.weight", (2, 1, 2, 2)), ("0.bias", (2,)), ("3.weight", (3, 2)), ("3.bias", (3,))]
P = 8 + 2 + 6 + 3


def tools(mask=None) -> Tools:
    return Tools(mask or masks.FirstK(), Plain(clip=1.0, bits=20), Shared(seed=1), unit=10.0)


def instruction(t: Tools, **changes) -> dict:
    hidden = np.zeros(P, np.bool_) if t.mask.from_data else t.own_mask(LAYOUT)[0]
    settings = {
        sealing.RUN: bytes(16), sealing.MASK: masks.digest_of(hidden, LAYOUT),
        sealing.PARAMS: t.cipher.params_id, sealing.KEY: t.keys.key_id,
        sealing.WEIGHTING: "examples", "server-round": 1,
    }  # fmt: skip
    return {key: value for key, value in {**settings, **changes}.items() if value is not None}


def context() -> Context:
    return world(1).contexts[0]


def message(t: Tools, **changes) -> Message:
    base = np.arange(P, dtype=np.float32)
    content = RecordDict(
        {
            "arrays": from_flat(base, LAYOUT, shared=True),
            "config": ConfigRecord(instruction(t, **changes)),
        }
    )
    return Message(content, 1000, "train")


def trained(received: Message, _: Context) -> Message:
    model = flatten_record(received.content["arrays"], LAYOUT) + np.float32(0.01)
    metrics = MetricRecord({"num-examples": 20, "train-loss": 0.5, "steps": 1, "samples": 40})
    content = RecordDict({"arrays": from_flat(model, LAYOUT), "metrics": metrics})
    return Message(content, reply_to=received)


@pytest.mark.parametrize(
    ("weighting", "factor"), [("examples", 2.0), ("samples", 4.0), ("uniform", 1.0)]
)
def test_hidden_coordinates_leave_the_model_and_travel_scaled(weighting, factor):
    t = tools()
    sent = message(t, **{sealing.WEIGHTING: weighting, "selection-weight": 0.5})
    reply = Seal(t)(sent, context(), trained)
    model = flatten_record(reply.content["arrays"], LAYOUT)
    base = np.arange(P, dtype=np.float32)
    assert (model[:10] == base[:10]).all()
    assert np.allclose(model[10:], base[10:] + 0.01)
    array = reply.content["sealed"]["sealed"]
    assert (array.stype, array.dtype) == ("fedhive.plain/1", "uint8")
    digest = t.own_mask(LAYOUT)[1]
    parsed = t.cipher.parse(bytes(array.data), SealContext(bytes(16), 1, digest, 1000, 10), t.keys)
    values = t.cipher.fixed.decode(t.cipher.decrypt(t.cipher.add([parsed]), None))
    assert np.allclose(values, 0.01 * factor * 0.5, atol=1e-5)


def test_a_strategy_that_does_not_know_sealed_arrays_fails_loudly():
    reply = Seal(tools())(message(tools()), context(), trained)
    with pytest.raises(TypeError):
        reply.content["sealed"]["sealed"].numpy()


def test_values_beyond_the_clip_are_counted():
    t = Tools(masks.FirstK(), Plain(clip=0.001, bits=20), Shared(seed=1), unit=10.0)
    reply = Seal(t)(message(t), context(), trained)
    assert reply.content["metrics"][sealing.SATURATED] == 10


def test_other_messages_pass():
    asked = Message(RecordDict(), 1000, "evaluate")
    assert Seal(tools())(asked, context(), lambda m, c: m) is asked


WRONG = {
    "this server does not encrypt": {sealing.MASK: None},
    "other parameters": {sealing.PARAMS: bytes(16)},
    "other keys": {sealing.KEY: bytes(16)},
    "mask is not the one that the model and the rule give": {sealing.MASK: bytes(16)},
}


@pytest.mark.parametrize("reason", WRONG)
def test_a_client_answers_only_to_what_was_agreed(reason):
    t = tools()
    with pytest.raises(Refused, match=reason):
        Seal(t)(message(t, **WRONG[reason]), context(), trained)


def from_data() -> Tools:
    return tools(Sensitive(score=sensitivity.magnitude, share=0.5))


def voted(t: Tools, hidden: np.ndarray) -> dict:
    digest = masks.digest_of(hidden, LAYOUT)
    return instruction(t, **{sealing.BITS: masks.packed(hidden), sealing.MASK: digest})


def test_a_mask_from_data_is_pinned_and_no_other_is_accepted_after():
    t, place = from_data(), context()
    hidden = np.arange(P) < 10
    assert (agreed_mask(t, voted(t, hidden), LAYOUT, place)[0] == hidden).all()
    assert (agreed_mask(t, voted(t, hidden), LAYOUT, place)[0] == hidden).all()
    with pytest.raises(Refused, match="another mask than the one that was agreed upon"):
        agreed_mask(t, voted(t, ~hidden | (np.arange(P) < 3)), LAYOUT, place)


def test_a_mask_that_hides_too_little_or_does_not_fit_its_digest_is_refused():
    t = from_data()
    with pytest.raises(Refused, match="hides less than was agreed"):
        agreed_mask(t, voted(t, np.arange(P) < 9), LAYOUT, context())
    good = voted(t, np.arange(P) < 10)
    with pytest.raises(Refused, match="does not fit its digest"):
        agreed_mask(t, {**good, sealing.MASK: bytes(16)}, LAYOUT, context())
    with pytest.raises(Refused, match="carries no mask"):
        agreed_mask(t, {k: v for k, v in good.items() if k != sealing.BITS}, LAYOUT, context())
    with pytest.raises(ValueError, match="3 bytes, not 1"):
        agreed_mask(t, {**good, sealing.BITS: b"\xff"}, LAYOUT, context())


def test_who_has_agreed_votes_no_more():
    t, place = from_data(), context()
    agreed_mask(t, voted(t, np.arange(P) < 10), LAYOUT, place)
    with pytest.raises(Refused, match="any more"):
        sealing.sealed_vote(t, message(t), place)


def test_questions_about_nothing_are_refused():
    protection = Encryption(masks.FirstK(), Plain(clip=1.0), Shared(seed=1), Sum())
    for settings in ({}, {"about": "share"}, {"about": "else", "question": b""}):
        asked = Message(RecordDict({"config": ConfigRecord(settings)}), 1000, "query.he_share")
        with pytest.raises(ValueError, match="about nothing"):
            protection.answer(asked, context())


def test_a_record_of_its_own():
    record = tools().pack(b"abc")
    assert isinstance(record, ArrayRecord)
    assert tuple(record["sealed"].shape) == (3,)


def test_a_round_is_sealed_once_under_whatever_name():
    t, place = tools(), context()
    Seal(t)(message(t), place, trained)
    with pytest.raises(Refused, match="round 1 was sealed already"):
        Seal(t)(message(t, **{"node-id": 7}), place, trained)
    Seal(t)(message(t, **{"server-round": 2}), place, trained)
    Seal(t)(message(t, **{sealing.RUN: bytes([1] * 16)}), place, trained)
    with pytest.raises(Refused, match="round 2 was sealed already"):
        Seal(t)(message(t, **{"server-round": 2}), place, trained)


def test_a_client_seals_under_the_id_that_the_server_knows():
    t = tools()
    reply = Seal(t)(message(t, **{"node-id": 7}), context(), trained)
    data = bytes(reply.content["sealed"]["sealed"].data)
    digest = t.own_mask(LAYOUT)[1]
    assert t.cipher.parse(data, SealContext(bytes(16), 1, digest, 7, 10), t.keys).senders == (7,)
