"""The functions that users' code relies on keep their names and the way they are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attacks import poisoning
from defenses import aggregation, preaggregation, sybil

ROWS = torch.from_numpy(np.random.default_rng(0).standard_normal((11, 5)).astype(np.float32))
RULES = (
    "mean", "coordinate_median", "trimmed_mean", "meamed", "krum", "multi_krum",
    "geometric_median", "centered_clipping", "minimum_diameter_averaging", "caf", "bulyan",
    "divide_and_conquer",
)  # fmt: skip
STAGES = ("nearest_neighbor_mixing", "bucketing", "clip", "adaptive_clip")
ATTACKS = ("sign_flip", "alie", "inner_product_manipulation", "min_max", "min_sum", "mimic")


@pytest.mark.parametrize("name", RULES)
def test_rules_make_one_row(name: str):
    before = ROWS.clone()
    assert getattr(aggregation, name)(ROWS, f=2).shape == (5,)
    assert torch.equal(ROWS, before)


def test_trust_needs_a_reference():
    assert aggregation.fltrust(ROWS, f=2, trusted=ROWS[0]).shape == (5,)


@pytest.mark.parametrize("name", STAGES)
def test_stages_make_rows(name: str):
    found = getattr(preaggregation, name)(ROWS, f=2)
    assert found.ndim == 2
    assert found.shape[1] == 5


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_make_f_rows(name: str):
    assert getattr(poisoning, name)(ROWS, n=14, f=3).shape == (3, 5)


@pytest.mark.parametrize("name", ["foolsgold", "hardened_foolsgold"])
def test_weights_are_in_range(name: str):
    found = getattr(sybil, name)(ROWS)
    assert found.shape == (11,)
    assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0
