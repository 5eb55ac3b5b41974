from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhive import config, server
from fedhive.errors import UserError
from fedhive.flower import Layout
from fedhive.launch import resume
from fedhive.leakage.recorded import Knower, Recorded
from fedhive.leakage.store import Public, ViewStore
from fedhive.leakage.view import Channel, Vector, View
from fedhive.learning.workbench import workbench
from fedhive.world.grid import FIRST_NODE_ID
from tests.conftest import Played

LISTEN = "observer=server"
SEEN: dict[int, dict[int, View]] = {}


class Diary:
    """An onlooker that keeps what it was shown."""

    def look(self, number: int, views: Mapping[int, View], layout: Layout, public: Public) -> None:
        SEEN[number] = dict(views)


class Doubler:
    """Sends one machine twice the model."""

    def edit(self, honest: Vector, layout: Layout, node: int, number: int) -> Vector | None:
        return honest * 2 if node == FIRST_NODE_ID + 1 else None


class Honest:
    """A tamper that never does."""

    def edit(self, honest: Vector, layout: Layout, node: int, number: int) -> Vector | None:
        return None


class Pupil:
    """A tamper that notes what it is told; machine 0 gets a model that depends on it."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []
        self.bounds: tuple[float, float] | None = None

    def meet(self, public: Public) -> None:
        self.bounds = public.bounds

    def learn(self, records: list[Recorded], knower: Knower) -> None:
        self.heard += [(record.round, record.node) for record in records]

    def edit(self, honest: Vector, layout: Layout, node: int, number: int) -> Vector | None:
        assert self.bounds is not None
        assert {one[0] for one in self.heard} == set(range(1, number))
        return honest * np.float32(1 + len(self.heard)) if node == FIRST_NODE_ID else None


def store_of(run: Played) -> ViewStore:
    return ViewStore(run.directory / "views")


@pytest.mark.parametrize(
    "strategy",
    [
        [],
        ["strategy=flower_fedavg"],
        ["trigger=first_k", "trigger.k=2", "fleet.rate_sigma=1.5"],
        ["engine.cohort=true"],
    ],
)
def test_listening_changes_no_bit(play: Callable[..., Played], strategy: list[str]) -> None:
    quiet, heard = play(*strategy), play(*strategy, LISTEN)
    assert heard.summary["model_sha256"] == quiet.summary["model_sha256"]
    recorded = list(store_of(heard).exchanges())
    accepted = sum(event["status"] == "accepted" for event in heard.events)
    assert len(recorded) >= accepted > 0


def test_what_is_recorded_is_what_the_clients_sent(play: Callable[..., Played]) -> None:
    run = play(LISTEN)
    bench = workbench(config.dumps(run.run.config()))
    model = bench.initial
    records = [r for r in store_of(run).exchanges() if r.round == 1]
    assert [r.node for r in records] == [FIRST_NODE_ID + i for i in range(4)]
    for i, record in enumerate(records):
        np.testing.assert_array_equal(record.sent, model.numpy())
        job = bench.job(i, {"server-round": 1, "local-epochs": 1.0}, None)
        [result] = bench.train(model, [job], cohort=False)
        np.testing.assert_array_equal(record.returned, result.params.numpy())
        assert record.facts["num-examples"] == len(job.y)
        assert record.facts["steps"] == result.steps
    view = store_of(run).view(FIRST_NODE_ID, [1])
    assert view.knows.lr == run.run.config()["client"]["lr"]
    assert view.knows.examples == 24
    assert view.knows.labels is None
    assert view.visible.all()
    assert store_of(run).public.input_shape == (5,)
    assert store_of(run).public.classes == 3


def test_offline_and_online_see_the_same_bits(
    play: Callable[..., Played], tiny: Callable[..., dict[str, Any]]
) -> None:
    SEEN.clear()
    cfg = tiny(LISTEN)
    cfg["observer"]["onlookers"] = [{"_target_": f"{__name__}.Diary"}]
    run = play(cfg=cfg)
    assert sorted(SEEN) == [1, 2, 3]
    store = store_of(run)
    for number, views in SEEN.items():
        later = store.views([number])
        assert sorted(views) == sorted(later)
        for node, view in views.items():
            assert later[node].knows == view.knows
            assert later[node].exchanges[0].seen.tobytes() == view.exchanges[0].seen.tobytes()
            assert later[node].exchanges[0].sent.tobytes() == view.exchanges[0].sent.tobytes()


def test_only_some_are_watched_now_and_then(play: Callable[..., Played]) -> None:
    run = play(LISTEN, "observer.nodes=[1,3]", "observer.every=2")
    assert store_of(run).nodes() == [FIRST_NODE_ID + 1, FIRST_NODE_ID + 3]
    assert {r.round for r in store_of(run).exchanges()} == {2}
    with pytest.raises(UserError, match="nothing was recorded"):
        store_of(run).view(FIRST_NODE_ID)


def test_an_edit_is_seen_by_its_victim_alone_and_is_mended(
    play: Callable[..., Played], tiny: Callable[..., dict[str, Any]]
) -> None:
    cfg = tiny(LISTEN, "rounds=1")
    cfg["observer"]["tamper"] = {"_target_": f"{__name__}.Doubler"}
    run = play(cfg=cfg)
    records = {r.node - FIRST_NODE_ID: r for r in store_of(run).exchanges()}
    np.testing.assert_array_equal(records[1].sent, 2 * records[0].sent)
    assert records[1].facts["distance"] == pytest.approx(1.0)
    assert records[1].facts["largest_growth"] == pytest.approx(2.0)
    assert "distance" not in records[0].facts
    assert store_of(run).view(FIRST_NODE_ID).knows.may_edit_model
    updates = [records[i].exchange().seen for i in range(4)]
    mean = records[0].sent + np.mean(updates, axis=0, dtype=np.float64)
    with np.load(run.directory / "model.npz") as archive:
        final = np.concatenate([archive[name].reshape(-1) for name in archive.files])
    np.testing.assert_allclose(final, mean, atol=1e-6)


def test_a_tamper_that_does_nothing_changes_no_bit(
    play: Callable[..., Played], tiny: Callable[..., dict[str, Any]]
) -> None:
    cfg = tiny(LISTEN)
    cfg["observer"]["tamper"] = {"_target_": f"{__name__}.Honest"}
    assert play(cfg=cfg).summary["model_sha256"] == play().summary["model_sha256"]


def test_a_resumed_run_leaves_the_same_records(
    play: Callable[..., Played], tiny: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    whole = play(LISTEN)
    save, calls = server.Session._checkpoint, []

    def stop(session: server.Session, number: int) -> None:
        save(session, number)
        calls.append(number)
        if number == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(server.Session, "_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        play(LISTEN)
    monkeypatch.setattr(server.Session, "_checkpoint", save)
    broken = whole.directory.with_name("run-1")
    late = broken / "views" / "round-000003.safetensors"  # as if killed after playing round 3
    late.write_bytes(b"half")
    manifest = json.loads((broken / "views" / "manifest.json").read_text())
    manifest["rounds"].append({"round": 3, "file": late.name, "bytes": 4, "exchanges": 1})
    (broken / "views" / "manifest.json").write_text(json.dumps(manifest))
    resume(broken)
    files = sorted(path.name for path in (whole.directory / "views").iterdir())
    assert files == sorted(path.name for path in (broken / "views").iterdir())
    for name in files:
        assert (broken / "views" / name).read_bytes() == (
            whole.directory / "views" / name
        ).read_bytes()


def test_a_folder_of_another_model_is_not_mixed(play: Callable[..., Played]) -> None:
    store = store_of(play(LISTEN))
    with pytest.raises(UserError, match="another model"):
        store.create([("w", (3,))], Public(), {})


def test_damage_is_named(play: Callable[..., Played], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="observer=server"):
        ViewStore(tmp_path).view(0)
    run = play(LISTEN, "rounds=1")
    (run.directory / "views" / "round-000001.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(UserError, match=r"round-000001.safetensors is damaged"):
        list(store_of(run).exchanges())


def test_a_tamper_that_learns_is_reminded_after_a_break(
    play: Callable[..., Played], tiny: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    cfg = tiny(LISTEN)
    cfg["observer"]["tamper"] = {"_target_": f"{__name__}.Pupil"}
    whole = play(cfg=cfg)
    save = server.Session._checkpoint

    def stop(session: server.Session, number: int) -> None:
        save(session, number)
        if number == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(server.Session, "_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        play(cfg=cfg)
    monkeypatch.setattr(server.Session, "_checkpoint", save)
    broken = whole.directory.with_name("run-1")
    resume(broken)
    last = "views/round-000003.safetensors"
    assert (broken / last).read_bytes() == (whole.directory / last).read_bytes()


def test_a_protection_hides_and_what_is_bare_all_the_same_is_counted(
    play: Callable[..., Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blindfold:
        def view(self, view: View) -> View:
            visible = view.visible.copy()
            visible[:7] = False
            return view.restrict(visible=visible).come_through(Channel(sigma=0.25))

    from fedhive.leakage import observer

    made = observer.Observer.__init__

    def veiled(self: Any, grid: Any, plan: Any, store: Any, layout: Any, public: Any,
               veil: Any = None, first: int = 0) -> None:  # fmt: skip
        made(self, grid, plan, store, layout, public, Blindfold(), first)

    monkeypatch.setattr(observer.Observer, "__init__", veiled)
    run = play(LISTEN, "rounds=1")
    view = store_of(run).view(FIRST_NODE_ID)
    assert not view.visible[:7].any()
    assert view.visible[7:].all()
    assert view.channel.sigma == 0.25
    assert not view.exchanges[0].seen[:7].any()
    [record] = store_of(run).exchanges([FIRST_NODE_ID])
    assert record.facts["bare"] == 7
