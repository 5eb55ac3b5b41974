"""Tolerant collection, against a SuperLink that forgets as Flower's does."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedhive.compose import compose
from fedhive.config import build
from fedhive.deploy.grid import HiveGrid
from fedhive.deploy.notes import Notes, sentence
from fedhive.deploy.trace import write_trace
from fedhive.errors import UserError
from fedhive.flower import (
    CLIENT_CRASHED,
    NODE_UNAVAILABLE,
    NodeInfo,
    assume_identity,
    error_reply,
    set_message_id,
)
from fedhive.join.answer import ASK, FACTS, NUMBER

FIRST = 1000


@dataclass
class Node:
    """A SuperNode: works on one message at a time, first come first served."""

    id: int
    key: bytes
    facts: dict = field(default_factory=dict)
    online: bool = True
    expires: float = 0.0
    queue: list = field(default_factory=list)
    frozen: bool = False


class Link(Grid):
    """A SuperLink that gives up a machine's message when asked for it while the machine is off."""

    def __init__(self, *nodes: Node) -> None:
        assume_identity(7)
        self.nodes = {node.id: node for node in nodes}
        self.sent: dict[str, Message] = {}
        self.replies: dict[str, Message] = {}
        self.dead: set[str] = set()
        self.count = 0
        self.seen: list[int] = []

    def set_run(self, run) -> None: ...

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def send_and_receive(self, messages, *, timeout=None):
        raise AssertionError("stock collection loses work")

    def get_node_ids(self):
        return [node.node_id for node in self.get_nodes()]

    def get_nodes(self):
        return [
            NodeInfo(
                node_id=n.id, name=n.key.decode(), public_key=n.key, online_until=n.expires or 9e9
            )
            for n in self.nodes.values()
            if n.online
        ]

    def push_messages(self, messages):
        ids = []
        for message in messages:
            self.count += 1
            key = f"m{self.count}"
            set_message_id(message, key)
            self.sent[key] = message
            self.nodes[message.metadata.dst_node_id].queue.append(key)
            ids.append(key)
        return ids

    def work(self) -> None:
        """Every machine that is there does what it has."""
        for node in self.nodes.values():
            if not node.online or node.frozen:
                continue
            for key in node.queue:
                message = self.sent[key]
                if message.metadata.message_type == ASK:
                    content = RecordDict({"a": ConfigRecord({FACTS: json.dumps(node.facts)})})
                else:
                    self.seen.append(int(message.content["config"][NUMBER]))
                    content = RecordDict({"metrics": MetricRecord({"samples": 5})})
                self.replies[key] = Message(content, reply_to=message)
            node.queue.clear()

    def pull_messages(self, message_ids):
        found = []
        for key in message_ids:
            node = self.nodes[self.sent[key].metadata.dst_node_id]
            if key in self.replies and key not in self.dead:
                found.append(self.replies.pop(key))
            elif not node.online:
                self.dead.add(key)
                found.append(error_reply(self.sent[key], NODE_UNAVAILABLE, "offline"))
        return found


class Clock:
    now = 0.0

    def wait(self, until_s: float) -> None:
        self.now += 1.0


def hive(*nodes: Node, size: int = 3, patience_s: float = 100.0) -> tuple[HiveGrid, Link]:
    link = Link(*nodes)
    grid = HiveGrid(link, size, 0.001, patience_s, Notes(), unix_time=lambda: 1000.0)
    clock = Clock()
    grid.clock = clock
    grid.past._clock = clock
    grid.past._start = 0.0
    for _ in range(2):
        grid.look()
        link.work()
    grid.look()
    return grid, link


def task(node: int) -> Message:
    return Message(RecordDict({"config": ConfigRecord({"server-round": 3})}), node, "train")


def three() -> list[Node]:
    return [Node(77, b"c"), Node(12, b"a"), Node(50, b"b", {"partition": 0})]


def test_machines_are_numbered_and_named_as_in_a_simulation():
    grid, link = hive(*three())
    assert grid.get_node_ids() == [FIRST, FIRST + 1, FIRST + 2]
    assert {row["name"]: row["node"] for row in grid.rows()}["b"] == 0
    ids = grid.push_messages([task(FIRST), task(FIRST + 2)])
    link.work()
    replies = grid.pull_messages(ids)
    assert [reply.metadata.src_node_id for reply in replies] == [FIRST, FIRST + 2]
    assert sorted(link.seen) == [0, 2]
    for key in ids:
        grid.settle(key, "accepted")
    events = grid.collect_events()
    assert [(e["node"], e["round"], e["samples"], e["status"]) for e in events] == [
        (0, 3, 5, "accepted"), (2, 3, 5, "accepted"),
    ]  # fmt: skip


def test_the_sender_s_message_is_not_changed():
    grid, _ = hive(*three())
    message = task(FIRST)
    grid.push_messages([message])
    assert dict(message.content["config"]) == {"server-round": 3}
    assert message.metadata.dst_node_id == FIRST


def test_work_of_a_machine_that_was_away_comes_in_when_it_is_back():
    grid, link = hive(*three())
    [key] = grid.push_messages([task(FIRST)])
    node = link.nodes[50]
    node.online = False  # finished meanwhile, but cannot be reached
    for _ in range(85):
        grid.clock.now += 1.0
        assert grid.pull_messages([key]) == []
    assert not link.dead
    node.online = True
    grid.look()  # asks whether the work is still there
    link.work()
    [reply] = grid.pull_messages([key])
    assert reply.has_content()
    grid.settle(key, "accepted")
    [event] = grid.collect_events()
    assert event["status"] == "accepted"
    assert sentence(grid.notes.rows[-1]).endswith(
        "b away from 1 s to 85 s, and came back with the work"
    )


def test_a_machine_that_is_about_to_expire_is_not_asked():
    grid, link = hive(*three())
    [key] = grid.push_messages([task(FIRST)])
    link.nodes[50].expires = 1001.0  # the SuperLink's clock shows 1000
    assert grid.pull_messages([key]) == []
    assert FIRST not in grid.get_node_ids()


def test_a_machine_that_lost_its_work_is_found_out_when_it_is_back():
    grid, link = hive(*three())
    [key] = grid.push_messages([task(FIRST)])
    node = link.nodes[50]
    node.online = False
    node.queue.clear()  # killed: it has forgotten everything
    grid.clock.now = 5.0
    grid.look()
    grid.clock.now = 80.0
    node.online = True
    assert grid.pull_messages([key]) == []  # still asking
    link.work()
    [reply] = grid.pull_messages([key])
    assert reply.error.code == NODE_UNAVAILABLE
    assert reply.metadata.src_node_id == FIRST
    assert reply.metadata.reply_to_message_id == key
    assert "away from 5 s to 80 s, and came back without the work" in reply.error.reason
    assert grid.pull_messages([key])[0].has_error()  # nobody waits for it for ever


def test_a_machine_that_still_works_when_it_is_back_is_waited_for():
    grid, link = hive(*three())
    [key] = grid.push_messages([task(FIRST)])
    node = link.nodes[50]
    node.online, node.frozen = False, True
    grid.look()
    node.online = True
    grid.clock.now = 50.0
    for _ in range(10):
        assert grid.pull_messages([key]) == []
    node.frozen = False
    link.work()  # answers the task first, then the question: both at the same look
    [reply] = grid.pull_messages([key])
    assert reply.has_content()


def test_patience_ends():
    grid, link = hive(*three(), patience_s=100.0)
    [key] = grid.push_messages([task(FIRST)])
    link.nodes[50].online = False
    grid.look()
    grid.clock.now = 100.0
    assert grid.pull_messages([key]) == []
    grid.clock.now = 101.0
    [reply] = grid.pull_messages([key])
    assert reply.error.reason == "away for 101 s"


def test_flower_s_nameless_errors_are_attributed():
    grid, link = hive(*three())
    [key] = grid.push_messages([task(FIRST + 2)])
    error = error_reply(link.sent[key], CLIENT_CRASHED, "died")
    error.metadata.__dict__["_src_node_id"] = 1  # as a SuperLink does
    link.replies[key] = error
    [reply] = grid.pull_messages([key])
    assert reply.metadata.src_node_id == FIRST + 2


def test_nobody_waits_for_messages_of_an_earlier_server():
    grid, _ = hive(*three())
    [reply] = grid.pull_messages(["from before"])
    assert "before the server was restarted" in reply.error.reason


def test_too_few_machines_end_the_wait():
    grid, _ = hive(Node(5, b"a"))
    with pytest.raises(UserError, match="only 1 of 2 machines came within 10 s"):
        grid.meet(2, 10.0)
    grid.meet(1, 10.0)


def test_machines_beyond_the_hive_s_size_and_taken_partitions_are_told():
    nodes = [Node(1, b"a", {"partition": 1}), Node(2, b"b", {"partition": 1}), Node(3, b"c")]
    grid, _ = hive(*nodes, size=2)
    assert {row["name"]: row["node"] for row in grid.rows()} == {"a": 1, "c": 0}
    said = [sentence(row) for row in grid.notes.rows if row["kind"] == "unneeded"]
    assert any("partition 1 is taken" in line for line in said)


@pytest.mark.parametrize("facts", [{"partition": "x"}, {"partition": -1}, {"partition": 10**9}])
def test_nonsense_about_partitions_gives_no_place(facts: dict):
    grid, _ = hive(Node(1, b"a", facts))
    assert grid.get_node_ids() == []


def test_a_resumed_server_knows_the_machines_under_their_new_ids():
    grid, link = hive(*three())
    plain, _ = grid.state()
    numbers = {row["name"]: row["node"] for row in grid.rows()}
    again = Link(*(Node(node.id + 5, node.key) for node in link.nodes.values()))
    other = HiveGrid(again, 3, 0.001, unix_time=lambda: 1000.0)
    other.restore(json.loads(json.dumps(plain)), {})
    assert other.clock.now >= plain["now_s"]
    assert len(other.get_node_ids()) == 3
    assert {row["name"]: row["node"] for row in other.rows()} == numbers
    assert not again.sent  # nobody was asked again


def test_recorded_history_replays_in_simulation(tmp_path: Path):
    grid, link = hive(*three())
    link.nodes[50].online = False
    grid.clock.now = 30.0
    grid.look()
    link.nodes[50].online = True
    grid.clock.now = 45.5
    grid.look()
    grid.clock.now = 100.0
    path = tmp_path / "t.csv"
    write_trace(path, grid.presence(), 100.0)
    words = [f"availability.path={path}", "availability.length_column=watched_s"]
    cfg = compose(["availability=csv", *words, "nodes=3"])
    replay = build(cfg["availability"], "availability", nodes=3, seed=0)
    assert replay.intervals(0, 0.0, 100.0) == [(0.0, 30.0), (45.5, 100.0)]
    assert replay.intervals(1, 0.0, 100.0) == [(0.0, 100.0)]
