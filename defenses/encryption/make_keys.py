"""Makes the key files of a deployment, with the operating system's randomness.

::

    python -m defenses.encryption.make_keys shared key.json verification.json
    python -m defenses.encryption.make_keys private node.json       # prints its public key
    python -m defenses.encryption.make_keys roster roster.json --threshold 2 \
        --server PUBLIC 1000=PUBLIC 1001=PUBLIC 1002=PUBLIC
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from defenses.encryption import keys_shared, roster
from fedhive.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the three commands; the exit status, 2 for a mistake."""
    parser = argparse.ArgumentParser(prog="make_keys", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    shared = commands.add_parser("shared", help="keys=shared: the clients' and the server's")
    shared.add_argument("key")
    shared.add_argument("verification")
    private = commands.add_parser("private", help="keys=committee: of one member, or the server")
    private.add_argument("file")
    listed = commands.add_parser("roster", help="keys=committee: who the members are")
    listed.add_argument("file")
    listed.add_argument("--threshold", type=int, required=True)
    listed.add_argument("--server", required=True, help="the server's public key")
    listed.add_argument("members", nargs="+", help="node id = its public key")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "shared":
            keys_shared.make_keys(chosen.key, chosen.verification)
        elif chosen.command == "private":
            print(roster.make_key(chosen.file))
        else:
            made = _roster(chosen.file, chosen.members, chosen.threshold, chosen.server)
            print(
                f"committee {made.digest.hex()}: {len(made.members)} members, {made.threshold} "
                f"open sums, {made.tolerates} may side with the server"
            )
    except UserError as error:
        print(f"make_keys: {error}", file=sys.stderr)
        return 2
    return 0


def _roster(path: str, pairs: Sequence[str], threshold: int, server: str) -> roster.Roster:
    members = {}
    for pair in pairs:
        node, _, key = pair.partition("=")
        if not node.isdecimal() or int(node) in members:
            raise UserError(f"{pair} must be node=public-key, every node once")
        members[int(node)] = key
    for key in (*members.values(), server):
        if len(key) != 64 or set(key.lower()) - set("0123456789abcdef"):
            raise UserError(f"{key[:20]} is no public key: 64 hexadecimal digits, as printed")
    return roster.write_roster(path, members, threshold, server)


if __name__ == "__main__":
    sys.exit(main())
