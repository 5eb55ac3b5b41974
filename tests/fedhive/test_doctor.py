"""``fedhive doctor``: tables, JSON, and an answer at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import fedhive
from fedhive import doctor
from fedhive.trust.facts import as_declared, by_name
from fedhive.trust.probe import probe
from tests.fedhive.trust import machines

ROOT = Path(fedhive.__file__).parents[1]


def on(root: Path, files: machines.Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the doctor examine a made-up machine."""
    facts = probe(machines.lay(root, files), which=lambda name: "/usr/bin/bwrap")
    monkeypatch.setattr(doctor, "probe", lambda: facts)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    doctor.examine(Console(width=200))
    return capsys.readouterr().out


def test_the_tables_show_security_and_level(tmp_path, monkeypatch, capsys):
    on(tmp_path, machines.LAPTOP, monkeypatch)
    out = told(capsys)
    assert "security.secure_boot" in out
    assert "trust level by itself: 1 (declared)\n" in out
    assert "for level 2: enrol the TPM" in out
    assert "15.3 GiB" in out
    assert "NVIDIA T1000" in out


def test_what_is_in_the_way_is_said(tmp_path, monkeypatch, capsys):
    on(tmp_path, machines.TSME_DESKTOP, monkeypatch)
    out = told(capsys)
    assert "trust level by itself: 1 (declared)!" in out
    assert "! firmware in setup mode" in out
    assert "! unmitigated faults of the processor: spectre_v2" in out


@pytest.mark.parametrize(
    ("files", "line"), [({}, "no TPM is visible"), (machines.OLD, "of version 1.2")]
)
def test_no_remedy_that_cannot_help(tmp_path, monkeypatch, capsys, files, line):
    on(tmp_path, files, monkeypatch)
    assert f"for level 2: {line}" in told(capsys).replace("this TPM is ", "")


def test_json_for_scripts(tmp_path, monkeypatch, capsys):
    on(tmp_path, machines.LAPTOP, monkeypatch)
    doctor.examine(as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert (report["schema"], report["level"], report["level_name"]) == (1, 1, "declared")
    facts = {row["name"]: row for row in report["facts"]}
    assert facts["security.secure_boot"]["value"] is True
    assert facts["security.secure_boot"]["assurance"] == "declared"
    assert {"topic", "good", "detail", "remedy"} == set(report["findings"][0])


def test_a_cuda_build_of_torch_is_told_from_its_file(tmp_path, monkeypatch):
    import importlib.machinery

    def found(text: str) -> str | None:
        (tmp_path / "version.py").write_text(text)
        spec = importlib.machinery.ModuleSpec("torch", None, origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
        return doctor.torch_cuda()

    assert found("__version__ = '2.9'\ncuda: Optional[str] = '12.8'\n") == "12.8"
    assert found("__version__ = '2.9'\ncuda: Optional[str] = None\n") is None


def test_an_accelerator_that_torch_cannot_use(tmp_path, monkeypatch):
    fact = by_name(probe(machines.lay(tmp_path, machines.LAPTOP)))["accelerator.devices"]
    monkeypatch.setattr(doctor, "torch_cuda", lambda: None)
    assert not doctor._accelerator(fact).good
    monkeypatch.setattr(doctor, "torch_cuda", lambda: "12.8")
    assert doctor._accelerator(fact).good


@pytest.mark.parametrize(
    ("days", "good", "remedy"),
    [
        (400, True, ""), (10, False, "run `fedhive deploy certify`, then start it again"),
        (-1, False, "certificate expired"),
    ],
)  # fmt: skip
def test_a_hive_s_certificates(tmp_path, monkeypatch, days, good, remedy):
    from datetime import timedelta

    from fedhive.deploy import certificates

    made = certificates.now()
    monkeypatch.setattr(certificates, "now", lambda: made - timedelta(days=825 - days))
    authority, key = certificates.make_authority("bees")
    server, _ = certificates.make_server(authority, key, ("localhost",))
    monkeypatch.setattr(certificates, "now", lambda: made)
    (tmp_path / "hive.json").write_text(json.dumps({"names": ["localhost"]}))
    (tmp_path / "ca.crt").write_bytes(authority)
    (tmp_path / "server.pem").write_bytes(server)
    [found] = doctor._hive(tmp_path)
    assert found.good is good
    assert remedy in found.remedy


def test_no_hive_and_a_broken_one(tmp_path):
    assert list(doctor._hive(tmp_path)) == []
    (tmp_path / "hive.json").write_text("{")
    [found] = doctor._hive(tmp_path)
    assert (found.good, found.detail) == (False, f"{tmp_path} is not whole")


AS_NOBODY = """
import os, sys
from fedhive.doctor import examine, findings
if os.geteuid() == 0:
    list(findings())  # imports the rest: this interpreter may lie where only root can read
    os.setgroups([])
    os.setuid(65534)
examine(as_json=True)
sys.exit("torch" in sys.modules)  # which takes seconds to import
"""


def test_it_needs_neither_root_nor_torch():
    done = subprocess.run(
        [sys.executable, "-P", "-c", AS_NOBODY], cwd="/", capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["level"] in (0, 1)
    assert by_name(as_declared(report["facts"]))["cpu.cores"].value
