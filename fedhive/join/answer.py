"""What a machine says about itself when a server asks, and which part of the data it holds."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedhive.world.instructions import settings_of

ASK = "query.facts"
"""Type of the message that asks for them."""
FACTS = "fedhive-facts"
"""Key of the answer, and of the node config in which `fedhive join` hands the facts over."""
NUMBER = "client-number"
"""Setting of instructions: which client of the hive this machine is."""
MOST_BYTES = 16_384


def arrive(
    message: Message, context: Context, call_next: Callable[[Message, Context], Message]
) -> Message:
    """The outermost mod: answers questions about the machine, and tells it which client it is.

    A machine that was started with a partition of its own (``partition-id`` in its node config)
    keeps it.
    """
    if message.metadata.message_type == ASK:
        return tell(message, context)
    number = settings_of(message).get(NUMBER)
    if isinstance(number, int) and "partition-id" not in context.node_config:
        context.node_config = {**context.node_config, "partition-id": number}
    return call_next(message, context)


def tell(message: Message, context: Context) -> Message:
    """The answer to the question for facts."""
    said = {FACTS: json.dumps(facts_of(context.node_config))}
    return Message(RecordDict({"answer": ConfigRecord(dict(said))}), reply_to=message)


def facts_of(node_config: Mapping[str, Any]) -> dict[str, Any]:
    """What this machine declares, from the node config that its volunteer's client wrote."""
    coded = node_config.get(FACTS, "")
    facts: dict[str, Any] = {}
    if isinstance(coded, str) and coded:
        facts = dict(json.loads(base64.urlsafe_b64decode(coded)))
    if "partition-id" in node_config:
        facts["partition"] = int(node_config["partition-id"])
    return facts


def coded(facts: Mapping[str, Any]) -> str:
    """Facts as one word without quotes, which is all that a node config can carry."""
    return base64.urlsafe_b64encode(json.dumps(facts).encode()).decode()


def question(node_id: int) -> Message:
    """The message that asks a machine for facts."""
    return Message(RecordDict(), node_id, ASK)


def heard(reply: Message) -> dict[str, Any]:
    """The facts in a machine's answer: declared, not believed; empty if they are malformed."""
    if not reply.has_content():
        return {}
    text = settings_of(reply).get(FACTS)
    if not isinstance(text, str) or len(text) > MOST_BYTES:
        return {}
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
