"""What a new epoch costs by the size of its pool: a producer attaches, and leaves."""

from __future__ import annotations

import os
import time
from typing import TypedDict

from bench.control.crowd import client_ids
from bench.control.layout import FIRST_POOL_STREAM
from bench.control.session import Session
from bench.figures import Figures, figures_ms
from bench.processes import cpu_s
from tensorpool.wire.driver import Role

_MIB = 1 << 20
POOL_BYTES = [1 << 16, _MIB, 16 * _MIB, 64 * _MIB, 256 * _MIB]
_PART_OF_SPACE = 16
"""A pool may take this part of what is free: there are several epochs of it at a time."""
_PAUSE_S = 0.1
"""Before an attach, and at least as long as the epoch before took: time to prepare the next."""


class EpochCost(TypedDict):
    """Of one pool size: attach to its answer, detach to the next epoch's announce, driver's CPU."""

    pool_bytes: int
    attach: Figures
    replaced: Figures
    cpu_ms: float


def pool_sizes() -> list[int]:
    """The sizes that fit into shared memory."""
    info = os.statvfs("/dev/shm")
    free = info.f_bavail * info.f_frsize
    return [nbytes for nbytes in POOL_BYTES if nbytes <= max(free // _PART_OF_SPACE, 1 << 16)]


def measure(
    session: Session, number: int, pool_bytes: int, driver_pid: int, rounds: int
) -> EpochCost:
    """Attach and detach a producer of the stream of pool size `number`, `rounds` times.

    Raises:
        RuntimeError: an attach was refused.
        TimeoutError: the driver does not answer, or announces no epoch.
    """
    stream_id = FIRST_POOL_STREAM + number
    _await_epoch(session, stream_id, 1)
    attach_s: list[float] = []
    replaced_s: list[float] = []
    used_s = 0.0
    for _ in range(rounds):
        session.pass_time(max(_PAUSE_S, 2 * replaced_s[-1] if replaced_s else 0.0))
        used_s -= cpu_s(driver_pid)
        client_id, sent_s = next(client_ids), time.monotonic()
        asked = session.request_attach(stream_id, client_id, Role.PRODUCER)
        lease, epoch, heard_s = session.await_lease(asked, client_id, Role.PRODUCER, sent_s)
        attach_s.append(heard_s - sent_s)
        sent_s = time.monotonic()
        session.await_detached(session.request_detach(lease))
        _await_epoch(session, stream_id, epoch + 1)
        replaced_s.append(time.monotonic() - sent_s)
        used_s += cpu_s(driver_pid)
    return {
        "pool_bytes": pool_bytes,
        "attach": figures_ms(attach_s),
        "replaced": figures_ms(replaced_s),
        "cpu_ms": round(used_s / rounds / 2 * 1e3, 3),
    }


def _await_epoch(session: Session, stream_id: int, least: int) -> None:
    session.wait_until(lambda: session.announced.get(stream_id, 0) >= least)
