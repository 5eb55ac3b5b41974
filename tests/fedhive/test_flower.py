"""What fedhive/flower takes for granted of the installed Flower, and what it adds to it."""

from __future__ import annotations

import contextlib
import inspect
import logging
import pickle
import re
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from fedhive import flower
from fedhive.flower import Malformed, TensorArray, flatten_record, from_flat

ROOT = Path(__file__).parents[2]
LAYOUT = [("w", (2, 3)), ("b", (3,)), ("t", ())]


@pytest.fixture(autouse=True)
def _identity():
    flower.assume_identity(1)


def instruction(content: RecordDict | None = None) -> Message:
    return Message(content or RecordDict(), 1000, "train")


def flat(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=10).astype(np.float32)


# ---- assumptions about Flower ------------------------------------------------------------------


def test_the_version_is_the_one_this_was_written_for():
    assert version("flwr").split(".")[:2] == ["1", "41"], (
        "check every test of this file against the new Flower, then move the pin"
    )


def test_only_one_package_uses_private_names():
    public = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy"}
    for package in ("fedhive", "strategies", "attacks", "defenses"):
        for file in (ROOT / package).rglob("*.py"):
            if file.parent == ROOT / "fedhive" / "flower":
                continue
            for name in re.findall(
                r"^\s*(?:from|import)\s+(flwr\b[\w.]*)", file.read_text(), re.M
            ):
                assert name in public, f"{file} imports {name}"


def test_a_message_keeps_three_things_in_its_dict():
    reply = Message(RecordDict(), reply_to=instruction())
    assert set(reply.__dict__) == {"_metadata", "_content", "_error"}
    for name in ("content", "error"):
        assert isinstance(inspect.getattr_static(Message, name), property)
        assert inspect.getattr_static(Message, name).fset is not None


def test_an_instruction_needs_the_task_identity(monkeypatch):
    message = instruction()
    assert message.metadata.src_node_id == flower.SERVER_NODE_ID
    assert message.metadata.run_id == 1
    try:
        for missing in ("_run_id", "_node_id", "_task_id"):
            monkeypatch.setattr(TaskIdentity, missing, None)
            with pytest.raises(RuntimeError):
                instruction()
            flower.assume_identity(1)
    finally:
        flower.assume_identity(1)


def test_the_message_id_can_be_set_and_replies_refer_to_it():
    message = instruction()
    assert message.metadata.message_id == ""
    flower.set_message_id(message, "m1")
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == "m1"
    assert reply.metadata.src_node_id == 1000
    assert reply.metadata.dst_node_id == flower.SERVER_NODE_ID


def test_records_keep_their_values_in_data():
    config, content = ConfigRecord({"a": [1, 2]}), RecordDict()
    content["c"] = config
    for record in (config, content, ArrayRecord(), MetricRecord({"x": 1})):
        assert isinstance(record.__dict__["_data"], dict)
    assert content.__dict__["_data"]["c"] is config
    assert config.copy() == config
    assert config.copy().__dict__["_data"] is not config.__dict__["_data"]


def test_a_new_array_counts_as_changed():
    # from_flat and TensorArray go past the setters that keep this flag.
    record = from_flat(flat(), LAYOUT)
    assert record.is_dirty
    assert all(array.is_dirty for array in record.values())
    assert record.object_id == from_flat(flat(), LAYOUT).object_id
    assert record.object_id != from_flat(flat(1), LAYOUT).object_id


def test_error_codes():
    assert ErrorCode.CLIENT_APP_RAISED_EXCEPTION == flower.CLIENT_RAISED == 2
    assert ErrorCode.NODE_UNAVAILABLE == flower.NODE_UNAVAILABLE == 5
    assert ErrorCode.CLIENT_APP_CRASHED == flower.CLIENT_CRASHED == 8


def test_a_run_and_a_node_can_be_described():
    run = flower.make_run(7)
    assert isinstance(run, Run)
    assert run.run_id == 7
    info = flower.node_info(5, "laptop", "48.85,2.35")
    assert (info.node_id, info.name, info.location, info.status) == (
        5, "laptop", "48.85,2.35", "online",
    )  # fmt: skip


def test_a_strategy_needs_these_of_a_grid():
    assert Grid.__abstractmethods__ == {
        "set_run", "run", "create_message", "get_node_ids", "push_messages", "pull_messages",
        "send_and_receive",
    }  # fmt: skip
    assert hasattr(Grid, "get_nodes")


def test_nodes_without_an_account_share_this_name():
    import flwr.server.superlink.fleet.vce.vce_api as simulation
    from flwr.superlink.servicer.fleet import fleet_handlers as superlink

    for module in (simulation, superlink):
        text = inspect.getsource(module)
        assert re.search(r"create_node\([^)]*NOOP_FLWR_AID", text), module.__name__
    assert flower.NO_ACCOUNT == "<id:none>"


def test_flower_logs_through_one_logger_with_handlers():
    logger = logging.getLogger("flwr")
    assert logger.handlers
    levels, propagate = [h.level for h in logger.handlers], logger.propagate
    try:
        flower.quiet_logs()
        assert all(handler.level == logging.WARNING for handler in logger.handlers)
        assert not logger.propagate
    finally:
        logger.propagate = propagate
        for handler, level in zip(logger.handlers, levels, strict=True):
            handler.setLevel(level)


def test_an_array_is_npy_bytes_with_this_overhead():
    array = Array(np.zeros(1000, np.float32))
    assert array.stype == flower.arrays.NUMPY_STYPE
    assert array.data[:6] == b"\x93NUMPY"
    assert len(array.data) == 4000 + flower.messages.ARRAY_OVERHEAD_BYTES
    assert flower.payload_bytes(RecordDict({"a": ArrayRecord({"x": array})})) == 4129


def test_the_ray_backend_is_built_as_expected():
    pytest.importorskip("ray")
    from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool, VirtualClientEngineActor

    assert list(inspect.signature(RayBackend.build).parameters) == ["self", "app_fn"]
    run = inspect.signature(VirtualClientEngineActor.run)
    assert list(run.parameters)[:5] == ["self", "client_app_fn", "message", "cid", "context"]
    assert isinstance(inspect.getattr_static(RayBackend, "num_workers"), property)
    source = inspect.getsource(BasicActorPool)
    for name in ("self._future_to_actor", "self.pool", "self.create_actor_fn"):
        assert name in source
    assert "self.app_fn" in inspect.getsource(RayBackend)
    assert "PYTHONPATH" in inspect.getsource(RayBackend.init_ray)


class _Future:
    pass


class _FakePool:
    """Flower's actor pool without Ray: its own methods on fake actors."""

    def __init__(self, outcome):
        from flwr.simulation.ray_transport.ray_actor import BasicActorPool

        self.pool, self._future_to_actor, self.outcome = ["old"], {}, outcome
        self.create_actor_fn = lambda: "new"
        for name in ("submit", "add_actor_back_to_pool"):
            setattr(self, name, getattr(BasicActorPool, name).__get__(self))

    def fetch_result_and_return_actor_to_pool(self, future):
        if isinstance(self.outcome, Exception):
            raise self.outcome
        self.add_actor_back_to_pool(future)
        return self.outcome


class _Backend:
    app_fn = None

    def __init__(self, outcome):
        self.pool = _FakePool(outcome)
        submit = self.pool.submit
        self.pool.submit = lambda fn, job: submit(lambda *args: _Future(), job)


def test_a_dead_actor_is_replaced_and_a_living_one_kept():
    pytest.importorskip("ray")
    from ray.exceptions import RayActorError

    context = Context(1, 1000, {}, RecordDict(), {})
    for outcome, left in [
        (RayActorError(), ["new"]),
        (ValueError("no"), ["old"]),
        (("m", context), ["old"]),
    ]:
        backend = _Backend(outcome)
        if isinstance(outcome, Exception):
            with pytest.raises(type(outcome)):
                flower.run_on_ray(backend, instruction(), context)
        else:
            assert flower.run_on_ray(backend, instruction(), context) == outcome
        assert backend.pool.pool == left
        assert backend.pool._future_to_actor == {}


# ---- messages ----------------------------------------------------------------------------------


def test_assembled_messages_equal_their_originals():
    message = instruction(RecordDict({"c": ConfigRecord({"a": 1})}))
    twin = flower.assemble(message.metadata, message.content, None)
    assert twin.metadata == message.metadata
    assert twin.content is message.content
    assert not twin.has_error()
    failed = flower.assemble(message.metadata, None, Error(2, "no"))
    assert failed.has_error()
    assert not failed.has_content()


def test_error_replies_name_the_node_that_was_asked():
    message = instruction()
    flower.set_message_id(message, "m9")
    reply = flower.error_reply(message, 5, "gone")
    assert (reply.error.code, reply.error.reason) == (5, "gone")
    assert reply.metadata.src_node_id == 1000
    instead = flower.error_reply_to_reply(Message(RecordDict(), reply_to=message), "bad")
    assert instead.metadata.reply_to_message_id == "m9"
    assert (instead.error.code, instead.error.reason) == (2, "bad")


def test_a_deferred_reply_is_computed_once_and_only_when_looked_at():
    message, calls = instruction(), []

    def resolve() -> Message:
        calls.append(1)
        return Message(RecordDict({"m": MetricRecord({"x": 1})}), reply_to=message)

    reply = flower.DeferredReply(message, resolve)
    assert reply.metadata.src_node_id == 1000
    assert not flower.failed_early(reply)
    assert calls == []
    assert not reply.has_error()
    assert reply.content["m"]["x"] == 1
    reply.content = RecordDict()
    assert len(reply.content) == 0
    assert calls == [1]
    failed = flower.DeferredReply(message, lambda: flower.error_reply(message, 2, "no"))
    assert failed.error.reason == "no"
    assert not failed.has_content()


# ---- records -----------------------------------------------------------------------------------


def test_from_flat_and_back_without_copying():
    vector = flat()
    record = from_flat(vector, LAYOUT)
    assert list(record) == ["w", "b", "t"]
    assert np.shares_memory(record["w"].values, vector)
    assert flatten_record(record, LAYOUT) is vector
    found, layout, shared = flower.shared_vector(record)
    assert found is vector
    assert list(layout) == LAYOUT
    assert shared is False
    assert flower.layout_of(record) == LAYOUT


def test_a_tensor_array_is_to_flower_an_array_like_any_other():
    record = from_flat(flat(), LAYOUT, shared=True)
    for (name, array), shape in zip(record.items(), [(2, 3), (3,), ()], strict=True):
        own = Array(array.values.copy())
        assert isinstance(array, Array)
        assert array.data == own.data, name
        assert (array.dtype, tuple(array.shape), array.stype) == ("float32", shape, own.stype)
        assert np.array_equal(array.numpy(), own.numpy())
        assert not np.shares_memory(array.numpy(), array.values)
        twin = pickle.loads(pickle.dumps(array))
        assert type(twin) is Array
        assert twin.data == own.data
    assert [a.tolist() for a in record.to_numpy_ndarrays()][1] == flat()[6:9].tolist()
    with pytest.raises(AttributeError, match="read-only"):
        record["w"].data = b""


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r.pop("t"),
        lambda r: r.update(more=r["b"]),
        lambda r: r.update(b=TensorArray(np.ones(3, np.float32))),
        lambda r: r.update(w=r["w"], b=Array(np.zeros(3, np.float32))),
    ],
)
def test_only_whole_records_share_one_vector(spoil):
    record = from_flat(flat(), LAYOUT)
    spoil(record)
    assert flower.shared_vector(record) is None


def test_records_survive_flowers_bytes():
    record = from_flat(flat(), LAYOUT)
    sent = ArrayRecord({name: Array(a.numpy()) for name, a in record.items()})
    assert np.array_equal(flatten_record(sent, LAYOUT), flat())


def _with(name: str, array: Array) -> ArrayRecord:
    record = ArrayRecord({n: Array(a.numpy()) for n, a in from_flat(flat(), LAYOUT).items()})
    record[name] = array
    return record


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (_with("b", Array(np.zeros(4, np.float32))), "has shape"),
        (_with("b", Array(np.zeros(3))), "float64"),
        (_with("b", Array("float32", (3,), "ckks", b"x")), "serialised as 'ckks'"),
        (_with("b", Array("float32", (3,), "numpy.ndarray", b"junk")), "broken .npy"),
        (_with("b", Array("float32", (3,), "numpy.ndarray", b"x" * 10**5)), "carries 100000"),
        (_with("x", Array(np.zeros(3, np.float32))), "unexpected array 'x'"),
        (ArrayRecord({"w": Array(np.zeros((2, 3), np.float32))}), "missing array 'b'"),
        (ArrayRecord(dict(reversed(_with("b", Array(flat()[6:9])).items()))), "another order"),
    ],
)
def test_malformed_records_are_told_apart(record, reason):
    with pytest.raises(Malformed, match=reason):
        flatten_record(record, LAYOUT)


def test_a_header_that_claims_gigabytes_allocates_nothing():
    huge = Array(np.zeros(3, np.float32)).data.replace(b"(3,)", b"(9" + b"9" * 9 + b",)")
    with pytest.raises(Malformed):
        flatten_record(_with("b", Array("float32", (3,), "numpy.ndarray", huge)), LAYOUT)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_malformed_or_right(data):
    record = _with("b", Array("float32", (3,), "numpy.ndarray", data))
    with contextlib.suppress(Malformed):
        assert flatten_record(record, LAYOUT).shape == (10,)


def test_in_memory_decodes_once_and_leaves_the_rest():
    record = ArrayRecord([flat()])
    decoded = flower.in_memory(record)
    assert all(isinstance(a, TensorArray) and a.shared for a in decoded.values())
    assert flower.in_memory(decoded) is decoded
    doubles = ArrayRecord([flat().astype(np.float64)])
    assert flower.in_memory(doubles) is doubles


def test_copies_are_isolated_and_numbers_are_not_copied():
    content = RecordDict({
        "arrays": from_flat(flat(), LAYOUT, shared=True),
        "cipher": ArrayRecord({"c": Array("x", (1,), "ckks", b"secret")}),
        "config": ConfigRecord({"rates": [1.0, 2.0], "server-round": 1}),
    })  # fmt: skip
    twin = flower.isolated_copy(content)
    assert twin == content
    assert twin["arrays"]["w"] is content["arrays"]["w"]
    twin["config"]["rates"].append(3.0)
    twin["config"]["server-round"] = 2
    twin["cipher"]["c"].data = b"changed"
    del twin["arrays"]["w"]
    twin["new"] = MetricRecord({"x": 1})
    assert content["config"]["rates"] == [1.0, 2.0]
    assert content["config"]["server-round"] == 1
    assert content["cipher"]["c"].data == b"secret"
    assert list(content["arrays"]) == ["w", "b", "t"]
    assert "new" not in content


def test_payloads_are_measured_alike_in_memory_and_as_bytes():
    record = from_flat(flat(), LAYOUT)
    plain = ArrayRecord({name: Array(a.numpy()) for name, a in record.items()})
    config = ConfigRecord({"server-round": 1})
    sizes = [
        flower.payload_bytes(RecordDict({"arrays": r, "config": config})) for r in (record, plain)
    ]
    assert sizes[0] == sizes[1]


def test_records_of_one_kind():
    content = RecordDict({"c": ConfigRecord({"a": 1}), "m": MetricRecord({"x": 1})})
    assert flower.records_of(content, MetricRecord) == {"m": content["m"]}


def mixed() -> RecordDict:
    return RecordDict({
        "arrays": from_flat(flat(), LAYOUT), "a": MetricRecord({"n": 1}),
        "config": ConfigRecord({"k": 2}), "b": MetricRecord({"n": 3}),
    })  # fmt: skip


@pytest.mark.parametrize("part", ["array_records", "metric_records", "config_records"])
def test_quick_records_have_the_parts_that_flower_finds(part):
    content = mixed()
    mine, theirs = getattr(flower.quick_records(content), part), getattr(content, part)
    assert type(mine) is type(theirs)
    assert list(mine.items()) == list(theirs.items())


def test_quick_records_are_the_same_content_and_their_parts_write_through():
    content = mixed()
    quick = flower.quick_records(content)
    quick.metric_records["c"] = MetricRecord({"n": 5})
    del quick.metric_records["a"]
    assert list(content) == list(quick) == ["arrays", "config", "b", "c"]
    with pytest.raises(TypeError):
        quick.metric_records["d"] = ConfigRecord()
    assert isinstance(quick.copy(), flower.QuickRecords)
    assert RecordDict.inflate(quick.deflate(), quick.children) == content


def test_strategies_sleep_where_we_think():
    from flwr.serverapp.strategy import strategy_utils

    assert strategy_utils.sleep is time.sleep
    naps = []

    class Filling:
        def get_node_ids(self):
            return list(range(len(naps)))

    with flower.sleeping_on(naps.append):
        strategy_utils.sample_nodes(Filling(), 3, 2)  # type: ignore[arg-type]
    assert naps == [1, 1, 1]
    assert strategy_utils.sleep is time.sleep


# ---- real machines -------------------------------------------------------------------------


def test_the_names_that_real_machines_need_are_there():
    """What `run_superlink`, `run_supernode`, `take_task` and `SuperLinkControl` reach into."""
    from flwr.cli import build
    from flwr.supercore.corestate import in_memory_corestate
    from flwr.supercore.retry import make_simple_http_retry_invoker
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.superlink import extensions, main
    from flwr.superlink.routers.fleet import router
    from flwr.superlink.servicer.fleet import fleet_handlers
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.nodestate import in_memory_nodestate

    source = inspect.getsource(start_client_internal)
    assert "time.sleep(3)" in source  # the pause of an idle SuperNode
    assert "time.sleep(0.5)" in source  # of one that waits for a reply
    assert "make_simple_http_retry_invoker()" in inspect.getsource(fleet_http_connection)
    assert callable(make_simple_http_retry_invoker().should_giveup)
    for name in ("ActivateNode", "SendNodeHeartbeat", "PullMessages", "PullObject", "PushObject"):
        assert callable(getattr(FleetHttpClient, name))
    assert "now()" in inspect.getsource(in_memory_corestate.InMemoryCoreState.activate_task)
    assert issubclass(in_memory_nodestate.InMemoryNodeState, in_memory_corestate.InMemoryCoreState)
    assert "fleet_handlers.activate_node(" in inspect.getsource(router)
    assert "No SuperNode found" in inspect.getsource(fleet_handlers.activate_node)
    assert "extensions.get_middleware()" in inspect.getsource(main)
    assert callable(extensions.get_middleware)
    assert callable(RuntimeHttpClient.AcquireTask)
    assert callable(build.build_fab_from_files)
    paths = {route.path for route in router.router.routes}
    assert paths
    assert all(path.startswith(flower.machines.VOLUNTEERS_PATHS) for path in paths)


@pytest.mark.parametrize(
    ("path", "client", "headers", "allowed"),
    [
        ("/v1/fleet/pull-messages", "8.8.8.8", [], True),
        ("/v1/control/start-run", "8.8.8.8", [], False),
        ("/v1/control/start-run", "127.0.0.1", [], True),
        ("/v1/control/start-run", "10.0.0.5", [], True),  # the server's own address
        ("/v1/control/start-run", "127.0.0.1", [(b"X-Forwarded-For", b"8.8.8.8")], False),
        ("/v1/runtime/acquire-task", "8.8.8.8", [], False),
        ("/v1/fleet/../control/start-run", "8.8.8.8", [], True),  # no route: nothing normalises it
        ("/docs", "8.8.8.8", [], False),
    ],
)
def test_strangers_reach_only_what_volunteers_need(path, client, headers, allowed):
    import asyncio

    reached, sent = [], []

    async def app(scope, receive, send):
        reached.append(scope["path"])

    async def send(message):
        sent.append(message.get("status"))

    scope = {
        "type": "http", "path": path, "client": (client, 5), "server": ("10.0.0.5", 9443),
        "headers": headers,
    }  # fmt: skip
    asyncio.run(flower.VolunteersOnly(app)(scope, None, send))
    assert bool(reached) is allowed
    assert (404 in sent) is not allowed


def test_a_clock_that_stands_still_while_the_machine_sleeps():
    from datetime import UTC, datetime, timedelta

    real = [datetime(2026, 1, 1, tzinfo=UTC)]
    clock = flower.AwakeClock(lambda: real[0], most_s=10.0)
    start = clock.now()
    for _ in range(7):
        real[0] += timedelta(seconds=9)
        clock.now()
    assert clock.now() - start == timedelta(seconds=63)
    real[0] += timedelta(hours=8)
    assert clock.now() - start == timedelta(seconds=73)
    real[0] -= timedelta(hours=1)  # somebody set the clock
    assert clock.now() - start == timedelta(seconds=73)
