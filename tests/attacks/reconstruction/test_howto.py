"""The how-to page on attacking a run tells the truth: its commands run, its code runs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from attacks.reconstruction import __main__ as attack
from attacks.reconstruction.attacks import ATTACKS
from fedhive.leakage import __main__ as judge
from fedhive.leakage.threats import THREATS
from fedhive.results.rundir import RunDir
from tests.test_docs import DOCS, commands, fedhive, fences, replaced, table, words

__all__ = ["fedhive"]

PAGE = DOCS / "howto/reconstruction.md"


def said_in(page: Path, module: str) -> list[list[str]]:
    lines = re.findall(rf"^python -m {re.escape(module)} (.*)$", page.read_text(), re.M)
    return [shlex.split(line) for line in lines]


def test_the_first_commands_and_the_code(
    fedhive: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = [word for word in commands(PAGE)[0] if not word.startswith("hydra.")]
    status, run = fedhive(line)
    assert status == 0
    (tmp_path / "runs").mkdir()
    shutil.move(run, tmp_path / "runs/watched")
    capsys.readouterr()
    assert attack.main(said_in(PAGE, "attacks.reconstruction")[0]) == 0
    assert judge.main(said_in(PAGE, "fedhive.leakage")[0]) == 0
    printed = capsys.readouterr().out
    for row in re.findall(r"^\| (rows .*) \|$", PAGE.read_text(), re.M):
        cells = [cell.strip() for cell in row.split("|")]
        found = re.search(rf"^{cells[0]} +{cells[1]} +{cells[2]} +(.*)$", printed, re.M)
        assert found
        examples, samples, *_, recall = found[1].split()
        assert examples == cells[3]
        assert abs(int(samples) - int(cells[4])) <= 3
        assert recall == cells[7].replace(" ", "")
    [code] = [fence.text for fence in fences(PAGE) if fence.language == "python"]
    exec(compile(code, PAGE.name, "exec"), {})
    assert "0.0 (8, 1, 28, 28)" in capsys.readouterr().out


def test_the_malicious_server(
    fedhive: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edited = [line for line in commands(PAGE) if "observer=adaptive_imprint" in line]
    line = [word for word in edited[0] if not word.startswith("hydra.")]
    status, run = fedhive(replaced(line, nodes=100, rounds=6))  # 40 images instead of 200
    assert status == 0
    assert RunDir(run).summary()["rounds"] == 6
    capsys.readouterr()
    assert attack.main([str(run), "adaptive_imprint"]) == 0
    assert "node 1000: 40 samples, 40 certified" in capsys.readouterr().out
    assert judge.main([str(run)]) == 0
    assert capsys.readouterr().out.strip().endswith("100%")


def test_all_attacks_and_threat_models_are_in_the_tables() -> None:
    assert {word for row in table(PAGE, "Attacks") for word in words(row[0])} == set(ATTACKS)
    threats = table(DOCS / "threat-models/reconstruction.md", "Who looks, and what is known")
    assert {word for row in threats for word in words(row[0])} == set(THREATS)
