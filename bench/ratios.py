"""Ratios between transports that were measured in one round: what two machines can compare.

A round measures every transport once, in random order, so that both sides of a ratio saw the same
machine. Of the ratios of all rounds the median counts, and their spread says how sure it is.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

KIB, MIB = 1 << 10, 1 << 20
OURS = "tensorpool"
FLOOR = "bare copy"
CLAIM = "tensorpool claim"
NO_COPY = {CLAIM, "iceoryx2 loan"}
"""They leave out the copy that the others make, and compare with each other only."""

type Value = Callable[[dict[str, Any]], float]


class Ratio(NamedTuple):
    """The median of a ratio over the rounds, its spread, and what it was against."""

    median: float
    low: float
    high: float
    against: str
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Target:
    """One row of the table of targets.

    Attributes:
        what: the figure.
        sizes: frame sizes that it holds for.
        value: the figure of a run.
        limit: the ratio to reach.
        at_least: whether more is better.
        against: whom to compare with; None: the best peer.
        why: the heading of bench/notes.md about a miss.
    """

    what: str
    sizes: tuple[int, ...]
    value: Value
    limit: float
    why: str
    at_least: bool = False
    against: str | None = None


def _p50(run: dict[str, Any]) -> float:
    return float(run["latency"]["p50"])


def _p99(run: dict[str, Any]) -> float:
    return float(run["latency"]["p99"])


def _rate(run: dict[str, Any]) -> float:
    return float(run["rate"]["received_hz"])


def _sent(run: dict[str, Any]) -> float:
    return float(run["rate"]["sent_hz"])


def _cpu(run: dict[str, Any]) -> float:
    return float(run["cpu"]["producer_us"] + run["cpu"]["consumer_us"])


SMALL, LARGE = (4 * KIB, 64 * KIB), (MIB, 8 * MIB)
TARGETS = (
    Target("one-way p50, best peer", SMALL, _p50, 0.5, "Small frames"),
    Target("one-way p50, best peer", LARGE, _p50, 0.9, "Large frames"),
    Target("one-way p99, best peer", SMALL, _p99, 0.5, "Small frames"),
    Target("one-way p99, best peer", LARGE, _p99, 0.9, "Large frames"),
    Target("frames a second, best peer", SMALL[:1], _rate, 3.0, "Small frames", at_least=True),
    Target("frames a second, best peer", SMALL[1:], _rate, 2.0, "Small frames", at_least=True),
    Target("frames a second, best peer", LARGE, _rate, 1.1, "Large frames", at_least=True),
    Target("one-way p50, bare copy", (64 * KIB, *LARGE), _p50, 1.0, "Small frames", against=FLOOR),
    Target("CPU a frame, both sides, waiting, best peer", SMALL, _cpu, 0.5, "Processor time"),
)

CLAIM_TARGET = Target(
    "`claim` + publish, time a frame", (8 * MIB,), lambda run: 1 / _sent(run), 1.1, "Claims"
)
"""Against 4 KiB: `claim_ratio`."""


def runs_of(results: dict[str, Any], nbytes: int, consumers: int) -> list[dict[str, Any]]:
    """The runs of a case that did not fail."""
    return [
        run
        for run in results["runs"]
        if run["nbytes"] == nbytes and run["consumers"] == consumers and "failed" not in run
    ]


def peers_in(runs: Iterable[dict[str, Any]]) -> list[str]:
    """Whom tensorpool competes with."""
    names = {run["bus"] for run in runs}
    return sorted(n for n in names if not n.startswith(OURS) and n != FLOOR and n not in NO_COPY)


def ratio_of(  # noqa: PLR0913 - what a ratio is made of
    results: dict[str, Any],
    nbytes: int,
    value: Value,
    *,
    at_least: bool = False,
    against: str | None = None,
    ours: str = OURS,
    consumers: int = 1,
) -> Ratio | None:
    """Ours against the one named, or against the best peer: the one with the best median."""
    runs = [run for run in runs_of(results, nbytes, consumers) if _has(run, value)]
    if against is None:
        medians = {
            name: statistics.median(value(run) for run in runs if run["bus"] == name)
            for name in peers_in(runs)
        }
        if not medians:
            return None
        against = (max if at_least else min)(medians, key=lambda name: medians[name])
    theirs = {run["round"]: value(run) for run in runs if run["bus"] == against}
    found = [
        value(run) / theirs[run["round"]]
        for run in runs
        if run["bus"] == ours and theirs.get(run["round"])
    ]
    if not found:
        return None
    return Ratio(statistics.median(found), min(found), max(found), against, len(found))


def claim_ratio(results: dict[str, Any]) -> Ratio | None:
    """`claim` and publish of 8 MiB against 4 KiB: the producer's time a frame, at full speed."""
    by_size = [
        {
            run["round"]: CLAIM_TARGET.value(run)
            for run in runs_of(results, n, 1)
            if run["bus"] == CLAIM
        }
        for n in (8 * MIB, 4 * KIB)
    ]
    found = [value / by_size[1][n] for n, value in by_size[0].items() if by_size[1].get(n)]
    if not found:
        return None
    return Ratio(statistics.median(found), min(found), max(found), "4 KiB", len(found))


def _has(run: dict[str, Any], value: Value) -> bool:
    try:
        return value(run) > 0
    except KeyError:
        return False


def size_name(nbytes: int) -> str:
    """4 KiB, 1 MiB."""
    return f"{nbytes // MIB} MiB" if nbytes >= MIB else f"{nbytes // KIB} KiB"
