"""The part of a report on carbon intensity: its curves by zone, with the hours that were used."""

from __future__ import annotations

import math
from typing import Any

from fedhive.results import units
from fedhive.results.charts import Figure, rounded, text, titled, unit_of
from fedhive.results.facts import Facts
from fedhive.results.page import Page, el
from fedhive.results.units import known

MOST_ZONES = 10
HOUR_S = 3600.0


def add(made: Page, run: Facts) -> None:
    """Add the section to a page, if intensity changed by the hour."""
    figure = curves(run)
    if figure is None:
        return
    zones = len(run.carbon["g_per_kwh"])
    said = (
        "Lines: intensity of each zone's electricity. Circles: an hour in which its machines "
        "worked, larger for more energy. "
    )
    if zones > MOST_ZONES:
        said += f"The {MOST_ZONES} zones that used most of {zones}. "
    account = {"life_cycle": "life cycle", "direct": "direct"}.get(str(run.carbon.get("account")))
    if account:
        said += f"Emissions are counted {account}. "
    made.section(
        "carbon", "Carbon intensity", "When and where electricity was clean",
        el("p", said, class_="note"),
        made.chart("chart-carbon", {"all": figure}, "Carbon intensity by zone, and hours used"),
        el("p", line) if (line := scores(run)) else None,
    )  # fmt: skip


def scores(run: Facts) -> str | None:
    """How good the forecasts of intensity were, in a sentence; None if none came due."""
    mae = known(run.carbon.get("carbon_forecast_mae_g_per_kwh"))
    if mae is None:
        return None
    name = str(run.carbon.get("forecaster") or "The forecaster")
    said = f"Forecasts of the next 24 hours ({name}"
    said += ", which sees the future" if run.carbon.get("oracle") else ""
    said += f") were wrong by {mae:.3g} g/kWh on average"
    mape = known(run.carbon.get("carbon_forecast_mape"))
    if mape is not None:
        said += f" ({units.percent(mape)})"
    rank = known(run.carbon.get("carbon_forecast_rank"))
    if rank is not None:
        said += f"; the order of the hours had a rank correlation of {rank:.2f} with the true one"
    return said + "."


def used(run: Facts) -> dict[str, dict[int, float]]:
    """Joules that each zone's machines drew in each hour of the run.

    A task's energy counts evenly over the time that its machine worked on it.
    """
    zones = {machine.get("node"): str(machine.get("zone")) for machine in run.machines}
    found: dict[str, dict[int, float]] = {}
    for event in run.events:
        joules = known(event.get("energy_j"))
        begin, end = known(event.get("begin_s")), known(event.get("end_s"))
        if not joules or begin is None or end is None or end <= begin:
            continue
        hours = found.setdefault(zones.get(event.get("node"), ""), {})
        for hour in range(math.floor(begin / HOUR_S), math.ceil(end / HOUR_S)):
            inside = min(end, HOUR_S * (hour + 1)) - max(begin, HOUR_S * hour)
            hours[hour] = hours.get(hour, 0.0) + joules * inside / (end - begin)
    return found


def curves(run: Facts) -> Figure | None:
    """Intensity by zone over the run, with its hours used; None if it was not recorded."""
    table: Any = run.carbon.get("g_per_kwh")
    if not isinstance(table, dict) or not table:
        return None
    work = used(run)
    table = {zone: values for zone, values in table.items() if values}
    order = sorted(table, key=lambda zone: (-sum(work.get(zone, {}).values()), zone))
    most = max((max(hours.values()) for hours in work.values() if hours), default=0.0)
    factor, unit = unit_of("time", [HOUR_S * len(values) for values in table.values()])
    data: list[Figure] = []
    for i, zone in enumerate(order[:MOST_ZONES]):
        values, hours = table[zone], work.get(zone, {})
        at = [hour for hour in sorted(hours) if 0 <= hour < len(values)]
        sizes = [4.0 + 14.0 * math.sqrt(hours[hour] / most) for hour in at]
        middle = [rounded(HOUR_S * (hour + 0.5), factor) for hour in at]
        name = text(zone)
        data += [
            {
                "type": "scatter", "mode": "lines", "name": name, "legendgroup": name,
                "x": [rounded(HOUR_S * hour, factor) for hour in range(len(values) + 1)],
                "y": [rounded(known(value)) for value in (*values, values[-1])],
                "line": {"color": f"$c{i}", "width": 1.5, "shape": "hv"}, "hoverinfo": "skip",
            },
            {
                "type": "scatter", "mode": "markers", "name": name, "legendgroup": name,
                "showlegend": False, "x": middle, "y": [rounded(known(values[h])) for h in at],
                "text": [units.energy(hours[hour]) for hour in at],
                "marker": {"color": f"$c{i}", "size": sizes, "opacity": 0.6},
                "hovertemplate": f"{name}<br>%{{y:.0f}} g/kWh, %{{text}}<extra></extra>",
            },
        ]  # fmt: skip
    layout = {
        "hovermode": "closest",
        "xaxis": {"title": {"text": titled("virtual time", unit)}},
        "yaxis": {"title": {"text": "gCO₂e/kWh"}, "rangemode": "tozero"},
    }
    return {"data": data, "layout": layout, "height": 420}
