"""`python -m bench.control`: attach, detach, keepalive, expiry by leases; epochs by pool size."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import progress
from bench.control import epochs, level
from bench.control.crowd import Crowd
from bench.control.layout import DEFAULT_AHEAD_BYTES, host_config
from bench.control.session import Session
from bench.host import bench_host
from bench.machine import RESULTS, origin, save
from bench.processes import host_processes
from tensorpool.config import load, to_settings

LEASES = "1,100,1000,10000"
_WHOLE: level.Amounts = {"singles": 250, "batch": 1000, "seconds": 5.0}
_QUICK: level.Amounts = {"singles": 60, "batch": 200, "seconds": 1.0}
_EPOCHS, _QUICK_EPOCHS = 15, 3


def main() -> None:
    """Measure, tell, and save."""
    parser = argparse.ArgumentParser(prog="python -m bench.control", description=__doc__)
    parser.add_argument("--leases", default=LEASES, help=f"numbers of leases ({LEASES})")
    parser.add_argument("--seconds", type=float, help="length of a phase (5; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="fewer of everything")
    parser.add_argument("--output", type=Path, default=RESULTS / "control.json", help="JSON")
    arguments = parser.parse_args()
    amounts = _QUICK if arguments.quick else _WHOLE
    if arguments.seconds:
        amounts = {**amounts, "seconds": arguments.seconds}
    counts = [int(count) for count in arguments.leases.split(",")]
    rounds = _QUICK_EPOCHS if arguments.quick else _EPOCHS
    try:
        results = measure(counts, amounts, rounds)
    except (RuntimeError, TimeoutError) as error:
        sys.exit(f"bench.control: {error}")
    save(arguments.output, results)
    print(f"bench: {arguments.output}")


def measure(counts: list[int], amounts: level.Amounts, rounds: int) -> dict[str, Any]:
    """The result file's content.

    Raises:
        RuntimeError, TimeoutError: the host does not do what it should.
    """
    sizes = epochs.pool_sizes()
    results: dict[str, Any] = origin() | {"load": [os.getloadavg()[0]], **amounts}
    for name, ahead_bytes in (("epochs", 0), ("epochs_ahead", 2 * max(sizes))):
        with _session(2, sizes, ahead_bytes) as (session, pids):
            bystander = Crowd(session)  # without any client the driver looks seldom
            bystander.grow(1)
            session.meanwhile = bystander.step
            results[name] = [
                epochs.measure(session, number, sizes[number], pids["driver"], rounds)
                for number in progress.rounds(len(sizes), "pool sizes")
            ]
    with _session(max(counts), [], DEFAULT_AHEAD_BYTES) as (session, pids):
        results["levels"] = []
        for number in progress.rounds(len(counts), "numbers of leases"):
            found = level.measure(session, counts[number], pids, amounts)
            results["levels"].append(found)
            print(_line(found), flush=True)
    results["load"].append(os.getloadavg()[0])
    return results


@contextmanager
def _session(
    most_leases: int, sizes: list[int], ahead_bytes: int
) -> Iterator[tuple[Session, dict[str, int]]]:
    """A session with a host of its own, and the process ids of that."""
    with bench_host(
        configure=lambda root: host_config(root, most_leases, sizes, ahead_bytes)
    ) as host:
        settings = to_settings(load(host.config, {}).config)
        with Session(settings) as session:
            yield session, host_processes(host.pid, settings)


def _line(found: level.Level) -> str:
    attach, expiry = found["attach"]["consumer"], found["expiry"]
    return (
        f"{found['leases']} leases: attach p50 {attach['p50']:.2f} ms, p99 {attach['p99']:.2f} ms; "
        f"driver {found['keepalive_cpu']['driver']:.1%} of a core; "
        f"{found['capacity_hz']:,.0f} keepalives/s at most; expiry p99 {expiry['p99']:.1f} ms late"
    )


if __name__ == "__main__":
    main()
