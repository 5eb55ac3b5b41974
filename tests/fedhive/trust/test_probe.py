"""What a machine says of itself, read from made-up machines and from this one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedhive.trust.facts import Value, by_name
from fedhive.trust.probe import probe
from fedhive.trust.root import Root
from tests.fedhive.trust import machines
from tests.fedhive.trust.machines import Files, lay


def values(root: Path, files: Files, bwrap: str | None = "/usr/bin/bwrap") -> dict[str, Value]:
    facts = probe(lay(root, files), which=lambda name: bwrap)
    assert len(by_name(facts)) == len(facts)
    assert {fact.assurance for fact in facts} == {"declared"}
    assert all(fact.source for fact in facts)
    return {fact.name: fact.value for fact in facts}


def test_a_laptop(tmp_path):
    found = values(tmp_path, machines.LAPTOP)
    assert found["system.kernel"] == "Linux 6.9.1-test"
    assert (found["cpu.vendor"], found["cpu.cores"]) == ("GenuineIntel", 8)
    assert found["cpu.features"] == ("avx", "avx2", "fma")
    assert found["cpu.virtual"] is False
    assert found["memory.total_bytes"] == 16_000_000 * 1024
    assert found["memory.available_bytes"] == 9_000_000 * 1024
    assert found["accelerator.devices"] == ("Intel 0x9b41", "NVIDIA NVIDIA T1000")
    assert (found["security.tpm"], found["security.tpm_version"]) == (True, 2)
    assert found["security.tpm_usable"] is True
    assert found["security.event_log"] is True
    assert (found["security.uefi"], found["security.secure_boot"]) == (True, True)
    assert found["security.setup_mode"] is False
    assert found["security.sgx"] == "ready"
    assert found["security.memory_encryption"] == "capable"  # is it on? only root can read
    assert found["security.iommu"] is True
    assert found["security.lockdown"] == "integrity"
    assert found["security.cpu_vulnerable"] == ()
    assert found["security.disk_encryption"] is True
    assert found["security.confidential_guest"] == "no"
    assert found["sandbox.available"] is True


def test_a_server_that_can_run_confidential_guests(tmp_path):
    found = values(tmp_path, machines.EPYC_HOST)
    sev = [found[f"security.{name}"] for name in ("sev", "sev_es", "sev_snp", "tdx")]
    assert sev == [True, True, False, False]
    assert found["security.memory_encryption"] == "active"
    assert found["cpu.limit_millicores"] == 1500
    assert found["memory.limit_bytes"] == 2 << 30
    assert (found["security.uefi"], found["security.secure_boot"]) == (False, False)


def test_a_processor_whose_module_is_not_loaded_is_unknown(tmp_path):
    files = {k: v for k, v in machines.EPYC_HOST.items() if "kvm_amd" not in k}
    assert values(tmp_path, files)["security.sev_snp"] is None


def test_a_desktop_in_setup_mode(tmp_path):
    found = values(tmp_path, machines.TSME_DESKTOP)
    assert (found["security.secure_boot"], found["security.setup_mode"]) == (False, True)
    assert found["security.memory_encryption"] == "active"
    assert found["security.cpu_vulnerable"] == ("spectre_v2",)
    assert found["security.tpm_usable"] is False


def test_a_confidential_guest(tmp_path):
    found = values(tmp_path, machines.SNP_GUEST)
    assert (found["security.confidential_guest"], found["cpu.virtual"]) == ("sev_snp", True)


def test_a_board_with_op_tee(tmp_path):
    found = values(tmp_path, machines.BOARD)
    assert (found["cpu.vendor"], found["cpu.model"]) == ("Arm", "Example board Rev 1.2")
    assert found["cpu.features"] == ("asimd", "sve")
    assert found["security.optee"] == "ready"
    (tmp_path / "dev/tee0").unlink()
    assert values(tmp_path, {})["security.optee"] == "no driver"


def test_an_old_tpm(tmp_path):
    assert values(tmp_path, machines.OLD)["security.tpm_version"] == 1


def test_a_machine_that_tells_nothing(tmp_path):
    found = values(tmp_path, {}, bwrap=None)
    assert found["security.tpm"] is False
    assert "security.tpm_version" not in found
    for name in ("cpu.model", "cpu.cores", "memory.total_bytes", "security.cpu_vulnerable"):
        assert found[name] is None
    assert found["sandbox.available"] is False


@pytest.mark.parametrize("content", [b"", b"\x06\0\0\0", b"\x06\0\0\0\x02", b"\x06\0\0\0\x01\x01"])
def test_a_broken_efi_variable_is_unknown(tmp_path, content):
    name = f"sys/firmware/efi/efivars/SecureBoot-{machines.GUID}"
    assert values(tmp_path, {name: content})["security.secure_boot"] is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_only_root_may_read_is_unknown(tmp_path):
    lay(tmp_path, machines.LAPTOP)
    (tmp_path / f"sys/firmware/efi/efivars/SecureBoot-{machines.GUID}").chmod(0)
    assert values(tmp_path, {})["security.secure_boot"] is None


@pytest.mark.parametrize(
    ("file", "value"),
    [
        ("proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("proc/sys/user/max_user_namespaces", "0"),
        ("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ],
)
def test_a_sandbox_needs_user_namespaces(tmp_path, file, value):
    assert values(tmp_path, {file: f"{value}\n"})["sandbox.available"] is False


def test_this_machine():
    facts = by_name(probe())
    assert facts["cpu.cores"].value
    assert facts["memory.total_bytes"].value


def test_a_huge_file_is_cut(tmp_path):
    (tmp_path / "big").write_bytes(b"x" * (2 << 20))
    assert len(Root(tmp_path).read("big") or b"") == 1 << 20
