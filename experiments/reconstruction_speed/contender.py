"""One library in a process of its own: for each case on a line, PSNR and CPU seconds.

echo own:default lenet 1 0 | python contender.py        (network, batch, seed[, local steps])
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from case import SHAPE, Case  # noqa: E402

Result = tuple[torch.Tensor, float]
EQUAL_CPU = {"lenet": 1000, "convnet": 800}
"""Evaluations of the second stage with which the default engine takes the peer's CPU time."""
SHORT = {False: {"adam_steps": 0, "polish": 300}, True: {"adam_steps": 75, "polish": 250}}
"""Budgets for several local steps, each evaluation of which costs several gradients."""


def own(recipe: str, case: Case, seed: int) -> Result:
    from dataclasses import replace

    from attacks.reconstruction import match as engine
    from attacks.reconstruction.forward import SingleStep

    recipes = {
        "default": engine.DEFAULT,
        "same": engine.INVERTING_GRADIENTS,
        "dlg": engine.DLG,
        "unrolled": engine.DEFAULT,
        "ceiling": engine.DEFAULT,
    }
    chosen = recipes[recipe]
    if recipe == "default":
        chosen = replace(chosen, polish=EQUAL_CPU[case.net])
    if case.steps > 1 and recipe == "unrolled":
        chosen = replace(chosen, **SHORT[len(case.y) > 1])
    labels = None if chosen.soft_labels else case.y
    view, forward = case.view(), case.forward
    if case.steps > 1 and recipe == "ceiling":  # what one gradient would have given away
        single = Case.__new__(Case)
        single.__dict__.update(case.__dict__)
        single.steps, single.forward = 1, SingleStep(case.scene, case.sent)
        single.gradient = single.forward(case.x, case.y).detach()
        view, forward = single.view(), single.forward
        chosen = replace(chosen, **SHORT[len(case.y) > 1])
    rng = np.random.default_rng(seed)
    found = engine.match(view, case.scene, forward, labels, len(case.y), chosen, rng)
    return found.x, found.cpu_s


def breaching(config: str, case: Case, seed: int) -> Result:
    import importlib.machinery
    from unittest import mock

    class Stub(types.ModuleType):
        """torchvision and other packages that the peer imports and this comparison never uses."""

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return mock.MagicMock()

    for name in () if "torchvision" in sys.modules else (
        "torchvision", "torchvision.transforms", "torchvision.transforms.functional",
        "torchvision.models", "torchvision.models.resnet", "torchvision.models.densenet",
        "torchvision.models.vgg", "torchvision.datasets", "torchvision.datasets.utils",
    ):  # fmt: skip
        stub = Stub(name)
        stub.__spec__ = importlib.machinery.ModuleSpec(name, None)
        stub.__path__ = []
        sys.modules[name] = stub
    from breaching import attacks
    from hydra import compose, initialize_config_module

    names = {"inverting": "invertinggradients", "multistep": "invertinggradients"}
    overrides = ["attack.optim.callback=100000"]
    steps = 300 if config == "multistep" else 1000
    if config == "dlg":
        overrides += ["attack=deepleakage", "attack.optim.max_iterations=100"]
    else:
        overrides += [f"attack={names[config]}", f"attack.optim.max_iterations={steps}"]
    with initialize_config_module("breaching.config", version_base="1.1"):
        cfg = compose("cfg", overrides=overrides).attack
    torch.manual_seed(seed + 1000)

    class Meta(dict[str, Any]):
        """Some of the peer's attacks want attributes, some a dictionary."""

        __getattr__ = dict.__getitem__

        def __hasattr__(self, name: str) -> bool:
            return name in self

    class NoStatistics(Meta):
        def __getattr__(self, name: str) -> Any:
            if name not in self:
                raise AttributeError(name)
            return self[name]

    meta = NoStatistics(
        shape=SHAPE, classes=10, modality="vision", task="classification", mean=(0.0,) * 3,
        std=(1.0,) * 3, name="patches",
    )  # fmt: skip
    params = [p.detach() for p in case.model.parameters()]
    payload = [{"parameters": params, "buffers": None, "metadata": meta}]
    local = None
    if case.steps > 1:
        local = {
            "lr": case.lr, "steps": case.steps, "data_per_step": len(case.y),
            "labels": [case.y] * case.steps,
        }  # fmt: skip
        gradient = case.gradient * case.lr * case.steps
    else:
        gradient = case.gradient
    sizes = [math.prod(p.shape) for p in params]
    shaped = [
        g.view(p.shape).clone() for g, p in zip(torch.split(gradient, sizes), params, strict=True)
    ]
    if local is not None:
        shaped = [-g for g in shaped]
    shared = [
        {
            "gradients": shaped, "buffers": None,
            "metadata": {
                "num_data_points": len(case.y), "labels": None if config == "dlg" else case.y,
                "local_hyperparams": local, "data_key": "inputs",
            },
        }
    ]  # fmt: skip
    attacker = attacks.prepare_attack(
        case.model, torch.nn.CrossEntropyLoss(), cfg,
        {"dtype": torch.float, "device": torch.device("cpu")},
    )  # fmt: skip
    torch.set_num_threads(1)
    began = time.process_time()
    found, _ = attacker.reconstruct(payload, shared, {}, dryrun=False)
    return found["data"].detach(), time.process_time() - began


def solve(line: str) -> dict[str, Any]:
    contender, net, *numbers = line.split()
    batch, seed, steps = (int(number) for number in [*numbers, "1"][:3])
    torch.set_num_threads(1)
    case = Case(net, batch, seed, steps)
    who, _, what = contender.partition(":")
    x, cpu_s = {"own": own, "breaching": breaching}[who](what, case, seed)
    from fedhive.leakage.score import Truth, score

    leak = score(x.numpy(), Truth(case.x.numpy(), case.y.numpy()))
    return {
        "psnr": [round(float(v), 2) for v in leak.psnr],
        "ssim": round(float(np.mean(leak.ssim)), 3),
        "search_cpu_s": round(cpu_s, 2),
    }


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(solve(line)), flush=True)
