"""What holds for every rule: symmetry, purity, and calm under anything that f clients send."""

from __future__ import annotations

import functools
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses import aggregation, gram
from defenses.preaggregation import adaptive_clip, bucketing, clip, nearest_neighbor_mixing
from defenses.robust import aggregate

A = aggregation
FLTRUST = functools.partial(A.fltrust, trusted=torch.linspace(-1.0, 2.0, 23))
GEOMETRIC = functools.partial(A.geometric_median, iterations=2000, tolerance=1e-13)
QUIET_FLAME = functools.partial(A.flame, noise=0.0)
RULES = {
    "mean": A.mean, "coordinate_median": A.coordinate_median, "trimmed_mean": A.trimmed_mean,
    "meamed": A.meamed, "krum": A.krum, "multi_krum": A.multi_krum,
    "geometric_median": A.geometric_median, "centered_clipping": A.centered_clipping,
    "minimum_diameter_averaging": A.minimum_diameter_averaging, "caf": A.caf, "smea": A.smea,
    "bulyan": A.bulyan, "divide_and_conquer": A.divide_and_conquer, "fltrust": FLTRUST,
    "robust_learning_rate": A.robust_learning_rate, "flame": A.flame, "sign_guard": A.sign_guard,
}  # fmt: skip
SELECTING = {"krum", "multi_krum", "minimum_diameter_averaging", "caf", "smea", "bulyan",
             "divide_and_conquer"}  # fmt: skip
EQUIVARIANT = {**{name: RULES[name] for name in sorted(SELECTING)}, "geometric_median": GEOMETRIC,
               "mean": A.mean, "coordinate_median": A.coordinate_median,
               "trimmed_mean": A.trimmed_mean, "meamed": A.meamed}  # fmt: skip
N, F, D = 11, 2, 23

seeds = st.integers(0, 2**32 - 1)


def draw(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((N, D)))


def test_every_rule_is_here():
    assert set(RULES) == {name for name in A.__all__ if not name.endswith("Error")}


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_the_order_of_clients_does_not_matter(name: str, seed: int):
    """But for ties: MDA's, if not just the far rows can be left out; Bulyan's, for small f."""
    n, f = (15, 3) if name == "bulyan" else (N, F)
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((n, D)))
    x[:f] += 50.0 if name == "minimum_diameter_averaging" else 3.0
    order = torch.from_numpy(rng.permutation(n))
    rule = QUIET_FLAME if name == "flame" else RULES[name]
    torch.testing.assert_close(rule(x[order], f=f), rule(x, f=f), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", EQUIVARIANT)
@settings(max_examples=10, deadline=None)
@given(seed=seeds, size=st.sampled_from([1.0, 100.0]))
def test_moving_everybody_moves_the_result(name: str, seed: int, size: float):
    x, rule = draw(seed), EQUIVARIANT[name]
    shift = size * draw(seed + 1)[0]
    atol = 1e-3 if name == "geometric_median" else 1e-8
    torch.testing.assert_close(rule(x + shift, f=F), rule(x, f=F) + shift, atol=atol, rtol=1e-6)
    torch.testing.assert_close(rule(2.0 * x, f=F), 2.0 * rule(x, f=F), atol=atol, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(set(RULES) - {"fltrust", "flame", "centered_clipping"}))
@settings(max_examples=10, deadline=None)
@given(seed=seeds, f=st.integers(0, F))
def test_equal_rows_are_the_result(name: str, seed: int, f: int):
    row = draw(seed)[0]
    found = RULES[name](row.repeat(N, 1), f=f)
    torch.testing.assert_close(found, row, atol=2e-6, rtol=1e-6)


MEANS = {"trimmed_mean", "meamed", "multi_krum", "minimum_diameter_averaging", "caf", "smea",
         "bulyan", "divide_and_conquer", "centered_clipping", "mean"}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MEANS))
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_without_faults_they_are_the_mean(name: str, seed: int):
    x = draw(seed)
    torch.testing.assert_close(RULES[name](x, f=0), x.mean(dim=0))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_input_is_untouched_and_the_result_its_own(name: str, dtype: torch.dtype):
    x = draw(3).to(dtype)
    before = x.clone()
    found = RULES[name](x, f=F)
    again = RULES[name]([row.clone() for row in x], f=F)
    assert found.dtype == dtype
    assert torch.equal(x, before)
    torch.testing.assert_close(again, found, atol=1e-6, rtol=1e-5)
    found += 1.0
    assert torch.equal(x, before)
    strided = torch.empty(D, N, dtype=dtype).T
    strided.copy_(x)
    torch.testing.assert_close(RULES[name](strided, f=F), found - 1.0, atol=1e-6, rtol=1e-5)


BAD = {
    "nan": lambda x: x.fill_(float("nan")),
    "one nan": lambda x: x[0].index_fill_(0, torch.tensor([5]), float("nan")),
    "inf": lambda x: x.fill_(float("inf")),
    "mixed inf": lambda x: x.copy_(float("inf") * torch.sign(draw(9)[: len(x)].float())),
    "one inf": lambda x: x[0].index_fill_(0, torch.tensor([5]), -float("inf")),
    "1e30": lambda x: x.fill_(1e30),
    "mixed 1e30": lambda x: x.copy_(1e30 * draw(9)[: len(x)].float()),
    "3e38": lambda x: x.copy_(3e38 * torch.sign(draw(9)[: len(x)].float())),
    "zero": lambda x: x.zero_(),
    "tiny": lambda x: x.fill_(1e-42),
    "clones": lambda x: x.copy_(5.0 * draw(9)[:1].float()),
    "nan and inf": lambda x: (x[0].fill_(float("nan")), x[1].fill_(float("inf"))),
    "nan and 1e30": lambda x: (x[0].fill_(float("nan")), x[1].fill_(1e30)),
}
PIPELINES = {
    "none": [],
    "mixing": [nearest_neighbor_mixing],
    "clip, mixing": [functools.partial(clip, norm=2.0), nearest_neighbor_mixing],
    "arc, mixing": [adaptive_clip, nearest_neighbor_mixing],
    "buckets": [functools.partial(bucketing, s=2)],
}
BOUNDED = set(RULES) - {"mean", "robust_learning_rate", "centered_clipping"}


@pytest.mark.parametrize("pre", PIPELINES)
@pytest.mark.parametrize("name", RULES)
def test_calm_under_whatever_two_clients_send(monkeypatch, name: str, pre: str):
    monkeypatch.setattr(gram, "SMALL", 0 if pre in ("none", "clip, mixing") else gram.SMALL)
    if name == "bulyan" and pre == "buckets":
        pytest.skip("six buckets are too few for Bulyan")
    if name in ("krum", "multi_krum") and pre == "buckets":
        pytest.skip("six buckets are too few for Krum")
    honest = draw(8).float()
    honest_norm = float(honest.norm(dim=1).max())
    began = time.process_time()
    for kind, spoil in BAD.items():
        for place in (0, N - F):
            x = honest.clone()
            spoil(x[place : place + F])
            before = x.clone()
            found = aggregate(x, f=F, rule=RULES[name], pre=PIPELINES[pre])
            assert bool(torch.isfinite(found).all()), (kind, place)
            torch.testing.assert_close(x, before, equal_nan=True, rtol=0, atol=0)
            if name in BOUNDED and (name != "fltrust"):
                assert float(found.norm()) <= 2.0 * honest_norm, (kind, place)
    assert time.process_time() - began < 10.0


@pytest.mark.parametrize("name", sorted(SELECTING - {"bulyan"}))
@pytest.mark.parametrize("size", [1e8, 1e30])
def test_far_rows_are_never_selected(name: str, size: float):
    x = draw(4).float()
    x[:F] = size * draw(5)[:F].float()
    found = RULES[name](x, f=F)
    if name in ("caf", "krum"):
        assert float(found.norm()) < 2.0 * float(x[F:].norm(dim=1).max())
    else:
        torch.testing.assert_close(found, x[F:].mean(dim=0), atol=1e-5, rtol=1e-5)


def test_nobody_finite():
    with pytest.raises(ValueError, match="no update is finite"):
        A.mean(torch.full((3, 2), float("nan")))
