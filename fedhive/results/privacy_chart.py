"""Epsilon over the rounds, as plain plotly JSON with colours by name."""

from __future__ import annotations

from fedhive.results.charts import Figure, rounded
from fedhive.results.facts import Facts
from fedhive.results.units import known


def epsilon(facts: Facts) -> Figure | None:
    """What differential privacy was left after each round; None if none was promised."""
    points = [
        (record["round"], rounded(value))
        for record in facts.rounds
        if (value := known(record.get("epsilon"))) is not None
    ]
    if not points:
        return None
    trace: Figure = {
        "type": "scatter",
        "mode": "lines+markers" if len(points) <= 60 else "lines",
        "name": "epsilon",
        "x": [number for number, _ in points],
        "y": [value for _, value in points],
        "line": {"color": "$c0", "width": 2.5},
        "marker": {"size": 5},
        "hovertemplate": "%{y:.3g}<extra>after round %{x}</extra>",
    }
    layout: Figure = {
        "showlegend": False,
        "hovermode": "x",
        "xaxis": {"title": {"text": "round"}},
        "yaxis": {"title": {"text": "epsilon"}, "rangemode": "tozero"},
    }
    return {"data": [trace], "layout": layout, "height": 280}
