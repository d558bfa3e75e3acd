"""`tensorpool status` for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tensorpool.cli.console import make_console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tensorpool.cli.qos_watch import StreamQos
    from tensorpool.cli.status_report import HostStatus, LeaseStatus, ProcessStatus, StreamStatus

_COLOURS = {"healthy": "green", "degraded": "yellow", "down": "red"}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_UNIT = 1024
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400
_NONE = "-"


def render(found: HostStatus, *, clear: bool) -> None:
    """Print `found`, in place of what was there if `clear` and this is a terminal."""
    console = make_console()
    if clear and console.is_terminal:
        console.clear()
    console.print(screen(found), soft_wrap=not console.is_terminal)


def screen(found: HostStatus, qos: Mapping[int, StreamQos] | None = None) -> Group:
    """Everything of a host on one screen; with drops if `qos` was listened to."""
    head = Text()
    head.append(found["health"], style=_COLOURS[found["health"]])
    head.append(f" {found['instance_id']}  {found['namespace_dir']}")
    parts: list[RenderableType] = [head]
    parts += [Text(f"  {problem}") for problem in found["problems"]]
    if found["processes"]:
        parts.append(_processes(found["processes"]))
    if found["streams"]:
        parts.append(_streams(found["streams"], qos))
    if found["leases"]:
        parts.append(_leases(found["leases"]))
    memory = found["memory"]
    used, free = _size(memory["used_bytes"]), _size(memory["free_bytes"])
    parts.append(Text(f"shared memory {used} used, {free} free"))
    return Group(*parts)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        is_text = column in {"process", "state", "name", "profile", "role"}
        table.add_column(column, justify="left" if is_text else "right", overflow="fold")
    return table


def _processes(rows: list[ProcessStatus]) -> Table:
    table = _table("process", "pid", "state", "restarts", "uptime", "cpu", "memory", "lag")
    for row in rows:
        table.add_row(
            row["name"],
            _text(row["pid"]),
            row["state"] if row["needed"] else "external",
            str(row["restarts"]),
            _duration(row["uptime_s"]),
            _number(row["cpu_percent"], "%"),
            _size(row["memory_bytes"]),
            _number(row["lag_ms"], " ms"),
        )
    return table


def _streams(rows: list[StreamStatus], qos: Mapping[int, StreamQos] | None) -> Table:
    table = _table(
        *("stream", "name", "profile", "epoch", "producer", "consumers", "frames", "rate", "bytes"),
        *(() if qos is None else ("gap drops", "late drops")),
    )
    for row in rows:
        heard = (qos or {}).get(row["stream_id"])
        drops = (None, None) if heard is None else (heard["drops_gap"], heard["drops_late"])
        table.add_row(
            str(row["stream_id"]),
            row["name"],
            row["profile"],
            _text(row["epoch"]),
            _text(row["producer_client_id"]),
            str(row["consumers"]),
            _text(row["frames"]),
            _number(row["rate_hz"], "/s"),
            _size(row["bytes"]),
            *(() if qos is None else map(_text, drops)),
        )
    return table


def _leases(rows: list[LeaseStatus]) -> Table:
    table = _table("lease", "stream", "client", "role", "state", "node", "expires in")
    for row in rows:
        table.add_row(
            str(row["lease_id"]),
            str(row["stream_id"]),
            str(row["client_id"]),
            row["role"],
            row["state"],
            str(row["node_id"]),
            _number(row["expires_in_ms"], " ms"),
        )
    return table


def _text(value: int | None) -> str:
    return _NONE if value is None else str(value)


def _number(value: float | None, unit: str) -> str:
    return _NONE if value is None else f"{value:.1f}{unit}"


def _size(count: int | None) -> str:
    if count is None:
        return _NONE
    size = float(count)
    for unit in _UNITS[:-1]:
        if size < _UNIT:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _UNIT
    return f"{size:.1f} {_UNITS[-1]}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return _NONE
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.1f} min"
    if seconds < _DAY_S:
        return f"{seconds / _HOUR_S:.1f} h"
    return f"{seconds / _DAY_S:.1f} d"
