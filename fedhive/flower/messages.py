"""Messages, their contents and their fates, beyond what Flower lets one set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
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
from flwr.supercore.run import Run, RunStatus
from flwr.supercore.task_identity import TaskIdentity

from fedhive.flower.arrays import TensorArray

R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)
SERVER_NODE_ID = 1
CLIENT_CRASHED = int(ErrorCode.CLIENT_APP_CRASHED)
CLIENT_RAISED = int(ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
NODE_UNAVAILABLE = int(ErrorCode.NODE_UNAVAILABLE)
NO_ACCOUNT = str(NOOP_FLWR_AID)
"""What a SuperLink calls the owner of every node where accounts are not checked."""
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
