"""What the panels of the shipped Grafana dashboard show of a host."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs.screens.prometheus import SCRAPE_S, Prometheus

_MODEL = Path(__file__).parents[2] / "deploy" / "grafana" / "tensorpool.json"
_RATE_SCRAPES = 4
"""Grafana's $__rate_interval is so many scrapes long."""

type Point = tuple[float, float]
"""Seconds since the first sample, and value."""


@dataclass(frozen=True)
class Series:
    """A line of a panel."""

    legend: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """A panel with its data.

    Attributes:
        row: the heading under which it stands.
        kind: `stat`, the last value in large figures, or `timeseries`.
        unit: of its values, by Grafana's name.
        span_s: how long it looked.
    """

    row: str
    title: str
    kind: str
    unit: str
    span_s: float
    series: tuple[Series, ...]


def look(server: Prometheus, start: float, end: float) -> list[Panel]:
    """Every panel, in the dashboard's order, from time `start` to `end`."""
    model: dict[str, Any] = json.loads(_MODEL.read_text(encoding="utf-8"))
    values = _variables(model)
    panels, row = [], ""
    for item in model["panels"]:
        if item["type"] == "row":
            row = item["title"]
            continue
        series = tuple(
            one
            for target in item["targets"]
            for one in _series(server, target, values, (start, end))
        )
        unit = item["fieldConfig"]["defaults"]["unit"]
        panels.append(Panel(row, item["title"], item["type"], unit, end - start, series))
    return panels


def _variables(model: dict[str, Any]) -> dict[str, str]:
    """The dashboard's variables as Grafana sets them at first: all of each."""
    every = {
        f"${variable['name']}": str(variable["allValue"])
        for variable in model["templating"]["list"]
        if variable["type"] == "query"
    }
    return every | {"$__rate_interval": f"{_RATE_SCRAPES * SCRAPE_S * 1000:.0f}ms"}


def _series(
    server: Prometheus, target: dict[str, Any], variables: dict[str, str], span: tuple[float, float]
) -> list[Series]:
    expression: str = target["expr"]
    for name, value in variables.items():
        expression = expression.replace(name, value)
    found = []
    for labels, points in server.query_range(expression, *span):
        # A quantile of nothing is no number, and nothing to draw.
        numbers = tuple((at - span[0], value) for at, value in points if math.isfinite(value))
        if numbers:
            found.append(Series(_legend(target["legendFormat"], labels), numbers))
    return found


def _legend(form: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda name: labels.get(name[1], ""), form)
