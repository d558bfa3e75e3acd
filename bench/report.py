"""`python -m bench.report`: docs/benchmarks.md and its plot, made from three result files."""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from bench.control import report as control
from bench.idle import report as idle
from bench.machine import RESULTS
from bench.markdown import machine_of, verdict
from bench.ratios import (
    CLAIM_TARGET,
    FLOOR,
    MIB,
    NO_COPY,
    OURS,
    TARGETS,
    Ratio,
    Target,
    claim_ratio,
    ratio_of,
    runs_of,
    size_name,
)

ROOT = Path(__file__).resolve().parents[1]
NOTES = ROOT / "bench" / "notes.md"
"""What only a person can say: what was tried, and what the limits are."""


def main() -> None:
    """Write the document and, where matplotlib is, the plot."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    for name in ("peers", "control", "idle"):
        parser.add_argument(f"--{name}", type=Path, default=RESULTS / f"{name}.json")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks.md")
    arguments = parser.parse_args()
    results, control_plane, at_rest = (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        for path in (arguments.peers, arguments.control, arguments.idle)
    )
    if results is None:
        parser.error(f"{arguments.peers} is not there: python -m bench.peers makes it")
    plot_path = arguments.output.with_name("benchmarks.svg")
    has_plot = plot(results, plot_path)
    text = document(results, control_plane, at_rest, has_plot=has_plot)
    arguments.output.write_text(text, encoding="utf-8")
    print(f"bench: {arguments.output}")


def document(
    results: dict[str, Any],
    control_plane: dict[str, Any] | None,
    at_rest: dict[str, Any] | None,
    *,
    has_plot: bool,
) -> str:
    """The whole of docs/benchmarks.md; what was not measured is left out."""
    machine, rounds = results["machine"], len(results["load"])
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    code = "C" if results["tensorpool"]["native"] else "pure Python"
    conditions = (
        f"- Machine: {machine_of(results)}.\n"
        f"- tensorpool {results['tensorpool']['version']} with its per-frame path in {code}; "
        f"{versions}.\n"
        f"- {results['when'][:10]}, {rounds} rounds, phases of {results['seconds']} s."
    )
    parts = [
        "# Benchmarks",
        "<!-- Made by `python -m bench.report` from result files and bench/notes.md. -->",
        INTRODUCTION,
        conditions,
    ]
    if any(load > machine["cores"] for load in results["load"]):
        parts.append(
            "**The machine was shared while this ran** (load above its cores): times are longer "
            "than on an idle one, above all p99 and beyond. The ratios compare like with like."
        )
    parts += [
        "## Method",
        METHOD,
        "## Targets",
        COMMANDS,
        _targets(results),
    ]
    if has_plot:
        parts.append("![One-way p50 and frames a second by frame size](benchmarks.svg)")
    parts += [
        "## One-way latency, one polling consumer",
        _table(results, 1, _latency, "µs, p50 / p99 / p99.9"),
        "## Frames received a second",
        _table(results, 1, lambda runs: f"{_median(runs, 'rate', 'received_hz'):,.0f}", ""),
        "## CPU time a frame, waiting consumer",
        _table(results, 1, _cpu, "µs, producer + consumer (+ tensorpool's host processes)"),
        "## Several waiting consumers",
    ]
    for consumers in sorted({run["consumers"] for run in results["runs"]} - {1}):
        parts += [
            f"### {consumers} consumers",
            _table(results, consumers, _crowd, "µs p50 / p99; frames a second each receives"),
        ]
    failed = sorted(
        {
            f"{r['bus']}, {size_name(r['nbytes'])} to {r['consumers']}: {r['failed']}"
            for r in results["runs"]
            if "failed" in r
        }
    )
    if failed or results["skipped"]:
        parts.append("## Not measured")
        parts.append(
            "\n".join(
                f"- {line}"
                for line in [*failed, *(f"{k}: {v}" for k, v in results["skipped"].items())]
            )
        )
    if control_plane is not None:
        parts.append(control.section(control_plane))
    if at_rest is not None:
        parts.append(idle.section(at_rest))
    parts.append(NOTES.read_text(encoding="utf-8").strip())
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """\
tensorpool beside what a Python user could pick instead, by `make bench`; to compare two result
files: `python -m bench.compare BEFORE AFTER`."""

COMMANDS = """\
`python -m bench.peers --report` measures the rows of this table, `python -m bench.control` and
`python -m bench.idle` those further down, `make bench` all of them. A row that is missed leads to
how far it is, what was tried, and what the limit is."""

METHOD = """\
Producer and consumers are processes of their own. A frame carries its time of sending and its
number in its first 16 bytes and the number again in its last 8; the consumer reads both ends and
compares. Each transport is used as its documentation recommends, from its published package:
"iceoryx2 raw" goes past its documented memory views by raw pointers. "bare copy" is numpy's copy
into a mapped ring and a flag, with no bus around it.

- Latency: paced at 1 kHz (8 MiB: 100 Hz; Ray: 50 Hz, which it can keep up with), one consumer that
  polls without a pause; from just before the call that sends to after both ends were read.
- CPU: the same pace, a consumer that waits as the transport has it wait; user and system time of
  each process, all threads.
- Rate: as fast as the producer can, a fresh copy for each frame, a polling consumer; frames that
  arrived whole.
- Ring: 512 slots of 4 KiB, 64 of 64 KiB, 8 from 1 MiB, for tensorpool, the bare copy and the pipe
  alike, but 64 of 1 MiB for tensorpool, which writes past the cache to a ring that is larger; "8
  slots" shows the other one. iceoryx2's subscriber buffer holds up to 16 samples.

Every round measures every transport once, in random order. A ratio is taken within a round; of the
rounds the median counts, with the lowest and highest beside it."""


def _targets(results: dict[str, Any]) -> str:
    lines = [
        "| figure | size | target | ratio (spread) | against | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for target in TARGETS:
        for nbytes in target.sizes:
            ratio = ratio_of(
                results, nbytes, target.value, at_least=target.at_least, against=target.against
            )
            if ratio is not None:
                lines.append(_row(target, nbytes, ratio))
    claim = claim_ratio(results)
    if claim is not None:
        lines.append(_row(CLAIM_TARGET, 8 * MIB, claim))
    return "\n".join(lines)


def _row(target: Target, nbytes: int, ratio: Ratio) -> str:
    limit, at_least = target.limit, target.at_least
    is_met = ratio.median >= limit if at_least else ratio.median <= limit
    sign = "≥" if at_least else "≤"
    end = verdict(is_met=is_met, why=target.why)
    return (
        f"| {target.what} | {size_name(nbytes)} | {sign} {limit} | {ratio} | {ratio.against} | "
        f"{end} |"
    )


def _table(results: dict[str, Any], consumers: int, cell: Any, unit: str) -> str:
    sizes = sorted({run["nbytes"] for run in results["runs"] if run["consumers"] == consumers})
    names = list(dict.fromkeys(_order(results, consumers)))
    lines = [
        f"| {unit} | " + " | ".join(size_name(size) for size in sizes) + " |",
        "| --- |" + " --- |" * len(sizes),
    ]
    for name in names:
        cells = []
        for size in sizes:
            runs = [run for run in runs_of(results, size, consumers) if run["bus"] == name]
            try:
                cells.append(cell(runs) if runs else "-")
            except KeyError:
                cells.append("-")
        if set(cells) != {"-"}:
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _order(results: dict[str, Any], consumers: int) -> list[str]:
    """Tensorpool first, then the floor, then the peers by name; without copies at the end."""
    names = {run["bus"] for run in results["runs"] if run["consumers"] == consumers}
    return sorted(
        names, key=lambda n: (n in NO_COPY, n != OURS, not n.startswith(OURS), n != FLOOR, n)
    )


def _median(runs: list[dict[str, Any]], *keys: str) -> float:
    values = []
    for run in runs:
        value: Any = run
        for key in keys:
            value = value[key]
        values.append(float(value))
    return statistics.median(values)


def _latency(runs: list[dict[str, Any]]) -> str:
    return " / ".join(f"{_median(runs, 'latency', key):,.0f}" for key in ("p50", "p99", "p99.9"))


def _cpu(runs: list[dict[str, Any]]) -> str:
    sides = [_median(runs, "cpu", key) for key in ("producer_us", "consumer_us", "host_us")]
    text = f"{sides[0]:.0f} + {sides[1]:.0f}"
    return f"{text} (+ {sides[2]:.0f})" if runs[0]["bus"].startswith(OURS) else text


def _crowd(runs: list[dict[str, Any]]) -> str:
    p50, p99 = (_median(runs, "latency", key) for key in ("p50", "p99"))
    return f"{p50:,.0f} / {p99:,.0f}; {_median(runs, 'rate', 'received_hz'):,.0f}/s"


def plot(results: dict[str, Any], path: Path) -> bool:
    """Draw latency and rate by size; False where matplotlib is not."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - of the optional environment
    except ImportError:
        return False
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "tensorpool"
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    panels = (("latency", "p50", "one-way p50, µs"), ("rate", "received_hz", "frames a second"))
    sizes = sorted({run["nbytes"] for run in results["runs"]})
    for axis, (group, key, label) in zip(axes, panels, strict=True):
        for name in _order(results, 1):
            if name in NO_COPY or "," in name:
                continue
            points = [
                (size, _median(runs, group, key))
                for size in sizes
                if (runs := [r for r in runs_of(results, size, 1) if r["bus"] == name])
            ]
            if points:
                style = (
                    {"linewidth": 3}
                    if name == OURS
                    else {"linestyle": "--" if name == FLOOR else "-"}
                )
                axis.plot(*zip(*points, strict=True), marker="o", label=name, **style)
        axis.set(xscale="log", yscale="log", xlabel="frame", ylabel=label)
        axis.set_xticks(sizes, [size_name(size) for size in sizes])
        axis.minorticks_off()
        axis.grid(visible=True, alpha=0.3)
    axes[0].legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    return True


if __name__ == "__main__":
    main()
