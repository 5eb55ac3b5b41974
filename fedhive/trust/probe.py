"""What this machine says about itself: every fact that Linux tells without root."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from fedhive.trust import probe_cpu, probe_security
from fedhive.trust.facts import Fact
from fedhive.trust.root import Root

PROBES: tuple[Callable[[Root], Iterator[Fact]], ...] = (
    probe_cpu.processor,
    probe_cpu.memory,
    probe_cpu.accelerators,
    probe_security.tpm,
    probe_security.firmware,
    probe_security.enclaves,
    probe_security.trust_zone,
    probe_security.memory_encryption,
    probe_security.kernel,
)
USERNS = {
    "proc/sys/kernel/unprivileged_userns_clone": "0",
    "proc/sys/user/max_user_namespaces": "0",
    "proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1",
}
"""Switches of Debian, the kernel and Ubuntu, with the setting that forbids user namespaces."""


def probe(root: Path | str = "/", which: Callable[[str], str | None] = shutil.which) -> list[Fact]:
    """All facts about a machine, all of them declared: nobody attests itself.

    Args:
        root: where the machine's ``/`` is.
        which: finds programs, as `shutil.which`.

    Returns:
        Facts with distinct names. Where the kernel tells nothing (another system than Linux, a
        bare container), values are unknown or False, each with its source.
    """
    files = Root(root)
    facts = [Fact("system.kernel", _kernel(files), "/proc/sys/kernel/osrelease")]
    for look in PROBES:
        facts += look(files)
    facts += _sandbox(files, which)
    return facts


def joining(facts: list[Fact]) -> list[Fact]:
    """The same facts of a machine that joins; `fedhive join` uses the sandbox that it finds."""
    [sandbox] = [fact for fact in facts if fact.name == "sandbox.available"]
    return [*facts, Fact("sandbox.active", sandbox.value, "fedhive join", why=sandbox.why)]


def _kernel(root: Root) -> str:
    release = root.text("proc/sys/kernel/osrelease")
    return f"Linux {release}" if release else platform.system() or "unknown"


def _sandbox(root: Root, which: Callable[[str], str | None]) -> Iterator[Fact]:
    """Whether strangers' code can be locked up: bubblewrap, and namespaces for everybody."""
    forbidden = [file for file, value in USERNS.items() if root.text(file) == value]
    program = which("bwrap")
    why = "" if program else "no bubblewrap; on Debian: apt install bubblewrap"
    if forbidden:
        why = f"/{forbidden[0]} is {USERNS[forbidden[0]]}: user namespaces are for root only"
    good = program is not None and not forbidden
    yield Fact("sandbox.available", good, program or "bwrap", why=why)
