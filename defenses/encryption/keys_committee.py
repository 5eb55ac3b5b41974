"""Keys that nobody holds: shares of every upload's short key go to a committee (group ``keys``).

A client draws a fresh key for every round, splits it with Shamir's scheme among c long-lived
nodes, and seals each share for its member (X25519, HKDF-SHA256, ChaCha20-Poly1305); the shares
travel with the ciphertext in the client's one message. To open a sum, the server asks the members
once: each opens its shares of exactly the clients in the sum, adds them, and answers 4 kB, however
large the model is. Any t answers give the sum of the keys, which opens the sum and nothing else.

Members answer once a round, only for disjoint sums, and only over at least ``least`` clients.
Clients that drop out before their upload arrives are simply not in the sum; c - t members may drop
out. What this does not stop: a server that makes up clients (Sybils) can leave one real client
among ``least - 1`` of its own, so clients must be enrolled; and a client that shares garbage can
cost everybody the round, though it learns nothing.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from defenses.encryption import base, errors, shamir
from defenses.encryption.base import Ask, Cipher, Ciphertext, Context, Ints, UploadKey
from defenses.encryption.committee_member import CommitteeMember, bound, info
from defenses.encryption.messages import Guard, Question, split
from defenses.encryption.prg import Stream, derive, digest
from defenses.encryption.roster import Roster, agree, public_of, read_key, read_roster
from fedhive.errors import UserError

MOST_SUBSETS = 1000
"""So many sets of t answers are tried when some answers are wrong."""


@dataclass
class Committee:
    """Keys shared among t of c members.

    Args:
        roster: file with the committee's and the server's public keys, the same on every
            machine; null derives all keys from the run's seed, which is insecure and for
            simulations only: artefacts say so.
        key_file: this machine's private key, if it is a member or the server.
        nodes: ids of a simulation's members; null for members of no node, inside the server.
        size: c, how many members a simulation has where ``nodes`` is null.
        threshold: t of a simulation.
        least: fewest clients in a sum that is opened (u_min).
        seed: of the run, for simulated keys.

    Raises:
        UserError: for files or numbers that cannot be used.
    """

    roster: str | None = None
    key_file: str | None = None
    nodes: list[int] | None = None
    size: int = 7
    threshold: int = 5
    least: int = 3
    seed: int = 0
    name: str = field(default="committee", init=False)
    _local: dict[int, CommitteeMember] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.least < 2:
            raise UserError(f"keys.least must be at least 2, got {self.least}")
        if self.roster is None:
            self._roster = self._simulated()
        else:
            self._roster = read_roster(self.roster)

    @property
    def insecure_simulation(self) -> bool:
        """Whether the keys come from the run's seed."""
        return self.roster is None

    @property
    def members(self) -> tuple[int, ...]:
        """Ids of the nodes to ask; none where a simulation's members are in the server."""
        if self.roster is None and self.nodes is None:
            return ()
        return tuple(node for node, _ in self._roster.members)

    @property
    def tolerates(self) -> int:
        """How many members may side with the server; see `Roster.tolerates`."""
        return self._roster.tolerates

    @cached_property
    def key_id(self) -> bytes:
        """Names the committee."""
        return self._roster.digest

    def tag_key(self, nonce: bytes, context: Context) -> bytes:
        """Of one upload: only its client and the server can derive it.

        Raises:
            BadShare: for a nonce that is no public key.
        """
        return agree(self._private("server"), nonce, info("tag", self.key_id, context))

    def check(self, cipher: Cipher) -> None:
        """Only ciphers with a fresh short key an upload can be shared.

        Raises:
            UserError: for others.
        """
        if not cipher.fresh_keys:
            raise UserError(
                f"keys=committee cannot serve cipher={cipher.name}: it has one key for all "
                "clients, and ciphertexts under different keys cannot be added; take cipher=rlwe"
            )

    def for_upload(self, cipher: Cipher, context: Context) -> UploadKey:
        """A fresh key, its shares sealed for the members."""
        self.check(cipher)
        seed = os.urandom(32) if self.roster else derive(
            self._simulation("clients"), "upload", *bound(context)
        )  # fmt: skip
        private = X25519PrivateKey.from_private_bytes(derive(seed, "exchange"))
        secret = cipher.new_secret(derive(seed, "cipher"))
        short = cast(base.FreshCipher, cipher).short_keys([secret])
        shares = shamir.share(
            short, self._roster.threshold, len(self._roster.members),
            Stream(derive(seed, "shares")),
        )  # fmt: skip
        sealed = []
        for (node, public), values in zip(self._roster.members, shares, strict=True):
            box_info = info("share", self.key_id, context, node, cipher.params_id)
            box = ChaCha20Poly1305(agree(private, public, box_info))
            # A key of its own for every share: the nonce need not vary.
            sealed.append(box.encrypt(bytes(12), values.astype("<u2").tobytes(), box_info))
        tag = agree(private, self._roster.server, info("tag", self.key_id, context))
        return UploadKey(secret, public_of(private), tag, self.key_id, b"".join(sealed))

    def member(self, node: int, cipher: Cipher, state: bytes | None = None) -> CommitteeMember:
        """A member's side.

        Raises:
            UserError: if the node is no member, or the machine has another's key.
        """
        private, public = self._private(node), dict(self._roster.members).get(node)
        if public_of(private) != public:
            raise UserError(f"keys.key_file is not the key that the roster has for node {node}")
        return CommitteeMember(self.key_id, node, private, cipher, Guard(self.least, state))

    def screen(
        self, cipher: Cipher, ciphertexts: Sequence[Ciphertext], ask: Ask | None = None
    ) -> dict[int, str]:
        """Which clients' shares cannot be opened by some member: leave them out of the sums.

        It asks nothing that members would not answer again. A member that complains about more
        clients than there are members that complain about each of them is not believed, while
        enough others remain.

        Returns:
            Reasons by sender.
        """
        if not ciphertexts:
            return {}
        uploads = tuple(u for c in ciphertexts for u in c.uploads)
        question = Question.of(ciphertexts[:1], cipher.params_id)
        question = replace(question, buckets=(uploads,), check=True)
        complaints: set[tuple[int, int]] = set()
        believed = set()
        for node, answer in self._ask(cipher, question, ask)[0].items():
            if len(answer) % 8 == 0:
                believed.add(node)
                senders = np.frombuffer(answer, dtype="<u8").tolist()
                complaints |= {(node, sender) for sender in senders}
        bad: dict[int, str] = {}
        while complaints:
            by_node, by_sender = ([pair[i] for pair in complaints] for i in (0, 1))
            node, sender = max(by_node, key=by_node.count), max(by_sender, key=by_sender.count)
            spare = len(believed) > self._roster.threshold
            if spare and by_node.count(node) > by_sender.count(sender):
                believed.discard(node)
                complaints = {pair for pair in complaints if pair[0] != node}
            else:
                bad[sender] = errors.BadShare.__name__
                complaints = {pair for pair in complaints if pair[1] != sender}
        return bad

    def open(
        self, cipher: Cipher, totals: Sequence[Ciphertext], ask: Ask | None = None
    ) -> list[Ints]:
        """See `defenses.encryption.base.Keys.open`.

        Raises:
            BadShare: if no t answers fit together.
        """
        question = Question.of(totals, cipher.params_id)
        question = replace(question, buckets=tuple(total.uploads for total in totals))
        answers, refusals = self._ask(cipher, question, ask)
        parsed = {node: _shares(answer, len(totals)) for node, answer in answers.items()}
        usable = {node: parts for node, parts in parsed.items() if parts is not None}
        if len(usable) < self._roster.threshold:
            for refusal in refusals:
                raise refusal
            raise errors.TooFewAnswers(
                f"{len(usable)} members answered; {self._roster.threshold} are needed"
            )
        return [
            self._open_one(cipher, total, {node: usable[node][i] for node in usable})
            for i, total in enumerate(totals)
        ]

    def _open_one(self, cipher: Cipher, total: Ciphertext, shares: Mapping[int, Ints]) -> Ints:
        places = {node: x for x, (node, _) in enumerate(self._roster.members, 1)}
        subsets = itertools.combinations(sorted(shares), self._roster.threshold)
        for subset in itertools.islice(subsets, MOST_SUBSETS):
            opening = shamir.combine({places[node]: shares[node] for node in subset})
            try:
                # A sum of keys is short; a wrong answer makes it anything but.
                return cipher.decrypt(total, opening)
            except errors.BadShare:
                continue
        raise errors.BadShare("no answers of the committee fit together: a share is wrong")

    def _ask(
        self, cipher: Cipher, question: Question, ask: Ask | None
    ) -> tuple[Mapping[int, bytes], list[errors.SealError]]:
        size = len(question.buckets[0][0].shares) // len(self._roster.members)
        messages = {}
        for i, (node, _) in enumerate(self._roster.members):
            buckets = tuple(
                tuple(replace(u, shares=u.shares[i * size : (i + 1) * size]) for u in bucket)
                for bucket in question.buckets
            )
            messages[node] = replace(question, buckets=buckets).pack()
        if ask is not None:
            known = set(messages)
            answers = ask(messages)
            return {node: answers[node] for node in answers if node in known}, []
        if self.members:
            raise errors.TooFewAnswers("there is no way to ask the committee")
        found, refusals = {}, []
        for node, message in messages.items():
            holder = self._local.setdefault(node, self.member(node, cipher))
            try:
                found[node] = holder.answer(message)
            except errors.SealError as error:
                refusals.append(error)
        return found, refusals

    def _private(self, who: int | str) -> X25519PrivateKey:
        if self.roster is None:
            return X25519PrivateKey.from_private_bytes(self._simulation(who))
        if self.key_file is None:
            raise UserError("keys.key_file is missing on this machine: its private key")
        return read_key(self.key_file)

    def _simulation(self, who: int | str) -> bytes:
        return digest("simulated committee", self.seed, str(who).encode(), size=32)

    def _simulated(self) -> Roster:
        nodes = range(self.size) if self.nodes is None else self.nodes
        keys = tuple((node, public_of(self._private(node))) for node in nodes)
        return Roster(keys, self.threshold, public_of(self._private("server")))


def _shares(answer: bytes, count: int) -> list[Ints] | None:
    """A member's shares of the sums' keys; None if the answer is damaged."""
    try:
        parts = split(answer, count)
    except errors.SealError:
        return None
    if any(len(part) % 2 or not 0 < len(part) <= 1 << 16 for part in parts):
        return None
    shares = [np.frombuffer(part, dtype="<u2").astype(np.int64) for part in parts]
    return shares if len({len(share) for share in shares}) == 1 else None
