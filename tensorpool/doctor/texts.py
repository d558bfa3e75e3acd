"""Numbers in words of a finding."""

from __future__ import annotations

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_UNIT = 1024


def size(count: int) -> str:
    """`count` bytes with a fitting unit."""
    value = float(count)
    for unit in _UNITS[:-1]:
        if value < _UNIT:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= _UNIT
    return f"{value:.1f} {_UNITS[-1]}"
