"""Whether a process that put its number somewhere lives, although numbers are used again.

Pids decide nothing here but to keep: where a held lock says that a driver lives, it does,
and a pid that leads nowhere deletes nothing by itself (design §4.13).
"""

from __future__ import annotations

import os
import time

from tensorpool.clock import NS_PER_S

_DEAD_STATES = frozenset({b"Z", b"X", b"x"})
_STATE_FIELD = 0
_START_FIELD = 19


def is_stamper_alive(pid: int, stamped_ns: int) -> bool:
    """Whether process `pid` lives and already lived at `stamped_ns` (CLOCK_MONOTONIC).

    A process that started after the stamp only has the stamper's number. The doubt of two
    clock ticks counts as alive. A stamp in the future is one of an earlier boot.
    """
    start_ticks = _start_ticks(pid)
    if start_ticks is None or stamped_ns > time.monotonic_ns():
        return False
    tick_ns = NS_PER_S // os.sysconf("SC_CLK_TCK")
    # /proc counts from boot with the time asleep, the superblock without; the difference
    # only grows, so that this is the earliest monotonic time the process can have started.
    asleep_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return start_ticks * tick_ns - asleep_ns <= stamped_ns + 2 * tick_ns


def _start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if there is none."""
    if pid <= 0:
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[_STATE_FIELD] in _DEAD_STATES else int(fields[_START_FIELD])
