"""Masks that follow from the model: by hand, and what they have in common."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.encryption import masks
from fedhive.errors import UserError

CONV = [("0.weight", (2, 1, 3, 3)), ("0.bias", (2,)), ("3.weight", (4, 8)), ("3.bias", (4,))]
DENSE = [("in.weight", (3, 4)), ("in.bias", (3,)), ("out.weight", (2, 3)), ("out.bias", (2,))]


def names(hidden, layout) -> list[str]:
    """Parameters that are hidden whole."""
    return [name for name, part in masks.places(layout) if hidden[part].all()]


def test_nothing_and_everything():
    assert not masks.Nothing().choose(CONV).any()
    assert masks.Everything().choose(CONV).all()
    assert masks.Everything().choose(CONV).shape == (18 + 2 + 32 + 4,)


def test_first_layers_with_their_biases():
    assert names(masks.FirstK().choose(CONV), CONV) == ["0.weight", "0.bias"]
    assert masks.FirstK(k=2).choose(CONV).all()
    with pytest.raises(UserError, match="has 2 layers"):
        masks.FirstK(k=3).choose(CONV)


def test_a_first_share_in_order():
    hidden = masks.FirstK(share=0.1).choose(CONV)
    assert hidden[:6].all()
    assert not hidden[6:].any()


def test_layers_by_name_and_pattern():
    assert names(masks.Layers(["3"]).choose(CONV), CONV) == ["3.weight", "3.bias"]
    assert names(masks.Layers(["*.bias"]).choose(CONV), CONV) == ["0.bias", "3.bias"]
    with pytest.raises(UserError, match=r"no layer fits 'conv\*'; the model has 0, 3"):
        masks.Layers(["conv*"]).choose(CONV)


def test_a_dense_first_layer_is_hidden_whole_or_not_counted():
    whole = masks.Random(share=0.1).choose(DENSE)
    assert whole[:15].all()  # touched, so all of it
    loose = masks.Random(share=0.5, linear_first="uncounted").choose(DENSE)
    assert loose.sum() == 12
    assert 0 < loose[:15].sum() < 15
    counted = masks.protected(loose, DENSE)
    assert not counted[:15].any()
    assert (counted[15:] == loose[15:]).all()


def test_masks_that_leave_the_first_layer_alone_are_not_extended():
    assert names(masks.Layers(["out"]).choose(DENSE), DENSE) == ["out.weight", "out.bias"]


def test_what_a_first_layer_is():
    assert masks.linear_first_of(DENSE) == slice(0, 15)
    assert masks.linear_first_of(CONV) is None
    assert masks.linear_first_of([("scale", (5,)), *DENSE]) == slice(5, 20)


def test_random_masks_have_the_share_and_follow_the_seed():
    one, two = masks.Random(share=0.3).choose(CONV), masks.Random(share=0.3).choose(CONV)
    assert one.sum() == 17
    assert (one == two).all()
    assert (one != masks.Random(share=0.3, seed=1).choose(CONV)).any()


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_shares_that_are_none(share):
    with pytest.raises(ValueError, match="share"):
        masks.Random(share=share)


def test_digests_name_mask_and_model():
    hidden = masks.FirstK().choose(CONV)
    assert len(masks.digest_of(hidden, CONV)) == 16
    other = hidden.copy()
    other[-1] = True
    assert masks.digest_of(hidden, CONV) != masks.digest_of(other, CONV)
    renamed = [("x.weight", (2, 1, 3, 3)), *CONV[1:]]
    assert masks.digest_of(hidden, CONV) != masks.digest_of(hidden, renamed)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_bits_round_trip(bits):
    hidden = np.array(bits)
    assert (masks.unpacked(masks.packed(hidden), hidden.size) == hidden).all()


def test_bits_of_another_length_or_beyond_the_end_are_refused():
    with pytest.raises(ValueError, match="2 bytes, not 1"):
        masks.unpacked(b"\x00", 9)
    with pytest.raises(ValueError, match="beyond"):
        masks.unpacked(b"\x00\x01", 9)


def test_the_largest_scores_and_ties():
    assert masks.top(np.array([1, 5, 5, 0, 5]), 2).tolist() == [False, True, True, False, False]
