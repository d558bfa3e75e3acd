"""Places where a test can have this process killed: between any two steps of an attach.

    TENSORPOOL_FAULT_POINT=EPOCH_RECORDED:2  dies by SIGKILL when it passes there a second time
    TENSORPOOL_FAULT_ONCE=/path              made at the kill; a process that finds it lives on

Read once, at import: without the variable `fault_point` is bound to a function that does
nothing. It stands in steps of the control plane only, never on the way of a frame.
"""

from __future__ import annotations

import enum
import itertools
import os
import signal
from collections.abc import Callable, Mapping

POINT_VARIABLE = "TENSORPOOL_FAULT_POINT"
ONCE_VARIABLE = "TENSORPOOL_FAULT_ONCE"


class FaultPoint(enum.StrEnum):
    """What has just been done. In the order of an attach that makes a stream."""

    REVOCATION_SENT = enum.auto()
    """To the lease that this attach supersedes."""
    RECORD_RELEASED = enum.auto()
    LEASE_ENDED = enum.auto()
    STREAM_ADDED = enum.auto()
    LEASE_RESERVED = enum.auto()
    EPOCH_RECORDED = enum.auto()
    """Its number stands in the registry; nothing of it exists."""
    EPOCH_SUBMITTED = enum.auto()
    STREAM_DIRECTORY_MADE = enum.auto()
    STAGING_MADE = enum.auto()
    FILE_MADE = enum.auto()
    """This and the next two once for each region, the header ring first."""
    FILE_RESERVED = enum.auto()
    FILE_STAMPED = enum.auto()
    EPOCH_RENAMED = enum.auto()
    EPOCH_TAKEN = enum.auto()
    """The duty cycle has the regions; neither registry nor clients know of them."""
    LEASE_RECORDED = enum.auto()
    STREAM_RECORDED = enum.auto()
    CHANGE_COUNTED = enum.auto()
    EPOCH_ANNOUNCED = enum.auto()
    CLIENT_ANSWERED = enum.auto()
    CONSUMER_MOVED = enum.auto()


def _pass(_: FaultPoint) -> None:
    """No test: nothing happens."""


def armed(text: str, once: str | None) -> Callable[[FaultPoint], None]:
    """A `fault_point` that kills this process.

    Args:
        text: the point's name, `:` and a count if it is not the first passing that kills.
        once: a file to be made at the kill; if it exists, nothing is killed.

    Raises:
        ValueError: no such point, or a count that is none.
    """
    name, _, count = text.partition(":")
    if name not in FaultPoint.__members__:
        known = ", ".join(FaultPoint.__members__)
        raise ValueError(f"{POINT_VARIABLE}={text}: no such point; there are {known}")
    if count and (not count.isdecimal() or int(count) == 0):
        raise ValueError(f"{POINT_VARIABLE}={text}: the count must be 1 or more, or left out")
    fatal, deadly_passing = FaultPoint[name], int(count or 1)
    passings = itertools.count(1)

    def fault_point(point: FaultPoint) -> None:
        if point is not fatal or next(passings) != deadly_passing:
            return
        if once is not None:
            try:
                os.close(os.open(once, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                return
        os.kill(os.getpid(), signal.SIGKILL)

    return fault_point


def _bind(environ: Mapping[str, str]) -> Callable[[FaultPoint], None]:
    text = environ.get(POINT_VARIABLE)
    return armed(text, environ.get(ONCE_VARIABLE)) if text else _pass


fault_point = _bind(os.environ)
"""Dies here if the environment says so."""
