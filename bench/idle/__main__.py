"""`python -m bench.idle`: what a host costs that nobody uses, and how soon it is ready.

Starts a host some times, with two static streams of 64 slots and no client; lets it settle, and
looks at its processes: CPU time by the scheduler's own account, memory from smaps_rollup.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import progress
from bench.host import bench_host
from bench.machine import RESULTS, origin, save
from bench.processes import CpuShares, Memory, host_processes, memory
from tensorpool.config import load, to_settings

_SETTLE_S = 3.0
_WHOLE = (5, 10.0)
_QUICK = (2, 2.0)


def main() -> None:
    """Measure, tell, and save."""
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="fewer starts, less time at rest")
    parser.add_argument("--output", type=Path, default=RESULTS / "idle.json", help="JSON")
    arguments = parser.parse_args()
    starts, seconds = _QUICK if arguments.quick else _WHOLE
    results = measure(starts, seconds)
    save(arguments.output, results)
    cpu, rss = (statistics.median(total) for total in (results["cpu"], results["rss"]))
    print(
        f"ready in {statistics.median(results['ready_s']) * 1e3:.0f} ms; "
        f"{cpu:.2%} of a core, {rss:.0f} MiB resident at rest\nbench: {arguments.output}"
    )


def measure(starts: int, seconds: float) -> dict[str, Any]:
    """The result file's content: of each start, and of each process the medians.

    Raises:
        RuntimeError: the host does not start, run or end as it should.
    """
    ready_s: list[float] = []
    ready_at: list[dict[str, float]] = []
    shares: list[dict[str, float]] = []
    memories: list[dict[str, Memory]] = []
    for _ in progress.rounds(starts, "starts of a host"):
        with bench_host() as host:
            settings = to_settings(load(host.config, {}).config)
            time.sleep(_SETTLE_S)
            pids = host_processes(host.pid, settings)
            used = CpuShares(pids)
            time.sleep(seconds)
            shares.append(used.so_far())
            memories.append({name: memory(pid) for name, pid in pids.items()})
            ready_s.append(host.ready_s)
            ready_at.append(host.ready_at_s)
    return origin() | {
        "starts": starts,
        "seconds": seconds,
        "ready_s": ready_s,
        "cpu": [sum(share.values()) for share in shares],
        "rss": [sum(one["rss"] for one in each.values()) for each in memories],
        "pss": [sum(one["pss"] for one in each.values()) for each in memories],
        "processes": {
            name: {
                "ready_at_s": _median(ready_at, name),
                "cpu": _median(shares, name),
                "rss": statistics.median(each[name]["rss"] for each in memories),
                "pss": statistics.median(each[name]["pss"] for each in memories),
                "private": statistics.median(each[name]["private"] for each in memories),
                "shm": statistics.median(each[name]["shm"] for each in memories),
            }
            for name in shares[0]
        },
    }


def _median(each: Sequence[dict[str, float]], name: str) -> float | None:
    """None for a process that never says that it is ready."""
    values = [one[name] for one in each if name in one]
    return statistics.median(values) if values else None


if __name__ == "__main__":
    main()
