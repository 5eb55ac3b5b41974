"""The study's hives, data regimes and contenders, as overrides of ``fedhive run``."""

from __future__ import annotations

NODES, HOURS = 40, 6
MODEL = ("data=fashion_mnist", "model=mlp", "model.hidden=[64]", "client.batch_size=32")
COMMON = (
    *MODEL, f"nodes={NODES}", f"time_limit_s={HOURS * 3600}", "rounds=100000", "eval_every=100000",
    "lr_schedule=cosine", "checkpoint_every=0", "engine.cohort=true", "history_s=86400",
    "fleet=random", "fleet.median_rate=0.85", "fleet.rate_sigma=0.8",
)  # fmt: skip
"""Forty machines of log-normal speed for six hours, watched for a day before."""

_HARD = ("availability.mean_on=[0.2,0.6]", "availability.days=2", "availability.start_s=-86400")
HIVES = {"phones": ("availability=phones", *_HARD), "spot": ("availability=spot", *_HARD)}
REGIMES = {"movable": ("partition=iid",), "pinned": ("partition=dirichlet", "partition.alpha=0.5")}
RATES = (0.025, 0.05, 0.1, 0.2)
"""Learning rates tried for every contender."""

_FIVE = ("local_work=steps", "local_work.steps=5")
_MINUTE = ("trigger=deadline", "trigger.seconds=60")
_PLACED = (
    "placement=proportional", "placement.min_rows=200", "placement.every_s=3600",
    "placement.horizon_s=3600", "placement.steps=3",
)  # fmt: skip
_SAMPLES = ("combine=mean", "combine.weighting=samples")
_NESTEROV = ("server_opt=nesterov", "server_opt.lr=1.0")
_KEPT = ("forecast=markov", "withdrawal=notice", *_MINUTE, *_SAMPLES)
_BATCH = ("local_work=fit_batch", "local_work.steps=10", "local_work.fit.max_passes=null")
_STEPS = ("local_work=fit_deadline", "local_work.max_passes=null")
_ASK = ("selection=predictive",)

RIVALS: dict[str, tuple[str, ...]] = {
    "FedAvg (Flower)": ("strategy=flower_fedavg", *_FIVE),
    "over-selection": ("selection=over_selection", "selection.k=8", "trigger=first_k",
                       "trigger.k=8", *_FIVE),
    "fitted to a deadline": ("selection=all", *_MINUTE, "local_work=fit_deadline",
                             "local_work.max_passes=null", "withdrawal=notice", *_SAMPLES),
    "FedBuff": ("selection=concurrency", f"selection.limit={NODES}", "trigger=buffer",
                "trigger.k=2", "combine=fedbuff", *_FIVE),
    "DiLoCo, all or nothing": ("selection=all", "local_work=steps", "local_work.steps=10",
                               "combine.weighting=uniform", "server_opt=nesterov"),
    "Oort": ("selection=oort", "selection.k=10", "trigger=first_k", "trigger.k=8", *_FIVE),
    "REFL": ("selection=refl", "forecast=markov", *_MINUTE, "trigger.keep=true", "combine=refl",
             *_FIVE),
    "CA-Fed": ("selection=ca_fed", "selection.losses=reported",
               "combine=inverse_probability", *_FIVE),
}  # fmt: skip
OURS = "ours"
PARTS: dict[str, tuple[str, ...]] = {
    "ours, more steps, not larger batches": (*_ASK, *_KEPT, *_STEPS, *_NESTEROV),
    "ours, plain averaging": (*_ASK, *_KEPT, *_BATCH),
    "ours, everybody asked": ("selection=all", *_KEPT, *_BATCH, *_NESTEROV),
}
"""Ours with one part replaced; on movable data only."""
PART_SEEDS = 3
METHODS = {**RIVALS, OURS: (*_ASK, *_KEPT, *_BATCH, *_NESTEROV), **PARTS}


def overrides(method: str, hive: str, regime: str, lr: float, seed: int) -> tuple[str, ...]:
    """Of one run. Only ours knows of placement; the others keep the equal shares they have."""
    place = _PLACED if regime == "movable" and method in (OURS, *PARTS) else ()
    return (
        *COMMON, *HIVES[hive], *REGIMES[regime], *METHODS[method], *place, f"client.lr={lr}",
        f"seed={seed}",
    )  # fmt: skip
