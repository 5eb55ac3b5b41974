from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.reconstruction import __main__ as attack_command
from attacks.reconstruction.attacks import ATTACKS, Matching, attack_called
from attacks.reconstruction.guess import Guess
from attacks.reconstruction.offline import attempt, reconstruct
from attacks.reconstruction.scene import Scene
from fedhive.leakage import __main__ as judge_command
from fedhive.leakage import tensorfile
from fedhive.leakage.store import ViewStore
from fedhive.results.report import build_report
from fedhive.world.grid import FIRST_NODE_ID
from tests.conftest import Played

IMAGES = (
    "model=mlp", "model.hidden=[24]", "nodes=240", "rounds=1", "selection.k=2", "observer=server",
    "client.batch_size=64",
)  # fmt: skip
ROOT = Path(__file__).parents[3]

ALONE = """
import sys
allowed, root = sys.argv[1], sys.argv[2]
sys.path.insert(0, root)
from pathlib import Path
import attacks.reconstruction.attacks as zoo
from attacks.reconstruction import match, offline
from fedhive.leakage.store import ViewStore
import dataclasses, scipy.optimize, scipy.ndimage, scipy.sparse.csgraph  # load code first
store = ViewStore(allowed)
offline.Scene.of(store)
import torch
torch.nn.Linear(2, 2)(torch.zeros(1, 2)).sum().backward()
def watch(event, args):
    if event == "open" and isinstance(args[0], str):
        path = str(Path(args[0]).resolve())
        homes = (sys.prefix, sys.base_prefix, root)
        code = path.startswith(homes) and path.endswith((".py", ".pyc"))
        if not code and not path.startswith((allowed, "/proc", "/sys", "/dev")):
            raise PermissionError(f"an attack opened {path}")
    if event in ("socket.connect", "subprocess.Popen", "os.system"):
        raise PermissionError(event)
sys.addaudithook(watch)
quick = dict(adam_steps=4, polish=3)
for name, attack in list(zoo.ATTACKS.items()):
    if isinstance(attack, zoo.Matching):
        recipe = dataclasses.replace(attack.recipe, **quick)
        zoo.ATTACKS[name] = dataclasses.replace(attack, recipe=recipe)
for name in zoo.ATTACKS:
    found = offline.reconstruct(store, name, store.nodes()[:1])
    print(name, {node: str(guess)[:60] for node, guess in found.items()})
bad = ("fedhive.leakage.score", "fedhive.leakage.judge", "fedhive.learning.datasets", "mlxtend")
assert not [m for m in sys.modules if m.startswith(bad)]
print("done")
"""


@pytest.fixture
def recorded(play: Callable[..., Played], tiny: Callable[..., dict[str, Any]]) -> Played:
    """A run on 8 x 8 digits of which the server recorded everything."""
    cfg = tiny(*IMAGES)
    cfg["data"] = {"_target_": "fedhive.learning.datasets.digits"}
    return play(cfg=cfg)


def test_every_attack_runs_with_the_store_alone_in_another_process(
    recorded: Played, tmp_path: Path
) -> None:
    store = tmp_path / "elsewhere"
    shutil.copytree(recorded.directory / "views", store)
    shutil.rmtree(recorded.directory)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(store), str(ROOT)], capture_output=True, text=True,
        cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "done"
    assert all(name in done.stdout for name in ATTACKS)
    kinds = {path.name.split("-")[0] for path in (store / "guesses").iterdir()}
    assert {"rows", "match", "dlg", "inverting_gradients"} <= kinds


def test_nothing_of_the_truth_is_in_the_store(recorded: Played) -> None:
    held = {name for path in (recorded.directory / "views").glob("*.safetensors")
            for name in tensorfile.load(path)[0]}  # fmt: skip
    assert all(name.split(".")[0] in ("sent", "returned") for name in held)
    manifest = json.loads((recorded.directory / "views" / "manifest.json").read_text())
    assert set(manifest["public"]) == {
        "model", "input_shape", "classes", "bounds", "client", "seed",
    }  # fmt: skip
    for record in ViewStore(recorded.directory / "views").exchanges():
        assert set(record.facts) <= {
            "num-examples", "train-loss", "steps", "samples", "local-epochs", "lr-factor",
        }  # fmt: skip


def test_attack_then_judge_then_report(
    recorded: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    run = recorded.directory
    assert attack_command.main([str(run), "rows", "--threat", "C"]) == 0
    assert capsys.readouterr().out.count("samples") == 2
    assert judge_command.main([str(run)]) == 0
    assert capsys.readouterr().out.count("rows") == 2
    rows = json.loads((run / "leakage.json").read_text())
    assert {row["node"] for row in rows} <= {FIRST_NODE_ID + i for i in range(240)}
    assert all(row["psnr_mean"] > 5 for row in rows)
    page = build_report(run).read_text()
    assert "What attacks could reconstruct" in page
    assert page.count("data:image/png;base64,") == 2


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert attack_command.main([str(tmp_path), "rows"]) == 2
    assert "observer=server" in capsys.readouterr().err
    assert judge_command.main([str(tmp_path)]) == 2
    assert "no guesses" in capsys.readouterr().err
    with pytest.raises(ValueError, match="known: rows"):
        attack_called("nothing")


def test_a_view_that_lacks_what_an_attack_needs_says_so(recorded: Played) -> None:
    store = ViewStore(recorded.directory / "views")
    found = reconstruct(store, "adaptive_imprint")
    assert not any(isinstance(guess, Guess) and len(guess) for guess in found.values())
    view, scene = next(iter(store.views().values())), Scene.of(store)
    assert "more than the 2" in str(attempt(Matching(most=2), view, scene, 0))
    blind = view.restrict(knows=view.knows.without("examples"))
    assert "number of examples is unknown" in str(attempt(Matching(), blind, scene, 0))


def test_guesses_are_the_same_twice(recorded: Played) -> None:
    store = ViewStore(recorded.directory / "views")
    one, two = (reconstruct(store, "rows") for _ in range(2))
    for node, guess in one.items():
        again = two[node]
        assert isinstance(guess, Guess)
        assert isinstance(again, Guess)
        np.testing.assert_array_equal(guess.samples, again.samples)
