from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedhive.leakage.store import ViewStore
from fedhive.leakage.tamper import Ball, detectability
from fedhive.leakage.view import Vector
from tests.conftest import Played

LAYOUT = [("a.weight", (3, 2)), ("a.bias", (3,))]


def test_an_honest_model_shows_nothing() -> None:
    model = np.arange(9, dtype=np.float32)
    facts = detectability(model, model, LAYOUT)
    assert facts == {
        "distance": 0.0, "changed": 0.0, "largest": 8.0, "largest_growth": 1.0, "twin_rows": 0.0,
        "norm_growth": 1.0,
    }  # fmt: skip


def test_equal_rows_and_large_biases_show() -> None:
    model = np.arange(1, 10, dtype=np.float32)
    edited = model.copy()
    edited[2:6] = edited[[0, 1, 0, 1]]
    edited[8] = 900
    facts = detectability(model, edited, LAYOUT)
    assert facts["twin_rows"] == 1.0
    assert facts["largest_growth"] == 100.0
    assert facts["changed"] == pytest.approx(5 / 9)


vectors = arrays(np.float32, 6, elements=st.floats(-1e6, 1e6, width=32))


@given(vectors, vectors, st.floats(0, 10), st.sampled_from(["l2", "linf"]),
       st.sampled_from(["update", "absolute"]))  # fmt: skip
def test_projections_lie_in_the_ball_and_keep_what_does(
    moved: Vector, honest: Vector, radius: float, norm: Any, unit: Any
) -> None:
    ball = Ball(radius, norm, unit)
    inside = ball.project(moved, honest)
    assert ball.contains(inside, honest)
    if ball.contains(moved, honest):
        np.testing.assert_allclose(inside, moved, rtol=2e-6, atol=1e-6)
    else:
        reach = ball.reach(honest)
        assert ball.length(inside - honest) >= 0.999 * reach - 0.1 * np.abs(honest).max(initial=0)


def test_impossible_balls_are_refused() -> None:
    with pytest.raises(ValueError, match="radius"):
        Ball(-1.0)
    with pytest.raises(ValueError, match="radius"):
        Ball(float("nan"))


def far(sent: Vector, honest: Vector) -> Vector:
    """A wish far outside of any ball."""
    return honest + np.float32(100.0)


def make_far() -> Callable[[Vector, Vector], Vector]:
    return far


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_client_cannot_leave_its_ball(
    play: Callable[..., Played], tiny: Callable[..., dict[str, Any]], norm: str
) -> None:
    cfg = tiny("observer=server", "rounds=1", "attack=sign_flip", "attack.count=1")
    cfg["attack"]["place"] = "last"
    cfg["attack"]["behaviour"] = {
        "_target_": "fedhive.leakage.tamper.ClientTamper",
        "move": {"_target_": f"{__name__}.make_far"},
        "ball": {"_target_": "fedhive.leakage.tamper.Ball", "radius": 0.5, "norm": norm},
    }
    cfg["containment"]["metrics"] = ["moved"]
    moved = {
        r.node: r.exchange().seen for r in ViewStore(play(cfg=cfg).directory / "views").exchanges()
    }
    plain = play("observer=server", "rounds=1")
    honest = {r.node: r.exchange().seen for r in ViewStore(plain.directory / "views").exchanges()}
    liar = max(honest)
    ball = Ball(0.5, norm)  # type: ignore[arg-type]
    for node in honest:
        if node != liar:
            np.testing.assert_array_equal(moved[node], honest[node])
    step = ball.length(moved[liar] - honest[liar])
    assert 0.999 * ball.reach(honest[liar]) < step < 1.0001 * ball.reach(honest[liar])
