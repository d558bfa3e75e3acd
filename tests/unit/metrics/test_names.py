"""The metric names are a contract: unique, conventional, and documented."""

from __future__ import annotations

import re
from pathlib import Path

from tensorpool.metrics import METRICS

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_names_follow_the_conventions() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"tensorpool_[a-z]+(_[a-z]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.label not in {"client", "lease", "epoch"}
        assert metric.help


def test_the_document_is_the_code() -> None:
    rows = [
        f"| `{m.name}` | {m.kind} | {f'`{m.label}`' if m.label else ''} | {m.help} |"
        for m in METRICS
    ]
    documented = [
        line
        for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `tensorpool_")
    ]
    assert documented == rows
