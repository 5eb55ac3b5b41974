"""Which classes a client's examples have, from the last layer's gradient.

With p the softmax and y one-hot, the last bias's gradient is the mean over the examples of p - y,
so the count of class c is n (mean p_c - g_c). For one example g_c is negative for its class alone
(Zhao et al., iDLG, 2020); for several, mean p is estimated with inputs of no particular class
(Wainakh et al. 2022), at the model sent and, after several steps, also at the model returned
(Dimitrov et al. 2022).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.reconstruction.scene import Scene
from fedhive.leakage.view import View

PROBES = 32


def recover_labels(
    view: View, scene: Scene, n: int, rng: np.random.Generator, public: Tensor | None = None
) -> NDArray[np.int64]:
    """The most likely multiset of n labels, ascending.

    Args:
        view: what is seen; labels that are known are returned as they are.
        scene: the public side.
        n: how many examples.
        rng: of probing inputs.
        public: inputs of the same kind [m, ...]; smooth random ones by default.

    Raises:
        ValueError: if the last layer's bias cannot be seen.
    """
    if view.knows.labels is not None:
        return np.sort(np.asarray(view.knows.labels, np.int64))
    gradient = last_bias(view, scene)
    if n == 1:
        return np.array([int(np.argmin(gradient))], np.int64)
    if public is None:
        public = smooth_inputs(scene, PROBES, rng)
    sent = view.exchanges[-1].sent
    mean = _softmax(scene, sent, public)
    if (view.knows.steps or 1) > 1:
        mean = 0.5 * (mean + _softmax(scene, sent + view.exchanges[-1].seen, public))
    return spread(n * (mean - gradient), n)


def last_bias(view: View, scene: Scene) -> NDArray[np.float64]:
    """Pseudo-gradient of the last layer's bias, float64 [classes].

    Raises:
        ValueError: if the model has none or it is hidden.
    """
    name, shape = scene.layout[-1]
    if tuple(shape) != (scene.classes,):
        raise ValueError(f"{name} is not a bias of {scene.classes} classes: labels must be known")
    if not view.visible[-scene.classes :].all():
        raise ValueError(f"{name} is hidden: labels must be known")
    return view.gradient()[-scene.classes :].astype(np.float64)


def spread(counts: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """n labels whose counts are nearest to the estimated ones, ascending.

    Args:
        counts: estimates by class, of any sum.
        n: how many labels there are.
    """
    whole = np.zeros(len(counts), np.int64)
    rest = np.maximum(counts, 0.0)
    for _ in range(n):  # the class that is furthest below its estimate is next
        label = int(np.argmax(rest - whole))
        whole[label] += 1
    return np.repeat(np.arange(len(counts)), whole)


def smooth_inputs(scene: Scene, m: int, rng: np.random.Generator) -> Tensor:
    """Inputs of no particular class: noise blurred to the roughness of images, [m, ...]."""
    noise = rng.normal(size=(m, *scene.input_shape))
    if len(scene.input_shape) == 3:
        from scipy.ndimage import gaussian_filter

        noise = gaussian_filter(noise, (0, 0, 4, 4))
        noise /= max(float(noise.std()), 1e-12)
    half = 0.5 * (scene.high - scene.low)
    values = np.clip(scene.grey + 0.5 * half * noise, scene.low, scene.high)
    return torch.from_numpy(values.astype(np.float32))


def _softmax(scene: Scene, flat: NDArray[np.float32], x: Tensor) -> NDArray[np.float64]:
    named = dict(zip(scene.names, scene.split(np.asarray(flat, np.float32)), strict=True))
    with torch.no_grad():
        out = torch.func.functional_call(scene.model, named, (x,))
        probabilities: NDArray[np.float64] = out.softmax(1).mean(0).double().numpy()
    return probabilities


def examples_in(view: View, most: int) -> int:
    """How many examples to look for.

    Raises:
        ValueError: if the view does not tell, or they are more than ``most``.
    """
    n = view.knows.examples
    if n is None:
        raise ValueError("the number of examples is unknown")
    if n > most:
        raise ValueError(f"{n} examples are more than the {most} this attack looks for")
    return n
