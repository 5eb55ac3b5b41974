"""What a Linux machine offers to those who want to trust it, as it says itself.

Read from the kernel's own files by the rules of Linux' ABI documentation; no root is needed. What
only root could read is reported as unknown. See `docs/howto/trust.md` for what each is worth.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from fedhive.trust.facts import Fact, Value
from fedhive.trust.probe_cpu import flags
from fedhive.trust.root import Root

EFI = "sys/firmware/efi"
GLOBAL_GUID = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
"""EFI_GLOBAL_VARIABLE, under which SecureBoot and SetupMode are kept."""
EVENT_LOG = "sys/kernel/security/tpm0/binary_bios_measurements"
ON = {"1", "Y", "y"}
HOST_SWITCHES = {
    "tdx": ("tdx_host_platform", "sys/module/kvm_intel/parameters/tdx"),
    "sev": ("sev", "sys/module/kvm_amd/parameters/sev"),
    "sev_es": ("sev_es", "sys/module/kvm_amd/parameters/sev_es"),
    "sev_snp": ("sev_snp", "sys/module/kvm_amd/parameters/sev_snp"),
}
"""For each kind of confidential guest: the processor's flag, and whether this host can run it."""


def tpm(root: Root) -> Iterator[Fact]:
    """Whether there is a TPM, of which version, whether we may use it, and the boot's log."""
    folder = "sys/class/tpm/tpm0"
    source = f"/{folder}/tpm_version_major"
    major = root.number(f"{folder}/tpm_version_major")
    if major is None and root.exists(f"{folder}/caps"):
        major = 1  # before Linux 5.6 only TPM 1.2 had this file
    there = major is not None or root.exists(folder)
    yield Fact("security.tpm", there, f"/{folder}")
    if not there:
        return
    yield Fact("security.tpm_version", major, source)
    device = root.at("dev/tpmrm0")
    usable = os.access(device, os.R_OK | os.W_OK) if device.exists() else False
    why = "" if usable else "not readable and writable; on Debian: usermod -aG tss USER"
    yield Fact("security.tpm_usable", usable, "/dev/tpmrm0", why=why)
    yield Fact("security.event_log", root.exists(EVENT_LOG), f"/{EVENT_LOG}")


def firmware(root: Root) -> Iterator[Fact]:
    """UEFI, secure boot, and whether its keys can be replaced by anybody (setup mode)."""
    uefi = root.exists(EFI)
    yield Fact("security.uefi", uefi, f"/{EFI}")
    for name, variable in (("secure_boot", "SecureBoot"), ("setup_mode", "SetupMode")):
        file = f"{EFI}/efivars/{variable}-{GLOBAL_GUID}"
        value, why = _efi_flag(root, file) if uefi else (False, "no UEFI")
        yield Fact(f"security.{name}", value, f"/{file}", why=why)


def _efi_flag(root: Root, file: str) -> tuple[Value, str]:
    """Four bytes of attributes, then the variable: one byte, 0 or 1."""
    try:
        data = root.read(file)
    except PermissionError:
        return None, "not readable"
    if data is None:
        return None, "no such variable"
    if len(data) != 5 or data[4] > 1:
        return None, f"{len(data)} bytes where 5 were expected"
    return data[4] == 1, ""


def enclaves(root: Root) -> Iterator[Fact]:
    """Trusted execution: SGX, TDX, SEV, Arm's; as host, and as guest inside of one."""
    has = flags(root)
    sgx = "no"
    if "sgx" in has:
        driver = root.exists("dev/sgx_enclave")
        sgx = "ready" if driver and root.exists("dev/sgx_provision") else "no driver"
    yield Fact("security.sgx", sgx, "/proc/cpuinfo, /dev/sgx_enclave")
    for name, (flag, file) in HOST_SWITCHES.items():
        state = root.text(file)
        loaded = state is not None or flag not in has
        why = "" if loaded else "the processor can, but kvm's module is not loaded"
        yield Fact(f"security.{name}", state in ON if loaded else None, f"/{file}", why=why)
    places = {
        "tdx": ("dev/tdx_guest", "dev/tdx-guest"),
        "sev_snp": ("dev/sev-guest",),
        "cca": ("sys/devices/platform/arm-cca-dev",),
    }
    guest = [kind for kind, files in places.items() if any(map(root.exists, files))]
    if not guest and "tdx_guest" in has:
        guest = ["tdx"]
    sources = ", ".join(f"/{files[0]}" for files in places.values())
    yield Fact("security.confidential_guest", guest[0] if guest else "no", sources)


def trust_zone(root: Root) -> Iterator[Fact]:
    """OP-TEE, the one world of TrustZone that Linux lets programs talk to."""
    source = "/dev/tee0, /sys/bus/tee, /proc/device-tree/firmware/optee"
    firmware = root.exists("proc/device-tree/firmware/optee")
    ready = root.exists("dev/tee0") and bool(root.glob("sys/bus/tee/devices/optee-*"))
    yield Fact("security.optee", "ready" if ready else "no driver" if firmware else "no", source)


def memory_encryption(root: Root) -> Iterator[Fact]:
    """Whether memory is encrypted (``active``), could be (``capable``), or neither (``no``)."""
    has = flags(root)
    for file in root.glob("sys/bus/pci/drivers/ccp/*/tsme_status"):
        if root.number(file) == 1:
            yield Fact("security.memory_encryption", "active", f"/{file}")
            return
    chosen = (root.text("proc/cmdline") or "").split()
    capable = bool({"sme", "tme"} & has)
    active = "sme" in has and "mem_encrypt=on" in chosen
    value = "active" if active else "capable" if capable else "no"
    why = "whether it is on only root can read" if value == "capable" else ""
    yield Fact("security.memory_encryption", value, "/proc/cpuinfo, /proc/cmdline", why=why)


def kernel(root: Root) -> Iterator[Fact]:
    """IOMMU, lockdown, unmitigated faults of the processor, encrypted disks."""
    units = root.glob("sys/class/iommu/*")
    yield Fact("security.iommu", bool(units), "/sys/class/iommu")
    file = "sys/kernel/security/lockdown"
    modes = (root.text(file) or "").split()
    chosen = [mode.strip("[]") for mode in modes if mode.startswith("[")]
    yield Fact("security.lockdown", chosen[0] if chosen else None, f"/{file}")
    folder = "sys/devices/system/cpu/vulnerabilities"
    files = root.glob(f"{folder}/*")
    bad = [name for name in files if (root.text(name) or "").startswith("Vulnerable")]
    names = tuple(name.rsplit("/", 1)[-1] for name in bad)
    yield Fact("security.cpu_vulnerable", names if files else None, f"/{folder}")
    crypt = [
        name for name in root.glob("sys/block/dm-*/dm/uuid")
        if (root.text(name) or "").startswith("CRYPT-")
    ]  # fmt: skip
    yield Fact("security.disk_encryption", bool(crypt), "/sys/block/dm-*/dm/uuid")
