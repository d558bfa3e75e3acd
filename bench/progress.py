"""How far a long benchmark is: one line on standard error, on a terminal only.

Written between measurements by the loop itself; a bar with a thread of its own would take
time from what is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

_WIDTH = 30


def rounds(count: int, what: str) -> Iterator[int]:
    """0 to `count` - 1, each shown as it begins; the line is gone at the end."""
    is_shown = sys.stderr.isatty()
    for number in range(count):
        if is_shown:
            filled = _WIDTH * number // count
            line = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {number}/{count} {what}"
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        yield number
    if is_shown:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
