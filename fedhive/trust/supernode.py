"""Flower's SuperNode with a node key that never leaves the TPM.

``python -m fedhive.trust.supernode --auth-supernode-private-key FOLDER ...`` takes what
``flower-supernode`` takes, but for the key it wants the folder that ``fedhive trust hello`` made.
Flower reads its key from a file in one place; that place is given the TPM's key instead.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from fedhive.errors import UserError
from fedhive.trust.tpm import DEVICE, Keys, Tpm

MODULE, SEAM = "flwr.supernode.cli.flower_supernode", "_try_setup_client_authentication"
"""Where Flower 1.41 reads the key; `fedhive` pins Flower's minor version, and a test looks."""


class TpmKey:
    """A private key as Flower uses one: it signs, and tells its public part.

    A TPM talks to one thread at a time; Flower signs in several.

    Args:
        key: of tpm2_pytss, loaded.
    """

    def __init__(self, key: Any) -> None:
        self._key, self._lock = key, threading.Lock()

    def sign(self, data: bytes, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """ECDSA by the TPM."""
        with self._lock:
            return bytes(self._key.sign(data, signature_algorithm))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """What it is checked with."""
        found: ec.EllipticCurvePublicKey = self._key.public_key()
        return found


@contextlib.contextmanager
def node_key(folder: Path, tcti: Any = DEVICE) -> Iterator[TpmKey]:
    """The node's key of a folder that `fedhive trust hello` made, loaded while it is needed.

    Raises:
        UserError: if the TPM or the key is not there.
    """
    keys = Keys.load(folder.expanduser())
    with Tpm(tcti) as tpm, tpm.loaded(keys.node) as handle:
        from tpm2_pytss.cryptography import tpm_ecc_private_key

        yield TpmKey(tpm_ecc_private_key(tpm.esapi, handle))


@contextlib.contextmanager
def in_place_of_the_file(key: TpmKey) -> Iterator[None]:
    """Let Flower's SuperNode authenticate with this key.

    Raises:
        UserError: if this version of Flower reads its key elsewhere.
    """
    module = importlib.import_module(MODULE)
    before = getattr(module, SEAM, None)
    if before is None:
        raise UserError("this version of Flower reads its key elsewhere; install flwr 1.41")
    setattr(module, SEAM, lambda args: (key, key.public_key()))
    try:
        yield
    finally:
        setattr(module, SEAM, before)


@contextlib.contextmanager
def key_of(folder: str | None) -> Iterator[None]:
    """Authenticate with the key of a TPM, if there is a folder for one; else by the key file."""
    if folder is None:
        yield
        return
    with node_key(Path(folder)) as key, in_place_of_the_file(key):
        yield


def main() -> None:
    """Run the SuperNode with the words of the command line."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--auth-supernode-private-key", type=Path, required=True)
    parser.add_argument("--tpm", default=DEVICE)
    given, rest = parser.parse_known_args()
    import sys

    sys.argv = ["flower-supernode", *rest]
    with node_key(given.auth_supernode_private_key, given.tpm) as key, in_place_of_the_file(key):
        importlib.import_module(MODULE).flower_supernode()


if __name__ == "__main__":
    main()
