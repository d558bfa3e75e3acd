"""Reading a media driver's CnC file: who made it, and is its owner's heart beating?

The heartbeat is a wall-clock time, so its *age* lies whenever the clock steps. A beat
seen to change proves a live driver whatever the clocks say.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass

_METADATA = struct.Struct("<6i3q")
_METADATA_BYTES = 128
# The to-driver ring buffer's trailer: six pairs of cache lines, the heartbeat in the last.
_TRAILER_BYTES = 768
_HEARTBEAT_IN_TRAILER = 640
_HEARTBEAT = struct.Struct("<q")

OBSERVATION_S = 1.5
"""A C or Java media driver beats at least once a second."""
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class CncOwner:
    """The process that made a CnC file and its heartbeat (wall clock, ms) as just read."""

    pid: int
    heartbeat_ms: int


def read_owner(aeron_dir: str) -> CncOwner | None:
    """The owner of the CnC file in `aeron_dir`, or None if there is no readable one."""
    try:
        # Not blocking: what lies there may be a FIFO.
        fd = os.open(os.path.join(aeron_dir, "cnc.dat"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            metadata = file.read(_METADATA.size)
            if len(metadata) < _METADATA.size:
                return None
            _, to_driver_bytes, _, _, _, _, _, _, pid = _METADATA.unpack(metadata)
            file.seek(_METADATA_BYTES + to_driver_bytes - _TRAILER_BYTES + _HEARTBEAT_IN_TRAILER)
            beat = file.read(_HEARTBEAT.size)
    except (OSError, ValueError):
        return None
    if len(beat) < _HEARTBEAT.size:
        return None
    return CncOwner(pid, _HEARTBEAT.unpack(beat)[0])


def find_live_owner(aeron_dir: str) -> CncOwner | None:
    """The media driver that lives in `aeron_dir`, found by watching its heart beat.

    Takes up to `OBSERVATION_S` to say that there is none, at once if there is no CnC file.
    """
    first = read_owner(aeron_dir)
    if first is None:
        return None
    deadline = time.monotonic() + OBSERVATION_S
    while time.monotonic() < deadline:
        now = read_owner(aeron_dir)
        if now is None:
            return None
        if now.heartbeat_ms != first.heartbeat_ms:
            return now
        time.sleep(_POLL_S)
    return None
