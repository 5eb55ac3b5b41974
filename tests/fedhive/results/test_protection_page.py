"""The report's section on protection."""

from __future__ import annotations

import json

from fedhive.results.report import build_report
from tests.fedhive.results.fake import make_run

FOUND = {
    "kind": "encryption", "mask": "FirstK", "cipher": "rlwe", "keys": "shared", "path": "sum",
    "insecure_simulation": True, "hidden": 0.25, "protected": 0.0,
    "layers": [{"layer": "<b>", "parameters": 4, "hidden": 1, "protected": 0}],
    "costs": {
        "seconds": {"seal": 0.5, "parse": None}, "sealed_bytes": 3500, "clear_bytes": 4000,
        "query_bytes": 0, "saturated": 7, "refused": {"Tampered": 2}, "lost": {"3": "TooFew"},
    },
    "sight": [{"who": "server", "sees": "one sum"}], "remarks": ["mind this"],
}  # fmt: skip


def text(tmp_path, found) -> str:
    run = make_run(tmp_path / "run").path
    (run / "protection.json").write_text(json.dumps(found))
    return build_report(run).read_text()


def test_encryption_is_told_in_full(tmp_path):
    said = text(tmp_path, FOUND)
    for words in (
        "25.0 %", "keys were derived from the run&#x27;s seed", "Only 0.0 % count as protected",
        "Tampered 2", "rounds not opened: 1", "mind this", "(x 0.88)", "&lt;b&gt;",
    ):  # fmt: skip
        assert words in said or words.replace("&#x27;", "'").replace(" %", "\u00a0%") in said, (
            words
        )


def test_stacks_and_other_kinds_are_shown_by_name_and_value(tmp_path):
    noise = {"kind": "differential privacy of clients", "epsilon": 3.25, "none": None}
    said = text(tmp_path, {"noise": noise, "encryption": FOUND})
    assert "Differential privacy of clients" in said
    assert "3.25" in said
    assert "one sum" in said


def test_epsilon_is_drawn_where_it_was_promised(tmp_path):
    run = make_run(tmp_path / "run").path
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for promised in (False, True):
        rounds = [{**line, "epsilon": 0.5 if promised else None} for line in lines]
        (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rounds))
        assert ("chart-epsilon" in build_report(run).read_text()) == promised


def test_runs_without_protection_have_no_such_section(tmp_path):
    assert 'id="protection"' not in build_report(make_run(tmp_path / "run").path).read_text()
