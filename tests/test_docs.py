"""The documentation tells the truth: its examples run, its commands compose, its names exist."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from fedhive import cli
from fedhive.results import checkpoint
from fedhive.results.fields import EVENT_KEYS, ROUND_KEYS, SUMMARY_KEYS
from fedhive.results.rundir import RunDir
from fedhive.world.roster import read_rows

ROOT = Path(__file__).parents[1]
DOCS, CONF = ROOT / "docs", ROOT / "conf"
HOWTO = sorted((DOCS / "howto").glob("*.md"))
PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w+)(?: title=\"(.*?)\")?\n(.*?)^\1```$", re.M | re.S)


class Fence(NamedTuple):
    """A block of code in a page."""

    language: str
    title: str | None
    text: str


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fences(page: Path) -> list[Fence]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [Fence(language, title or None, text) for _, language, title, text in found]


def commands(page: Path) -> list[list[str]]:
    """The command lines in a page's shell blocks, as lists of words."""
    text = "".join(fence.text for fence in fences(page) if fence.language == "sh")
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", "").splitlines()
             if "fedhive " in line and "'" not in line]  # fmt: skip
    starts = (["fedhive"], ["python", "-m", "fedhive"])
    return [
        line[len(start) :] for line in lines for start in starts if line[: len(start)] == start
    ]


def table(page: Path, heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, without its head."""
    text = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    rows = re.search(r"((?:^\|.*\n)+)", text, re.M)
    assert rows, f"{name(page)} has no table under {heading!r}"
    return [[cell.strip() for cell in row.strip("|").split("|")]
            for row in rows[1].splitlines()[2:]]  # fmt: skip


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture
def fedhive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., tuple[int, Path]]]:
    """``fedhive(words, folder)``: the command line in this process; (exit status, run folder)."""
    before = set(sys.modules)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    count = iter(range(100))

    def call(line: list[str], folder: Path | None = None) -> tuple[int, Path]:
        place = folder or tmp_path
        monkeypatch.chdir(place)
        if str(place) not in sys.path:
            sys.path.insert(0, str(place))  # as `python -m` does
        out = tmp_path / f"out-{next(count)}"
        where = "hydra.sweep.dir" if "-m" in line else "hydra.run.dir"
        with pytest.raises(SystemExit) as stop:
            cli.main([*line, f"{where}={out}"] if line[0] == "run" else line)
        return int(stop.value.code or 0), out

    yield call
    for module in set(sys.modules) - before:
        origin = getattr(sys.modules[module], "__file__", None)
        if origin and Path(origin).is_relative_to(tmp_path):
            del sys.modules[module]


@pytest.fixture
def example(tmp_path: Path) -> Callable[[str], tuple[list[list[str]], Path]]:
    """``example(page)``: the commands of a how-to page, and its files in a folder of their own."""

    def copy(page: str) -> tuple[list[list[str]], Path]:
        folder = shutil.copytree(DOCS / "howto/examples" / page, tmp_path / page)
        return commands(DOCS / f"howto/{page}.md"), folder

    return copy


def summary(run: Path) -> dict[str, Any]:
    found = RunDir(run).summary()
    assert set(SUMMARY_KEYS) <= set(found)
    assert (run / "report.html").stat().st_size > 10_000
    return found


def replaced(line: list[str], **values: Any) -> list[str]:
    """The command line with other values for some of its keys."""
    kept = [word for word in line if word.partition("=")[0] not in values]
    return kept + [f"{key}={value}" for key, value in values.items()]


# ---- how-to pages run as they are printed ------------------------------------------------------


@pytest.mark.parametrize("page", HOWTO, ids=name)
def test_a_page_shows_its_files(page: Path) -> None:
    folder = DOCS / "howto/examples" / page.stem
    files = [file for file in folder.rglob("*") if file.suffix in (".py", ".yaml")]
    shown = {fence.title: fence.text for fence in fences(page) if fence.title}
    assert shown == {str(f.relative_to(folder)): f.read_text(encoding="utf-8") for f in files}


def test_a_selection_of_ones_own_from_the_shell(example: Any, fedhive: Any) -> None:
    [line, _], folder = example("strategy")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "fedhive", *line], cwd=folder, env=environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [run] = folder.glob("runs/*/*")
    assert summary(run)["participation_gini"] == 0
    status, other = fedhive([*replaced(line, selection="uniform"), "selection.k=4"], folder)
    assert status == 0
    assert summary(other)["participation_gini"] == pytest.approx(0.30, abs=0.005)


def test_a_strategy_of_ones_own(example: Any, fedhive: Any) -> None:
    [_, line], folder = example("strategy")
    models = []
    for share in ("0.5", "0.25"):
        status, run = fedhive([*replaced(line, rounds=1), f"strategy.share={share}"], folder)
        assert status == 0
        assert summary(run)["rounds"] == 1
        models.append(checkpoint.load(RunDir(run)).arrays["model"])
    status, run = fedhive(replaced(line, rounds=1, strategy="flower_fedavg"), folder)
    average = checkpoint.load(RunDir(run)).arrays["model"]
    start = 2 * models[0] - average  # as half of the way says
    np.testing.assert_allclose(models[1], start + 0.25 * (average - start), atol=1e-6)
    assert np.abs(average - start).max() > 1e-3


def test_an_attack_of_ones_own(example: Any, fedhive: Any) -> None:
    [line], folder = example("attack")
    status, run = fedhive(line, folder)
    honest = fedhive(replaced(line, attack="none"), folder)[1]
    assert status == 0
    assert summary(run)["accuracy"] < summary(honest)["accuracy"] - 0.1
    assert {event["status"] for event in RunDir(run).events()} == {"accepted"}


def test_a_defence_of_ones_own(example: Any, fedhive: Any) -> None:
    [line], folder = example("defense")
    status, run = fedhive(line, folder)
    assert status == 0
    assert summary(run)["accuracy"] > 0.75
    assert summary(fedhive(replaced(line, combine="mean"), folder)[1])["accuracy"] < 0.4


def test_data_of_ones_own(example: Any, fedhive: Any) -> None:
    [line], folder = example("data")
    status, run = fedhive(line, folder)
    assert status == 0
    assert summary(run)["accuracy"] > 0.9
    split = json.loads((run / "split.json").read_text())
    assert split["classes"] == ["in", "out"]
    assert [sum(row) for row in split["counts"]] == [240, 120, 60, 30, 30]


def test_a_model_of_ones_own(example: Any, fedhive: Any) -> None:
    [line], folder = example("model")
    status, run = fedhive(line, folder)
    assert status == 0
    assert summary(run)["accuracy"] > 0.5
    assert checkpoint.load(RunDir(run)).arrays["model"].shape == (868,)
    assert 4000 < RunDir(run).events()[0]["bytes_up"] < 4500


def test_a_sweep_of_ones_own(example: Any, fedhive: Any) -> None:
    [line], folder = example("sweep")
    status, sweep = fedhive(replaced(line, seed="1,2"), folder)
    assert status == 0
    assert (sweep / "comparison.html").is_file()
    found = [(run.name, summary(run)["accuracy"]) for run in sweep.iterdir() if run.is_dir()]
    assert len(found) == 4
    mean = [accuracy for run, accuracy in found if run.endswith("strategy=hive")]
    median = [accuracy for run, accuracy in found if run.endswith("fedmedian")]
    assert min(median) > max(mean) + 0.2


def test_a_hive_that_comes_and_goes(fedhive: Any) -> None:
    plain, everything, buffered, ideal, measured, best = commands(DOCS / "howto/volatile.md")
    assert measured[:-1] == everything
    assert everything[: len(plain)] == plain
    short = {"time_limit_s": 1500, "nodes": 12, "eval_every": 1}
    before = summary(fedhive(replaced(plain, **short))[1])
    status, one = fedhive(replaced(ideal[:-1], rounds=6))
    assert status == 0
    status, run = fedhive(replaced(measured, **short, reference=one))
    assert status == 0
    after = summary(run)
    assert after["eta_system"] > 1.5 * before["eta_system"]
    assert after["eta"] == pytest.approx(after["eta_system"] * after["eta_statistical"])
    assert set(RunDir(run).availability()) == {str(node) for node in range(12)}
    assert (RunDir(run).forecast()["forecaster"], before["eta"]) == ("Survival", None)
    assert fedhive(replaced(buffered, rounds=3))[0] == 0
    status, run = fedhive(replaced(best, time_limit_s=900, nodes=12))
    assert status == 0
    assert summary(run)["eta_system"] > 0.5


def test_training_when_electricity_is_clean(fedhive: Any) -> None:
    everybody, rolling, *_ = commands(DOCS / "howto/carbon.md")
    listed = read_rows(str(DOCS / "howto/examples/carbon/machines.yaml"))
    assert [row["name"] for row in listed] == ["ann", "bob", "*"]
    assert rolling[: len(everybody)] == everybody
    before, after = (
        summary(fedhive(replaced(line, rounds=6))[1]) for line in (everybody, rolling)
    )
    for told in (before, after):
        assert told["rounds"] == 6
    total = [told["carbon_useful_g"] + told["carbon_wasted_g"] for told in (before, after)]
    assert total[1] < 0.4 * total[0]


def test_private_training(fedhive: Any) -> None:
    examples, clients, counted = commands(DOCS / "howto/differential-privacy.md")
    assert counted[:5] == clients[:5]
    status, run = fedhive(examples)
    assert status == 0
    assert summary(run)["epsilon"] == pytest.approx(2.05, abs=0.005)
    assert summary(run)["accuracy"] > 0.75
    for line, epsilon in ((clients, 7.11), (counted, 17.86)):
        status, run = fedhive(line)
        assert (status, summary(run)["epsilon"]) == (0, pytest.approx(epsilon, abs=0.01))


def test_selective_encryption(fedhive: Any) -> None:
    whole, part, mapped, committee, select, groups = commands(DOCS / "howto/encryption.md")
    small = {"rounds": 1, "engine": "local", "local_work.epochs": 1}
    tiny = {**small, "data": "digits", "model": "mlp", "nodes": 12}
    for line in (whole, part, mapped, committee, select, groups):
        status, run = fedhive(replaced(line, **(tiny if line is not whole else small)))
        assert status == 0, line
        told = summary(run)
        assert (told["rounds_not_opened"], told["insecure_simulation"]) == (0, True)
        assert (told["encrypted_share"] == 1.0) == ("mask=all" in line)
        found = json.loads((run / "protection.json").read_text())
        if line is whole:
            plain = fedhive(replaced([*line, "cipher=plain"], **small))[1]
            assert summary(plain)["model_sha256"] == told["model_sha256"]
            sealed, clear = found["costs"]["sealed_bytes"], found["costs"]["clear_bytes"]
            assert sealed / clear == pytest.approx(0.89, abs=0.01)


def test_measuring_what_leaks(fedhive: Any, tmp_path: Path, capsys: Any) -> None:
    from attacks.inference.__main__ import main

    page = DOCS / "howto/leakage.md"
    line, _ = commands(page)
    short = [word.replace("0,1,2,3", "0,1,2") for word in replaced(line, rounds=2, nodes=20)]
    status, run = fedhive([word for word in short if not word.startswith("hydra.")])
    assert status == 0
    (tmp_path / "runs").mkdir()
    shutil.move(run, tmp_path / "runs/leak")
    attack = re.search(r"^python -m attacks.inference (.*)$", page.read_text(), re.M)
    assert attack
    capsys.readouterr()
    quick = ["inference=loss_drop,lira,fedmia_loss", "subjects=0"]
    assert main([*shlex.split(attack[1]), *quick]) == 0
    assert re.search(r"^fedmia_loss +0\.\d{3}", capsys.readouterr().out, re.M)
    code = "".join(fence.text for fence in fences(page) if fence.language == "python")
    exec(compile(code, page.name, "exec"), {})
    said = capsys.readouterr().out
    assert said.splitlines()[:2] == ["server (1000,) 2 20", "client (1001, 1002) 1"]
    assert "True\n" in said
    chosen = {path.stem for path in (CONF / "inference").glob("*.yaml")}
    assert {word for row in table(page, "Members") for word in words(row[0])} == chosen


# ---- the other pages ---------------------------------------------------------------------------


def console_examples() -> list[tuple[str, str]]:
    texts = [f.text for page in PAGES for f in fences(page) if f.language == "console"]
    return [(found[1], found[2]) for text in texts
            for found in re.finditer(r"^\$ (.*)\n((?:[^$].*\n)*)", text, re.M)]  # fmt: skip


@pytest.mark.parametrize(("line", "said"), console_examples())
def test_mistakes_are_answered_as_printed(line: str, said: str, fedhive: Any, capsys: Any) -> None:
    status, run = fedhive(shlex.split(line)[1:])
    assert (status, capsys.readouterr().err) == (2, said)
    assert not run.exists()


def composable() -> Iterator[tuple[str, tuple[str, ...]]]:
    for page in PAGES:
        for command, *line in commands(page):
            if command == "run" and "--help" not in line and "--config-dir" not in line:
                options = {"-m", "--cfg", "job"}
                chosen = [re.sub(r"^([^=]+=[^\[{,]*),.*", r"\1", word) for word in line]
                kept = [w for w in chosen if w not in options and not w.startswith("hydra")]
                yield name(page), tuple(kept)


@pytest.mark.parametrize("overrides", sorted({line for _, line in composable()}), ids=" ".join)
def test_commands_compose(overrides: tuple[str, ...]) -> None:
    from fedhive.compose import compose

    assert compose(overrides)["rounds"] >= 1


def test_commands_exist() -> None:
    found = {line[0] for page in PAGES for line in commands(page)}
    assert {"run", "report", "resume", "doctor"} <= found
    assert found <= set(cli.COMMANDS)


def slug(heading: str) -> str:
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{name(page)} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(target), re.M)
            assert anchor in map(slug, headings), f"{name(page)} links to {link}"


def test_groups_and_settings_are_as_documented() -> None:
    config = yaml.safe_load((CONF / "config.yaml").read_text())
    defaults = {
        k: v for row in config["defaults"] if isinstance(row, dict) for k, v in row.items()
    }
    page = DOCS / "configuration.md"
    for group, _, default in table(page, "Groups"):
        chosen = defaults[group.strip("`")]
        assert chosen is None or words(default)[0] == chosen, group
    for key, default, _ in table(page, "Settings"):
        assert config[key.strip("`")] == yaml.safe_load(default.strip("`")), key


def test_documented_choices_exist() -> None:
    for page in PAGES:
        for group, choice in re.findall(r"`(\w+)=(\w+)`", page.read_text(encoding="utf-8")):
            if (CONF / group).is_dir():
                mine = any((DOCS / "howto/examples").glob(f"*/mine/{group}/{choice}.yaml"))
                assert mine or (CONF / group / f"{choice}.yaml").is_file(), (page, group, choice)
    for heading, group in (("Data sets", "data"), ("Partitioners", "partition")):
        for row in table(DOCS / "data.md", heading):
            assert (CONF / group / f"{words(row[0])[0]}.yaml").is_file(), row


def test_every_choice_is_listed_with_what_it_is() -> None:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.on_page_markdown((DOCS / "choices.md").read_text(encoding="utf-8"))
    for file in CONF.glob("*/*.yaml"):
        if file.parent.name != "local":
            assert f"| `{file.stem}` | " in page, file
    assert all(about for group in hooks.choices().values() for about in group.values())


# ---- files and numbers -------------------------------------------------------------------------


@pytest.fixture
def played(tmp_path: Path, fedhive: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory where the command would have put it."""
    world = ["data=synthetic", "data.n=96", "nodes=4", "partition=iid", "availability=markov"]
    hourly = ["forecast=markov", "carbon=generated"]
    status, out = fedhive(["run", *world, *hourly, "rounds=2"])
    assert status == 0
    run = tmp_path / "runs/2026-01-01/12-00-00-default"
    run.parent.mkdir(parents=True)
    shutil.move(out, run)
    monkeypatch.chdir(tmp_path)
    return run


def test_the_run_directory_is_as_documented(played: Path, capsys: Any) -> None:
    page = DOCS / "run-directory.md"
    with gzip.open(played / "events.jsonl.gz", "rt") as lines:
        event = json.loads(next(lines))
    [first, *_] = RunDir(played).rounds()
    written = {
        "rounds.jsonl": (first, ROUND_KEYS),
        "events.jsonl.gz": (event, EVENT_KEYS),
        "summary.json": (RunDir(played).summary(), SUMMARY_KEYS),
        "machines.json, accounts.json": (RunDir(played).machines()[0], ()),
        "availability.json, forecast.json": (RunDir(played).forecast(), ()),
        "carbon.json": (RunDir(played).carbon(), ()),
    }
    for heading, (record, promised) in written.items():
        told = {word for row in table(page, heading) for word in words(row[0])}
        begins = tuple(word.removesuffix("...") for word in told if word.endswith("..."))
        assert set(promised) <= told, heading
        assert all(word.endswith("...") or word in record for word in told), heading
        assert all(any(key.startswith(begin) for key in record) for begin in begins), heading
    files = {word for row in re.findall(r"^\| `.*?\|", page.read_text(encoding="utf-8"), re.M)
             for word in words(row) if re.search(r"\.\w+$|/$", word)}  # fmt: skip
    assert files, "the table of files"
    leakage = {"views/", "leakage.json", "leakage.safetensors", "membership.json"}
    optional = {*leakage, "protection.json"}  # only if asked for
    for file in files - {".hydra/", *optional}:
        assert (played / file).exists(), file
    [code] = [f.text for f in fences(page) if f.language == "python"]
    exec(compile(code, "run-directory.md", "exec"), {})
    accuracy, joules, unit = capsys.readouterr().out.splitlines()[-1].split()
    assert float(accuracy) == RunDir(played).summary()["accuracy"]
    assert float(joules) > 0
    assert unit == "J"


def test_the_configuration_for_flwr_run(capsys: Any) -> None:
    [text] = [f.text for f in fences(DOCS / "engines.md") if "python -c" in f.text]
    code = re.search(r"python -c '(.*?)'", text, re.S)
    assert code
    exec(compile(code[1], "engines.md", "exec"), {})
    [composed] = tomllib.loads(capsys.readouterr().out).values()
    assert json.loads(composed)["nodes"] == 2
