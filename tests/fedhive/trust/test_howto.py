"""The how-to on trust, followed literally: its commands, in its order, with a software TPM."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

import fedhive
from fedhive import cli
from fedhive.trust import command
from fedhive.trust.levels import Level
from tests.fedhive.trust.test_enrol import boot

PAGE = Path(fedhive.__file__).parents[1] / "docs/howto/trust.md"


def lines(page: Path) -> list[list[str]]:
    """The words of each `fedhive trust` line in the page's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    trust = (line for line in "".join(blocks).splitlines() if line.startswith("fedhive trust "))
    return [shlex.split(line, comments=True) for line in trust]


def test_the_page_s_commands_let_a_machine_in(soft_tpm, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(soft_tpm("alice").roots, tmp_path / ".fedhive/trust/roots")
    told: dict[str, str] = {}
    with soft_tpm("alice").boot() as tpm:
        monkeypatch.setattr(command, "Tpm", lambda tcti: contextlib.nullcontext(tpm))
        (tmp_path / "boot.log").write_bytes(boot(tpm))  # in place of the page's `sudo cp`
        for words in lines(PAGE):
            target = words[words.index(">") + 1] if ">" in words else None
            call = words[1 : words.index(">")] if target else words[1:]
            with pytest.raises(SystemExit) as stop:
                cli.main(call)
            said = capsys.readouterr()
            assert (stop.value.code or 0, said.err) == (0, ""), (words, said.err)
            told[" ".join(call)] = said.out
            if target:
                (tmp_path / target).write_text(said.out)
    verbs = [key.split()[1] for key in told]
    assert verbs == ["hello", "challenge", "answer", "admit", "list", "question", "answer",
                     "confirm", "export"]  # fmt: skip
    sandbox = {row["name"]: row["value"] for row in json.loads((tmp_path / "hello.json")
               .read_text())["facts"]}["sandbox.active"]  # fmt: skip
    expected = Level.MEASURED if sandbox else Level.ANONYMOUS
    assert f"level {int(expected)} " in told["trust confirm later.json"]
    assert (tmp_path / "desk.pub").exists()
    assert len((tmp_path / "identities.csv").read_text().splitlines()) == 2
