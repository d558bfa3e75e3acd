"""The part of docs/benchmarks.md about a host at rest, made from its result file."""

from __future__ import annotations

import statistics
from typing import Any

from bench.markdown import conditions, table, target

MOST_CPU, MOST_RSS_MIB, MOST_READY_S = 0.03, 200.0, 1.0

METHOD = """\
A host with two static streams and no client, started {starts} times; each time it settles for 3 s
and is looked at for {seconds:g} s. CPU time is the scheduler's own account, since clock ticks miss
whoever wakes for a moment only. *Resident* counts pages that processes share once in each; *own
share* (PSS) counts every page once. *Ready* is from the start of `tensorpool up`, the interpreter's
own start included."""


def section(results: dict[str, Any]) -> str:
    """Markdown, with the heading.

    Raises:
        KeyError: it is no result of `bench.idle`.
    """
    cpu, rss, pss, ready_s = (
        statistics.median(results[key]) for key in ("cpu", "rss", "pss", "ready_s")
    )
    targets = [
        target(
            "idle tree, CPU", "< 3 % of a core", f"{cpu:.1%}", is_met=cpu < MOST_CPU, why="At rest"
        ),
        target(
            "idle tree, resident",
            "< 200 MiB",
            f"{rss:.0f} MiB (own share {pss:.0f} MiB)",
            is_met=rss < MOST_RSS_MIB,
            why="At rest",
        ),
        target(
            "ready after `tensorpool up`",
            "< 1 s",
            f"{ready_s:.2f} s ({min(results['ready_s']):.2f} to {max(results['ready_s']):.2f})",
            is_met=ready_s < MOST_READY_S,
            why="At rest",
        ),
    ]
    rows = [
        [
            name,
            "-" if one["ready_at_s"] is None else f"{one['ready_at_s'] * 1e3:.0f}",
            f"{one['cpu']:.2%}",
            *(f"{one[key]:.1f}" for key in ("rss", "pss", "private", "shm")),
        ]
        for name, one in results["processes"].items()
    ]
    return "\n\n".join(
        [
            "## At rest, and starting",
            METHOD.format(**results),
            conditions(results),
            table(["figure", "target", "measured", ""], targets),
            table(
                [
                    "process",
                    "ready, ms",
                    "CPU",
                    "resident, MiB",
                    "own share",
                    "private",
                    "shared memory",
                ],
                rows,
            ),
        ]
    )
