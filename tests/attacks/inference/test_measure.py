from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import attacks.inference.measure
import conf
from attacks.inference import __main__ as command
from attacks.inference import worker
from attacks.inference.measure import measure, save
from attacks.inference.series import Shadow
from fedhive import config
from fedhive.compose import compose
from fedhive.errors import UserError
from fedhive.launch import launch
from fedhive.leakage import question
from fedhive.results.report import build_report
from fedhive.results.rundir import RunDir
from tests.attacks.inference.federation import federate, network, noise_records

PACKAGE = Path(attacks.inference.__file__).parent
CHOICES = sorted((Path(conf.__file__).parent / "inference").glob("*.yaml"))
WORLD = (
    "data=synthetic", "data.n=300", "nodes=4", "partition=iid", "rounds=2", "selection=all",
    "model=mlp", "model.hidden=[16]", "local_work=steps", "local_work.steps=20", "client.lr=0.3",
    "progress=false", "observer=server",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    launch(compose(WORLD), folder)
    return folder


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_every_choice_can_be_made(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ")
    data = noise_records(4, 0)
    [view] = federate(network(), [data], rounds=1)
    known = [Shadow(view, data, np.arange(4) < 2)]
    assert callable(config.build(yaml.safe_load(text), "inference", data=data, known=known))


def test_attack_code_imports_nothing_that_holds_the_truth() -> None:
    holders = ("fedhive.leakage.question", "fedhive.leakage.score", "fedhive.results")
    scorers = {"measure.py", "canary_audit.py", "__main__.py"}
    for file in PACKAGE.glob("*.py"):
        names = {
            alias.name if isinstance(node, ast.Import) else f"{node.module}"
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        reached = [name for name in names if name.startswith(holders)]
        assert bool(reached) == (file.name in scorers), (file, reached)


def test_the_adversarys_process_needs_the_views_and_its_job_alone(
    run: Path, tmp_path: Path
) -> None:
    views = shutil.copytree(run / "views", tmp_path / "elsewhere")
    asked = question.ask(RunDir(run), [1000], 1001, 30, 0)
    data = {"candidates": asked.candidates, "public": asked.public, "colluder": asked.colluder}
    job = tmp_path / "job"
    job.mkdir()
    for name, (x, y) in data.items():
        np.savez(job / f"{name}.npz", x=x, y=y)
    nodes = {path.stem: yaml.safe_load(path.read_text()) for path in CHOICES}
    nodes["lira"]["shadows"] = 2
    plan = {"attacks": nodes, "subject": 1000, "colluder": 1001}
    (job / "job.json").write_text(json.dumps(plan))
    worker.work(views, job)
    with np.load(job / "scores.npz") as scores:
        assert set(scores.files) == set(nodes)
        assert all(scores[name].shape == asked.member.shape for name in nodes)
    (job / "job.json").write_text(json.dumps({**plan, "subject": 7}))
    with pytest.raises(UserError, match="node 7"):
        worker.work(views, job)


def test_a_question_keeps_its_answer_apart(run: Path) -> None:
    asked = question.ask(RunDir(run), [1000], 1001, 30, 0)
    again = question.ask(RunDir(run), [1000], 1001, 30, 0)
    np.testing.assert_array_equal(asked.candidates[0], again.candidates[0])
    assert asked.member.sum() + 30 == len(asked.member)
    assert not asked.member[:30].all()  # shuffled
    rows = [set(map(bytes, x)) for x in (asked.candidates[0], asked.public[0], asked.colluder[0])]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    with pytest.raises(UserError, match="others"):
        question.ask(RunDir(run), [1000], 1001, 10_000, 0)
    with pytest.raises(UserError, match="simulated machines"):
        question.ask(RunDir(run), [1004], 1001, 30, 0)


def test_measured_in_a_process_of_its_own(run: Path) -> None:
    node = {"_target_": "attacks.inference.membership.LossDrop"}
    rows = measure(run, {"drop": node}, [0], others=40)
    assert [(row["attack"], row["subject"], row["others"]) for row in rows] == [("drop", 0, 40)]
    assert rows[0]["auc"] > 0.5
    assert rows[0]["tpr_0.001"] is None
    path = save(run, rows)
    save(run, [{**rows[0], "subject": 1}])
    save(run, [{**rows[0], "auc": 0.25}])
    found = json.loads(path.read_text())
    assert [(row["subject"], row["auc"]) for row in found] == [(1, rows[0]["auc"]), (0, 0.25)]
    page = build_report(run).read_text()
    assert "Who was in the training data" in page
    mean = (rows[0]["auc"] + 0.25) / 2
    assert f"{mean:.3f} (" in page
    assert "too few others" in page


def test_a_client_asks_about_all_others(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = question.shares_of(RunDir(run))
    assert list(shares) == [1000, 1001, 1002, 1003]
    assert sum(shares.values()) == pytest.approx(1)
    seen = {}

    def look(views: Path, jobs: list[Path]) -> None:
        [job] = jobs
        worker.work(views, job)
        seen.update(np.load(job / "candidates.npz"))

    monkeypatch.setattr(attacks.inference.measure, "_work", look)
    node = {"_target_": "attacks.inference.membership.LossDrop"}
    [row] = measure(run, {"drop": node}, [0], others=40, role="client")
    assert (row["attack"], row["members"], row["others"]) == ("drop, client", 40, 40)
    mine = question.ask(RunDir(run), [1000], 1001, 40, 0)
    own = set(map(bytes, mine.candidates[0][mine.member]))
    assert not own & set(map(bytes, seen["x"]))


def test_an_attack_that_needs_more_than_is_known_says_so(run: Path) -> None:
    node = {"_target_": "attacks.inference.lira.Lira"}
    spare = len(question.ask(RunDir(run), [1000], 1001, 40, 0).public[1])
    with pytest.raises(UserError, match=r"inference=lira: .* 1 are at hand"):
        measure(run, {"lira": node}, [0], others=40 + spare - 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "usage"),
        (["nowhere"], "not a directory"),
        (["RUN", "inference=psychic"], "no such choice"),
        (["RUN", "inference=lira", "inference.shadow=3"], "inference.shadow"),
        (["RUN", "inference=loss", "subjects=9"], "nodes were recorded"),
        (["RUN", "inference=loss", "subjects=x"], "whole number"),
        (["RUN", "color=red"], "no such key"),
        (["RUN", "role=spy"], "server or client"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(run) if word == "RUN" else word for word in words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
