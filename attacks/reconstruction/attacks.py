"""The attacks by name: each turns a view into a guess, and has nothing else to go by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from attacks.reconstruction.adaptive import read_adaptive
from attacks.reconstruction.closed import read_imprint, read_rows
from attacks.reconstruction.forward import forward_of
from attacks.reconstruction.guess import Guess, guessed
from attacks.reconstruction.labels import examples_in, recover_labels
from attacks.reconstruction.match import DEFAULT, DLG, IDLG, INVERTING_GRADIENTS, Recipe, match
from attacks.reconstruction.scene import Scene
from fedhive.leakage.view import View


class Attack(Protocol):
    """Examples from a view."""

    def __call__(self, view: View, scene: Scene, rng: np.random.Generator) -> Guess:
        """What the subject trained on, as far as it can be told.

        Raises:
            ValueError: if the view lacks something the attack needs; says what.
        """
        ...


@dataclass(frozen=True)
class Reading:
    """A closed form.

    Args:
        read: (view, input shape, low, high) to a guess.
    """

    read: Callable[[View, tuple[int, ...], float, float], Guess]

    def __call__(self, view: View, scene: Scene, rng: np.random.Generator) -> Guess:
        """The guess; samples outside of the inputs' range are cut to it."""
        guess = self.read(view, scene.input_shape, scene.low, scene.high)
        return replace(guess, samples=np.clip(guess.samples, scene.low, scene.high))


@dataclass(frozen=True)
class Matching:
    """A search with the one engine.

    Args:
        recipe: how to search.
        most: refuse views of more examples than this.
    """

    recipe: Recipe = DEFAULT
    most: int = 64

    def __call__(self, view: View, scene: Scene, rng: np.random.Generator) -> Guess:
        """One sample an example; labels are recovered where they are unknown."""
        n = examples_in(view, self.most)
        labels = None
        if not self.recipe.soft_labels:
            labels = torch.from_numpy(recover_labels(view, scene, n, rng))
        found = match(view, scene, forward_of(view, scene, n), labels, n, self.recipe, rng)
        scores = np.full(n, found.loss)
        return guessed(
            found.x.numpy(), found.y.numpy(), scores=scores, loss=found.loss, cpu_s=found.cpu_s,
            evaluations=found.evaluations,
        )  # fmt: skip


ATTACKS: dict[str, Attack] = {
    "rows": Reading(read_rows),
    "imprint": Reading(read_imprint),
    "adaptive_imprint": Reading(read_adaptive),
    "match": Matching(),
    "inverting_gradients": Matching(INVERTING_GRADIENTS),
    "dlg": Matching(DLG, most=8),
    "idlg": Matching(IDLG, most=8),
}
"""By name, as the command line takes them."""


def attack_called(name: str) -> Attack:
    """An attack of `ATTACKS`.

    Raises:
        ValueError: for an unknown name, with the known ones.
    """
    if name not in ATTACKS:
        raise ValueError(f"unknown attack {name!r}; known: {', '.join(ATTACKS)}")
    return ATTACKS[name]
