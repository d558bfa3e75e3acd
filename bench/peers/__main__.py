"""`python -m bench.peers`: measure tensorpool and its peers, interleaved, into one JSON file."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from bench.peers.environment import FOLDER, ROOT, ensure

CROWD = {"tensorpool", "iceoryx2 raw", "shared_memory + pipe", "zenoh, shared memory", "pyzmq"}
"""Whom several consumers are measured with."""
RESULTS = ROOT / "bench" / "results"


def main() -> None:
    """Choose the interpreter of .venv-bench, then measure."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repetitions (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a phase (1.0)")
    parser.add_argument("--only", help="transports whose name contains this")
    parser.add_argument("--sizes", help="frame sizes in bytes, with commas between")
    parser.add_argument("--consumers", default="1,4,16", help="numbers of consumers (1,4,16)")
    parser.add_argument("--output", default=str(RESULTS / "peers.json"), help="results, JSON")
    parser.add_argument("--report", action="store_true", help="write docs/benchmarks.md after it")
    parser.add_argument("--append", action="store_true", help="add rounds to the output")
    arguments = parser.parse_args()
    if Path(sys.prefix).resolve() != FOLDER:
        python = ensure()
        os.chdir(ROOT)
        os.execv(python, [python, "-m", "bench.peers", *sys.argv[1:]])
    _measure_all(arguments)


def _measure_all(arguments: argparse.Namespace) -> None:
    import psutil  # noqa: PLC0415 - of the environment that main has chosen

    from bench.host import bench_host  # noqa: PLC0415
    from bench.machine import save  # noqa: PLC0415
    from bench.peers.buses import BUSES  # noqa: PLC0415
    from bench.peers.measure import SIZES, RunFailedError, config, measure  # noqa: PLC0415

    sizes = [int(size) for size in arguments.sizes.split(",")] if arguments.sizes else SIZES
    crowd = [int(count) for count in arguments.consumers.split(",")]
    skipped = _missing()
    names = [
        name
        for name in BUSES
        if (arguments.only or "") in name and BUSES[name].package not in skipped
    ]
    for package, reason in skipped.items():
        print(f"bench: {package} is skipped: {reason}")
    output = Path(arguments.output)
    results = _load(output) if arguments.append and output.is_file() else _fresh(arguments)
    results["skipped"] = skipped
    with bench_host(config()) as host:
        for number in range(arguments.rounds):
            results["load"].append(os.getloadavg()[0])
            cases = _cases(names, sizes, crowd)
            random.shuffle(cases)  # neighbours on the machine disturb each other's cases alike
            for name, nbytes, consumers in cases:
                start = time.monotonic()
                try:
                    seen = measure(
                        name,
                        nbytes,
                        consumers,
                        arguments.seconds,
                        (host.config, psutil.Process(host.pid)),
                    )
                except RunFailedError as error:
                    seen = {"failed": str(error)}
                entry = {"bus": name, "nbytes": nbytes, "consumers": consumers, **seen}
                results["runs"].append({"round": len(results["load"]) - 1, **entry})
                save(output, results)  # whatever ends the run
                took = time.monotonic() - start
                print(f"{number + 1}/{arguments.rounds} {_line(entry)} ({took:.0f} s)", flush=True)
    print(f"bench: {output}")
    if arguments.report:
        os.execv(sys.executable, [sys.executable, "-m", "bench.report", "--peers", str(output)])


def _cases(names: list[str], sizes: Any, crowd: list[int]) -> list[tuple[str, int, int]]:
    from bench.peers.buses import BUSES  # noqa: PLC0415

    cases = []
    for consumers in crowd:
        for name in names:
            bus = BUSES[name]
            variant = bus.ring is not None or bool(bus.environment) or not bus.copies
            for nbytes in sizes:
                if not bus.least <= nbytes <= bus.largest:
                    continue
                if consumers > 1 and (
                    variant or name not in CROWD or nbytes not in {4096, 1 << 20}
                ):
                    continue
                cases.append((name, nbytes, consumers))
    return cases


def _missing() -> dict[str, str]:
    from bench.peers.buses import BUSES  # noqa: PLC0415

    missing = {}
    for package in {bus.package for bus in BUSES.values()} - {""}:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing[package] = "not installed"
    return missing


def _load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def _fresh(arguments: argparse.Namespace) -> dict[str, Any]:
    from bench.machine import origin  # noqa: PLC0415

    versions = {}
    for package in ("iceoryx2", "eclipse-zenoh", "pyzmq", "cyclonedds", "ray", "numpy", "pyaeron"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    rest = {"versions": versions, "seconds": arguments.seconds, "load": [], "runs": []}
    return origin() | rest


def _line(entry: dict[str, Any]) -> str:
    head = f"{entry['bus']}, {entry['nbytes']} bytes to {entry['consumers']}"
    if "failed" in entry:
        return f"{head}: {entry['failed']}"
    latency, rate = entry["latency"], entry["rate"]
    return f"{head}: p50 {latency['p50']:.0f} us, {rate['received_hz']:.0f}/s"


if __name__ == "__main__":
    main()
