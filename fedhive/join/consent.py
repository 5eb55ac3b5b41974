"""The question that a volunteer is asked once, in plain words."""

from __future__ import annotations

import sys

from fedhive.errors import UserError
from fedhive.join import sandbox
from fedhive.join.settings import Settings

BOXED = (
    "inside a sandbox (bubblewrap): it sees this Python and its packages, and none of your "
    "files{data}; it reaches no network, only the hive through this program."
)
UNBOXED = (
    "WITHOUT a sandbox: it can read and change all your files and use your network, as any "
    "program that you start. Do this only for operators whom you would give your password."
)
TEXT = """\
You are about to join the hive "{hive}" at {address}.

What happens on this machine:
 * The hive's operator sends programs, which run here {box}
 * They use up to {threads} processor thread(s), {memory:g} GB of memory, {disk:g} GB of disk, at
   low priority{mains}. You can change this, and when it runs, in {config}.
 * Your data stay here. What is computed from them is sent to the operator, and may tell
   something about them.
What the hive learns of you:
 * your IP address, when this machine is on, and the name "{name}"{facts}.
Fedhive sends nothing to anybody else.

You can leave at any time: `fedhive join stop`; `fedhive join uninstall` removes everything.
The operator's certificate has the fingerprint
  {fingerprint}
Compare it with what the operator tells you by another way (telephone, web page).
"""


def words(settings: Settings, fingerprint: str, config: str) -> str:
    """What a volunteer agrees to."""
    data = f" but {', '.join(settings.data)}" if settings.data else ""
    box = BOXED.format(data=data) if settings.sandbox else UNBOXED
    return TEXT.format(
        hive=settings.hive, address=settings.address, box=box, threads=settings.limits.threads,
        memory=settings.limits.memory_gb, disk=settings.limits.disk_gb,
        mains=", only on mains power" if settings.when.mains_only else "", config=config,
        name=settings.name, fingerprint=fingerprint,
        facts=", its speed, memory and hours" if settings.share == "facts" else "",
    )  # fmt: skip


def ask(settings: Settings, fingerprint: str, config: str, agreed: bool) -> None:
    """Ask, and go on only after a yes.

    Args:
        settings: what is proposed.
        fingerprint: of the hive's authority.
        config: where settings can be changed.
        agreed: the volunteer has said yes on the command line.

    Raises:
        UserError: after a no, where nobody can be asked, or where there is no sandbox and
            nobody has said to do without.
    """
    print(words(settings, fingerprint, config))
    if settings.sandbox and sandbox.missing():
        raise UserError(
            f"refused: {sandbox.missing()}. To join without: fedhive join ... --no-sandbox"
        )
    if agreed:
        return
    if not sys.stdin.isatty():
        raise UserError("nobody is here to agree; read the above, then add --yes")
    if input("Join? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("not joined; nothing was written")
