from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from fedhive.errors import UserError
from fedhive.results import facts
from fedhive.results.comparison import MIXED, compare, gather, table
from fedhive.results.comparison_charts import averaged, curves, front, pareto, tradeoff
from fedhive.results.groups import flat, grouped, interval
from fedhive.results.rundir import RunDir
from tests.fedhive.results.fake import make_run
from tests.fedhive.results.test_charts import undyed


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    number = 0
    for rate, gain in ((0.1, 0.0), (0.3, 0.01)):
        for seed in (1, 2, 3):
            path = tmp_path / "sweep" / f"{number}-lr={rate},seed={seed}"
            make_run(path, rate=rate, seed=seed, gain=gain, rounds=10, count=8, asked=4)
            number += 1
    return tmp_path / "sweep"


def small(path: Path, config: dict[str, object], overrides: str | None = None) -> facts.Facts:
    run = RunDir.create(path)
    run.write_json("config.json", config)
    run.append_round({"round": 1})
    run.write_json("summary.json", {"seed": config.get("seed"), "rounds": 1})
    if overrides is not None:
        (path / ".hydra").mkdir()
        (path / ".hydra" / "overrides.yaml").write_text(overrides)
    return facts.load(path)


def test_seeds_make_a_group(sweep: Path) -> None:
    groups = gather([sweep])
    assert [group.label for group in groups] == ["lr=0.3", "lr=0.1"]
    assert [len(group.runs) for group in groups] == [3, 3]


def test_parts_that_repeat_the_seed_and_paths_do_not_separate(tmp_path: Path) -> None:
    runs = [
        small(
            tmp_path / f"run{seed}",
            {"seed": seed, "data": {"seed": seed}, "out": str(tmp_path / f"run{seed}" / "x")},
        )
        for seed in (1, 2)
    ]
    (group,) = grouped(runs)
    assert group.label == "run1"
    other = small(tmp_path / "run3", {"seed": 1, "data": {"seed": 7}, "out": "elsewhere"})
    assert len(grouped([*runs, other])) == 2


def test_label_names_the_part_that_differs(tmp_path: Path) -> None:
    runs = [
        small(tmp_path / "a", {"strategy": {"_target_": "strategies.hive.Hive", "k": 3}, "n": 1}),
        small(tmp_path / "b", {"strategy": {"_target_": "flwr.serverapp.Krum"}, "n": 1}),
        small(tmp_path / "c", {"strategy": {"_target_": "flwr.serverapp.Krum"}, "n": 2}),
    ]
    labels = [group.label for group in grouped(runs)]
    assert labels == ["strategy=Hive, n=1", "strategy=Krum, n=1", "strategy=Krum, n=2"]


def test_label_is_what_was_typed(tmp_path: Path) -> None:
    base = "- experiment=quickstart\n"
    runs = [
        small(tmp_path / "a", {"seed": 1, "x": {"lr": 1}}, base + "- seed=1\n"),
        small(tmp_path / "b", {"seed": 2, "x": {"lr": 2}}, base + "- seed=2\n- client.lr=2\n"),
    ]
    assert [group.label for group in grouped(runs)] == ["defaults", "client.lr=2"]


def test_same_words_but_other_configuration_are_kept_apart(tmp_path: Path) -> None:
    runs = [
        small(tmp_path / "a", {"x": {"lr": 1}}, "[]"),
        small(tmp_path / "b", {"x": {"lr": 2}}, "[]"),
    ]
    assert [group.label for group in grouped(runs)] == ["lr=1", "lr=2"]


def test_flat() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [1]}}, "e": {}}) == {"a.b": 1, "a.c.d": [1], "e": {}}


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8))
def test_interval_is_students(values: list[float]) -> None:
    mean, half = interval(values)
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    assert half == pytest.approx(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values), abs=1e-9)


def test_interval_of_one() -> None:
    assert interval([3.0]) == (3.0, None)


def test_averaged_by_hand() -> None:
    lines = [[(0.0, 0.0), (2.0, 2.0), (4.0, 4.0)], [(1.0, 3.0), (3.0, 3.0)]]
    found = averaged(lines)
    assert [(x, mean) for x, mean, _ in found] == [(1.0, 2.0), (2.0, 2.5), (3.0, 3.0)]
    assert found[2][2] == pytest.approx(0.0)
    assert averaged([[(1.0, 5.0)]]) == [(1.0, 5.0, None)]
    assert averaged([]) == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=400))
def test_averaged_stays_within_its_curve(ys: list[float]) -> None:
    line = [(float(i), y) for i, y in enumerate(ys)]
    found = averaged([line, line])
    assert len(found) <= 120
    assert all((x, mean) in line or min(ys) <= mean <= max(ys) for x, mean, _ in found)
    assert found[0][0] == 0
    assert found[-1][0] == len(ys) - 1


def test_plotly_accepts_every_figure(sweep: Path) -> None:
    import plotly.graph_objects as go

    groups = gather([sweep])
    figures = [*curves(groups, "accuracy").values(), *curves(groups, "loss").values()]
    figures += tradeoff(groups).values()
    assert len(figures) == 14
    for figure in figures:
        go.Figure(**undyed(figure))


def test_bands_stay_within_what_accuracy_can_be(tmp_path: Path) -> None:
    for seed, accuracy in ((1, 0.1), (2, 0.9)):
        run = RunDir.create(tmp_path / str(seed))
        run.write_json("config.json", {"seed": seed})
        run.append_round({"round": 1, "accuracy": accuracy})
        run.append_round({"round": 2, "accuracy": 0.5})
    band, line = curves(gather([tmp_path]), "accuracy")["Round"]["data"]
    assert line["y"] == [0.5, 0.5]
    assert band["y"] == [1.0, 0.5, 0.5, 0.0]


def reaching(path: Path, price: float, seed: int, time_s: float, grams: float) -> None:
    run = RunDir.create(path)
    run.write_json("config.json", {"seed": seed, "price": price, "target_accuracy": 0.5})
    for number, accuracy in ((1, 0.4), (2, 0.6), (3, 0.7)):
        run.append_round(
            {
                "round": number, "accuracy": accuracy, "time_s": number * time_s / 2.0,
                "carbon_useful_g": grams / 4.0, "carbon_wasted_g": grams / 4.0,
            }
        )  # fmt: skip
    run.write_json("summary.json", {"seed": seed, "rounds": 3, "target_accuracy": 0.5})


def test_the_front_by_hand(tmp_path: Path) -> None:
    import plotly.graph_objects as go

    places = {0.0: (7200.0, 1.0), 0.1: (3600.0, 3.0), 0.2: (7200.0, 4.0)}
    for price, (time_s, grams) in places.items():
        for seed in (1, 2):
            reaching(tmp_path / f"{price}-{seed}", price, seed, time_s, grams * (0.5 + seed / 3))
    figure = front(gather([tmp_path]))
    line, *points = figure["data"]
    found = [(p["x"][0], p["y"][0]) for p in points]  # hours, grams
    assert found == [(2.0, 1.0), (1.0, 3.0), (2.0, 4.0)]
    assert list(zip(line["x"], line["y"], strict=True)) == [(1.0, 3.0), (2.0, 1.0)]
    go.Figure(**undyed(figure))
    text = compare([tmp_path]).read_text()
    assert "Grams and time to the target" in text


def test_mixed_accounts_of_carbon_are_told(tmp_path: Path) -> None:
    for name, carbon in (("a", {"account": "direct"}), ("b", {}), ("c", {})):
        reaching(tmp_path / name, 0.0, 1, 60.0, 1.0)
        (tmp_path / name / "config.json").write_text(json.dumps({"name": name, "carbon": carbon}))
    assert MIXED in compare([tmp_path / "a", tmp_path / "b"]).read_text()
    assert MIXED not in compare([tmp_path / "b", tmp_path / "c"]).read_text()


def test_no_front_without_targets(sweep: Path, tmp_path: Path) -> None:
    reaching(tmp_path / "one", 0.0, 1, 60.0, 1.0)
    assert front(gather([tmp_path / "one"])) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9))
def test_nothing_beats_the_front(points: list[tuple[int, int]]) -> None:
    best = set(pareto([(float(x), float(y)) for x, y in points]))
    for p in points:
        beaten = any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)
        assert ((float(p[0]), float(p[1])) in best) == (not beaten)


def test_page_and_table(sweep: Path) -> None:
    out = compare([sweep])
    assert out == sweep / "comparison.html"
    text = out.read_text()
    assert "6 runs of 2 configurations. The most accurate is lr=0.3" in text
    # A second time, the page itself is not taken for a run; a place of one's own may be given.
    own = sweep.parent / "new" / "mine.html"
    assert compare([sweep], own) == own
    assert own.read_text() == text
    console = Console(file=io.StringIO(), width=140)
    console.print(table([sweep]))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.index("lr=0.3") < shown.index("lr=0.1")
    assert "±" in shown


def test_runs_without_anything_known(tmp_path: Path) -> None:
    for name in ("a", "b"):
        small(tmp_path / name, {"x": name})
    text = compare([tmp_path / "a", tmp_path / "b"]).read_text()
    assert "2 runs of 2 configurations." in text
    table([tmp_path])


def test_partly_reached_targets_say_so(sweep: Path) -> None:
    runs = facts.find_runs([sweep])
    written = RunDir(runs[0])
    written.write_json("summary.json", {**written.summary(), "time_to_target_s": 50.0})
    console = Console(file=io.StringIO(), width=140)
    console.print(table([sweep]))
    assert "50 s (1 of 3)" in console.file.getvalue()  # type: ignore[attr-defined]


def test_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to compare"):
        compare([])
    with pytest.raises(UserError, match="no run in or below"):
        compare([tmp_path])
