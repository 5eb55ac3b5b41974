"""What holds for every combine rule: order, FedAvg as a special case, finiteness, purity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from strategies.combine import Cohort, Mean, moved
from strategies.combine_gaps import FedAU, FedAWE
from strategies.combine_stale import FedBuff, Refl
from strategies.combine_table import MIFA, FedStale, FedVARP
from strategies.combine_weights import FedNova, InverseProbability, Sum
from tests.strategies.cohorts import vector

RULES = [
    Mean("uniform"),
    Mean("samples"),
    Sum(),
    InverseProbability("uniform"),
    InverseProbability("examples", normalised=True),
    FedNova("uniform"),
    FedBuff(),
    Refl(),
    Refl("average"),
    MIFA(),
    MIFA(wait_for_all=False, weighting="examples"),
    FedVARP(),
    FedVARP("examples"),
    FedStale(participation="selection"),
    FedStale(),
    FedAU(cutoff=3),
    FedAU(weighting="examples"),
    FedAWE(),
]
CONF = Path(__file__).parents[2] / "conf" / "combine"

finite = st.floats(-100, 100, width=32)


@st.composite
def histories(draw) -> list[Cohort]:
    """Three rounds with parts of four clients, some of them late, of a model of two numbers."""
    rounds = []
    current = vector([1.0, -1.0])
    for number in (1, 2, 3):
        nodes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True).map(sorted))
        n = len(nodes)
        ages = draw(st.lists(st.integers(0, number - 1), min_size=n, max_size=n))
        bases = [current if age == 0 else current + age for age in ages]
        pairs = draw(st.lists(st.tuples(finite, finite), min_size=n, max_size=n))
        counts = st.lists(st.integers(1, 100), min_size=n, max_size=n)
        rounds.append(
            Cohort(
                nodes=nodes,
                models=[base + vector(pair) for base, pair in zip(bases, pairs, strict=True)],
                examples=draw(counts),
                weights=[1.0] * n,
                extra={},
                current=current,
                total_nodes=4,
                bases=bases,
                staleness=ages,
                steps=draw(counts),
                probabilities=draw(st.lists(st.floats(0.1, 1.0), min_size=n, max_size=n)),
                round=number,
                known=[0, 1, 2, 3],
                samples=draw(counts),
            )
        )
        current = current * np.float32(0.5)
    return rounds


def permuted(cohort: Cohort, order: list[int]) -> Cohort:
    names = ("nodes", "models", "examples", "weights", "bases", "staleness", "steps",
             "probabilities", "samples")  # fmt: skip
    return replace(cohort, **{n: [getattr(cohort, n)[i] for i in order] for n in names})


def run(rule, cohorts: list[Cohort]) -> np.ndarray:
    state = rule.init(vector([1.0, -1.0]))
    targets = []
    for cohort in cohorts:
        target, state = rule.combine(cohort, state)
        targets.append(target)
    return np.array(targets)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@settings(max_examples=25, deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_the_order_of_clients_does_not_matter(rule, rounds: list[Cohort], random):
    orders = [random.sample(range(len(c.nodes)), len(c.nodes)) for c in rounds]
    mixed = [permuted(cohort, order) for cohort, order in zip(rounds, orders, strict=True)]
    targets = run(rule, rounds)
    assert targets.dtype == np.float32
    assert np.isfinite(targets).all()
    scale = 1e-5 * (1.0 + max(float(np.abs(m).max()) for c in rounds for m in moved(c)))
    assert np.allclose(targets, run(rule, mixed), rtol=1e-4, atol=20 * scale)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_everybody_fresh_is_fedavg(rule, data):
    """All of N clients in every round, all with the same work: the mean of their models."""
    n = data.draw(st.integers(1, 5))
    current = vector([1.0, -1.0])
    state = rule.init(current)
    for number in (1, 2, 3):
        pairs = data.draw(st.lists(st.tuples(finite, finite), min_size=n, max_size=n))
        cohort = Cohort(
            nodes=list(range(n)),
            models=[current + vector(pair) for pair in pairs],
            examples=[7] * n,
            weights=[1.0 / n if isinstance(rule, Sum) else 1.0] * n,
            extra={},
            current=current,
            total_nodes=n,
            steps=[4] * n,
            probabilities=[1.0] * n,
            round=number,
            known=list(range(n)),
            samples=[50] * n,
        )
        target, state = rule.combine(cohort, state)
        fedavg, _ = Mean().combine(cohort, {})
        assert np.allclose(target, fedavg, rtol=1e-4, atol=1e-3)
        current = target


@pytest.mark.parametrize("rule", RULES, ids=repr)
@settings(max_examples=10, deadline=None)
@given(histories())
def test_nothing_passed_in_is_changed(rule, rounds: list[Cohort]):
    """Arrays are write-protected, and a state that a checkpoint holds gives the same again."""
    state = rule.init(vector([1.0, -1.0]))
    for cohort in rounds:
        held = [cohort.current, *cohort.models, *cohort.bases, *state.values()]
        for array in held:
            array.flags.writeable = False
        names, saved = list(state), {key: value.copy() for key, value in state.items()}
        target, new = rule.combine(cohort, state)
        again, _ = rule.combine(cohort, {**saved})
        assert target.tobytes() == again.tobytes()
        assert list(state) == names
        assert not any(np.shares_memory(target, array) for array in held)
        assert all(v.dtype == np.float32 and v.ndim == 1 for v in new.values())
        state = new


CHOICES = sorted(CONF.glob("*.yaml"))


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_every_choice_says_what_it_is(path: Path):
    assert path.read_text().startswith("# ")


# The files of robust rules recommend pipelines; their classes assume no liars.
@pytest.mark.parametrize(
    "path",
    [path for path in CHOICES if "_target_: defenses." not in path.read_text()],
    ids=lambda path: path.stem,
)
def test_every_choice_has_its_class_s_defaults(path: Path):
    config = OmegaConf.create({"client": {"alpha": 0.01, "momentum": 0.0}, "combine": {}})
    config.combine = OmegaConf.load(path)
    rule = instantiate(config.combine)
    assert rule == type(rule)()
