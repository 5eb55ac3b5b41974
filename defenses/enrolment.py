"""Who stands behind a node: what identities are known by (group ``identities``).

A node id is a name that a server gave. What an identity cannot change at no cost is its key, its
account, the network that it calls from and the device that attested it: `Identity`. Where those
come from differs: a SuperLink knows key and account, an enrolment service knows more, and a
simulation makes them up.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from defenses.identities import Identity, address_path
from fedhive.errors import UserError
from fedhive.flower import NO_ACCOUNT

COLUMNS = ("node", "key", "name", "owner", "address", "device")


class Enrolment(Protocol):
    """Tells who stands behind a node."""

    def of(self, node: int, info: Any, round: int) -> Identity:
        """The identity of a node in a round.

        Args:
            node: id, as the grid knows it.
            info: what the grid tells about it (Flower's ``NodeInfo``), None if it tells nothing.
            round: from 1; identities may change hands, and one machine may change identities.
        """
        ...


@dataclass(frozen=True)
class FromGrid:
    """What the grid itself tells: the node's public key and the account that registered it.

    A SuperLink that authenticates its SuperNodes has checked both. One that does not lets anybody
    register with a new key, and calls the owner of all of them the same: no owner is known then.
    A simulated world knows neither; each node is an identity of its own.
    """

    def of(self, node: int, info: Any, round: int) -> Identity:
        """Key and owner, where told."""
        key = bytes(getattr(info, "public_key", b"")).hex()
        owner = str(getattr(info, "owner_aid", ""))
        known = owner not in ("", NO_ACCOUNT)
        return Identity(key=key or None, owner=owner if known else None)


@dataclass(frozen=True)
class Enrolled:
    """A list kept by whoever admits machines: one CSV row an identity.

    Columns: ``key`` (the public key in hexadecimal digits), ``node`` or ``name`` to find the row
    by, tried in this order; ``owner``, ``address`` and ``device`` as in `Identity`, empty if
    unknown. An unlisted node has what the grid tells, and no address and no device.

    Args:
        path: the file.

    Raises:
        UserError: for a file that cannot be read or a row that cannot be used.
    """

    path: str
    _rows: Mapping[tuple[str, str], Identity] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            with Path(self.path).open(encoding="utf-8", newline="") as lines:
                object.__setattr__(self, "_rows", _table(csv.DictReader(lines), self.path))
        except OSError as error:
            raise UserError(f"identities.path: {self.path} cannot be read: {error}") from error

    def of(self, node: int, info: Any, round: int) -> Identity:
        """The row of the node's key, id or name."""
        told = FromGrid().of(node, info, round)
        for column, value in (
            ("key", told.key), ("node", str(node)), ("name", str(getattr(info, "name", ""))),
        ):  # fmt: skip
            row = self._rows.get((column, value or ""))
            if row is not None:
                return Identity(told.key or row.key, row.owner, row.address, row.device)
        return told


def _table(rows: csv.DictReader[str], path: str) -> dict[tuple[str, str], Identity]:
    columns = rows.fieldnames or ()
    unknown = set(columns) - set(COLUMNS)
    if unknown or not {"node", "key", "name"} & set(columns):
        raise UserError(
            f"identities.path: {path} must have columns among {', '.join(COLUMNS)}, with node, "
            f"key or name, and has {', '.join(columns) or 'none'}"
        )
    table: dict[tuple[str, str], Identity] = {}
    for row in rows:
        cells = {k: (v or "").strip() or None for k, v in row.items() if k in COLUMNS}
        address = cells.get("address")
        try:
            address_path(address or "0.0.0.0")
        except ValueError as error:
            raise UserError(f"identities.path: {path}, line {rows.line_num}: {error}") from error
        found = Identity(cells.get("key"), cells.get("owner"), address, cells.get("device"))
        for column in ("key", "node", "name"):
            value = cells.get(column)
            if value is None:
                continue
            if (column, value) in table:
                raise UserError(
                    f"identities.path: {path}, line {rows.line_num}: a second row for {column} "
                    f"{value}"
                )
            table[column, value] = found
    return table


class Members(Protocol):
    """Says which machines are malicious (group ``attack``)."""

    def members(self, nodes: int, seed: int) -> frozenset[int]:
        """Their numbers."""
        ...


@dataclass(frozen=True)
class Simulated:
    """Made-up attributes: each honest machine stands alone, the adversary's share what it has.

    Honest machine i has an account, an attested device and a /16 of its own, eight of which share
    a /8. The adversary's machines are spread evenly over the accounts, prefixes and devices that
    it commands: the more it has of them, the less the attributes say. Its prefixes are /16 too,
    and follow those of the honest.

    Args:
        nodes: number of machines.
        seed: of the run.
        adversary: who is malicious; None for nobody.
        owners: accounts that the adversary commands.
        prefixes: /16 networks that it commands.
        devices: attested devices that it commands; 0 for none, its machines then attest nothing.
        churn: each of the adversary's machines has a new key every so many rounds; 0 for never.
        first_node: id of machine 0.

    Raises:
        ValueError: for a number out of its range.
    """

    nodes: int
    seed: int = 0
    adversary: Members | None = None
    owners: int = 1
    prefixes: int = 1
    devices: int = 1
    churn: int = 0
    first_node: int = 1000
    _liars: Mapping[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if min(self.owners, self.prefixes) < 1 or min(self.devices, self.churn) < 0:
            raise ValueError(
                "need owners >= 1, prefixes >= 1, devices >= 0 and churn >= 0, got "
                f"{self.owners}, {self.prefixes}, {self.devices} and {self.churn}"
            )
        if self.adversary is None:
            members: frozenset[int] = frozenset()
        else:
            members = self.adversary.members(self.nodes, self.seed)
        order = {machine: i for i, machine in enumerate(sorted(members))}
        object.__setattr__(self, "_liars", order)

    def of(self, node: int, info: Any, round: int) -> Identity:
        """The made-up identity of a machine."""
        machine = node - self.first_node
        rank = self._liars.get(machine)
        if rank is None:
            return Identity(
                f"key-{machine}", f"owner-{machine}", _address(machine), f"device-{machine}"
            )
        life = (round - 1) // self.churn if self.churn else 0
        return Identity(
            f"key-{machine}" + (f"-{life}" if life else ""),
            f"adversary-{rank % self.owners}",
            _address(self.nodes + rank % self.prefixes, rank // self.prefixes),
            f"adversary-{rank % self.devices}" if self.devices else None,
        )


def _address(network: int, host: int = 0) -> str:
    """An IPv4 address: eight /16 a /8, and as many hosts in each as there are."""
    first, second = divmod(network, 8)
    more = 8 * (first // 223) % 256
    return f"{1 + first % 223}.{second + more}.{host // 250 % 256}.{host % 250 + 1}"


class Register:
    """Everything that a server keeps about identities: who they are, since when, what they did.

    Args:
        enrolment: who stands behind a node; None for what the grid tells.
        max_strikes: an identity with so many strikes is expelled; None for never.
    """

    def __init__(self, enrolment: Enrolment | None = None, max_strikes: int | None = None) -> None:
        self.enrolment: Enrolment = enrolment or FromGrid()
        self.max_strikes = max_strikes
        self._infos: dict[int, Any] = {}
        self._met: set[int] = set()
        self._first: dict[str, int] = {}
        self._strikes: dict[str, list[tuple[int, str]]] = {}

    def meet(self, nodes: list[int], grid: Any) -> None:
        """Ask the grid about nodes that it has not told about yet."""
        self._met.update(nodes)
        get: Callable[[], Any] | None = getattr(grid, "get_nodes", None)
        if get is None or all(node in self._infos for node in nodes):
            return
        self._infos |= {node: None for node in nodes if node not in self._infos}
        self._infos |= {info.node_id: info for info in get()}

    def identity(self, node: int, round: int) -> Identity:
        """Who stands behind a node in a round; a newcomer has been here since this round."""
        found = self.enrolment.of(node, self._infos.get(node), round)
        first = self._first.get(found.name(node), round)
        return Identity(found.key, found.owner, found.address, found.device, first)

    def accepted(self, node: int, round: int) -> None:
        """Note that an identity's reply was accepted: it has been here since then."""
        self._first.setdefault(self.identity(node, round).name(node), round)

    def strike(self, node: int, round: int, reason: str) -> None:
        """Note a reply that was refused, against the identity that sent it."""
        name = self.identity(node, round).name(node)
        self._strikes.setdefault(name, []).append((round, reason))

    def strikes(self, node: int, round: int) -> list[tuple[int, str]]:
        """(round, reason) of each refused reply of the identity behind a node."""
        return list(self._strikes.get(self.identity(node, round).name(node), ()))

    def expelled(self, node: int, round: int) -> bool:
        """Whether the identity behind a node has used up its strikes."""
        if self.max_strikes is None or not self._strikes:
            return False
        return len(self.strikes(node, round)) >= self.max_strikes

    def outcasts(self, round: int) -> set[int]:
        """The nodes that expelled identities stand behind, of those met so far."""
        if self.max_strikes is None or not self._strikes:
            return set()
        return {node for node in self._met if self.expelled(node, round)}

    def state(self) -> dict[str, Any]:
        """Everything that must survive a restart, as plain data."""
        strikes = {name: [list(one) for one in all_] for name, all_ in self._strikes.items()}
        return {"first": dict(self._first), "strikes": strikes, "met": sorted(self._met)}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up a state given by `state`."""
        self._met = {int(node) for node in saved["met"]}
        self._first = {str(name): int(round) for name, round in saved["first"].items()}
        self._strikes = {
            str(name): [(int(round), str(reason)) for round, reason in all_]
            for name, all_ in saved["strikes"].items()
        }
