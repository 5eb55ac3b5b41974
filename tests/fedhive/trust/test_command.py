"""``fedhive trust``: the whole exchange by files, and what mistakes are told."""

from __future__ import annotations

import contextlib
import json

import pytest

from fedhive import cli
from fedhive.deploy import certificates
from fedhive.trust import command, supernode
from tests.fedhive.trust.test_enrol import boot


@pytest.fixture
def trust(monkeypatch, capsys, tmp_path):
    """``trust(words)``: (status, output, first line of complaint), in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(line: str):
        with pytest.raises(SystemExit) as stop:
            cli.main(["trust", *line.split()])
        said = capsys.readouterr()
        return stop.value.code or 0, said.out, said.err.strip()

    return call


@pytest.fixture
def machine(soft_tpm, monkeypatch):
    """A booted TPM that the commands open, and its boot's log in a file."""
    with soft_tpm("alice").boot() as tpm:
        for module in (command, supernode):
            monkeypatch.setattr(module, "Tpm", lambda tcti: contextlib.nullcontext(tpm))
        yield tpm


def test_a_machine_is_let_in(trust, machine, soft_tpm, tmp_path):
    (tmp_path / "log").write_bytes(boot(machine))

    def write(name: str, line: str) -> None:
        status, out, err = trust(line)
        assert (status, err) == (0, "")
        (tmp_path / name).write_text(out)

    operator = f"--ledger ledger --roots {soft_tpm('alice').roots}"
    write("hello.json", "hello --keys keys")
    write("again.json", "hello --keys keys")  # the same machine, not a new one
    said = [json.loads((tmp_path / name).read_text()) for name in ("hello.json", "again.json")]
    assert said[0]["node_key"] == said[1]["node_key"]
    write("challenge.json", f"challenge hello.json --as desk --owner ann {operator}")
    write("answer.json", "answer challenge.json --keys keys --log log")
    status, out, _ = trust("admit answer.json --ledger ledger --key desk.pub")
    assert status == 0
    assert out.startswith("desk ")
    sandbox = {row["name"]: row["value"] for row in said[0]["facts"]}["sandbox.active"]
    assert ("level 3 (measured)" if sandbox else "level 0 (anonymous)") in out
    assert "secure boot  vouched for by CN=swtpm-localca" in out
    public = (tmp_path / "desk.pub").read_bytes()
    assert public.startswith(b"ecdsa-sha2-nistp256 ")
    assert certificates.read_public_key(public, "desk.pub") == public.strip()  # it may register
    write("question.json", "question desk --ledger ledger")
    write("later.json", "answer question.json --keys keys --log log")
    assert trust("confirm later.json --ledger ledger")[0] == 0
    status, _, err = trust("confirm later.json --ledger ledger")
    assert (status, "answered before" in err) == (2, True)
    [row] = json.loads(trust("list --json --ledger ledger")[1])
    assert (row["name"], row["owner"]) == ("desk", "ann")
    assert trust("export table.csv --ledger ledger")[1] == "table.csv: 1 machines\n"
    assert trust("remove desk --ledger ledger")[0] == 0
    assert trust("list --ledger ledger")[1] == "nobody was let in yet\n"


def test_a_second_identity_is_refused_in_one_line(trust, machine, soft_tpm, tmp_path):
    operator = f"--ledger ledger --roots {soft_tpm('alice').roots}"
    for number in (1, 2):
        (tmp_path / "hello.json").write_text(trust(f"hello --keys keys-{number}")[1])
        status, out, err = trust(f"challenge hello.json --as node-{number} {operator}")
        if number == 2:
            break
        (tmp_path / "challenge.json").write_text(out)
        (tmp_path / "answer.json").write_text(trust("answer challenge.json --keys keys-1")[1])
        assert trust("admit answer.json --ledger ledger")[0] == 0
    assert status == 2
    assert err == ("fedhive: this TPM is enrolled already, as 'node-1'; one identity a TPM")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("hullo", "no such action: trust hullo; did you mean 'hello'?"),
        ("challenge hello.json", "usage: fedhive trust challenge HELLO --as NAME"),
        ("admit", "usage: fedhive trust admit ANSWER"),
        ("list everybody", "usage: fedhive trust list"),
        ("admit nowhere.json", "nowhere.json: No such file or directory"),
        ("remove desk --ledger x", "no machine 'desk' is enrolled"),
        ("question desk --ledger x", "no machine 'desk' is enrolled"),
        ("challenge h.json --as a --roots nowhere", "nowhere: no *.pem"),
        ("list --what", "unrecognized arguments"),
    ],
)
def test_mistakes(trust, line, said):
    status, out, err = trust(line)
    assert (status, out) == (2, "")
    assert err.startswith("fedhive: ")
    assert said in err
    assert "\n" not in err


@pytest.mark.parametrize("text", ["", "[1]", "{", '"x"', "[" * 100_000, "{}"])
def test_messages_from_strangers(trust, tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    status, _, err = trust("admit m.json --ledger x")
    assert status == 2
    assert err.startswith("fedhive: ")


def test_help(trust):
    assert "fedhive trust hello" in trust("--help")[1]
    assert trust("")[1] == trust("--help")[1]


# ---- Flower's SuperNode ------------------------------------------------------------------------


def test_the_supernode_signs_with_the_tpm(machine, tmp_path):
    """By the very functions with which Flower's node signs, and its SuperLink checks."""
    import importlib

    from flwr.supercore.primitives.asymmetric import (
        bytes_to_public_key,
        public_key_to_bytes,
        sign_message,
        uses_nist_ec_curve,
        verify_signature,
    )

    module = importlib.import_module(supernode.MODULE)
    before = getattr(module, supernode.SEAM)
    machine.new_keys().save(tmp_path / "keys")
    with supernode.node_key(tmp_path / "keys") as key, supernode.in_place_of_the_file(key):
        private, public = getattr(module, supernode.SEAM)(None)
        signature = sign_message(private, b"2026-11-21T21:00:00")
        sent = bytes_to_public_key(public_key_to_bytes(public))
        assert uses_nist_ec_curve(public)
        assert verify_signature(sent, b"2026-11-21T21:00:00", signature)
        assert not verify_signature(sent, b"2026-11-21T21:00:01", signature)
    assert getattr(module, supernode.SEAM) is before


# ---- plans -------------------------------------------------------------------------------------


def test_a_plan_for_people_and_for_scripts(trust):
    status, out, err = trust("plan nodes=20 protection.rules.replies=6")
    assert (status, err) == (0, "")
    assert "clients by protection and trust level" in out
    assert "% above the least possible" in out
    told = json.loads(trust("plan --json nodes=20 protection.rules.replies=6")[1])
    assert told["expected_replies"] >= 6 - 1e-6
    assert len(told["chosen"]) == 20
    assert told["chosen"].count("encrypted") not in (1, 2)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("plan --josn", "unrecognized option --josn"),
        ("plan protection=none", "needs protection=by_capability"),
        ("plan nodes=5 protection.rules.replies=99", "5 clients with 5.0 expected replies cannot"),
        ("plan nodes=5 protection.rules.hardware=1.5", "without hardware"),
        ("plan nodes=5 protection.work.samples=-1", "protection.work must tell"),
        ("plan nodez=5", "nodez"),
    ],
)
def test_plans_that_cannot_be(trust, line, said):
    status, out, err = trust(line)
    assert (status, out) == (2, "")
    assert err.startswith("fedhive: ")
    assert said in err
    assert "\n" not in err


def test_plan_help(trust):
    assert "usage: fedhive trust plan" in trust("plan --help")[1]


def test_a_volunteer_s_client_takes_the_tpm_s_key_where_there_is_one(machine, tmp_path):
    import importlib

    from cryptography.hazmat.primitives import serialization

    from fedhive.trust.verify import pem, public_key

    module = importlib.import_module(supernode.MODULE)
    before = getattr(module, supernode.SEAM)
    keys = machine.new_keys()
    keys.save(tmp_path / "tpm")
    with supernode.key_of(None):
        assert getattr(module, supernode.SEAM) is before
    with supernode.key_of(str(tmp_path / "tpm")):
        _, public = getattr(module, supernode.SEAM)(None)
    text = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert text == pem(public_key(machine.public(keys.node)))  # what the operator registered
