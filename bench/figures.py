"""Median, 99th percentile and worst of what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypedDict


class Figures(TypedDict):
    """Of one measure, in milliseconds."""

    count: int
    p50: float
    p99: float
    worst: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of `ordered` (ascending, not empty) that `share` (0 to 1) do not exceed."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def figures_ms(seconds: Iterable[float]) -> Figures:
    """The figures of times in seconds.

    Raises:
        ValueError: there is none.
    """
    ordered = sorted(seconds)
    if not ordered:
        raise ValueError("nothing was measured")
    p50, p99, worst = (round(percentile(ordered, share) * 1e3, 4) for share in (0.5, 0.99, 1.0))
    return {"count": len(ordered), "p50": p50, "p99": p99, "worst": worst}
