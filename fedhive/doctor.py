"""``fedhive doctor``: what this machine can do, what is missing and how to get it.

It must answer at once, so nothing heavy is imported: what a package can do is read from its files.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import fedhive
from fedhive.trust.facts import Fact, Facts, by_name
from fedhive.trust.levels import Level, Standing, standing
from fedhive.trust.probe import joining, probe

GIB = 2**30
SOON_DAYS = 30
"""A server's certificate that expires so soon should be made anew."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        topic: what was looked at.
        good: whether it is there.
        detail: what was found.
        remedy: how to get it, if it is not there.
    """

    topic: str
    good: bool
    detail: str
    remedy: str = ""


EXTRAS = {
    "engine=ray": ("ray", "pip install 'fedhive[ray]'"),
    "logger=wandb": ("wandb", "pip install 'fedhive[wandb]'"),
    "logger=tensorboard": ("tensorboard", "pip install 'fedhive[tensorboard]'"),
    "data=huggingface": ("flwr_datasets", "pip install 'fedhive[hf]'"),
    "data=digits": ("sklearn", "pip install 'fedhive[digits]'"),
    "homomorphic encryption": ("tenseal", "pip install 'fedhive[he]'"),
    "differential privacy": ("opacus", "pip install 'fedhive[dp]'"),
    "parallel sweeps": ("hydra_plugins.hydra_joblib_launcher", "pip install 'fedhive[sweep]'"),
    "identity in a TPM": ("tpm2_pytss", "apt install libtss2-dev, pip install 'fedhive[tpm]'"),
}

SHOWN = (
    "cpu.model", "cpu.cores", "cpu.limit_millicores", "cpu.features", "cpu.virtual",
    "memory.total_bytes", "memory.limit_bytes", "accelerator.devices",
)  # fmt: skip
"""Facts beside those of security that the table shows."""


def findings(facts: list[Fact] | None = None) -> Iterator[Finding]:
    """Everything worth knowing, in order of importance; needs no network and no root.

    Args:
        facts: of this machine, if they are known already.
    """
    yield Finding("fedhive", True, f"{fedhive.__version__} in {Path(fedhive.__file__).parent}")
    yield Finding("Python", True, f"{platform.python_version()} on {platform.platform()}")
    yield _machine()
    yield _packages_belong_together()
    for name in ("flwr", "torch", "hydra-core", "numpy"):
        yield _package(name)
    known = by_name(probe() if facts is None else facts)
    yield _accelerator(known["accelerator.devices"])
    yield _shared_memory()
    yield _fashion_mnist()
    for what, (module, remedy) in EXTRAS.items():
        there = _installed(module)
        yield Finding(what, there, "ready" if there else "not installed", "" if there else remedy)
    for program in ("flower-superlink", "flower-supernode"):
        yield _program(program)
    yield _sandbox(known["sandbox.available"])
    yield from _hive()


def examine(console: Console | None = None, as_json: bool = False) -> None:
    """Print the findings and facts, as tables or as JSON.

    Args:
        console: where to; the terminal if none is given.
        as_json: print one JSON object instead, for scripts.
    """
    facts = probe()
    found, where = list(findings(facts)), possible(facts)
    if as_json:
        print(json.dumps(_report(found, facts, where), indent=1))
        return
    out = console or Console()
    table = _table("fedhive doctor", "", "what", "found", "to get it")
    for finding in found:
        mark = "[green]ok[/]" if finding.good else "[yellow]--[/]"
        table.add_row(mark, finding.topic, escape(finding.detail), escape(finding.remedy))
    out.print(table)
    table = _table("what this machine says of itself", "fact", "value", "read from", "worth")
    for fact in facts:
        if fact.name in SHOWN or fact.name.startswith("security."):
            remark = f" ({fact.why})" if fact.why else ""
            value = escape(_shown(fact) + remark)
            table.add_row(fact.name, value, escape(fact.source.split(",")[0]), fact.assurance)
    out.print(table)
    out.print(f"trust level by itself: {where}", markup=False, highlight=False)
    for line in _next(where, by_name(facts)):
        out.print(f"  for level {int(where.level) + 1}: {line}", markup=False)
    for trouble in where.troubles:
        out.print(f"  ! {trouble}", markup=False)


def possible(facts: list[Fact]) -> Standing:
    """The level that this machine has without anybody's word, if it joins with the sandbox on."""
    return standing(joining(facts))


def _report(found: list[Finding], facts: list[Fact], where: Standing) -> dict[str, Any]:
    return {
        "schema": 1,
        "fedhive": fedhive.__version__,
        "findings": [asdict(finding) for finding in found],
        "facts": [fact.as_row() for fact in facts],
        "level": int(where.level),
        "level_name": where.level.name.lower(),
        "missing": _next(where, by_name(facts)),
        "troubles": list(where.troubles),
        "levels": [level.name.lower() for level in Level],
    }


def _next(where: Standing, known: Facts) -> list[str]:
    """What the next level takes, on this machine."""
    if where.level == Level.DECLARED and not known["security.tpm"].value:
        return ["no TPM is visible here; switch it on in the firmware (PTT, fTPM) if there is one"]
    if where.level == Level.DECLARED and known["security.tpm_version"].value == 1:
        return ["this TPM is of version 1.2, which proves nothing today; see the firmware for 2.0"]
    return [need.remedy for need in where.missing]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", min_width=12 if column else 2)
    return table


def _shown(fact: Fact) -> str:
    """A value as a person reads it."""
    value = fact.value
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return f"{value / GIB:.1f} GiB" if fact.name.endswith("_bytes") else str(value)  # type: ignore[operator]


def _machine() -> Finding:
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    detail = f"{cores} cores, {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    enough = memory.available > GIB
    return Finding("machine", enough, detail, "" if enough else "free 1 GiB of memory")


def _packages_belong_together() -> Finding:
    from fedhive import guard
    from fedhive.errors import UserError

    try:
        guard.check()
    except UserError as error:
        return Finding("import paths", False, "shadowed", str(error))
    return Finding("import paths", True, "strategies, defenses, attacks, conf belong to fedhive")


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", f"pip install {name}")


def _accelerator(fact: Fact) -> Finding:
    """What there is, and whether the installed torch was built for it."""
    devices = fact.value if isinstance(fact.value, tuple) else ()
    if not devices:
        return Finding("accelerator", True, "none: everything runs on the CPU")
    cuda = torch_cuda()
    if cuda is not None:
        return Finding("accelerator", True, f"{', '.join(devices)}; torch for CUDA {cuda}")
    detail = f"{', '.join(devices)}, but torch is a build for the CPU"
    nvidia = any(device.startswith("NVIDIA") for device in devices)
    remedy = "make TORCH=torch TORCH_INDEX=" if nvidia else ""
    return Finding("accelerator", not nvidia, detail, remedy)


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built for, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b.*?=\s*'([\d.]+)'", text, re.M)
    return found[1] if found else None


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("engine=pool", True, "ready")
    free = psutil.disk_usage(str(folder)).free
    good = free > GIB / 4
    remedy = "" if good else "enlarge /dev/shm (in a container: --shm-size=1g)"
    return Finding("engine=pool", good, f"{free / GIB:.1f} GiB of shared memory", remedy)


def _fashion_mnist() -> Finding:
    from fedhive.learning.datasets import FASHION_FOLDER

    there = Path(FASHION_FOLDER).is_dir()
    remedy = "" if there else "apt install dataset-fashion-mnist, or data.folder=..."
    detail = FASHION_FOLDER if there else "not in its usual place"
    return Finding("data=fashion_mnist", there, detail, remedy)


def _program(name: str) -> Finding:
    """One of Flower's programs, which pip puts beside Python even where PATH does not lead."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = shutil.which(name) or (str(beside) if beside.exists() else None)
    return Finding(
        name, found is not None, found or "not found", "" if found else "pip install flwr"
    )


def _sandbox(fact: Fact) -> Finding:
    if fact.value:
        return Finding("sandbox", True, f"bubblewrap, {fact.source}")
    remedy = fact.why if sys.platform == "linux" else "join from Linux, or in a container"
    return Finding("sandbox", False, "strangers' code cannot be locked up", remedy)


def _hive(home: Path = Path("~/.fedhive/hive")) -> Iterator[Finding]:
    """The certificates of the hive that `fedhive deploy` made here, if it made one."""
    folder = home.expanduser()
    if not (folder / "hive.json").is_file():
        return
    from fedhive.deploy import certificates
    from fedhive.errors import UserError

    try:
        names = json.loads((folder / "hive.json").read_text(encoding="utf-8"))["names"]
        server = (folder / "server.pem").read_bytes()
        wrong = certificates.problems((folder / "ca.crt").read_bytes(), server, names)
        left = certificates.days_left(server)
    except (OSError, ValueError, KeyError, UserError) as error:
        yield Finding("hive here", False, f"{folder} is not whole", f"{error}")
        return
    if not wrong and left < SOON_DAYS:
        wrong = ["run `fedhive deploy certify`, then start it again"]
    detail = f"{folder}, certificate valid for {left:.0f} more days"
    yield Finding("hive here", not wrong, detail, "; ".join(wrong))


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
