"""Poison in chosen coordinates only, the same direction for all who send it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attacks.poisoning.hidden import HiddenPoison
from defenses.encryption.masks import FirstK

ENCRYPTED = ("model=mlp", "model.hidden=[4]", "protection=encryption", "cipher=plain")
POISON = ("attack=hidden_poison", "attack.count=1", "nodes=9", "attack.behaviour.kind=push")


def test_only_hidden_coordinates_are_touched(play):
    words = (*ENCRYPTED, "nodes=9", "rounds=1")
    honest = play(*words).model()
    poisoned = play(*words, *POISON).model()
    differ = honest != poisoned
    assert differ[:24].all()  # the first layer of 5 inputs and 4 units
    assert not differ[24:].any()


def test_select_then_sum_lets_it_through_and_groups_do_not(play):
    step = "attack.behaviour.step=0.5"
    fine = ("cipher.clip=10", "cipher.bits=24")
    loud = (*POISON, step, "rounds=2")
    krum = ("combine=robust", "combine.rule=multi_krum", "combine.f=1", "combine.pre=[]")
    select = (*ENCRYPTED, *fine, *loud, *krum, "path=select_then_sum")
    groups = (*ENCRYPTED, *fine, *loud, "path=bucketed", "combine.weighting=uniform")

    def harm(*words: str) -> float:
        honest = [word for word in words if not word.startswith("attack")]
        return float(np.abs(play(*words).model() - play(*honest).model())[:24].mean())

    seen, spoilt, kept = harm(*ENCRYPTED[:2], *loud, *krum), harm(*select), harm(*groups)
    assert kept < 0.4 * spoilt
    assert seen < 0.4 * spoilt


def test_kinds():
    update = torch.tensor([2.0, -3.0, 0.0])
    against = HiddenPoison(FirstK(), step=0.5)._poison(update, 0)
    assert against.tolist() == [-0.5, 0.5, 0.0]
    assert HiddenPoison(FirstK(), "flip")._poison(update, 0).tolist() == [-20.0, 30.0, 0.0]
    push = HiddenPoison(FirstK(), "push")
    assert push._poison(update, 0).abs().tolist() == pytest.approx([0.1] * 3)
    assert (push._poison(update, 0) == push._poison(-update, 0)).all()


@pytest.mark.parametrize("wrong", [{"step": 0.0}, {"scale": -1.0}])
def test_impossible_sizes(wrong):
    with pytest.raises(ValueError, match="above 0"):
        HiddenPoison(FirstK(), **wrong)
