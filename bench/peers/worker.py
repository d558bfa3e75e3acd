"""One process of a run: a producer or a consumer that does what the parent says.

A frame carries its time of sending and its number in the first 16 bytes, and the number again in
the last 8, which the consumer compares: it has touched both ends of what it received.
"""

from __future__ import annotations

import importlib
import math
import os
import struct
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from bench.peers.buses import BUSES
from bench.peers.transport import AFTER_S, Receiver, Run, Sender

_HEAD = struct.Struct("<qq")
_TAIL = struct.Struct("<q")


def main(bus_name: str, role: str, run: Run, control: Connection) -> None:
    """Serve the parent until it says "end"."""
    bus = BUSES[bus_name]
    os.environ.update(bus.environment)
    module, _, name = (bus.sender if role == "send" else bus.receiver).partition(":")
    side = getattr(importlib.import_module(module), name)(run)
    try:
        control.send("ready")
        while (order := control.recv()) != "end":
            if role == "send":
                control.send(_send(side, run, *order))
            else:
                control.send("go")
                control.send(_receive(side, run, *order))
    finally:
        side.close()


def _send(sender: Sender, run: Run, rate_hz: float, seconds: float, blocking: bool) -> Any:  # noqa: FBT001
    """Paced frames, or as many as can be (rate 0)."""
    array = np.zeros(run.nbytes, np.uint8)
    words = array.data.cast("q")
    last = len(words) - 1
    send, clock, count = sender.send, time.monotonic_ns, 0
    cpu = time.process_time_ns()
    start = clock()
    end = start + int(seconds * 1e9)
    if rate_hz:
        period = int(1e9 / rate_hz)
        due = start
        while due < end:
            if (left := due - clock()) > 0:
                time.sleep(left / 1e9)
            words[1] = words[last] = count
            words[0] = clock()
            send(array, blocking=blocking)
            count += 1
            due += period
    else:
        # Small frames: without a look at the clock for each. Large ones: not late at the end,
        # for a transport that blocks needs somebody who receives.
        burst = 8 if run.nbytes < 1 << 16 else 1
        while clock() < end:
            for _ in range(burst):
                words[1] = words[last] = count
                words[0] = 0
                send(array, blocking=blocking)
                count += 1
    result = {
        "sent": count,
        "seconds": (clock() - start) / 1e9,
        "cpu_s": (time.process_time_ns() - cpu) / 1e9,
    }
    if blocking:
        sender.finish()
    return result


def _receive(receiver: Receiver, run: Run, seconds: float, blocking: bool) -> Any:  # noqa: FBT001
    """What came, and how late."""
    late: list[int] = []
    torn, first, newest, count = 0, 0, 0, 0
    tail = run.nbytes - 8
    poll, clock = receiver.poll, time.monotonic_ns
    cpu = time.process_time_ns()
    end = clock() + int((seconds + AFTER_S) * 1e9)
    while True:
        frame = receiver.wait(0.05) if blocking else poll()
        now = clock()
        if frame is None:
            if now >= end:
                break
            continue
        sent_ns, seq = _HEAD.unpack_from(frame)
        if _TAIL.unpack_from(frame, tail)[0] != seq:
            torn += 1
            continue
        now = clock()
        if sent_ns:
            late.append(now - sent_ns)
        first = first or now
        newest = now
        count += 1
        if now >= end:
            break
    result: dict[str, Any] = {
        "received": count,
        "torn": torn,
        "seconds": (newest - first) / 1e9,
        "cpu_s": (time.process_time_ns() - cpu) / 1e9,
    }
    late.sort()
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        if late:
            result[name] = late[min(math.ceil(share * len(late)) - 1, len(late) - 1)] / 1e3
    return result
