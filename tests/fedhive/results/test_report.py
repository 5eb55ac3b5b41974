from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedhive.errors import UserError
from fedhive.results import facts
from fedhive.results.fields import SUMMARY_KEYS
from fedhive.results.headline import sentence
from fedhive.results.report import build_report, command
from fedhive.results.rundir import RunDir
from tests.fedhive.results.fake import make_run

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = (
    "</script></title><script>document.title='HACKED'</script><img src=x onerror=alert(1)>\"'"
)


class Elements(HTMLParser):
    """Collects what a browser would make of the file."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._script = tag in ("script", "style")
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if not self._script:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def sections(self) -> list[str | None]:
        return [attrs.get("id") for tag, attrs in self.tags if tag == "section"]


def built(run: RunDir) -> Elements:
    return Elements(build_report(run.path).read_text())


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path / "run")


def test_everything_is_there(run: RunDir) -> None:
    found = built(run)
    assert found.sections() == [
        "learning", "timeline", "cost", "participation", "refusals", "data", "machines",
        "reproduce", "words",
    ]  # fmt: skip
    for words in (
        "30 machines together trained one model that gets 96.8 % of the test examples right",
        "in 40 rounds and",
        "Accuracy", "target 90.0 %", "43.9 %", "system 72.0 % statistical 61.0 %",
        "fedhive run experiment=quickstart seed=1",
        "git checkout 0123456789abcdef0123456789abcdef01234567",
        "5f2c" * 16, "2.13.0", "alpha: 0.3", "Lyon-1",
    ):  # fmt: skip
        assert words in found.text.replace("\u00a0", " ")
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_it_needs_nothing_else(run: RunDir) -> None:
    path = build_report(run.path)
    assert path == run.path / "report.html"
    assert path.stat().st_size < 2_300_000
    for tag, attrs in Elements(path.read_text()).tags:
        for key in ("src", "href", "srcset", "data", "action"):
            value = attrs.get(key) or ""
            assert value == "" or value.startswith(("#", "data:")), (tag, value)


def test_it_is_quick_and_the_same_every_time(run: RunDir) -> None:
    first = build_report(run.path).read_bytes()
    began = time.process_time()
    assert build_report(run.path).read_bytes() == first
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("gone", "sections"),
    [
        ("events.jsonl.gz", {"timeline", "refusals"}),
        ("machines.json", {"machines"}),
        ("split.json", {"data"}),
        ("config.json", set()),
        ("accounts.json", set()),
        ("rounds.jsonl", {"learning", "cost"}),
    ],
)
def test_missing_pieces_are_left_out(run: RunDir, gone: str, sections: set[str]) -> None:
    whole = set(built(run).sections())
    (run.path / gone).unlink()
    assert whole - set(built(run).sections()) == sections


def test_run_that_broke_off(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rounds=9)
    for name in ("summary.json", "accounts.json"):
        (run.path / name).unlink()
    with open(run.path / "rounds.jsonl", "a") as file:
        file.write('{"round": 10, "ti')
    found = built(run)
    assert "This run did not finish." in found.text
    assert f"fedhive resume {run.path}" in found.text
    assert "in 9 rounds" in found.text


def test_run_killed_before_its_first_round(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.write_json("config.json", {"experiment": "early", "seed": 4})
    found = built(run)
    assert "early" in found.text
    assert "fedhive run experiment=early seed=4" in found.text


def test_nothing_known_is_ever_shown_as_zero(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.append_round({"round": 1})
    run.write_json("summary.json", {"rounds": 1})
    found = built(run)
    assert not [attrs for _, attrs in found.tags if "tile" in (attrs.get("class") or "").split()]
    assert "The machines together trained one model, in 1 round." in found.text


def test_no_accuracy_but_loss(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    for number in (1, 2):
        run.append_round({"round": number, "loss": 1.0 / number})
    found = built(run)
    assert "Test loss" in found.text
    assert "Test accuracy" not in found.text


def test_uncommitted_changes_are_said(run: RunDir) -> None:
    run.write_json("summary.json", {**run.summary(), "git_commit": "abc123+"})
    text = built(run).text
    assert "git checkout abc123 fedhive run" in text
    assert "changes that were not committed" in text


def test_no_waste(run: RunDir) -> None:
    run.write_json("summary.json", {**run.summary(), "energy_wasted_j": 0.0})
    assert "all of it for work that was used." in built(run).text
    run.write_json("summary.json", {**run.summary(), "energy_wasted_j": 1e-3})
    text = built(run).text.replace("\u00a0", " ")
    assert "less than 1 % of the energy for work that was lost." in text


def test_target_that_was_missed(run: RunDir) -> None:
    run.write_json("summary.json", {**run.summary(), "time_to_target_s": None})
    assert "not reached" in built(run).text


def test_eta_factors_stand_alone_without_their_product(run: RunDir) -> None:
    run.write_json("summary.json", {**run.summary(), "eta": None, "eta_statistical": None})
    text = built(run).text.replace("\u00a0", " ")
    assert "η system ? 72.0 %" in text
    assert "Efficiency" not in text


def test_no_run_and_damaged_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run in"):
        build_report(tmp_path)
    (tmp_path / "rounds.jsonl").write_text("{}\n{}\n")
    with pytest.raises(UserError, match=r"rounds\.jsonl, line 1"):
        build_report(tmp_path)


def test_sentence_by_hand() -> None:
    summary = dict.fromkeys(SUMMARY_KEYS) | {
        "nodes": 5, "rounds": 3, "accuracy": 0.5, "time_virtual_s": 60.0,
        "energy_useful_j": 750.0, "energy_wasted_j": 250.0, "carbon_useful_g": 2.0,
    }  # fmt: skip
    assert re.sub("<[^>]*>", "", sentence(summary)).replace("\u00a0", " ") == (
        "5 machines together trained one model that gets 50.0 % of the test examples right, in "
        "3 rounds and 1 min of their time. It took 1 kJ of energy and 2 g of CO₂e, 25 % of the "
        "energy for work that was lost."
    )


def test_command_is_what_was_typed(run: RunDir) -> None:
    hydra = run.path / ".hydra"
    hydra.mkdir()
    (hydra / "overrides.yaml").write_text("- experiment=quickstart\n- '+note=two words; rm x'\n")
    assert command(facts.load(run.path)) == (
        "fedhive run experiment=quickstart '+note=two words; rm x' seed=1"
    )
    (hydra / "overrides.yaml").write_text("- seed=1\n")
    assert command(facts.load(run.path)) == "fedhive run seed=1"


def hostile(path: Path) -> RunDir:
    """A run that says everything it can in script."""
    run = make_run(path, name=HOSTILE)
    run.write_json(
        "machines.json", [{**m, "name": HOSTILE, "zone": HOSTILE} for m in run.machines()]
    )
    run.write_json("split.json", {**run.split(), "classes": [HOSTILE] * 10})
    run.write_json("config.json", {HOSTILE: HOSTILE, "seed": 1})
    keys = dict.fromkeys(("engine", "git_commit", "model_sha256", "config_sha256"), HOSTILE)
    run.write_json("summary.json", {**run.summary(), **keys, "versions": {HOSTILE: HOSTILE}})
    events = [{**e, "status": HOSTILE, "reason": HOSTILE} for e in run.events()[:50]]
    run.append_events(events)
    return run


def test_nothing_in_the_files_becomes_markup(tmp_path: Path, run: RunDir) -> None:
    def kinds(found: Elements) -> list[str]:
        return [tag for tag, _ in found.tags if tag in ("script", "img", "iframe", "title", "svg")]

    bad = built(hostile(tmp_path / "bad"))
    assert kinds(bad) == kinds(built(run))
    assert not [attrs for _, attrs in bad.tags if any(key.startswith("on") for key in attrs)]
    assert HOSTILE in bad.text


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_browser_draws_all_charts_and_runs_no_foreign_script(tmp_path: Path) -> None:
    path = build_report(hostile(tmp_path / "bad").path)
    shown = subprocess.run(
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000",
            "--window-size=1280,6000", "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    assert 'data-charts="ready"' in shown
    found = Elements(shown)
    charts = [attrs for tag, attrs in found.tags if (attrs.get("class") or "").startswith("chart")]
    assert len(charts) == 6
    assert all("js-plotly-plot" in (attrs["class"] or "") for attrs in charts)
    assert "could not be drawn" not in found.text
    title = re.search("<title>(.*?)</title>", shown)
    assert title is not None
    assert title[1] != "HACKED"
    assert not [attrs for tag, attrs in found.tags if tag == "img"]


def test_figures_are_json_without_nan(run: RunDir) -> None:
    text = build_report(run.path).read_text()
    inside = re.search(r'id="figures">([^<]*)</script>', text)
    assert inside is not None
    figures = json.loads(inside[1], parse_constant=lambda name: pytest.fail(name))
    assert set(figures) == {
        "chart-accuracy", "chart-loss", "chart-timeline", "chart-cost", "chart-participation",
        "chart-split",
    }  # fmt: skip
