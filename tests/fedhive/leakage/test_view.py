from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhive.leakage.threats import THREATS, as_seen_by
from fedhive.leakage.view import Channel, Exchange, Gain, Knowledge, View, together

LAYOUT = [("a.weight", (3, 2)), ("a.bias", (3,))]
P = 9


def exchange(number: int, seed: int = 0) -> Exchange:
    rng = np.random.default_rng([number, seed])
    sent = np.random.default_rng(number).normal(size=P).astype(np.float32)
    return Exchange(number, sent, rng.normal(size=P).astype(np.float32))


def a_view(seed: int = 0, node: int = 4, **changes: object) -> View:
    knows = Knowledge((1, 2), 2, 0.5, 2, 1, may_edit_model=True, public_data=True)
    view = View(
        "server", (node,), (1.0,), (exchange(1, seed), exchange(3, seed)),
        np.ones(P, np.bool_), LAYOUT, Channel(), knows,
    )  # fmt: skip
    return replace(view, **changes)  # type: ignore[arg-type]


def test_pseudo_gradient_divides_by_rate_and_steps() -> None:
    view = a_view()
    np.testing.assert_array_equal(view.gradient(1), -view.exchanges[0].seen)
    blind = view.restrict(knows=view.knows.without("lr"))
    np.testing.assert_array_equal(blind.gradient(), -view.exchanges[1].seen / 2)
    with pytest.raises(KeyError):
        view.gradient(2)


def test_hiding_zeroes_and_cannot_be_undone() -> None:
    visible = np.arange(P) % 2 == 0
    view = a_view().restrict(visible=visible)
    assert not view.exchanges[0].seen[~visible].any()
    assert view.hidden_share == pytest.approx(4 / 9)
    with pytest.raises(Gain):
        view.restrict(visible=np.ones(P, np.bool_))


def test_a_view_that_lies_about_its_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden coordinate"):
        a_view(visible=np.zeros(P, np.bool_))
    with pytest.raises(ValueError, match="bool"):
        a_view(visible=np.ones(P + 1, np.bool_))
    with pytest.raises(ValueError, match="ascending"):
        a_view(exchanges=(exchange(3), exchange(1)))
    with pytest.raises(ValueError, match="weight"):
        a_view(weights=())


@pytest.mark.parametrize(
    "more",
    [
        {"knows": Knowledge((1, 2), 2, 0.25, 2, 1)},
        {"rounds": [2]},
        {"channel": Channel(sigma=0.05)},
        {"channel": Channel(sigma=0.2, clip=5.0)},
        {"channel": Channel(clip=1.0, sigma=0.2, step=0.15)},
    ],
)
def test_gains_are_refused(more: dict[str, object]) -> None:
    rng = np.random.default_rng(0)
    view = a_view().restrict(channel=Channel(clip=1.0, sigma=0.1, step=0.1), rng=rng)
    with pytest.raises(Gain):
        view.restrict(**more, rng=rng)  # type: ignore[arg-type]


def test_examples_follow_from_labels() -> None:
    view = a_view().restrict(knows=Knowledge(labels=(1, 2)))
    assert view.restrict(knows=Knowledge(examples=2)).knows.examples == 2
    with pytest.raises(Gain):
        view.restrict(knows=Knowledge(examples=3))


def test_noise_adds_up_in_variance() -> None:
    size = 40_000
    zeros = np.zeros(size, np.float32)
    view = View(
        "server", (0,), (1.0,), (Exchange(1, zeros, zeros),), np.ones(size, np.bool_),
        [("w", (size,))],
    )  # fmt: skip
    rng = np.random.default_rng(5)
    once = view.restrict(channel=Channel(sigma=0.3), rng=rng)
    twice = once.restrict(channel=Channel(sigma=0.5), rng=rng)
    assert twice.exchanges[0].seen.std() == pytest.approx(0.5, rel=0.02)
    assert np.corrcoef(once.exchanges[0].seen, twice.exchanges[0].seen)[0, 1] == pytest.approx(
        0.6, abs=0.02
    )


def test_clip_and_step_act_on_the_numbers() -> None:
    view = a_view()
    clipped = view.restrict(channel=Channel(clip=0.5))
    assert np.linalg.norm(clipped.exchanges[0].seen) == pytest.approx(0.5, rel=1e-6)
    binned = view.restrict(channel=Channel(step=0.25))
    assert np.all(binned.exchanges[0].seen / 0.25 == np.rint(binned.exchanges[0].seen / 0.25))
    assert Channel(step=0.3, sigma=0.1).variance == pytest.approx(0.01 + 0.09 / 12)


def test_an_unknown_scale_is_gone() -> None:
    blind = a_view().restrict(channel=Channel(scale_known=False))
    assert np.linalg.norm(blind.exchanges[0].seen) == pytest.approx(1.0, rel=1e-6)
    with pytest.raises(Gain):
        blind.restrict(channel=Channel())
    with pytest.raises(ValueError, match="noise gives it away"):
        a_view().restrict(
            channel=Channel(sigma=1.0, scale_known=False), rng=np.random.default_rng()
        )


@pytest.mark.parametrize("bad", [{"clip": 0.0}, {"sigma": -1.0}, {"step": float("nan")}])
def test_impossible_channels_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="clip must be positive"):
        Channel(**bad)  # type: ignore[arg-type]


def test_a_sum_is_the_sum_and_knows_what_all_know() -> None:
    half = np.arange(P) < 5
    one = a_view(1, 4).restrict(visible=half)
    two = a_view(2, 7)
    both = together([one, two], [0.25, 0.75])
    assert both.subjects == (4, 7)
    wanted = 0.25 * one.exchanges[1].seen + 0.75 * two.exchanges[1].seen
    np.testing.assert_allclose(both.exchanges[1].seen[half], wanted[half], rtol=1e-6)
    assert not both.visible[~half].any()
    assert both.knows.labels == (1, 2, 1, 2)
    assert both.knows.examples == 4
    ignorant = together([one, two.restrict(knows=Knowledge(lr=0.5))])
    assert ignorant.knows == Knowledge(lr=0.5)


def test_a_sum_needs_views_that_fit() -> None:
    view = a_view()
    other = a_view(exchanges=(replace(exchange(1), sent=np.zeros(P, np.float32)), exchange(3)))
    with pytest.raises(ValueError, match="different models"):
        together([view, other])
    with pytest.raises(ValueError, match="alike"):
        together([view, view.restrict(rounds=[1])])
    with pytest.raises(ValueError, match="weight"):
        together([view, view], [1.0])


def test_noise_of_a_sum() -> None:
    views = [a_view(i, i).come_through(Channel(sigma=0.2)) for i in range(4)]
    assert together(views).channel.sigma == pytest.approx(0.1)


@pytest.mark.parametrize("name", list(THREATS))
def test_threat_models_only_take_away(name: str) -> None:
    role = sorted(THREATS[name].roles)[0]
    view = a_view(role=role)
    left = as_seen_by(view, name)
    assert left.knows.within(view.knows)
    assert (left.knows.labels is None) == ("labels" not in THREATS[name].keeps)
    assert as_seen_by(left, name).knows == left.knows


def test_threat_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="known: A"):
        as_seen_by(a_view(), "Z")
    with pytest.raises(ValueError, match="does not sit"):
        as_seen_by(a_view(role="client"), "F")


def bayes_error(view: View, jacobian: np.ndarray, prior: float = 1.0) -> float:
    """Exact mean squared error of the best estimator of x from J x + sigma n, visible rows."""
    rows = jacobian[view.visible]
    variance = max(view.channel.sigma**2, 1e-12)
    precision = rows.T @ rows / variance + np.eye(jacobian.shape[1]) / prior**2
    return float(np.trace(np.linalg.inv(precision)))


masks = st.lists(st.booleans(), min_size=P, max_size=P).map(lambda bits: np.array(bits, np.bool_))


@given(masks, masks, st.floats(0, 2, width=32), st.floats(0, 2, width=32))
@settings(max_examples=60, deadline=None)
def test_restricting_never_helps_the_best_estimator(
    first: np.ndarray, second: np.ndarray, sigma: float, more: float
) -> None:
    rng = np.random.default_rng(0)
    jacobian = rng.normal(size=(P, 4))
    views = [a_view()]
    views.append(views[-1].restrict(visible=first, channel=Channel(sigma=sigma), rng=rng))
    views.append(
        views[-1].restrict(visible=first & second, channel=Channel(sigma=sigma + more), rng=rng)
    )
    errors = [bayes_error(view, jacobian) for view in views]
    assert errors[0] <= errors[1] * (1 + 1e-9)
    assert errors[1] <= errors[2] * (1 + 1e-9)


@given(st.integers(0, 2**10 - 1), st.integers(0, 2**10 - 1), st.data())
@settings(max_examples=60, deadline=None)
def test_restriction_is_refused_exactly_when_something_is_gained(
    before: int, after: int, data: st.DataObject
) -> None:
    mask = np.array([before >> i & 1 for i in range(P)], np.bool_)
    wish = np.array([after >> i & 1 for i in range(P)], np.bool_)
    step = data.draw(st.sampled_from([0.0, 0.25, 0.5]))
    finer = data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.75]))
    view = a_view().restrict(visible=mask, channel=Channel(step=step))
    gains = bool(np.any(wish & ~mask)) or not Channel(step=finer).within(Channel(step=step))
    if gains:
        with pytest.raises(Gain):
            view.restrict(visible=wish, channel=Channel(step=finer))
    else:
        assert not view.restrict(visible=wish, channel=Channel(step=finer)).visible[~wish].any()
