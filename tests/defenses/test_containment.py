"""Nothing a client sends gets past containment malformed, and nothing it sends raises."""

from __future__ import annotations

import io
import math
import struct
import tracemalloc

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from defenses.containment import Containment, Update
from fedhive import rounds
from fedhive.flower import Malformed, from_flat
from strategies import Hive
from strategies.selection import Uniform
from tests.fedhive.world.worlds import FakeEngine, instruction, number, reply_to, world

LAYOUT = [("a", (2, 3)), ("b", (2,))]
FLAT = np.arange(8, dtype=np.float32)


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def array(
    values=None, *, dtype="float32", shape=(2, 3), stype="numpy.ndarray", data=None
) -> Array:
    values = FLAT[:6].reshape(2, 3) if values is None else values
    return Array(dtype, shape, stype, npy(values) if data is None else data)


def content(first: Array | None = None, **metrics: object) -> RecordDict:
    arrays = ArrayRecord({"a": first or array(), "b": Array(FLAT[6:])})
    return RecordDict(
        {"arrays": arrays, "metrics": MetricRecord({"num-examples": 5, **metrics})}
    )  # fmt: skip


def header(text: str, body: bytes = b"") -> bytes:
    raw = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + body


HUGE = header("{'descr': '<f4', 'fortran_order': False, 'shape': (536870912,), }\n", b"\0" * 16)
GOOD_BODY = FLAT[:6].tobytes()


def without(key: str) -> RecordDict:
    made = content()
    del made[key]
    return made


def plus(**records: object) -> RecordDict:
    made = content()
    for key, record in records.items():
        made[key] = record
    return made


def with_arrays(**arrays: Array) -> RecordDict:
    made = content()
    made["arrays"] = ArrayRecord(arrays)
    return made


GOOD_B = Array(FLAT[6:])
BAD = {
    "missing arrays": (without("arrays"), "missing record 'arrays'"),
    "missing metrics": (without("metrics"), "missing record 'metrics'"),
    "empty": (RecordDict(), "missing record 'arrays'"),
    "extra record": (plus(more=MetricRecord({"x": 1})), "unexpected record 'more'"),
    "arrays is no array": (plus(arrays=ConfigRecord({"x": 1})), "'arrays' is not an ArrayRecord"),
    "metrics is no metric": (plus(metrics=ConfigRecord({})), "'metrics' is not a MetricRecord"),
    "missing array": (with_arrays(a=array()), "missing array 'b'"),
    "extra array": (with_arrays(a=array(), b=GOOD_B, c=GOOD_B), "unexpected array 'c'"),
    "other order": (with_arrays(b=GOOD_B, a=array()), "in another order"),
    "wrong shape": (content(array(FLAT[:6].reshape(3, 2), shape=(3, 2))), r"has shape \(3, 2\)"),
    "another shape inside": (content(array(FLAT[:6].reshape(3, 2))), r"claims \(3, 2\) <f4"),
    "float64": (content(array(FLAT[:6].reshape(2, 3).astype(float), dtype="float64")), "float64"),
    "float64 inside": (content(array(FLAT[:6].reshape(2, 3).astype(float))), "carries|claims"),
    "float16 inside": (content(array(FLAT[:6].reshape(2, 3).astype("f2"))), "claims .* <f2"),
    "big endian": (content(array(FLAT[:6].reshape(2, 3).astype(">f4"))), "claims .* >f4"),
    "integers": (content(array(np.ones((2, 3), np.int32))), "claims .* <i4"),
    "foreign stype": (content(array(stype="pickle")), "serialised as 'pickle'"),
    "truncated": (content(array(data=npy(FLAT[:6].reshape(2, 3))[:-1])), "holds 23 bytes"),
    "trailing": (content(array(data=npy(FLAT[:6].reshape(2, 3)) + b"\0")), "holds 25 bytes"),
    "half a header": (content(array(data=npy(FLAT[:6].reshape(2, 3))[:40])), "broken .npy header"),
    "no bytes": (content(array(data=b"")), "broken .npy header"),
    "version 2": (content(array(data=b"\x93NUMPY\x02\x00" + b"\0" * 60)), "broken .npy header"),
    "objects": (content(array(data=npy(FLAT[:6].reshape(2, 3)).replace(b"<f4", b"|O8"))), r"\|O8"),
    "2 GB header": (content(array(data=HUGE)), r"claims \(536870912,\)"),
    "NaN": (content(array(np.full((2, 3), np.nan, np.float32))), "NaN or infinity"),
    "infinity": (content(array(np.full((2, 3), -np.inf, np.float32))), "NaN or infinity"),
    "one NaN": (content(array(np.array([[1, 2, 3], [4, np.nan, 6]], np.float32))), "NaN"),
    "both infinities": (content(array(np.array([[1, 2, 3], [4, np.inf, -np.inf]], "f4"))), "NaN"),
    "extra metric": (content(secret=1), "unexpected metric 'secret'"),
    "no examples": (plus(metrics=MetricRecord({"steps": 1})), "'num-examples' is missing"),
    "zero examples": (content(**{"num-examples": 0}), "0 examples is not between 1"),
    "negative examples": (content(**{"num-examples": -5}), "-5 examples is not between"),
    "huge examples": (content(**{"num-examples": 10**18}), "is not between 1 and 1000000"),
    "NaN examples": (content(**{"num-examples": math.nan}), "nan examples is not between"),
    "infinite examples": (content(**{"num-examples": math.inf}), "inf examples is not"),
    "many examples": (content(**{"num-examples": [1, 2]}), "'num-examples' is missing"),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BAD)
def test_malformed(name: str):
    made, reason = BAD[name]
    with pytest.raises(Malformed, match=reason):
        Containment().open(made, LAYOUT)


def test_well_formed():
    update = Containment().open(content(**{"train-loss": 0.5, "steps": 3}), LAYOUT)
    assert update.model.tolist() == FLAT.tolist()
    assert (update.examples, update.loss, update.extra) == (5, 0.5, {})


def test_fortran_order_is_read_right():
    values = np.asfortranarray(FLAT[:6].reshape(2, 3))
    assert b"'fortran_order': True" in npy(values)
    assert Containment().open(content(array(values)), LAYOUT).model.tolist() == FLAT.tolist()


@pytest.mark.parametrize("loss", [math.nan, math.inf, [1.0]])
def test_a_senseless_loss_is_no_loss(loss: object):
    assert Containment().open(content(**{"train-loss": loss}), LAYOUT).loss is None


def test_a_huge_header_allocates_nothing():
    made = content(array(data=HUGE))
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            Containment().open(made, LAYOUT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_long_body_is_refused_by_its_length():
    long = header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}\n", b"\0" * 10**6)
    with pytest.raises(Malformed, match="carries 10000"):
        Containment().open(content(array(data=long)), LAYOUT)


def test_allowed_metrics_and_norms():
    made = content(secret=1)
    Containment(metrics=("secret",)).open(made, LAYOUT)
    far = np.zeros(8, np.float32)
    tight = Containment(max_norm=11.0)
    with pytest.raises(Malformed, match=r"norm is 11\.8, above 11"):
        tight.open(content(), LAYOUT, current=far)
    tight.open(content(), LAYOUT, current=FLAT)
    assert Containment(max_examples=5).open(content(), LAYOUT).examples == 5
    for bad in ({"max_examples": 0}, {"max_norm": 0.0}, {"max_norm": math.nan}):
        with pytest.raises(ValueError, match="must be"):
            Containment(**bad)


def test_further_vectors():
    good = from_flat(FLAT, [("control", (8,))])
    made = plus(control=good)
    update = Containment().open(made, LAYOUT, extra=["control"])
    assert update.extra["control"].tolist() == FLAT.tolist()
    short = plus(control=from_flat(FLAT[:7], [("control", (7,))]))
    nan = plus(control=from_flat(FLAT * np.float32(np.nan), [("control", (8,))]))
    for bad, reason in (
        (content(), "missing record 'control'"),
        (short, "has shape"),
        (nan, "NaN"),
    ):
        with pytest.raises(Malformed, match=reason):
            Containment().open(bad, LAYOUT, extra=["control"])


# ---- any bytes at all -------------------------------------------------------------------------

HEADERS = [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)",
    "{'descr': '<f4', 'fortran_order': 1, 'shape': (2, 3)}",
    "{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (2, 3)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 3)}",
    "{[]: 1}", "{1: 2, 'a': 3}", "(" * 900, "[" * 1000, "'", '"""', "{'a':\n\tb\n c",
    "0x" + "f" * 900, "-" * 1000 + "1", "1" * 1000, "lambda: 0", "\x00", "{**{}}",
    "{'descr': {}, 'fortran_order': False, 'shape': ()}",
    "{'descr': '<f4' * 9999999, 'fortran_order': False, 'shape': (2, 3)}",
    "{'descr': ('<f4', (99999999999,)), 'fortran_order': False, 'shape': (2, 3)}",
    "{'descr': 'V' , 'fortran_order': False, 'shape': (2, 3)}", "# -*- coding: x -*-",
    "{'a': '\\ud800'}",
]  # fmt: skip


def read(data: bytes) -> None:
    try:
        Containment().open(content(array(data=data)), LAYOUT)
    except Malformed as error:
        str(error)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", HEADERS)
def test_odd_headers(text: str):
    read(header(text))
    read(header(text, GOOD_BODY))
    read(header(text + "\n", GOOD_BODY))


pieces = st.sampled_from(
    ["{", "}", "(", ")", "[", "]", "'descr'", "'fortran_order'", "'shape'", ":", ",", "'<f4'",
     "'|O'", "False", "True", "2", "3", "-", "1e999", "\n", "\t", " ", "#", "\\", "'", "L", "\x80"]
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=100).map(lambda rest: b"\x93NUMPY\x01\x00" + rest),
        st.lists(pieces, max_size=30).map(lambda p: header("".join(p), GOOD_BODY)),
        st.text("{}()[]'\",:<>=-+*0123456789abflFT \n\\", max_size=80).map(header),
        st.binary(min_size=24, max_size=24).map(lambda body: header(HEADERS[0], body)),
    )
)
@example(b"\x93NUMPY\x01\x00\xff\xff")
def test_any_bytes_raise_nothing_but_malformed(data: bytes):
    read(data)


# ---- a round goes on --------------------------------------------------------------------------


def misbehave(made: RecordDict | None):
    def answer(message: Message, context: Context) -> Message:
        if number(context) == 0:
            if made is None:
                raise RuntimeError("no luck")
            return Message(made, reply_to=message)
        return reply_to(message, np.ones(8), 2, **{"train-loss": 1.0})

    return FakeEngine(answer)


def small(first: Array | None = None, **metrics: object) -> RecordDict:
    """A reply for the one-array model of `worlds.instruction`, with 8 numbers."""
    one = first or Array(FLAT)
    metrics = {"num-examples": 5, **metrics}
    return RecordDict({"arrays": ArrayRecord({"w": one}), "metrics": MetricRecord(metrics)})


CRIMES = {
    "raises": None,
    "NaN": small(Array(FLAT * np.float32(np.nan))),
    "wrong shape": small(Array(FLAT[:5])),
    "extra metric": small(secret=1),
    "negative count": small(**{"num-examples": -4}),
    "huge count": small(**{"num-examples": 10**15}),
    "2 GB": small(Array("float32", (8,), "numpy.ndarray", HUGE)),
    "nothing": RecordDict(),
}


def stock(name: str):
    import flwr.serverapp.strategy as flower

    options = {"min_train_nodes": 1, "min_available_nodes": 1, "fraction_evaluate": 0.0}
    return getattr(flower, name)(**options)


@pytest.mark.parametrize("crime", CRIMES)
@pytest.mark.parametrize("name", ["hive", "FedAvg", "FedAdam", "FedMedian"])
def test_the_round_goes_on(name: str, crime: str):
    strategy = Hive(selection=Uniform(k=None)) if name == "hive" else stock(name)
    grid = world(3, engine=misbehave(CRIMES[crime]))
    start = instruction(0, payload=8).content["arrays"]
    new = rounds.play_round(
        strategy, 1, start, {}, grid, seed=0, timeout_s=1e6, screen=Containment()
    )
    values = np.asarray(new["w"].numpy())
    assert np.isfinite(values).all()
    assert values.any()
    if name in ("hive", "FedAvg", "FedMedian"):
        assert values.tolist() == [1.0] * 8
    first, *others = grid.collect_events()
    assert first["status"] == ("error" if crime == "raises" else "rejected")
    assert first["reason"]
    assert [event["status"] for event in others] == ["accepted"] * 2


@pytest.mark.parametrize("name", ["hive", "FedAvg", "FedAdam", "FedMedian", "Krum", "QFedAvg"])
def test_nobody_behaves(name: str):
    options = {"min_train_nodes": 1, "min_available_nodes": 1, "fraction_evaluate": 0.0}
    strategy = stock(name) if name not in ("hive", "QFedAvg") else None
    if name == "QFedAvg":
        from flwr.serverapp.strategy import QFedAvg

        strategy = QFedAvg(client_learning_rate=0.1, **options)
    engine = FakeEngine(lambda message, context: Message(RecordDict(), reply_to=message))
    start = instruction(0, payload=8).content["arrays"]
    new = rounds.play_round(
        strategy or Hive(), 1, start, {}, world(3, engine=engine), seed=0, timeout_s=1e6,
        screen=Containment(),
    )  # fmt: skip
    assert new["w"].numpy().tolist() == [0.0] * 8


# ---- numbers of examples -----------------------------------------------------------------------


def claims(*examples: int) -> dict[int, Update]:
    return {i: Update(np.zeros(1, np.float32), n, None, {}) for i, n in enumerate(examples)}


def counted(containment: Containment, *examples: int, known=None) -> list[int]:
    found = containment.bounded(claims(*examples), known or {})
    return [found[i].examples for i in range(len(examples))]


def test_examples_are_cut_to_ten_times_the_median():
    assert counted(Containment(), 10, 20, 30, 999) == [10, 20, 30, 200]
    assert counted(Containment(), 10, 20, 30, 200) == [10, 20, 30, 200]


def test_another_quantile_and_factor():
    strict = Containment(examples_quantile=0.75, examples_factor=1.0)
    assert counted(strict, 10, 20, 30, 999) == [10, 20, 30, 30]
    assert counted(Containment(examples_factor=None), 1, 1, 10**6) == [1, 1, 10**6]


def test_a_small_cohort_asks_what_others_reported():
    known = {5: 10, 6: 10, 7: 10, 8: None, 0: 10**6}
    assert counted(Containment(), 10**6, known=known) == [100]
    assert counted(Containment(), 10**6) == [10**6]  # alone, nothing says that it is much
    assert counted(Containment(), *[50] * 20, 600, known=known) == [50] * 20 + [500]


def test_what_is_not_cut_is_left_as_it_is():
    found = claims(10, 20, 30)
    assert Containment().bounded(found, {}) == found
    assert Containment().bounded({}, {5: 10}) == {}


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=60), st.integers(1, 10**6))
def test_less_than_half_the_clients_move_no_bound_above_an_honest_one(honest, claim):
    liars = (len(honest) - 1) // 2
    found = counted(Containment(), *honest, *[claim] * liars)
    assert max(found) <= 10 * max(honest)
    assert all(0 < after <= before for after, before in zip(found, honest, strict=False))


@pytest.mark.parametrize(
    "bad",
    [
        {"examples_quantile": 0.0}, {"examples_quantile": 1.1}, {"examples_factor": 0.5},
        {"max_strikes": 0},
    ],
)  # fmt: skip
def test_impossible_bounds_are_refused(bad):
    with pytest.raises(ValueError, match="must be"):
        Containment(**bad)
