"""Which identities count as one: those that share what an adversary cannot multiply for free."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

from defenses.identities import Identity, address_path
from defenses.sybil import joined
from fedhive.errors import UserError

Attribute = Literal["key", "owner", "device", "network"]
Network = Literal["wide", "middle", "narrow"]
Unknown = Literal["alone", "together"]

ATTRIBUTES = ("key", "owner", "device", "network")
NETWORKS = ("wide", "middle", "narrow")
"""How much of an address: /8, /16, /24 of IPv4; /32, /48, /64 of IPv6."""


def values(
    identities: Sequence[Identity],
    attribute: str,
    network: Network = "middle",
    unknown: Unknown = "alone",
) -> list[Hashable]:
    """An attribute of each identity; None where it stands alone.

    Args:
        identities: n of them.
        attribute: one of ``key``, ``owner``, ``device``, ``network``.
        network: how much of the address.
        unknown: whether identities that do not tell share a value (``together``) or not.
    """
    found: list[Hashable] = [_value(identity, attribute, network) for identity in identities]
    if unknown == "together":
        found = [("unknown",) if value is None else value for value in found]
    return found


def _value(identity: Identity, attribute: str, network: Network) -> str | None:
    if attribute == "network":
        if identity.address is None:
            return None
        return address_path(identity.address)[NETWORKS.index(network)]
    value: str | None = getattr(identity, attribute)
    return value


def grouped(
    identities: Sequence[Identity],
    by: Sequence[str],
    network: Network = "middle",
    unknown: Unknown = "alone",
) -> list[int]:
    """A group number for each identity: the same for those that share any attribute of ``by``."""
    labelled = [values(identities, attribute, network, unknown) for attribute in by]
    return joined(labelled, len(identities))


def check_attributes(by: Sequence[str], known: Sequence[str], path: str) -> None:
    """Refuse unknown attributes.

    Raises:
        UserError: naming one of them.
    """
    if odd := set(by) - set(known):
        raise UserError(f"{path}: {min(odd)!r} is not one of {', '.join(known)}")
