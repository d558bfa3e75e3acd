"""The metric names are a contract: unique, conventional, documented, and changed knowingly."""

from __future__ import annotations

import re
from pathlib import Path

from tensorpool.metrics import METRICS
from tensorpool.metrics.table import table

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"
GOLDEN = Path(__file__).parent / "names.txt"
"""Operators' alerts and dashboards name these: one that goes or changes breaks them."""


def test_names_follow_the_conventions() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"tensorpool_[a-z]+(_[a-z]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.kind != "histogram" or metric.name.endswith("_seconds")
        assert not {"client", "client_id", "consumer", "lease", "epoch"} & set(metric.labels)
        assert metric.help


def test_the_names_are_those_promised() -> None:
    rows = [f"{metric.name}{{{','.join(metric.labels)}}} {metric.kind}" for metric in METRICS]
    assert GOLDEN.read_text(encoding="utf-8").splitlines() == sorted(rows)


def test_the_document_is_the_code() -> None:
    assert table() in DOCUMENT.read_text(encoding="utf-8") + "\n"
