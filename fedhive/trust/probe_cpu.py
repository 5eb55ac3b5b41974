"""Processor, memory and accelerators of a Linux machine, as its kernel tells them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from fedhive.trust.facts import Fact
from fedhive.trust.root import Root

CPUINFO = "proc/cpuinfo"
FEATURES = (
    "avx", "avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "fma", "sse4_2",
    "asimd", "asimddp", "bf16", "sve", "sve2",
)  # fmt: skip
"""Instruction sets that matter to training."""

ARM = {
    0x41: "Arm", 0x42: "Broadcom", 0x48: "HiSilicon", 0x4E: "NVIDIA", 0x51: "Qualcomm",
    0x53: "Samsung", 0x61: "Apple", 0xC0: "Ampere",
}  # fmt: skip
PCI_VENDORS = {0x10DE: "NVIDIA", 0x1002: "AMD", 0x8086: "Intel", 0x1AE0: "Google"}
KIB = 1024


def first_processor(root: Root) -> Mapping[str, str]:
    """The fields of the first processor in /proc/cpuinfo."""
    block = (root.text(CPUINFO) or "").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def flags(root: Root) -> frozenset[str]:
    """What the kernel says that the processor can do."""
    cpu = first_processor(root)
    return frozenset((cpu.get("flags") or cpu.get("Features") or "").split())


def processor(root: Root) -> Iterator[Fact]:
    """Model, number of logical processors, what limits them, instruction sets."""
    text, cpu = root.text(CPUINFO) or "", first_processor(root)
    cores = len(re.findall(r"^processor\s*:", text, re.M))
    maker = cpu.get("vendor_id")
    if maker is None and "CPU implementer" in cpu:
        code = int(cpu["CPU implementer"], 0)
        maker = ARM.get(code, f"Arm implementer {code:#x}")
    model = cpu.get("model name") or root.text("proc/device-tree/model")
    source = f"/{CPUINFO}"
    yield Fact("cpu.model", model, source)
    yield Fact("cpu.vendor", maker, source)
    yield Fact("cpu.cores", cores or None, source)
    yield from _quota(root)
    has = flags(root)
    yield Fact("cpu.features", tuple(name for name in FEATURES if name in has), source)
    virtual = "hypervisor" in has if has else None
    yield Fact("cpu.virtual", virtual, source)


def _quota(root: Root) -> Iterator[Fact]:
    """A container's share, in thousandths of a processor, where there is a limit."""
    name = "sys/fs/cgroup/cpu.max"
    words = (root.text(name) or "").split()
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
        yield Fact("cpu.limit_millicores", 1000 * int(words[0]) // int(words[1]), f"/{name}")


def memory(root: Root) -> Iterator[Fact]:
    """Bytes of memory: all, what is free for new work, a container's limit, swap."""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", root.text("proc/meminfo") or "", re.M))
    rows = (("total", "MemTotal"), ("available", "MemAvailable"), ("swap", "SwapTotal"))
    for name, key in rows:
        value = int(found[key]) * KIB if key in found else None
        yield Fact(f"memory.{name}_bytes", value, "/proc/meminfo")
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = root.number(name)
        if limit is not None and limit < 1 << 60:  # the kernel's way to say none
            yield Fact("memory.limit_bytes", limit, f"/{name}")


def accelerators(root: Root) -> Iterator[Fact]:
    """Graphics and compute devices, by PCI class; NVIDIA's driver knows their names."""
    names = {}
    for file in root.glob("proc/driver/nvidia/gpus/*/information"):
        model = re.search(r"^Model:\s+(.*)$", root.text(file) or "", re.M)
        names[file.split("/")[-2].lower()] = model[1].strip() if model else ""
    found = [
        told
        for folder in root.glob("sys/bus/pci/devices/*")
        if (told := _accelerator(root, folder, names))
    ]
    yield Fact("accelerator.devices", tuple(found), "/sys/bus/pci/devices")


def _accelerator(root: Root, folder: str, names: Mapping[str, str]) -> str | None:
    kind = (root.number(f"{folder}/class") or 0) >> 8
    compute = kind in (0x0302, 0x1200)  # 3D controller, processing accelerator
    maker = PCI_VENDORS.get(root.number(f"{folder}/vendor") or 0)
    if maker is None or not (compute or kind in (0x0300, 0x0380)):
        return None  # a server's display chip or an emulated one computes nothing
    address = folder.rsplit("/", 1)[-1].lower()
    device = root.text(f"{folder}/device") or "?"
    return f"{maker} {names.get(address) or device}"
