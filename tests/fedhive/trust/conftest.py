"""Real software TPMs (swtpm), each manufactured once a session and booted anew for each test.

A software TPM is a complete TPM 2.0 but for its root of trust: whoever runs it can read its state.
It talks over a pair of sockets, so that no port is opened and it dies with its client.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedhive.trust.tpm import Tpm, library

MISSING = [name for name in ("swtpm", "swtpm_setup") if shutil.which(name) is None]
if importlib.util.find_spec("tpm2_pytss") is None:
    MISSING.append("tpm2-pytss (pip install 'fedhive[tpm]')")


class SoftTpm:
    """A manufactured software TPM; its certificate is by a maker of its own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        (folder / "ca").mkdir(parents=True)
        self.state.mkdir()
        ca, config = folder / "ca", folder / "setup.conf"
        (folder / "localca.conf").write_text(
            f"statedir={ca}\nsigningkey={ca}/signkey.pem\nissuercert={ca}/issuercert.pem\n"
            f"certserial={ca}/certserial\n"
        )
        (folder / "localca.options").write_text(
            "--platform-manufacturer fedhive\n--platform-version 1\n--platform-model test\n"
        )
        config.write_text(
            f"create_certs_tool={shutil.which('swtpm_localca')}\n"
            f"create_certs_tool_config={folder}/localca.conf\n"
            f"create_certs_tool_options={folder}/localca.options\nactive_pcr_banks=sha256\n"
        )
        user = ["--runas", "root"] if os.geteuid() == 0 else []
        subprocess.run(
            ["swtpm_setup", "--tpm2", "--tpm-state", f"dir://{self.state}", "--create-ek-cert",
             "--create-spk", "--lock-nvram", "--config", str(config), *user],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip

    @property
    def roots(self) -> Path:
        """Where the certificates of its maker are."""
        folder = self.folder / "roots"
        if not folder.exists():
            folder.mkdir()
            for name in ("issuercert.pem", "swtpm-localca-rootca-cert.pem"):
                shutil.copy(self.folder / "ca" / name, folder / name)
        return folder

    @contextlib.contextmanager
    def boot(self) -> Iterator[Tpm]:
        """Power on; registers begin at 0."""
        ours, its = socket.socketpair()
        process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--fd", str(its.fileno()), "--tpmstate",
             f"dir={self.state}", "--flags", "not-need-init,startup-clear"],
            pass_fds=[its.fileno()], stderr=subprocess.DEVNULL,
        )  # fmt: skip
        its.close()
        try:
            with Tpm(wire(ours)) as tpm:
                yield tpm
                tpm.esapi.shutdown(tpm.lib.TPM2_SU.CLEAR)
        finally:
            ours.close()
            process.wait(10)


def wire(line: socket.socket) -> Any:
    """A TCTI that sends commands over a socket as they are."""

    class Wire(library().PyTCTI):  # type: ignore[misc]
        def do_transmit(self, command: bytes) -> None:
            line.sendall(command)

        def do_receive(self, timeout: int) -> bytes:
            head = line.recv(10, socket.MSG_WAITALL)
            rest = int.from_bytes(head[2:6], "big") - 10
            return head + (line.recv(rest, socket.MSG_WAITALL) if rest else b"")

    return Wire()


def extend(tpm: Tpm, pcr: int, digest: bytes) -> None:
    """Measure something into a register."""
    lib = tpm.lib
    value = lib.TPMT_HA(hashAlg=lib.TPM2_ALG.SHA256, digest=lib.TPMU_HA(sha256=digest))
    tpm.esapi.pcr_extend(getattr(lib.ESYS_TR, f"PCR{pcr}"), lib.TPML_DIGEST_VALUES([value]))


@pytest.fixture(scope="session")
def soft_tpm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SoftTpm]:
    """``soft_tpm(name)``: a software TPM of that name, manufactured when it is first asked for."""
    if MISSING:
        pytest.skip(f"no software TPM to test with: {', '.join(MISSING)} missing")
    made: dict[str, SoftTpm] = {}

    def get(name: str) -> SoftTpm:
        if name not in made:
            made[name] = SoftTpm(tmp_path_factory.mktemp(f"tpm-{name}"))
        return made[name]

    return get
