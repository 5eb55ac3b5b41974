"""What is known of an identity besides its updates, and what its past is worth.

Attributes bound what more identities gain (`defenses.sybil.group_caps`, `tree_shares`); probation
and reputation bound what new identities gain, so that leaving and coming back under another name
(whitewashing) does not pay.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Identity:
    """Attributes of an identity; None where nothing is known.

    They are worth what it costs to forge them: a self-declared owner bounds nothing. A SuperLink
    tells key and account of a node; address and attestation come from the enrolment service.

    Args:
        key: public key.
        owner: account that the key belongs to.
        address: network address, as seen by the server.
        device: attested hardware identity.
        first_round: round in which the identity was first seen.
    """

    key: str | None = None
    owner: str | None = None
    address: str | None = None
    device: str | None = None
    first_round: int = 1

    def name(self, node: int) -> str:
        """What its past is kept under: its key, or the node's id where there is none."""
        return f"node {node}" if self.key is None else f"key {self.key}"

    def path(self) -> tuple[str, ...]:
        """Branches for `defenses.sybil.tree_shares`: address prefixes, then owner, then key.

        Raises:
            ValueError: if the address is none.
        """
        prefixes = address_path(self.address) if self.address else ()
        return (*prefixes, *(x for x in (self.owner, self.key) if x is not None))


def address_path(address: str) -> tuple[str, ...]:
    """The prefixes of a network address, widest first.

    /8, /16 and /24 of IPv4; /32, /48 and /64 of IPv6, since a customer is given whole /64s.

    Raises:
        ValueError: if it is no address.
    """
    parsed = ipaddress.ip_address(address)
    lengths = (8, 16, 24) if parsed.version == 4 else (32, 48, 64)
    nets = (ipaddress.ip_network((parsed, length), strict=False) for length in lengths)
    return tuple(str(net) for net in nets)


def probation(first_round: int, round: int, *, rounds: int = 10, least: float = 0.1) -> float:
    """The weight of an identity while it is new: from ``least``, linearly to 1.

    Args:
        first_round: in which it was first seen.
        round: now.
        rounds: length of the probation; 0 for none.
        least: weight in the first round.

    Returns:
        In [least, 1].

    Raises:
        ValueError: if ``least`` is not in [0, 1] or ``rounds`` is negative.
    """
    if not 0.0 <= least <= 1.0 or rounds < 0:
        raise ValueError(f"need 0 <= least <= 1 and rounds >= 0, got {least} and {rounds}")
    done = min(max(round - first_round, 0) / rounds, 1.0) if rounds else 1.0
    return least + (1.0 - least) * done


class Reputation:
    """How well identities behaved, as the mean of a Beta distribution that forgets.

    An identity with g good and b bad marks, each worth ``memory`` less with every round, has
    ``(prior_good + g) / (prior_good + prior_bad + g + b)``. A newcomer has the prior's mean, which
    should be low, so that a new name is worth less than a mended one.

    Args:
        prior_good: good marks that everybody starts with.
        prior_bad: bad ones.
        memory: in (0, 1]; 1 forgets nothing.

    Raises:
        ValueError: for a number out of its range.

    References:
        Jøsang, Ismail: The beta reputation system, Bled 2002.
    """

    def __init__(
        self, prior_good: float = 1.0, prior_bad: float = 1.0, memory: float = 0.98
    ) -> None:
        if not (prior_good > 0.0 and prior_bad > 0.0 and 0.0 < memory <= 1.0):
            raise ValueError(
                "need prior_good > 0, prior_bad > 0 and 0 < memory <= 1, "
                f"got {prior_good}, {prior_bad} and {memory}"
            )
        self.prior_good, self.prior_bad, self.memory = prior_good, prior_bad, memory
        self._marks: dict[str, tuple[float, float]] = {}

    def of(self, identity: str) -> float:
        """The reputation of an identity, in (0, 1)."""
        good, bad = self._marks.get(identity, (0.0, 0.0))
        return (self.prior_good + good) / (self.prior_good + self.prior_bad + good + bad)

    def learn(self, scores: Mapping[str, float]) -> None:
        """Take in a round.

        Args:
            scores: what each identity's reply was worth, in [0, 1]: a detector's or a rule's
                weight, 0 for one that was rejected. Who did not take part forgets alike.

        Raises:
            ValueError: if a score is not in [0, 1].
        """
        for identity, score in scores.items():
            if not 0.0 <= score <= 1.0:
                raise ValueError(f"the score of {identity} must be in [0, 1], got {score}")
        self._marks = {
            identity: (self.memory * good, self.memory * bad)
            for identity, (good, bad) in self._marks.items()
        }
        for identity, score in scores.items():
            good, bad = self._marks.get(identity, (0.0, 0.0))
            self._marks[identity] = (good + score, bad + 1.0 - score)

    def weights(self, identities: Iterable[str]) -> list[float]:
        """Reputations of several."""
        return [self.of(identity) for identity in identities]

    def state(self) -> dict[str, Any]:
        """Everything as plain data, for checkpoints and restarts."""
        return {identity: list(marks) for identity, marks in self._marks.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self._marks = {str(key): (float(g), float(b)) for key, (g, b) in state.items()}
