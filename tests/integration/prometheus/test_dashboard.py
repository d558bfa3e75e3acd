"""The Grafana dashboard: a valid model, and every query of it has an answer."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

import tensorpool
from tests.integration.host import STREAM, RunningHost
from tests.integration.prometheus.server import SHIPPED, WINDOW, Prometheus
from tests.support import wait_until

DASHBOARD = SHIPPED.parent / "grafana" / "tensorpool.json"
DEADLINE_S = 90
GRID_COLUMNS = 24
ATTACHES = "tensorpool_driver_attaches_total"
VARIABLES = {"$__rate_interval": WINDOW, "$node": ".*", "$pool": "test-pool"}


def model() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return loaded


def panels() -> Iterator[dict[str, Any]]:
    return (panel for panel in model()["panels"] if panel["type"] != "row")


def queries() -> dict[str, str]:
    """Panel and reference to the query, its variables replaced as Grafana does."""
    found = {}
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            found[f"{panel['title']} {target['refId']}"] = expression
    return found


def test_the_model_is_one_that_grafana_imports() -> None:
    dashboard = model()
    assert dashboard["uid"] == "tensorpool"
    assert dashboard["title"]
    assert dashboard["schemaVersion"] >= 36
    variables = {item["name"]: item for item in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["title"]
        assert panel["type"] in {"stat", "timeseries"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            for name in re.findall(r"\$(\w+)", target["expr"]):
                assert name in variables or f"${name}" in VARIABLES, target["expr"]


def test_no_panel_covers_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in model()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= GRID_COLUMNS
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_query_has_an_answer(scraped_host: RunningHost, prometheus: Prometheus) -> None:
    wanted = queries()
    # One that stays sends keepalives; those that come and go are the traffic.
    with tensorpool.connect(scraped_host.config) as pool, pool.consumer(STREAM):

        def unanswered() -> list[str]:
            """After some more traffic, scraped: attaches, frames, an epoch that is replaced."""
            [(_, before)] = prometheus.query(ATTACHES)
            with pool.producer(STREAM) as camera, pool.consumer(STREAM) as view:
                for _ in range(50):
                    camera.publish(np.zeros(64, np.uint8))
                    view.next(1)
                wait_until(
                    lambda: prometheus.query(ATTACHES)[0][1] > before, DEADLINE_S, "a scrape"
                )
            return [name for name, query in wanted.items() if not has_data(prometheus, query)]

        wait_until(
            lambda: not unanswered(), DEADLINE_S, lambda: f"an answer to {', '.join(unanswered())}"
        )


def has_data(prometheus: Prometheus, query: str) -> bool:
    """Whether it gives a number; a quantile of nothing is none."""
    return any(math.isfinite(value) for _, value in prometheus.query(query))


def test_an_unknown_metric_would_be_noticed(prometheus: Prometheus) -> None:
    assert not has_data(prometheus, "sum(rate(tensorpool_no_such_total[20s]))")
