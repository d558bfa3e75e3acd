"""A soak's result for people: a part of docs/reliability.md, and the picture beside it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench.soak.picture import Curve, Panel, draw
from bench.soak.result import Result
from bench.soak.sampler import CLIENTS, MEASURES, Series
from bench.soak.trend import Trend, Verdict
from tensorpool.version import __version__

BEGIN = "<!-- soak: begin (generated) -->"
END = "<!-- soak: end (generated) -->"
PICTURE = "soak.svg"
_NEW_PAGE = f"# Reliability\n\n## Soak\n\n{BEGIN}\n{END}\n"
_COUNTED = {
    "tensorpool_driver_attaches": "leases granted",
    "tensorpool_driver_detaches": "detaches",
    "tensorpool_driver_lease_ends": "leases ended",
    "tensorpool_driver_epoch_bumps": "epochs put into service",
    "tensorpool_gc_deleted": "directories deleted by the GC",
    "tensorpool_driver_announces": "announces",
    "tensorpool_driver_keepalives": "keepalives",
}
_MINUTE_S = 60.0
_MIB = 1 << 20


def write_report(result: Result, page: Path) -> None:
    """Put the result between the markers of `page`, made if absent, and the picture beside it.

    Raises:
        ValueError: the page is there and has no markers.
        OSError: it cannot be written.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    text = page.read_text(encoding="utf-8") if page.exists() else _NEW_PAGE
    page.write_text(replaced(text, fragment(result)), encoding="utf-8")
    page.with_name(PICTURE).write_text(picture(result), encoding="utf-8")


def replaced(text: str, between: str) -> str:
    """`text` with `between` put between the markers.

    Raises:
        ValueError: the markers are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{between}\n{END}{after}"


def fragment(result: Result) -> str:
    """The generated part, in Markdown."""
    slopes = (
        f"Slopes are those of the time after the first {result.warm_up_s / _MINUTE_S:.1f} minutes, "
        f"in which clients come and go {result.plan.warm_up_haste:g} times as often, "
        f"over {(result.lasted_s - result.warm_up_s) / _MINUTE_S:.1f}; "
        "in brackets the range of 95 % confidence (`bench/soak/trend.py` has the rule). `clients` "
        f"are the {result.plan.steady_workers} client processes that are never killed, together. "
        "What they have in use is asked of their allocators once a minute, after a collection."
    )
    trends = result.trends()
    sampler = result.sampler
    lasting = (
        f"Lasting logs are the {sampler.lasting_logs} publications that were there in every sample "
        f"after that. They take {sampler.lasting_bytes / _MIB:.1f} MiB when every page of them was "
        "written, and never more, so their growth up to there is not judged. Command queues are "
        "four rings of 128 MiB of Aeron's media driver, of which the same is true."
    )
    lines = [
        *_account(result),
        "",
        f"![Memory, descriptors, shared memory, threads and lag over time]({PICTURE})",
        "",
        slopes,
        lasting,
        "",
        *_table(trends),
    ]
    wrong = [
        *result.problems,
        *result.tally.errors,
        *(f"{series.measure.title} of {series.subject} grows" for series in result.growing()),
    ]
    if wrong:
        lines += ["", "**Not passed:**", "", *(f"- {line}" for line in wrong)]
    return "\n".join(lines)


def _account(result: Result) -> Iterator[str]:
    """What was done, and how it ended."""
    plan, tally = result.plan, result.tally
    ended = f", ended early by {result.interrupted_by}" if result.interrupted_by else ""
    yield (
        f"- {result.when[:10]}, {result.lasted_s / _MINUTE_S:.1f} minutes{ended}: {plan.streams} "
        f"streams, {plan.clients} clients in {plan.workers} processes, {plan.rate_hz:g} frames a "
        "second and stream."
    )
    loads = result.loads or [0.0]
    host_cpu = sum(s for name, s in result.sampler.cpu_s.items() if name != CLIENTS)
    yield (
        f"- Machine: {psutil.cpu_count()} cores, Linux {platform.release()}, CPython "
        f"{platform.python_version()}; load average {min(loads):.1f} to {max(loads):.1f}. "
        f"tensorpool {__version__}; the host's processes took "
        f"{100 * host_cpu / max(result.lasted_s, 1):.0f} % of one core."
    )
    faults = [f"{count} times {what}" for what, count in result.faults.items()]
    clients = [f"{tally.attaches:,} attaches, {tally.detaches:,} detaches", *faults]
    yield f"- Clients: {'; '.join(clients)}."
    counted = [
        f"{round(result.totals[name]):,} {words}"
        for name, words in _COUNTED.items()
        if name in result.totals
    ]
    yield f"- Host: {'; '.join(counted)}."
    yield (
        f"- Frames: {tally.published:,} published; {tally.checked:,} read and compared, whole, in "
        f"order and of the right content; {tally.stale:,} overwritten while they were read, and "
        f"told so; {tally.error_count} wrong."
    )
    yield f"- Left at the end: {'see below' if result.problems else 'nothing'}."


def _table(trends: dict[Series, Trend]) -> list[str]:
    lines = ["| measure | of | level | slope an hour | |", "| --- | --- | --- | --- | --- |"]
    for series, found in trends.items():
        measure, slope = series.measure, found.slope
        unit = f" {measure.unit}" if measure.unit else ""
        told = (
            "-"
            if slope is None
            else f"{_number(slope.median)} [{_number(slope.low)}, {_number(slope.high)}]"
        )
        verdict = found.verdict.value
        if found.verdict is Verdict.GROWS and measure.is_judged:
            verdict = f"**{verdict}**"
        lines.append(
            f"| {measure.title} | {series.subject} | {found.level:.4g}{unit} | {told} | {verdict} |"
        )
    return lines


def _number(value: float) -> str:
    text = f"{value:+.2f}"
    return "0" if float(text) == 0 else text


def picture(result: Result) -> str:
    """The SVG document."""
    sampler = result.sampler
    panels = []
    for measure in MEASURES:
        curves = [
            Curve(series.subject, *sampler.curve(series))
            for series in sampler.series()
            if series.measure is measure
        ]
        title = f"{measure.title}, {measure.unit}" if measure.unit else measure.title
        panels.append(Panel(title, curves))
    title = f"Soak of {result.lasted_s / _MINUTE_S:.0f} minutes"
    return draw(panels, title=title, warm_up_s=result.warm_up_s)
