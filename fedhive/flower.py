"""The one place that touches names Flower does not promise to keep.

Everything else in fedhive uses ``flwr.app``, ``flwr.serverapp`` and ``flwr.clientapp`` as
documented. ``tests/fedhive/test_flower.py`` fails loudly when one of the assumptions made here no
longer holds for the installed Flower.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Any, TypeVar, cast

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.app.message.recorddict import _SyncedDict
from flwr.app.message.typeddict import TypedDict
from flwr.common.constant import NOOP_FLWR_AID, ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp.strategy import strategy_utils
from flwr.supercore.run import Run, RunStatus
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

__all__ = [
    "CLIENT_CRASHED",
    "CLIENT_RAISED",
    "NODE_UNAVAILABLE",
    "NO_ACCOUNT",
    "SERVER_NODE_ID",
    "AwakeClock",
    "DeferredReply",
    "Layout",
    "Malformed",
    "NodeInfo",
    "QuickRecords",
    "Refused",
    "Run",
    "SuperLinkControl",
    "TensorArray",
    "VolunteersOnly",
    "ask_ray_actors",
    "assemble",
    "assume_identity",
    "attribute",
    "error_reply",
    "error_reply_to_reply",
    "failed_early",
    "flatten_record",
    "from_flat",
    "in_memory",
    "isolated_copy",
    "kill_busy_ray_actors",
    "layout_of",
    "make_run",
    "node_info",
    "payload_bytes",
    "quick_records",
    "quiet_logs",
    "ray_backend",
    "records_of",
    "run_on_ray",
    "run_superlink",
    "run_supernode",
    "set_message_id",
    "shared_vector",
    "sleeping_on",
    "take_task",
]

R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)

Layout = Sequence[tuple[str, tuple[int, ...]]]
"""Names and shapes of a model's parameters, in state-dict order."""

SERVER_NODE_ID = 1
CLIENT_CRASHED = int(ErrorCode.CLIENT_APP_CRASHED)
CLIENT_RAISED = int(ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
NODE_UNAVAILABLE = int(ErrorCode.NODE_UNAVAILABLE)
NO_ACCOUNT = str(NOOP_FLWR_AID)
"""What a SuperLink calls the owner of every node where accounts are not checked."""
NUMPY_STYPE = "numpy.ndarray"
NPY_HEADER_LIMIT = 1024
NPY_MAGIC = b"\x93NUMPY\x01\x00"
NPY_HEADER = re.compile(
    rb"\{'descr': '([^']{1,16})', 'fortran_order': (True|False), 'shape': (\([\d, ]*\)), \} *\n"
)
ARRAY_OVERHEAD_BYTES = 128  # the .npy header that Flower sends with every array


def assume_identity(run_id: int) -> None:
    """Let this process create instruction messages, as Flower's runtimes do before a ServerApp."""
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = SERVER_NODE_ID
    TaskIdentity.task_id = 1


def make_run(run_id: int) -> Run:
    """Run information for a grid that no SuperLink stands behind."""
    status = RunStatus(status="running", sub_status="", details="")
    return Run(
        run_id=run_id, fab_id="fedhive", fab_version="", fab_hash="", override_config={},
        pending_at="", starting_at="", running_at="", finished_at="", status=status, flwr_aid="",
        federation_id="", primary_task_id=None, bytes_sent=0, bytes_recv=0, clientapp_runtime=0.0,
    )  # fmt: skip


def node_info(node_id: int, name: str, location: str) -> NodeInfo:
    """What a SuperLink would tell a strategy about a node that is on-line."""
    return NodeInfo(node_id=node_id, name=name, location=location, status="online")


def set_message_id(message: Message, message_id: str) -> None:
    """Give a pushed message the id that its reply will refer to."""
    message.metadata.__dict__["_message_id"] = message_id


def attribute(reply: Message, node_id: int) -> None:
    """Name the node that a reply came from; a SuperLink's own error replies name the server."""
    reply.metadata.__dict__["_src_node_id"] = node_id


def assemble(metadata: Metadata, content: RecordDict | None, error: Error | None) -> Message:
    """A message put together again on the other side of a process boundary."""
    message = Message.__new__(Message)
    message.__dict__.update({"_metadata": metadata, "_content": content, "_error": error})
    return message


def error_reply(message: Message, code: int, reason: str) -> Message:
    """The reply that says a task brought nothing; its source is the node that was asked."""
    return Message(Error(code=code, reason=reason), reply_to=message)


def error_reply_to_reply(reply: Message, reason: str) -> Message:
    """An error message that takes the place of a reply, with the reply's own metadata."""
    return assemble(reply.metadata, None, Error(code=CLIENT_RAISED, reason=reason))


class DeferredReply(Message):
    """A reply that has arrived on the virtual clock but is computed only when somebody looks.

    Metadata are known at once; content and error are those of the message that ``resolve``
    returns. A strategy that closes its round without looking at a straggler's reply never pays
    for computing it.
    """

    def __init__(self, instruction: Message, resolve: Callable[[], Message]) -> None:
        super().__init__(RecordDict(), reply_to=instruction)
        self.__dict__["_resolve"] = resolve
        self.__dict__["_resolved"] = False

    def _materialise(self) -> None:
        if not self.__dict__["_resolved"]:
            reply = self.__dict__["_resolve"]()
            self.__dict__["_content"] = reply.__dict__["_content"]
            self.__dict__["_error"] = reply.__dict__["_error"]
            self.__dict__["_resolved"] = True
            self.__dict__["_resolve"] = None

    @property
    def content(self) -> RecordDict:
        """The records of the reply; computes them on first use."""
        self._materialise()
        return super().content

    @content.setter
    def content(self, value: RecordDict) -> None:
        self._materialise()
        Message.content.fset(self, value)  # type: ignore[attr-defined]

    @property
    def error(self) -> Error:
        """The error of the reply; computes the reply on first use."""
        self._materialise()
        return super().error

    @error.setter
    def error(self, value: Error) -> None:
        self._materialise()
        Message.error.fset(self, value)  # type: ignore[attr-defined]

    def has_content(self) -> bool:
        """Whether the client returned records."""
        self._materialise()
        return super().has_content()

    def has_error(self) -> bool:
        """Whether the client failed."""
        self._materialise()
        return super().has_error()


def failed_early(reply: Message) -> bool:
    """Whether a reply is already known to carry an error, without computing it."""
    return not isinstance(reply, DeferredReply) and reply.has_error()


class TensorArray(Array):
    """An ``Array`` that stays in memory and becomes bytes only when somebody asks for them.

    Args:
        values: float32 array, usually a view into one flat vector of all parameters.
        flat: that flat vector, or None.
        offset: where ``values`` begins in it.
        shared: whether several clients are given this memory.
    """

    values: NDArray[Any]
    flat: NDArray[np.float32] | None
    offset: int
    shared: bool

    def __init__(
        self,
        values: NDArray[Any],
        flat: NDArray[np.float32] | None = None,
        offset: int = 0,
        shared: bool = False,
    ) -> None:
        # Past Array.__setattr__, whose bookkeeping (is a cached hash stale?) costs more than this.
        dtype = "float32" if values.dtype == np.float32 else str(values.dtype)
        self.__dict__.update(
            dtype=dtype, shape=values.shape, stype=NUMPY_STYPE,
            values=values, flat=flat, offset=offset, shared=shared,
        )  # fmt: skip

    @property
    def data(self) -> bytes:
        """The bytes that Flower would put on the wire."""
        buffer = BytesIO()
        np.save(buffer, self.values, allow_pickle=False)
        return buffer.getvalue()

    @data.setter
    def data(self, value: bytes) -> None:
        raise AttributeError("a TensorArray is read-only: replace it in its record instead")

    def numpy(self) -> NDArray[Any]:
        """A private copy, as Flower's own arrays give: its QFedAvg writes into what it gets."""
        return self.values.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return Array, (self.dtype, self.shape, self.stype, self.data)


# On the wire an object is named after its class; to a SuperLink this one is an ordinary Array.
TensorArray.__qualname__ = Array.__qualname__


class Malformed(ValueError):
    """An array that is not what it claims, or not what the model needs."""


def from_flat(flat: NDArray[np.float32], layout: Layout, *, shared: bool = False) -> ArrayRecord:
    """An ArrayRecord whose arrays are views into ``flat`` (float32 [P]), without copying."""
    record = ArrayRecord()
    arrays: dict[str, Array] = record.__dict__["_data"]
    offset = 0
    for name, shape in layout:
        size = math.prod(shape)
        values = flat[offset : offset + size].reshape(shape)
        arrays[name] = TensorArray(values, flat, offset, shared)
        offset += size
    return record


def layout_of(record: ArrayRecord) -> Layout:
    """Names and shapes of a record's arrays, in its order."""
    return [(name, tuple(array.shape)) for name, array in record.items()]


def flatten_record(record: ArrayRecord, layout: Layout) -> NDArray[np.float32]:
    """All parameters as one float32 vector [P]; zero-copy for records made by ``from_flat``.

    The result may be a view of the sender's memory: do not write to it.

    Raises:
        Malformed: if names, shapes, dtypes or lengths differ from ``layout``. Nothing is
            allocated before the lengths have been checked.
    """
    if list(record.keys()) != [name for name, _ in layout]:
        raise Malformed(_name_difference(list(record.keys()), [name for name, _ in layout]))
    flat = _common_flat(record, layout)
    if flat is not None:
        return flat
    return np.concatenate([_read_array(record[name], name, shape) for name, shape in layout])


def shared_vector(record: ArrayRecord) -> tuple[NDArray[np.float32], Layout, bool] | None:
    """The vector, layout and ``shared`` flag with which `from_flat` makes this very record.

    None for any other record.
    """
    layout = [(name, array.shape) for name, array in record.items()]
    flat = _common_flat(record, layout)
    if flat is None or flat.ndim != 1:
        return None
    flags = {cast(TensorArray, array).shared for array in record.values()}
    return (flat, layout, flags.pop()) if len(flags) == 1 else None


def _name_difference(got: list[str], wanted: list[str]) -> str:
    missing, extra = set(wanted) - set(got), set(got) - set(wanted)
    if missing:
        return f"missing array {sorted(missing)[0]!r}"
    if extra:
        return f"unexpected array {min(extra)[:80]!r}"
    return "arrays are in another order than the model's"


def _common_flat(record: ArrayRecord, layout: Layout) -> NDArray[np.float32] | None:
    flat, expected = None, 0
    for (_, shape), array in zip(layout, record.values(), strict=True):
        if not isinstance(array, TensorArray) or array.flat is None or array.shape != shape:
            return None
        if flat is None:
            flat = array.flat
        if array.flat is not flat or array.offset != expected:
            return None
        expected += int(array.values.size)
    if flat is None or flat.size != expected or flat.dtype != np.float32:
        return None
    return flat


def _read_array(array: Array, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if tuple(array.shape) != shape:
        raise Malformed(f"array {name!r} has shape {tuple(array.shape)}, the model's is {shape}")
    if array.dtype != "float32":
        raise Malformed(f"array {name!r} is {str(array.dtype)[:40]}, the model's is float32")
    if isinstance(array, TensorArray):
        return cast(NDArray[np.float32], array.values.reshape(-1))
    if array.stype != NUMPY_STYPE:
        raise Malformed(f"array {name!r} is serialised as {str(array.stype)[:40]!r}, not NumPy")
    return _parse_npy(array.data, name, shape)


def _parse_npy(data: bytes, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The numbers in a .npy file, as NumPy writes it; nothing in the header is evaluated."""
    size = math.prod(shape)
    if len(data) > 4 * size + NPY_HEADER_LIMIT:
        raise Malformed(f"array {name!r} carries {len(data)} bytes, expected about {4 * size}")
    begin = 10 + int.from_bytes(data[8:10], "little")
    header = NPY_HEADER.fullmatch(data, 10, begin)
    if data[:8] != NPY_MAGIC or header is None or len(data) < begin:
        raise Malformed(f"array {name!r} has a broken .npy header")
    dtype, order, claimed = (part.decode("ascii", "replace") for part in header.groups())
    if dtype != "<f4" or claimed != str(shape):
        raise Malformed(f"array {name!r} claims {claimed} {dtype} in its bytes, not {shape} <f4")
    body = memoryview(data)[begin:]
    if len(body) != 4 * size:
        raise Malformed(f"array {name!r} holds {len(body)} bytes of numbers, expected {4 * size}")
    values = np.frombuffer(body, dtype="<f4")
    return values.reshape(shape, order="F").reshape(-1) if order == "True" else values


def in_memory(record: ArrayRecord) -> ArrayRecord:
    """The same record with its float32 arrays decoded once, for many clients to read.

    A record that holds anything else (ciphertext, other dtypes) is returned as it is.
    """
    arrays = list(record.items())
    if all(isinstance(array, TensorArray) and array.shared for _, array in arrays):
        return record
    if any(a.stype != NUMPY_STYPE or a.dtype != "float32" for _, a in arrays):
        return record
    layout = layout_of(record)
    flat = np.ascontiguousarray(flatten_record(record, layout))
    return from_flat(flat, layout, shared=True)


class QuickRecords(RecordDict):
    """A message's content whose parts are found without checking each record again.

    Flower's strategies ask every reply for its array and metric records half a dozen times.
    """

    @property
    def array_records(self) -> TypedDict[str, ArrayRecord]:
        """The array records; what is set or deleted there is so here."""
        return self._part(ArrayRecord)

    @property
    def metric_records(self) -> TypedDict[str, MetricRecord]:
        """The metric records, likewise."""
        return self._part(MetricRecord)

    @property
    def config_records(self) -> TypedDict[str, ConfigRecord]:
        """The config records, likewise."""
        return self._part(ConfigRecord)

    def _part(self, kind: type[R]) -> TypedDict[str, R]:
        part: _SyncedDict[R] = _SyncedDict(self, kind)
        part.__dict__["_data"].update(records_of(self, kind))
        return part

    def deflate(self) -> bytes:
        """As Flower's own class writes itself: the bytes name the class they are read with."""
        plain = RecordDict.__new__(RecordDict)
        plain.__dict__.update(self.__dict__)
        return plain.deflate()


def quick_records(content: RecordDict) -> QuickRecords:
    """The same content, not a copy, as `QuickRecords`."""
    quick = QuickRecords.__new__(QuickRecords)
    quick.__dict__.update(content.__dict__)
    return quick


def isolated_copy(content: RecordDict) -> RecordDict:
    """A copy of a message's content that its receiver may change without anybody else noticing.

    Numbers are not copied: they are immutable bytes, or hand out private copies themselves.
    """
    twin = content.copy()
    records = twin.__dict__["_data"]  # setting through the public way checks each record again
    for key, record in content.items():
        own = records[key] = record.copy()
        values = own.__dict__["_data"]
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = list(value)
            elif isinstance(value, Array) and not isinstance(value, TensorArray):
                values[name] = Array(value.dtype, value.shape, value.stype, value.data)
    return twin


def records_of(content: RecordDict, kind: type[R]) -> dict[str, R]:
    """The records of one kind; Flower's own properties rebuild a checked dictionary each time."""
    records = content.__dict__["_data"]
    return {key: record for key, record in records.items() if isinstance(record, kind)}


def payload_bytes(content: RecordDict) -> int:
    """Bytes of a message's records on the wire, without encoding what is still in memory."""
    total = 0
    for record in content.values():
        if not isinstance(record, ArrayRecord):
            total += record.count_bytes()
            continue
        for name, array in record.items():
            if isinstance(array, TensorArray):
                total += array.values.nbytes + ARRAY_OVERHEAD_BYTES + len(name)
            else:
                total += len(array.data) + len(name)
    return total


@contextlib.contextmanager
def sleeping_on(sleep: Callable[[float], None]) -> Iterator[None]:
    """Let Flower's strategies wait for nodes with ``sleep(seconds)`` in place of real seconds.

    ``sample_nodes`` sleeps until enough nodes are on, which on a virtual clock would be for ever.
    """
    module: Any = strategy_utils
    real, module.sleep = module.sleep, sleep
    try:
        yield
    finally:
        module.sleep = real


def quiet_logs(level: int = logging.WARNING) -> None:
    """Keep Flower's console log to warnings: fedhive shows progress itself."""
    logger = logging.getLogger("flwr")
    logger.propagate = False
    logger.addFilter(_worth_saying)
    for handler in logger.handlers:
        handler.setLevel(level)


def _worth_saying(record: logging.LogRecord) -> bool:
    """Not that nobody evaluates on the clients: fedhive's presets want it so."""
    return "Federated evaluation will be skipped" not in str(record.msg)


def ray_backend(config: dict[str, Any]) -> Any:
    """Flower's own simulation backend (a pool of Ray actors), not yet built."""
    from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend

    return RayBackend(config)


def run_on_ray(backend: Any, message: Message, context: Context) -> tuple[Message, Context]:
    """A client's reply and context from an idle actor of a built `ray_backend`.

    Flower's own ``process_message`` puts an actor that has died back into the pool, where it
    fails every client it meets; here a fresh one takes its place.

    Raises:
        ray.exceptions.RayActorError: if the actor died.
        Exception: whatever else kept the actor from answering.
    """
    from ray.exceptions import RayActorError

    pool = backend.pool
    job = (backend.app_fn, message, str(context.node_id), context)
    future = pool.submit(lambda actor, *args: actor.run.remote(*args), job)
    try:
        return cast(tuple[Message, Context], pool.fetch_result_and_return_actor_to_pool(future))
    except RayActorError:
        del pool._future_to_actor[future]
        pool.pool.append(pool.create_actor_fn())
        raise
    except Exception:
        pool.add_actor_back_to_pool(future)
        raise


def ask_ray_actors(backend: Any, load: Callable[[], Callable[..., Any]]) -> list[Any]:
    """What ``load()(message=None, context=None)`` returns in each idle actor."""
    import ray

    asked = [actor.run.remote(load, None, "", None) for actor in backend.pool.pool]
    return [answer for _, answer, _ in ray.get(asked)]


def kill_busy_ray_actors(backend: Any) -> None:
    """Make all calls of `run_on_ray` that are under way fail; other actors take over."""
    import ray

    for actor in list(backend.pool._future_to_actor.values()):
        ray.kill(actor)


# ---- real machines -------------------------------------------------------------------------

VOLUNTEERS_PATHS = ("/v1/fleet/", "/health")
"""What a SuperLink serves that machines of volunteers need."""
KEY_UNKNOWN = "fedhive: this key is not registered"
KEY_IN_USE = "fedhive: a machine with this key is here"
IDLE_PAUSE_S = 3.0
"""How long a SuperNode sleeps when there was no message for it."""


class VolunteersOnly:
    """ASGI middleware: from elsewhere, nothing of a SuperLink but what volunteers need.

    Flower serves its Control API (submit runs, register machines) and its Runtime API (take over
    a run's server) on the port that volunteers dial, and without accounts it lets anybody in.

    Args:
        app: what is protected.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 404 to strangers who ask for more."""
        if scope["type"] == "http" and not self._allowed(scope):
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, send)

    @staticmethod
    def _allowed(scope: Any) -> bool:
        if str(scope["path"]).startswith(VOLUNTEERS_PATHS):
            return True
        client, server = scope.get("client") or ("",), scope.get("server") or ("?",)
        own = client[0] in ("127.0.0.1", "::1") or client[0] == server[0]
        # A proxy on this machine speaks for others, and says so.
        names = {name.lower() for name, _ in scope.get("headers", ())}
        return own and not names & {b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"}


def run_superlink(arguments: Sequence[str]) -> None:
    """Be a ``flower-superlink`` whose control is reached from this machine only.

    It also tells machines that it does not let in which of Flower's two reasons holds.
    """
    import sys

    from flwr.supercore.error import ApiErrorCode, FlowerError
    from flwr.superlink import extensions
    from flwr.superlink.cli import flower_superlink
    from flwr.superlink.servicer.fleet import fleet_handlers
    from starlette.middleware import Middleware

    handlers: Any = fleet_handlers
    activate = handlers.activate_node

    def activate_and_explain(*args: Any, **kwargs: Any) -> Any:
        try:
            return activate(*args, **kwargs)
        except FlowerError as error:
            if error.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
                unknown = "No SuperNode found" in error.message
                error.public_details = KEY_UNKNOWN if unknown else KEY_IN_USE
            raise

    handlers.activate_node = activate_and_explain
    others = extensions.get_middleware
    extensions.get_middleware = lambda: (
        Middleware(cast(Any, VolunteersOnly)), *others(),
    )  # fmt: skip
    sys.argv = ["flower-superlink", *arguments]
    flower_superlink()


class AwakeClock:
    """A clock that stands still while the machine sleeps.

    Flower takes a task for dead that has not been heard of for a minute, also if that minute was
    a laptop's night. This clock is looked at more often than ``most_s`` while the machine is
    awake, and never goes on by more than that at once.

    Args:
        now: the real time.
        most_s: longest time between two looks.
    """

    def __init__(self, now: Callable[[], Any], most_s: float = 10.0) -> None:
        import threading
        from datetime import timedelta

        self._real, self._most = now, timedelta(seconds=most_s)
        self._last = self._shown = now()
        self._lock = threading.Lock()

    def now(self) -> Any:
        """The time, less the time asleep."""
        with self._lock:
            real = self._real()
            self._shown += max(min(real - self._last, self._most), self._most * 0)
            self._last = real
            return self._shown


class _Pauses:
    """Stands in for ``time`` in a SuperNode's main loop, to look for messages sooner.

    Args:
        poll_s: seconds between looks.
        idle: called at each look that found nothing, when no work is under way.
        awake: looked at before each pause.
    """

    def __init__(self, poll_s: float, idle: Callable[[], None], awake: AwakeClock) -> None:
        self._poll_s, self._idle, self._awake = poll_s, idle, awake

    def sleep(self, seconds: float) -> None:
        import time

        self._awake.now()
        if seconds >= IDLE_PAUSE_S:
            self._idle()
        time.sleep(min(seconds, self._poll_s))


def run_supernode(
    arguments: Sequence[str],
    poll_s: float,
    idle: Callable[[], None],
    beat: Callable[[], None],
    traffic: Callable[[int, int], None] = lambda up, down: None,
) -> None:
    """Be a ``flower-supernode``; returns when it has given up, which Flower's own never tells.

    Once connected, whatever cuts the connection is taken to pass: Flower takes any error that
    mentions TLS for a wrong certificate, throws the finished reply away and never comes back.

    Args:
        arguments: of the command.
        poll_s: seconds between looks for messages; Flower's own is 3.
        idle: called at each look that found none, while no work is under way.
        beat: called whenever the SuperLink has answered.
        traffic: told of the bytes of each piece sent and received; may take its time.
    """
    import sys

    import httpx
    from flwr.supercore.corestate import in_memory_corestate
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.cli import flower_supernode
    from flwr.supernode.fleet_http_client import FleetHttpClient

    connection: Any = fleet_http_connection
    loop: Any = start_client_internal
    state: Any = in_memory_corestate
    awake = AwakeClock(state.now)
    state.now = awake.now
    reached: list[bool] = []
    make_invoker = connection.make_simple_http_retry_invoker

    def patient() -> Any:
        invoker = make_invoker()
        usual: Any = invoker.should_giveup

        def give_up(error: Exception) -> bool:
            if isinstance(error, httpx.TransportError) and reached:
                return False
            return bool(usual(error))

        invoker.should_giveup = give_up
        return invoker

    def told(call: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, request: Any) -> Any:
            answer = call(self, request)
            if not reached:
                reached.append(True)
            beat()
            up, down = (len(getattr(part, "object_content", b"")) for part in (request, answer))
            if up or down:
                traffic(up, down)
            return answer

        return method

    connection.make_simple_http_retry_invoker = patient
    for name in (
        "ActivateNode", "SendNodeHeartbeat", "PullMessages", "PullObject", "PushObject",
    ):  # fmt: skip
        setattr(FleetHttpClient, name, told(getattr(FleetHttpClient, name)))
    loop.time = _Pauses(poll_s, idle, awake)
    sys.argv = ["flower-supernode", *arguments]
    flower_supernode()


def take_task(address: str, secret: bytes) -> Callable[[], str | None]:
    """A function that gives the token of a ClientApp task waiting at a SuperNode, or None.

    Args:
        address: the SuperNode's own ``host:port`` on this machine.
        secret: what it shares with whoever starts its ClientApps.
    """
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.constant import TaskType
    from flwr.supercore.interceptors import (
        RuntimeVersionHttpInterceptor,
        SuperExecAuthHttpInterceptor,
    )
    from flwr.supercore.retry import make_simple_http_retry_invoker
    from flwr.supercore.runtime import RuntimeHttpClient

    acquire = "/flwr.proto.Runtime/AcquireTask"
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(
                master_secret=secret, protected_methods=frozenset({acquire})
            ),
        ],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])

    def take() -> str | None:
        answer = client.AcquireTask(request)
        return str(answer.token) if answer.HasField("task") and answer.token else None

    return take


class Refused(Exception):
    """A SuperLink said no: ``code`` is Flower's number for the reason, 0 for none."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class SuperLinkControl:
    """A SuperLink's Control API, as Flower's command line uses it.

    Args:
        address: ``host:port``.
        root_certificates: PEM of the authorities to trust.

    Raises:
        Refused: (all methods) if the SuperLink refuses.
        OSError: (all methods) if it cannot be reached, or TLS fails.
    """

    def __init__(self, address: str, root_certificates: bytes) -> None:
        from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        self._client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=root_certificates,
            interceptors=[
                CliClientHttpInterceptor(),
                RuntimeVersionHttpInterceptor(component_name="flwr CLI"),
            ],
        )

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def register(self, public_key: bytes, name: str, location: str | None) -> int:
        """Let a machine in by its public key (OpenSSH format); its node id."""
        from cryptography.hazmat.primitives import serialization
        from flwr.proto.control_pb2 import RegisterNodeRequest

        pem = serialization.load_ssh_public_key(public_key).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        request = RegisterNodeRequest(public_key=pem, location=location, name=name)
        return int(self._call(self._client.RegisterNode, request).node_id)

    def unregister(self, node_id: int) -> None:
        """Let a machine in no more."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        self._call(self._client.UnregisterNode, UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> list[NodeInfo]:
        """The machines that are or were registered."""
        from flwr.proto.control_pb2 import ListNodesRequest

        answer = self._call(self._client.ListNodes, ListNodesRequest())
        return list(answer.nodes_info)

    def start(self, files: dict[str, bytes], run_config: dict[str, str]) -> int:
        """Start a run of the app made of these files; its id."""
        import hashlib

        from flwr.cli.build import build_fab_from_files
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        content, _ = build_fab_from_files(files)
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(run_config))
        )
        return int(self._call(self._client.StartRun, request).run_id)

    def status(self, run_id: int) -> tuple[str, str]:
        """A run's status (``running``, ``finished:failed``, ...) and what is said about it."""
        from flwr.proto.control_pb2 import ListRunsRequest

        runs = self._call(self._client.ListRuns, ListRunsRequest(run_id=run_id)).run_dict
        found = runs[run_id].status
        return ":".join(filter(None, (found.status, found.sub_status))), str(found.details)

    def stop(self, run_id: int) -> None:
        """End a run."""
        from flwr.proto.control_pb2 import StopRunRequest

        self._call(self._client.StopRun, StopRunRequest(run_id=run_id))

    def log(self, run_id: int) -> Iterator[str]:
        """What a run's server writes, piece by piece, until it ends."""
        import httpx
        from flwr.proto.control_pb2 import StreamLogsRequest

        request = StreamLogsRequest(run_id=run_id, after_timestamp=0.0)
        try:
            for piece in self._client.StreamLogs(request):
                yield str(piece.log_output)
        except httpx.TransportError as error:
            raise ConnectionError(str(error) or type(error).__name__) from error
        except httpx.HTTPStatusError as error:
            raise _refused(error) from error

    @staticmethod
    def _call(method: Callable[[Any], Any], request: Any) -> Any:
        import httpx

        try:
            return method(request)
        except httpx.TransportError as error:
            raise ConnectionError(str(error) or type(error).__name__) from error
        except httpx.HTTPStatusError as error:
            raise _refused(error) from error


def _refused(error: Any) -> Refused:
    from flwr.supercore.error import FlowerError

    said = FlowerError.from_json(error.response.text)
    if said is None:
        return Refused(f"HTTP status {error.response.status_code}")
    return Refused(": ".join(filter(None, (said.message, said.public_details))), int(said.code))
