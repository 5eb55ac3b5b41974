"""The boot's log: replayed by hand, by tpm2-tools, and by a TPM; edited logs are refused."""

from __future__ import annotations

import shutil
import struct
import subprocess

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhive.trust import eventlog
from fedhive.trust.eventlog import SEPARATOR, BadLog, check, parse, replay
from tests.fedhive.trust.logs import (
    boot,
    event,
    header,
    locality,
    secure_boot,
    sha,
    variable,
    written,
)  # fmt: skip


def test_a_register_by_hand():
    events = [event(4, 1, b"a"), event(4, 1, b"b"), event(5, 1, b"c")]
    found = replay(parse(written(events)))
    assert found == {4: sha(sha(bytes(32) + sha(b"a")) + sha(b"b")), 5: sha(bytes(32) + sha(b"c"))}


def test_a_start_from_another_locality():
    found = replay(parse(written([locality(3), event(0, 8, b"v")])))
    assert found[0] == sha(bytes(31) + b"\3" + sha(b"v"))
    assert replay(parse(written([event(0, 8, b"v"), locality(3)])))[0] == sha(
        bytes(32) + sha(b"v")
    )


@pytest.mark.skipif(shutil.which("tpm2_eventlog") is None, reason="no tpm2-tools to compare with")
def test_the_same_as_tpm2_tools(tmp_path):
    file = tmp_path / "log"
    file.write_bytes(written(boot()))
    done = subprocess.run(["tpm2_eventlog", str(file)], capture_output=True, text=True, check=True)
    told = yaml.safe_load(done.stdout)
    entries = parse(file.read_bytes())
    theirs = told["pcrs"]["sha256"]
    assert {pcr: int(value.hex(), 16) for pcr, value in replay(entries).items()} == theirs
    assert len(entries) == len(told["events"]) - 1  # the header
    assert {entry.pcr for entry in entries} == set(range(8))


def test_secure_boot_is_what_firmware_measured_before_the_separator():
    def told(*events):
        return eventlog.secure_boot(parse(written(list(events))))

    end = event(7, SEPARATOR, bytes(4))
    assert told(secure_boot(True), end) is True
    assert told(secure_boot(False), end) is False
    assert told(end) is None
    assert told(secure_boot(False), end, secure_boot(True)) is False
    assert told(end, secure_boot(True)) is None
    other = event(7, eventlog.DRIVER_CONFIG, variable("SecureBoot", b"\1", guid=bytes(16)))
    assert told(other, end) is None
    with pytest.raises(BadLog, match="twice"):
        told(secure_boot(False), secure_boot(True))


def test_an_edited_text_is_seen():
    off = secure_boot(False)
    edited = (off[0], off[1], variable("SecureBoot", b"\1"), off[3])  # its digest untouched
    entries = parse(written([edited]))
    check(entries, replay(parse(written([off]))))  # replaying alone does not notice
    with pytest.raises(BadLog, match="was edited"):
        eventlog.secure_boot(entries)


def test_registers_that_the_log_does_not_explain():
    entries = parse(written(boot()))
    quoted = {**{pcr: bytes(32) for pcr in range(8)}, **replay(entries)}
    check(entries, quoted)
    with pytest.raises(BadLog, match="another PCR 3 "):
        check(entries, {**quoted, 3: sha(b"x")})
    with pytest.raises(BadLog, match="another PCR 4 "):
        check(entries[:-1], quoted)
    check(entries, {9: bytes(32)})  # nothing was measured there


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends within a field"),
        (written(boot())[:-1], "ends within a field"),
        (header()[:40], "ends within a field"),
        (header().replace(b"Event03", b"Event02"), "not in the format"),
        (header(((4, 20),)), "no SHA-256"),
        (header(((eventlog.SHA256, 20),)), "wrong size"),
        (header(((0x77, 65), (eventlog.SHA256, 32))), "wrong size"),
        (header(()), "0 kinds"),
        (header() + struct.pack("<III", 24, 1, 2), "event 1 is malformed"),
        (header() + struct.pack("<III", 1, 1, 9), "event 1 is malformed"),
        (header() + struct.pack("<IIIH", 1, 1, 2, 0x12), "not announced"),
        (bytes((1 << 20) + 1), "more than"),
    ],
)
def test_malformed_logs(data, reason):
    with pytest.raises(BadLog, match=reason):
        parse(data)


LOG = written(boot())


@settings(deadline=None)
@given(st.integers(0, len(LOG) - 1), st.binary(min_size=1, max_size=4))
def test_any_damage_is_found_or_harmless(at, patch):
    """Whatever is changed: parsing ends with a log or a reason, never otherwise."""
    try:
        entries = parse(LOG[:at] + patch + LOG[at + len(patch) :])
        check(entries, replay(parse(LOG)))
        eventlog.secure_boot(entries)
    except BadLog:
        return


def test_a_variable_that_lies_about_its_size():
    data = GUID_ONLY + struct.pack("<QQ", 1 << 62, 1)
    with pytest.raises(BadLog, match="ends within a field"):
        eventlog.secure_boot(parse(written([event(7, eventlog.DRIVER_CONFIG, data)])))


GUID_ONLY = eventlog.GLOBAL_GUID
