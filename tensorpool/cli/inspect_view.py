"""`tensorpool inspect` for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tensorpool.cli.regions import RegionFacts, SlotFacts

_TEXT = frozenset({"file", "type", "state", "dtype", "order", "shape", "strides", "problem"})


def region_table(rows: list[RegionFacts]) -> Table:
    """One row a region file."""
    table = _table(
        *("file", "type", "stream", "epoch", "pool", "slots", "stride", "bytes", "pid", "problem")
    )
    for row in rows:
        is_pool = row["region_type"] == "payload_pool"
        values = (
            row["file"],
            row["region_type"],
            row["stream_id"],
            row["epoch"],
            row["pool_id"] if is_pool else None,
            row["nslots"],
            row["stride_bytes"] if is_pool else row["slot_bytes"],
            row["size_bytes"],
            row["pid"],
            row["problem"],
        )
        table.add_row(*map(_text, values))
    return table


def slot_table(rows: list[SlotFacts]) -> Table:
    """One row a slot."""
    table = _table(
        *("slot", "state", "seq", "pool", "payload slot", "bytes", "dtype", "order", "shape"),
        *("strides", "timestamp ns", "meta", "problem"),
    )
    for row in rows:
        values = (
            row["index"],
            row["state"],
            row["seq"],
            row["pool_id"],
            row["payload_slot"],
            row["values_len_bytes"],
            row["dtype"],
            row["major_order"],
            _joined(row["shape"]),
            _joined(row["strides"] if any(row["strides"] or ()) else None),
            row["timestamp_ns"],
            row["meta_version"],
            row["problem"],
        )
        table.add_row(*map(_text, values))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify = "left" if column in _TEXT else "right"
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def _joined(values: Iterable[int] | None) -> str | None:
    return None if values is None else "x".join(map(str, values))


def _text(value: object) -> str:
    return "-" if value is None else str(value)
