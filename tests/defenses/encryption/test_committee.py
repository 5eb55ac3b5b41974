from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.encryption import errors, roster, shamir
from defenses.encryption.base import Ciphertext, Context, UploadKey
from defenses.encryption.committee_member import CommitteeMember
from defenses.encryption.keys_committee import Committee
from defenses.encryption.messages import Question, join, split
from defenses.encryption.plain import Plain
from defenses.encryption.prg import Stream
from defenses.encryption.ring import small
from defenses.encryption.rlwe import N, Rlwe
from fedhive.errors import UserError

COUNT = 500
HERE = Context(b"r" * 16, 7, b"m" * 16, 0, COUNT)
CIPHER = Rlwe(1.0)
NODES = [3, 5, 8, 13, 21]


@settings(max_examples=25, deadline=None)
@given(c=st.integers(1, 9), data=st.data())
def test_any_t_shares_give_the_secret(c: int, data: st.DataObject) -> None:
    t = data.draw(st.integers(1, c))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    secrets = rng.integers(-4000, 4001, (3, 50))
    shares = [shamir.share(row, t, c, Stream(bytes([i] * 32))) for i, row in enumerate(secrets)]
    sums = {x: shamir.add(np.stack([s[x - 1] for s in shares])) for x in range(1, c + 1)}
    for subset in itertools.islice(itertools.combinations(sums, t), 5):
        assert shamir.combine({x: sums[x] for x in subset}).tolist() == secrets.sum(0).tolist()


def test_fewer_shares_are_uniform_whatever_the_secret() -> None:
    """Two shares of three are distributed the same for any two secrets: uniformly."""
    for secret in (0, 48):
        shares = shamir.share(np.full(60_000, secret), 3, 3, Stream(b"s" * 32))
        for row in shares[:2]:
            counts = np.bincount(row >> 10, minlength=64)[:63]
            assert abs(counts - counts.mean()).max() < 6 * np.sqrt(counts.mean())
        assert abs(np.corrcoef(shares[0], shares[1])[0, 1]) < 0.02


def test_shamir_by_hand() -> None:
    # f(x) = 7 + 2x over the field: shares 9, 11, 13.
    assert shamir.combine({1: np.array([9]), 3: np.array([13])}).tolist() == [7]
    assert shamir.combine({2: np.array([11]), 3: np.array([13])}).tolist() == [7]
    with pytest.raises(ValueError, match="threshold"):
        shamir.share(np.zeros(3, np.int64), 4, 3, Stream(bytes(32)))
    with pytest.raises(ValueError, match="field"):
        shamir.share(np.full(3, 40_000), 2, 3, Stream(bytes(32)))


def committee(**options: object) -> Committee:
    return Committee(**{"nodes": NODES, "threshold": 3, "seed": 4, **options})  # type: ignore[arg-type]


class World:
    """Members on machines of their own, some of which do not answer or answer wrongly."""

    def __init__(self, keys: Committee, nodes: Sequence[int] = NODES) -> None:
        self.members: dict[int, CommitteeMember] = {n: keys.member(n, CIPHER) for n in nodes}
        self.gone: set[int] = set()
        self.lie: Callable[[int, bytes], bytes] = lambda node, answer: answer
        self.sent: dict[int, int] = {}
        self.refused: list[str] = []

    def ask(self, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        answers = {}
        for node, message in messages.items():
            if node in self.gone:
                continue
            try:
                answers[node] = self.lie(node, self.members[node].answer(message))
                self.sent[node] = len(answers[node])
            except errors.SealError as error:
                self.refused.append(error.name)
        return answers


def upload(keys: Committee, sender: int, round: int = 7, key: UploadKey | None = None,
           cipher: Rlwe = CIPHER) -> Ciphertext:  # fmt: skip
    here = replace(HERE, sender=sender, round=round)
    ints = np.full(COUNT, sender + 1)
    sealed = cipher.encrypt(ints, key or keys.for_upload(cipher, here), here)
    return cipher.parse(sealed.data, here, keys)


def total(keys: Committee, senders: Sequence[int], round: int = 7) -> Ciphertext:
    return CIPHER.add([upload(keys, sender, round) for sender in senders])


def test_t_members_open_and_fewer_do_not() -> None:
    keys = committee()
    world, senders = World(keys), [2, 4, 6, 9]
    world.gone = {3, 5}
    [opened] = keys.open(CIPHER, [total(keys, senders)], world.ask)
    assert (opened == sum(s + 1 for s in senders)).all()
    assert max(world.sent.values()) <= 4200  # of at most 10 kB
    world = World(keys)
    world.gone = {3, 5, 8}
    with pytest.raises(errors.TooFewAnswers):
        keys.open(CIPHER, [total(keys, senders)], world.ask)


def test_the_answer_does_not_grow_with_the_model() -> None:
    keys, sizes = committee(), []
    for count in (100, 20_000):
        world = World(keys)
        parts = []
        for sender in range(3):
            here = replace(HERE, sender=sender, count=count)
            sealed = CIPHER.encrypt(np.zeros(count, np.int64), keys.for_upload(CIPHER, here), here)
            parts.append(CIPHER.parse(sealed.data, here, keys))
        keys.open(CIPHER, [CIPHER.add(parts)], world.ask)
        sizes.append(world.sent[3])
    assert sizes[0] == sizes[1] == 2 * N + 4


@pytest.mark.parametrize("clients", [3, 40, 200])
def test_many_clients(clients: int) -> None:
    keys = committee(nodes=None, size=4, threshold=3)
    [opened] = keys.open(CIPHER, [total(keys, range(clients))])
    assert (opened == clients * (clients + 1) // 2).all()


def test_drop_outs_before_during_and_after_upload() -> None:
    """Before: not in the sum. During: refused by name. After: still in the sum."""
    keys = committee()
    here = replace(HERE, sender=5)
    cut = CIPHER.encrypt(np.zeros(COUNT, np.int64), keys.for_upload(CIPHER, here), here).data[
        :-999
    ]
    with pytest.raises(errors.Truncated):
        CIPHER.parse(cut, here, keys)
    arrived = [upload(keys, sender) for sender in (1, 2, 3)]  # 3 is a member that leaves now
    world = World(keys)
    world.gone = {3}
    [opened] = keys.open(CIPHER, [CIPHER.add(arrived)], world.ask)
    assert (opened == 2 + 3 + 4).all()


def test_members_answer_once_a_round() -> None:
    keys, senders = committee(), range(6)
    world = World(keys)
    sums = total(keys, senders)
    keys.open(CIPHER, [sums], world.ask)
    fewer = total(keys, range(5))
    with pytest.raises(errors.TooFewAnswers):
        keys.open(CIPHER, [fewer], world.ask)
    assert set(world.refused) == {"AlreadyAnswered"}
    # Restarted members remember.
    world.members = {n: keys.member(n, CIPHER, m.state()) for n, m in world.members.items()}
    with pytest.raises(errors.TooFewAnswers):
        keys.open(CIPHER, [fewer], world.ask)
    keys.open(CIPHER, [total(keys, senders, round=8)], world.ask)
    with pytest.raises(errors.TooFewAnswers):
        keys.open(CIPHER, [total(keys, senders, round=3)], world.ask)


@pytest.mark.parametrize(
    ("buckets", "name"),
    [
        ([[1, 2]], "TooFewClients"),
        ([[1, 2, 3], [4, 5]], "TooFewClients"),
        ([[1, 2, 3], [3, 4, 5]], "OverlappingBuckets"),
    ],
)
def test_what_members_never_open(buckets: list[list[int]], name: str) -> None:
    keys = committee()
    world = World(keys)
    totals = [total(keys, bucket) for bucket in buckets]
    with pytest.raises(errors.TooFewAnswers):
        keys.open(CIPHER, totals, world.ask)
    assert set(world.refused) == {name}
    with pytest.raises(getattr(errors, name)):
        committee(nodes=None, size=5).open(CIPHER, [
            total(committee(nodes=None, size=5), bucket) for bucket in buckets
        ])  # fmt: skip


def test_one_client_twice_in_a_bucket() -> None:
    keys = committee()
    one, two = upload(keys, 1), upload(keys, 2)
    forged = replace(one, uploads=(*one.uploads, *one.uploads, *two.uploads))
    world = World(keys)
    with pytest.raises(errors.TooFewAnswers):
        keys.open(CIPHER, [forged], world.ask)
    assert set(world.refused) == {"OverlappingBuckets"}


def test_disjoint_buckets_are_opened_each() -> None:
    keys = committee()
    world = World(keys)
    totals = [total(keys, [0, 1, 2]), total(keys, [3, 4, 5, 6])]
    one, two = keys.open(CIPHER, totals, world.ask)
    assert (one == 1 + 2 + 3).all()
    assert (two == 4 + 5 + 6 + 7).all()


def test_lying_and_damaged_answers_are_outvoted() -> None:
    keys = committee()
    rng = np.random.default_rng(0)

    def lie(node: int, answer: bytes) -> bytes:
        if node == 3:
            return join([rng.integers(0, shamir.PRIME, N).astype("<u2").tobytes()])
        return answer[:-1] if node == 5 else answer

    world = World(keys)
    world.lie = lie
    [opened] = keys.open(CIPHER, [total(keys, [1, 2, 3])], world.ask)
    assert (opened == 2 + 3 + 4).all()
    world = World(keys)
    world.lie, world.gone = lie, {21}
    with pytest.raises(errors.BadShare):  # two good answers, one lie
        keys.open(CIPHER, [total(keys, [1, 2, 3])], world.ask)


def test_shares_that_do_not_open_are_found_before_the_sum() -> None:
    keys = committee()
    here = replace(HERE, sender=9)
    key = keys.for_upload(CIPHER, here)
    damaged = bytearray(key.shares)
    damaged[0] ^= 1  # the first member's
    bad = upload(keys, 9, key=replace(key, shares=bytes(damaged)))
    uploads = [*(upload(keys, sender) for sender in (1, 2, 3)), bad]
    world = World(keys)
    world.gone = {21}
    with pytest.raises(errors.BadShare):
        committee(nodes=None, size=5, threshold=5).open(CIPHER, [_total_of_broken()])
    assert keys.screen(CIPHER, uploads, world.ask) == {9: "BadShare"}
    [opened] = keys.open(CIPHER, [CIPHER.add(uploads[:3])], world.ask)
    assert (opened == 2 + 3 + 4).all()
    # Asked for all of them, the first member does not answer; the others suffice.
    world = World(keys)
    [opened] = keys.open(CIPHER, [CIPHER.add(uploads)], world.ask)
    assert (opened == 2 + 3 + 4 + 10).all()
    assert world.refused == ["BadShare"]


def _total_of_broken() -> Ciphertext:
    keys = committee(nodes=None, size=5, threshold=5)
    key = keys.for_upload(CIPHER, replace(HERE, sender=9))
    broken = upload(keys, 9, key=replace(key, shares=bytes(len(key.shares))))
    return CIPHER.add([upload(keys, 1), upload(keys, 2), broken])


def test_a_member_that_complains_about_everybody_is_not_believed() -> None:
    keys = committee()
    uploads = [upload(keys, sender) for sender in (1, 2, 3, 4)]
    world = World(keys)
    everybody = np.array([1, 2, 3, 4], dtype="<u8").tobytes()
    world.lie = lambda node, answer: everybody if node == 8 else answer
    assert keys.screen(CIPHER, uploads, world.ask) == {}
    assert keys.screen(CIPHER, [], world.ask) == {}


def test_shares_are_bound_to_what_they_are_for() -> None:
    """Moved to another round, run, mask, sender, member or parameters, no share opens."""
    keys = committee()
    one = upload(keys, 1).uploads[0]
    size = len(one.shares) // len(NODES)
    mine = replace(one, shares=one.shares[:size])
    base = Question(HERE.run, HERE.round, HERE.mask, CIPHER.params_id, ((mine,),), COUNT, True)
    member = keys.member(3, CIPHER)

    def bad(question: Question, who: CommitteeMember = member) -> int:
        return len(who.answer(question.pack())) // 8

    assert bad(base) == 0
    for change in ({"run": b"x" * 16}, {"round": 8}, {"mask": b"x" * 16}):
        assert bad(replace(base, **change)) == 1  # type: ignore[arg-type]
    assert bad(replace(base, buckets=((replace(mine, sender=2),),))) == 1
    assert bad(replace(base, buckets=((replace(mine, nonce=bytes(32)),),))) == 1
    assert bad(replace(base, buckets=((replace(mine, shares=one.shares[size : 2 * size]),),))) == 1
    assert bad(base, keys.member(5, CIPHER)) == 1
    assert bad(base, keys.member(3, Rlwe(2.0))) == 1
    with pytest.raises(errors.WrongParameters):
        keys.member(3, Rlwe(2.0)).answer(replace(base, check=False).pack())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_hostile_questions_and_answers(data: bytes) -> None:
    keys = committee()
    with pytest.raises(errors.SealError):
        keys.member(3, CIPHER).answer(data)
    with pytest.raises(errors.TooFewAnswers):
        keys.open(
            CIPHER, [_cached_total()], lambda messages: {3: data, 5: data, 8: data, 99: data}
        )


_TOTAL: list[Ciphertext] = []


def _cached_total() -> Ciphertext:
    if not _TOTAL:
        _TOTAL.append(total(committee(), [1, 2, 3]))
    return _TOTAL[0]


def test_flipped_bits_of_a_question_never_open_something_else() -> None:
    keys = committee()
    sums = _cached_total()
    grabbed: dict[int, bytes] = {}
    keys_ask = lambda messages: grabbed.update(messages) or {}  # noqa: E731
    with pytest.raises(errors.TooFewAnswers):
        keys.open(CIPHER, [sums], keys_ask)
    honest = keys.member(3, CIPHER).answer(grabbed[3])
    rng = np.random.default_rng(1)
    for place in rng.integers(0, 8 * len(grabbed[3]), 40):
        bad = bytearray(grabbed[3])
        bad[place // 8] ^= 1 << place % 8
        try:
            assert keys.member(3, CIPHER).answer(bytes(bad)) in (honest, b"")
        except errors.SealError:
            continue


def test_a_client_alone_is_hidden_from_fewer_than_t_members() -> None:
    """With t - 1 shares every key is as likely as any other."""
    keys = committee()
    member_shares = []
    one = upload(keys, 1).uploads[0]
    size = len(one.shares) // len(NODES)
    for i, node in enumerate(NODES[:2]):
        asked = Question(HERE.run, 7, HERE.mask, CIPHER.params_id, ((one,),), COUNT)
        mine = replace(one, shares=one.shares[i * size : (i + 1) * size])
        share = keys.member(node, CIPHER)._share(asked, mine)
        assert share is not None
        member_shares.append(share)
    guess = shamir.combine({1: member_shares[0], 2: member_shares[1]})
    true = small(Stream(bytes(32)), N)
    assert np.abs(guess).mean() > 1000 * np.abs(true).mean() / 5
    with pytest.raises(errors.BadShare):
        CIPHER.decrypt(upload_sum(keys), guess)


def upload_sum(keys: Committee) -> Ciphertext:
    return CIPHER.add([upload(keys, 1)])


def test_only_ciphers_with_fresh_keys() -> None:
    with pytest.raises(UserError, match="keys=committee cannot serve cipher=plain"):
        committee().check(Plain(1.0))
    committee().check(CIPHER)


@pytest.mark.parametrize(
    ("c", "t", "f"), [(7, 4, 0), (7, 5, 2), (7, 6, 4), (7, 7, 6), (3, 2, 0), (5, 4, 2), (1, 1, 0)]
)
def test_how_many_members_may_side_with_the_server(c: int, t: int, f: int) -> None:
    """Counted by hand: colluders help with two questions, honest members with one each."""
    keys = Committee(size=c, threshold=t)
    assert keys.tolerates == f
    for colluders in range(c + 1):
        alone = colluders >= t
        two_sums = 2 * max(t - colluders, 0) <= c - colluders
        assert (alone or two_sums) == (colluders > f)


@pytest.mark.parametrize("options", [{"threshold": 2}, {"threshold": 6}, {"least": 1},
                                     {"nodes": [1, 1, 2]}])  # fmt: skip
def test_impossible_committees(options: dict[str, object]) -> None:
    with pytest.raises(UserError):
        committee(**options)


def test_a_deployment_from_files(tmp_path: Path) -> None:
    paths = {node: str(tmp_path / f"{node}.json") for node in (*NODES, 0)}
    public = {node: roster.make_key(path) for node, path in paths.items()}
    server = public.pop(0)
    where = str(tmp_path / "roster.json")
    made = roster.write_roster(where, public, 3, server)
    assert (tmp_path / "3.json").stat().st_mode & 0o077 == 0
    assert roster.read_roster(where).digest == made.digest
    client, hive = Committee(where), Committee(where, paths[0])
    assert not client.insecure_simulation
    assert hive.members == tuple(NODES)
    world = World(hive, [])
    world.members = {n: Committee(where, paths[n]).member(n, CIPHER) for n in NODES}
    parsed, ints = [], np.arange(COUNT)
    for sender in (1, 2, 3):
        here = replace(HERE, sender=sender)
        first, second = (CIPHER.encrypt(ints, client.for_upload(CIPHER, here), here) for _ in "ab")
        assert first.data != second.data  # fresh keys
        parsed.append(CIPHER.parse(first.data, here, hive))
    [opened] = hive.open(CIPHER, [CIPHER.add(parsed)], world.ask)
    assert (opened == 3 * ints).all()
    with pytest.raises(errors.TooFewAnswers):
        hive.open(CIPHER, [CIPHER.add(parsed)])
    with pytest.raises(UserError, match="key_file is missing"):
        client.member(3, CIPHER)
    with pytest.raises(UserError, match="not the key"):
        Committee(where, paths[5]).member(3, CIPHER)
    with pytest.raises(UserError, match="cannot be written"):
        roster.make_key(paths[3])
    # Another committee: refused before anything is opened.
    swapped = roster.write_roster(str(tmp_path / "b.json"), public, 4, server)
    assert swapped.digest != made.digest
    foreign = Committee(str(tmp_path / "b.json"))
    here = replace(HERE, sender=1)
    data = CIPHER.encrypt(ints, foreign.for_upload(CIPHER, here), here).data
    with pytest.raises(errors.ForeignKey):
        CIPHER.parse(data, here, hive)


def test_bad_files_are_user_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(UserError, match="cannot be read"):
        Committee(str(path))
    short = {"kind": "fedhive-committee", "threshold": 1, "members": {"1": "00"}, "server": ""}
    for text in ("", "[]", '{"kind": "fedhive-committee"}', json.dumps(short)):
        path.write_text(text)
        with pytest.raises(UserError):
            roster.read_roster(str(path))
        with pytest.raises(UserError):
            roster.read_key(str(path))


def test_simulated_keys_say_so_and_repeat() -> None:
    keys = committee()
    assert keys.insecure_simulation
    here = replace(HERE, sender=1)
    ints = np.zeros(COUNT, np.int64)
    first, second = (CIPHER.encrypt(ints, committee().for_upload(CIPHER, here), here).data
                     for _ in range(2))  # fmt: skip
    assert first == second
    assert committee(seed=5).key_id != keys.key_id
    assert len(split(join([b"a", b""]))) == 2
