"""The part of docs/benchmarks.md about the control plane, made from its result file."""

from __future__ import annotations

from typing import Any

from bench.markdown import conditions, table, target

MOST_DRIVER_CPU = 0.25
MOST_ATTACH_MS = 2.0
MOST_GROWTH = 1.2
_CROWD, _LARGEST = 1000, 10_000

METHOD = """\
One session sends what many clients would: attaches, and a keepalive a second for each lease, evenly
over the second; its leases are spread over 64 streams of a small profile (16 slots of 4 KiB).
Attach and detach are measured one by one with a random pause before each, from the call that sends
to the answer decoded, by a client that sleeps 50 µs between two looks. Rates: 32 requests under way
at a time. Capacity: keepalives as fast as the driver takes them. Expiry: all leases fall silent at
once; from the end of each one's life to its revocation heard. A producer's attach takes a new
epoch; epochs of up to 1 MiB, as these, are made ahead (`policies.prepare_ahead_max_bytes`)."""


def section(results: dict[str, Any]) -> str:
    """Markdown, with the heading.

    Raises:
        KeyError: it is no result of `bench.control`.
    """
    parts = ["## The control plane", METHOD, conditions(results)]
    if targets := _targets(results):
        parts.append(table(["figure", "target", "measured", ""], targets))
    parts += [_levels(results), "### A new epoch, by pool size", _epochs(results)]
    return "\n\n".join(parts)


def _targets(results: dict[str, Any]) -> list[list[str]]:
    by_leases = {level["leases"]: level for level in results["levels"]}
    rows = []
    if _LARGEST in by_leases:
        cpu = by_leases[_LARGEST]["keepalive_cpu"]["driver"]
        rows.append(
            target(
                "10,000 leases at 1 s keepalive, driver",
                "< 25 % of a core",
                f"{cpu:.1%}",
                is_met=cpu < MOST_DRIVER_CPU,
                why="Thousands of leases",
            )
        )
    if _CROWD in by_leases:
        for role, figures in by_leases[_CROWD]["attach"].items():
            rows.append(
                target(
                    f"attach p99 with 1,000 leases, {role}",
                    "< 2 ms",
                    f"{figures['p99']:.2f} ms",
                    is_met=figures["p99"] < MOST_ATTACH_MS,
                    why="Attaching",
                )
            )
    attach_ms = [epoch["attach"]["p50"] for epoch in results["epochs_ahead"]]
    growth = attach_ms[-1] / attach_ms[0]
    rows.append(
        target(
            "attach with an epoch made ahead, largest pool to smallest, p50",
            f"no growth (at most {MOST_GROWTH:g} times)",
            f"{growth:.2f} times",
            is_met=growth <= MOST_GROWTH,
            why="Attaching",
        )
    )
    return rows


def _levels(results: dict[str, Any]) -> str:
    head = [
        "leases",
        "attach, consumer: p50 / p99, ms",
        "attach, producer",
        "detach, consumer",
        "attaches a second",
        "driver's CPU for the keepalives",
        "keepalives a second at most",
        "expiry late, p50 / p99, ms",
    ]
    rows = [
        [
            f"{level['leases']:,}",
            _figures(level["attach"]["consumer"]),
            _figures(level["attach"]["producer"]),
            _figures(level["detach"]["consumer"]),
            f"{level['attach_hz']:,}",
            f"{level['keepalive_cpu']['driver']:.1%}",
            f"{level['capacity_hz']:,}",
            _figures(level["expiry"]),
        ]
        for level in results["levels"]
    ]
    return table(head, rows)


def _epochs(results: dict[str, Any]) -> str:
    head = [
        "pool",
        "attach of a producer, epoch made ahead: p50 / p99, ms",
        "made when asked for",
        "detach to the next epoch's announce, made when asked for",
        "driver's CPU an epoch, ms",
    ]
    rows = [
        [
            f"{epoch['pool_bytes'] / (1 << 20):g} MiB",
            _figures(ahead["attach"]),
            _figures(epoch["attach"]),
            _figures(epoch["replaced"]),
            f"{epoch['cpu_ms']:.2f}",
        ]
        for epoch, ahead in zip(results["epochs"], results["epochs_ahead"], strict=True)
    ]
    return table(head, rows)


def _figures(figures: dict[str, float]) -> str:
    return f"{figures['p50']:.2f} / {figures['p99']:.2f}"
