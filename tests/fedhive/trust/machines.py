"""Made-up machines: the files that Linux shows on a few kinds of them, by the kernel's ABI."""

from __future__ import annotations

from pathlib import Path

GUID = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
Files = dict[str, str | bytes]


def efi(name: str, value: int) -> Files:
    return {f"sys/firmware/efi/efivars/{name}-{GUID}": b"\x06\x00\x00\x00" + bytes([value])}


def cpuinfo(n: int, vendor: str, model: str, flags: str) -> Files:
    one = "processor\t: {i}\nvendor_id\t: {v}\nmodel name\t: {m}\nflags\t\t: {f}\n\n"
    return {"proc/cpuinfo": "".join(one.format(i=i, v=vendor, m=model, f=flags) for i in range(n))}


LAPTOP: Files = {
    **cpuinfo(8, "GenuineIntel", "Intel(R) Core(TM) i7-10510U", "fpu avx avx2 fma sgx sgx_lc tme"),
    "proc/meminfo": "MemTotal:  16000000 kB\nMemAvailable:  9000000 kB\nSwapTotal:  0 kB\n",
    "proc/sys/kernel/osrelease": "6.9.1-test\n",
    "sys/class/tpm/tpm0/tpm_version_major": "2\n",
    "dev/tpmrm0": "",
    "sys/kernel/security/tpm0/binary_bios_measurements": b"\0",
    **efi("SecureBoot", 1), **efi("SetupMode", 0),
    "dev/sgx_enclave": "", "dev/sgx_provision": "",
    "sys/class/iommu/dmar0/devices": "",
    "sys/kernel/security/lockdown": "none [integrity] confidentiality\n",
    "sys/devices/system/cpu/vulnerabilities/meltdown": "Not affected\n",
    "sys/devices/system/cpu/vulnerabilities/mds": "Mitigation: Clear CPU buffers\n",
    "sys/block/dm-0/dm/uuid": "CRYPT-LUKS2-0123-root\n",
    "sys/bus/pci/devices/0000:00:02.0/class": "0x030000\n",
    "sys/bus/pci/devices/0000:00:02.0/vendor": "0x8086\n",
    "sys/bus/pci/devices/0000:00:02.0/device": "0x9b41\n",
    "sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n",
    "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.0/device": "0x1f91\n",
    "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA T1000\nIRQ: 1\n",
    "sys/bus/pci/devices/0000:02:00.0/class": "0x010802\n",
    "sys/bus/pci/devices/0000:02:00.0/vendor": "0x144d\n",
}  # fmt: skip

EPYC_HOST: Files = {
    **cpuinfo(2, "AuthenticAMD", "AMD EPYC 7763", "fpu avx2 sme sev sev_es sev_snp"),
    "proc/cmdline": "root=/dev/sda1 mem_encrypt=on quiet\n",
    "sys/module/kvm_amd/parameters/sev": "Y\n",
    "sys/module/kvm_amd/parameters/sev_es": "1\n",
    "sys/module/kvm_amd/parameters/sev_snp": "N\n",
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/memory.max": "2147483648\n",
}

TSME_DESKTOP: Files = {
    **cpuinfo(1, "AuthenticAMD", "AMD Ryzen 9 7950X", "fpu avx512f sme"),
    "sys/bus/pci/drivers/ccp/0000:10:00.2/tsme_status": "1\n",
    "sys/class/tpm/tpm0/tpm_version_major": "2\n",
    **efi("SecureBoot", 0), **efi("SetupMode", 1),
    "sys/devices/system/cpu/vulnerabilities/spectre_v2": "Vulnerable: no microcode\n",
}  # fmt: skip

SNP_GUEST: Files = {
    **cpuinfo(2, "AuthenticAMD", "AMD EPYC 9554", "fpu avx2 hypervisor"),
    "dev/sev-guest": "",
}

BOARD: Files = {
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\n\n",
    "proc/device-tree/model": b"Example board Rev 1.2\0",
    "proc/device-tree/firmware/optee/method": "smc",
    "dev/tee0": "",
    "sys/bus/tee/devices/optee-ta-01/uevent": "",
}

OLD: Files = {"sys/class/tpm/tpm0/caps": "Manufacturer: 0x49465800\nTCG version: 1.2\n"}


def lay(root: Path, files: Files) -> Path:
    """Write the files below ``root``."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root
