"""A box for the code that a hive sends, made by bubblewrap.

Inside there is a read-only system, this Python with its packages, an empty home and an empty
``/tmp`` that vanish with the task, and one socket, behind which is the SuperNode. There are no
other files, processes, devices or networks. What the box does not protect from: the kernel's own
faults, heat, and whatever a task may learn from the data that you share with the hive.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

INSIDE = Path("/run/fedhive")
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
CONFIGURATION = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives", "/etc/OpenCL")
GPU_DEVICES = ("nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "kfd", "dri")
HELP = (
    "install it (Debian, Ubuntu: sudo apt install bubblewrap; Fedora: sudo dnf install "
    "bubblewrap), or accept that the hive's code runs with all your rights: sandbox = false in "
    "the configuration"
)


@lru_cache(maxsize=1)
def missing() -> str:
    """Why no sandbox can be made here, and what to do; empty if one can."""
    bwrap = shutil.which("bwrap")
    if not sys.platform.startswith("linux"):
        return f"bubblewrap, which makes the sandbox, exists for Linux only, not {sys.platform}"
    if bwrap is None:
        return f"bubblewrap, which makes the sandbox, is not installed; {HELP}"
    try:
        done = subprocess.run(
            [*_walls(bwrap), "--", shutil.which("true") or "/bin/true"],
            capture_output=True, text=True, timeout=30.0,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not work here ({error})"
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return (
            f"bubblewrap does not work here ({said[0]}); this system may forbid unprivileged "
            "namespaces (Debian: sysctl kernel.unprivileged_userns_clone=1; Ubuntu 24: an "
            "AppArmor profile for bwrap)"
        )
    return ""


def command(
    inner: Sequence[str],
    environment: Mapping[str, str],
    *,
    read: Sequence[Path] = (),
    mounts: Mapping[Path, Path] | None = None,
    disk_bytes: int = 0,
    gpu: bool = False,
) -> list[str]:
    """A command that runs ``inner`` in a sandbox.

    Args:
        inner: what to run.
        environment: all of its environment.
        read: files and folders to show, read-only, in their own place.
        mounts: sockets and files to show elsewhere: inside by outside.
        disk_bytes: size of the private ``/tmp``; 0 for half the memory, as the kernel has it.
        gpu: show graphics processors.
    """
    bwrap = shutil.which("bwrap") or "bwrap"
    words = _walls(bwrap)
    words += [*(("--size", str(disk_bytes)) if disk_bytes else ()), "--tmpfs", "/tmp"]
    words += ["--dir", "/tmp/home", "--chdir", "/tmp/home", "--hostname", "fedhive"]
    for path in dict.fromkeys([*_python(), *read]):
        words += ["--ro-bind", str(path), str(path)]
    for outside, inside in (mounts or {}).items():
        words += ["--bind", str(outside), str(inside)]
    if gpu:
        for name in GPU_DEVICES:
            words += ["--dev-bind-try", f"/dev/{name}", f"/dev/{name}"]
        words += ["--ro-bind-try", "/sys/dev/char", "/sys/dev/char"]
    for name, value in {**environment, "HOME": "/tmp/home", "TMPDIR": "/tmp"}.items():
        words += ["--setenv", name, value]
    return [*words, "--remount-ro", "/", "--", *inner]


def _walls(bwrap: str) -> list[str]:
    words = [
        bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid",
        "1000", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv",
        "--proc", "/proc", "--dev", "/dev",
    ]  # fmt: skip
    for place in SYSTEM:
        path = Path(place)
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), place]
        elif path.is_dir():
            words += ["--ro-bind", place, place]
    for place in CONFIGURATION:
        words += ["--ro-bind-try", place, place]
    return words


def _python() -> list[Path]:
    """Where this interpreter and the packages that it can import lie, beyond the system's own."""
    places = [sys.prefix, sys.base_prefix, sysconfig.get_path("purelib"), *sys.path]
    places += [str(Path(sys.executable).resolve().parents[1])]
    folders = [Path(place) for place in places if place and Path(place).is_dir()]
    packages = [p for p in folders if p.name in ("site-packages", "dist-packages")]
    wanted = [*(Path(p) for p in (sys.prefix, sys.base_prefix)), *packages]
    return [path for path in wanted if not _within_system(path) and path != Path("/")]


def _within_system(path: Path) -> bool:
    return any(path.resolve().is_relative_to(place) for place in SYSTEM)
