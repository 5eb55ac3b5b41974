"""The one package that touches names Flower does not promise to keep.

Everything else in fedhive uses ``flwr.app``, ``flwr.serverapp`` and ``flwr.clientapp`` as
documented. ``tests/fedhive/test_flower.py`` fails loudly when one of the assumptions made here no
longer holds for the installed Flower.
"""

from __future__ import annotations

from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.run import Run

from fedhive.flower.arrays import (
    Layout,
    Malformed,
    TensorArray,
    flatten_record,
    from_flat,
    in_memory,
    layout_of,
    shared_vector,
)
from fedhive.flower.machines import (
    AwakeClock,
    Refused,
    SuperLinkControl,
    VolunteersOnly,
    run_superlink,
    run_supernode,
    take_task,
)
from fedhive.flower.messages import (
    CLIENT_CRASHED,
    CLIENT_RAISED,
    NO_ACCOUNT,
    NODE_UNAVAILABLE,
    SERVER_NODE_ID,
    DeferredReply,
    QuickRecords,
    assemble,
    assume_identity,
    attribute,
    error_reply,
    error_reply_to_reply,
    failed_early,
    isolated_copy,
    make_run,
    node_info,
    payload_bytes,
    quick_records,
    records_of,
    set_message_id,
)
from fedhive.flower.runtimes import (
    ask_ray_actors,
    kill_busy_ray_actors,
    quiet_logs,
    ray_backend,
    run_on_ray,
    sleeping_on,
)

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
