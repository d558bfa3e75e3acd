"""What docs/benchmarks.md says of the control plane and of a host at rest."""

from __future__ import annotations

from typing import Any

import pytest

from bench.control import report as control
from bench.figures import Figures, figures_ms
from bench.idle import report as idle
from bench.report import document

ORIGIN: dict[str, Any] = {
    "when": "2026-11-27T00:00:00+00:00",
    "machine": {"processor": "A CPU", "cores": 2, "kernel": "6.1", "python": "3.12.1"},
    "tensorpool": {"version": "0.1.0", "native": True},
}


def level(leases: int, *, attach_ms: float, cpu: float) -> dict[str, Any]:
    figures = figures_ms([attach_ms / 1e3])
    return {
        "leases": leases,
        "attach": {"consumer": figures, "producer": figures},
        "detach": {"consumer": figures, "producer": figures},
        "attach_hz": 1000,
        "detach_hz": 2000,
        "keepalive_cpu": {"driver": cpu, "launcher": 0.001},
        "capacity_hz": 148_000,
        "capacity_cpu": {"driver": 1.0},
        "expiry": figures,
    }


def test_figures_are_ranks_not_interpolations() -> None:
    times = [number / 1e3 for number in range(200, 0, -1)]
    assert figures_ms(times) == Figures(count=200, p50=100.0, p99=198.0, worst=200.0)
    with pytest.raises(ValueError, match="nothing was measured"):
        figures_ms([])


def epoch(mib: int, attach_ms: float) -> dict[str, Any]:
    return {
        "pool_bytes": mib << 20,
        "attach": figures_ms([attach_ms / 1e3]),
        "replaced": figures_ms([0.002]),
        "cpu_ms": 1.5,
    }


@pytest.mark.parametrize(
    ("attach_ms", "cpu", "growth", "verdicts"),
    [
        (1.99, 0.249, 1.2, ["met"] * 4),
        (
            2.0,
            0.25,
            1.21,
            [
                "**missed**: [thousands of leases](#thousands-of-leases)",
                *["**missed**: [attaching](#attaching)"] * 3,
            ],
        ),
    ],
)
def test_the_control_plane_is_judged_by_its_targets(
    attach_ms: float, cpu: float, growth: float, verdicts: list[str]
) -> None:
    results = ORIGIN | {
        "load": [0.1, 0.9],
        "levels": [
            level(1000, attach_ms=attach_ms, cpu=0.1),
            level(10_000, attach_ms=9, cpu=cpu),
        ],
        "epochs": [epoch(1, 1.0), epoch(256, 100.0)],
        "epochs_ahead": [epoch(1, 0.5), epoch(256, 0.5 * growth)],
    }
    text = control.section(results)
    judged = [line for line in text.splitlines() if "met |" in line or "missed" in line]
    assert [line.split(" | ")[-1].rstrip(" |") for line in judged] == verdicts
    assert "| 10,000 | 9.00 / 9.00 |" in text
    assert "| 1 MiB | 0.50 / 0.50 | 1.00 / 1.00 | 2.00 / 2.00 | 1.50 |" in text
    assert "2 cores" in text


def test_a_host_at_rest_is_judged_by_its_targets() -> None:
    process = {"cpu": 0.01, "rss": 40.0, "pss": 20.0, "private": 15.0, "shm": 1.0}
    results = ORIGIN | {
        "starts": 3,
        "seconds": 10.0,
        "ready_s": [0.8, 0.9, 1.4],
        "cpu": [0.02, 0.031, 0.04],
        "rss": [150.0, 160.0, 170.0],
        "pss": [90.0, 100.0, 110.0],
        "processes": {
            "launcher": process | {"ready_at_s": 0.25},
            "resource tracker": process | {"ready_at_s": None},
        },
    }
    text = idle.section(results)
    assert "| idle tree, CPU | < 3 % of a core | 3.1% | **missed**: [at rest](#at-rest) |" in text
    assert "| idle tree, resident | < 200 MiB | 160 MiB (own share 100 MiB) | met |" in text
    assert "| 0.90 s (0.80 to 1.40) | met |" in text
    assert "| launcher | 250 | 1.00% | 40.0 | 20.0 | 15.0 | 1.0 |" in text
    assert "| resource tracker | - |" in text


def test_the_document_leaves_out_what_was_not_measured() -> None:
    peers = ORIGIN | {"versions": {}, "seconds": 1.0, "load": [0.5], "runs": [], "skipped": {}}
    text = document(peers, None, None, has_plot=False)
    assert "## Targets" in text
    assert "control plane" not in text
