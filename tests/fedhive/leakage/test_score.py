from __future__ import annotations

import numpy as np
import pytest

from fedhive.leakage.score import MOST_DB, Truth, psnr, score, ssim
from fedhive.leakage.view import Exchange, Knowledge, View

RNG = np.random.default_rng(0)
X = RNG.random((4, 3, 12, 12)).astype(np.float32)
TRUTH = Truth(X, np.array([2, 0, 1, 1]))


def test_psnr_by_hand() -> None:
    assert psnr(np.array([0.01]), 1.0)[0] == pytest.approx(20.0)
    assert psnr(np.array([0.04]), 2.0)[0] == pytest.approx(20.0)
    assert psnr(np.array([0.0]), 1.0)[0] == pytest.approx(MOST_DB)


def test_samples_are_matched_in_any_order() -> None:
    leak = score(X[[3, 1, 0, 2]], TRUTH)
    np.testing.assert_array_equal(leak.found, [2, 1, 3, 0])
    assert leak.recall == 1.0
    np.testing.assert_allclose(leak.ssim, 1.0)


def test_a_sample_counts_for_one_example_only() -> None:
    leak = score(X[[0]], TRUTH)
    np.testing.assert_array_equal(leak.found, [0, -1, -1, -1])
    assert leak.recall == 0.25
    assert leak.psnr[1] == -np.inf
    assert leak.summary()["psnr_mean"] == pytest.approx(MOST_DB)


def test_nothing_found_is_nothing_leaked() -> None:
    leak = score(X[:0], TRUTH, pool=X)
    assert leak.recall == 0.0
    assert np.isnan(leak.identified)
    assert np.isnan(leak.precision)


def test_numbers_that_are_none_do_not_break_it() -> None:
    broken = X.copy()
    broken[0] = np.nan
    assert score(broken, TRUTH).recall == 0.75


def test_false_certificates_are_counted() -> None:
    samples = np.concatenate([X[:2], RNG.random((1, 3, 12, 12)).astype(np.float32)])
    leak = score(samples, TRUTH, [True, False, True])
    assert (leak.certified, leak.wrong) == (2, 1)
    assert leak.precision == 0.5


def test_a_duplicate_is_no_false_certificate() -> None:
    assert score(X[[0, 0]], TRUTH, [True, True]).wrong == 0


def test_identification_needs_the_original_to_be_nearest() -> None:
    pool = RNG.random((50, 3, 12, 12)).astype(np.float32)
    near = np.clip(X + 0.05 * RNG.normal(size=X.shape), 0, 1)
    assert score(near, TRUTH, pool=np.concatenate([pool, X])).identified == 1.0
    grey = np.full_like(X, 0.5)
    assert score(grey, TRUTH, pool=np.concatenate([pool, grey[:1] + 1e-3])).identified == 0.0


def test_ssim_by_hand_on_flat_images() -> None:
    one, other = np.full((1, 9, 9), 0.2), np.full((1, 9, 9), 0.6)
    wanted = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim(one, other, 1.0) == pytest.approx(wanted)


def test_ssim_agrees_with_a_plain_loop() -> None:
    a, b = X[0][:1].astype(np.float64), np.clip(X[0][:1] + 0.1, 0, 1).astype(np.float64)
    values = []
    for i in range(3, 9):
        for j in range(3, 9):
            p, q = (v[0, i - 3 : i + 4, j - 3 : j + 4].ravel() for v in (a, b))
            both = np.cov(p, q)
            values.append(
                (2 * p.mean() * q.mean() + 1e-4) * (2 * both[0, 1] + 9e-4)
                / ((p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (both[0, 0] + both[1, 1] + 9e-4))
            )  # fmt: skip
    assert ssim(a, b, 1.0) == pytest.approx(np.mean(values), rel=1e-9)


def test_telling_labels_is_explicit() -> None:
    sent = np.zeros(3, np.float32)
    view = View(
        "server", (0,), (1.0,), (Exchange(1, sent, sent),), np.ones(3, np.bool_), [("w", (3,))],
        knows=Knowledge(lr=0.1),
    )  # fmt: skip
    told = TRUTH.tell_labels(view)
    assert told.knows == Knowledge(labels=(0, 1, 1, 2), examples=4, lr=0.1)
