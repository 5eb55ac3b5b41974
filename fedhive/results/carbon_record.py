"""What a run tells about carbon intensity: the curves that it met, and how good forecasts were."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fedhive.errors import UserError
from fedhive.world.carbon import CarbonSignal
from fedhive.world.carbon_forecast import DAY, HOUR_S, CarbonForecaster, score

MOST_VALUES = 100_000
MOST_FORECASTS = 48
SCORES = ("carbon_forecast_mae_g_per_kwh", "carbon_forecast_mape", "carbon_forecast_rank")


def carbon_record(
    signal: CarbonSignal, zones: Sequence[str], now_s: float, forecaster: CarbonForecaster | None
) -> dict[str, Any] | None:
    """``carbon.json``: hourly intensities until now by zone, and the forecaster's scores.

    Args:
        signal: intensity by zone and time.
        zones: those of the machines.
        now_s: the end of the run.
        forecaster: whom to score; None for nobody.

    Returns:
        None for a signal without hours, where there would be too many numbers, and where the
        signal does not reach as far as the run did (or to zones whose machines never worked).
    """
    slots = getattr(signal, "slots", None)
    names, hours = sorted(set(zones)), max(1, math.ceil(now_s / HOUR_S))
    if slots is None or len(names) * hours > MOST_VALUES:
        return None
    try:
        table = {zone: [round(float(x), 3) for x in slots(zone, 0, hours)] for zone in names}
    except UserError:
        return None
    return {
        "account": getattr(signal, "account", None),
        "g_per_kwh": table,
        "forecaster": None if forecaster is None else type(forecaster).__name__,
        "oracle": None if forecaster is None else forecaster.oracle,
        **carbon_scores(signal, names, now_s, forecaster),
    }


def carbon_scores(
    signal: CarbonSignal, zones: Sequence[str], now_s: float, forecaster: CarbonForecaster | None
) -> dict[str, float | None]:
    """Scores of forecasts of the next 24 hours that have come due by now; None if none has.

    Forecasts are made, as they would have been, in up to 48 hours of the run, evenly spaced.
    """
    due = math.floor(now_s / HOUR_S) - DAY  # of a forecast in slot k, slots k + 1 to k + 24
    if forecaster is None or not hasattr(signal, "slots") or due < 1:
        return dict.fromkeys(SCORES)
    made = [due * i // MOST_FORECASTS for i in range(MOST_FORECASTS)]
    found = score(forecaster, signal, sorted(set(zones)), sorted(set(made)))
    return dict(zip(SCORES, (found.mae, found.mape, found.rank), strict=True))
