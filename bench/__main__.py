"""`python -m bench`: the import of the command, and the cost of a frame beside the bare copy."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

import tensorpool
from bench.host import BenchHost, bench_host
from tensorpool.client.tensors import AnyArray

IMPORT_RUNS = 5
FRAMES = 20_000
REPEATS = 5


def main() -> None:
    """Run every benchmark and print its medians."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, CPython {platform.python_version()}")
    report("import of the command alone", import_times(), 1e3, "ms")
    with bench_host() as host:
        frames(host)


def import_times() -> list[float]:
    """Seconds that `import tensorpool.cli` takes in a fresh interpreter, by -X importtime."""
    times = []
    for _ in range(IMPORT_RUNS):
        run = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import tensorpool.cli"],
            check=True,
            capture_output=True,
            text=True,
        )
        total = re.findall(r"\|\s+(\d+) \| tensorpool\.cli$", run.stderr, re.MULTILINE)
        times.append(int(total[-1]) / 1e6)
    return times


def frames(host: BenchHost) -> None:
    """One frame published and received in one process, beside the bare copy."""
    with (
        tensorpool.connect(host.config) as pool,
        pool.consumer(10000) as consumer,
        pool.producer(10000) as producer,
    ):
        for nbytes in (4096, 65536, 1 << 20):
            array = np.zeros(nbytes, np.uint8)
            target = np.zeros(nbytes, np.uint8)
            count = max(FRAMES * 4096 // nbytes, 500)

            def bare(array: AnyArray = array, target: AnyArray = target) -> None:
                np.copyto(target, array)

            def round_trip(array: AnyArray = array) -> None:
                producer.publish(array)
                consumer.next(1.0)

            copy, whole = interleaved(count, bare, round_trip)
            report(f"{nbytes} bytes: bare copy", copy, 1e6, "us")
            report(f"{nbytes} bytes: publish + next", whole, 1e6, "us")
            ratio = statistics.median(w / c for w, c in zip(whole, copy, strict=True))
            print(f"  ratio {ratio:.2f}")


def interleaved(count: int, *actions: Callable[[], None]) -> list[list[float]]:
    """Seconds a call of each action, `REPEATS` times in turn, `count` calls each."""
    results: list[list[float]] = [[] for _ in actions]
    for _ in range(REPEATS):
        for action, times in zip(actions, results, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                action()
            times.append((time.perf_counter() - start) / count)
    return results


def report(what: str, seconds: list[float], scale: float, unit: str) -> None:
    """One line: median, and the spread from the lowest to the highest."""
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    print(f"{what}: {middle * scale:.2f} {unit} ({low * scale:.2f} to {high * scale:.2f})")


if __name__ == "__main__":
    main()
