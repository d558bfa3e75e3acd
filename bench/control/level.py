"""Everything that is measured with one number of leases."""

from __future__ import annotations

import random
import time
from typing import TypedDict

from bench.control.crowd import Crowd, attach_many, client_ids, detach_many
from bench.control.layout import LEASE_LIFE_S, PROBE_STREAM
from bench.control.session import DEADLINE_S, Session
from bench.figures import Figures, figures_ms
from bench.processes import CpuShares
from tensorpool.wire.driver import Role

_LONGEST_PAUSE_S = 0.005
_EXPIRY_PAUSE_S = 0.0002
_WATCHED = 100
"""Expiries at least, with fewer leases as well."""


class Level(TypedDict):
    """Figures with `leases` leases; CPU in shares of one core, by process."""

    leases: int
    attach: dict[str, Figures]
    detach: dict[str, Figures]
    attach_hz: float
    detach_hz: float
    keepalive_cpu: dict[str, float]
    capacity_hz: float
    capacity_cpu: dict[str, float]
    expiry: Figures


class Amounts(TypedDict):
    """How much is measured: attaches one by one, attaches at once, seconds a phase."""

    singles: int
    batch: int
    seconds: float


def measure(session: Session, leases: int, pids: dict[str, int], amounts: Amounts) -> Level:
    """Attach so many leases, measure with them, and let them expire.

    Raises:
        RuntimeError: a lease was refused, or ended although it was kept alive.
        TimeoutError: the driver does not answer.
    """
    crowd = Crowd(session)
    crowd.grow(leases)
    session.meanwhile = crowd.step
    attach, detach = {}, {}
    for role in (Role.CONSUMER, Role.PRODUCER):
        name = role.name.lower()
        attach[name], detach[name] = _one_by_one(session, role, amounts["singles"])
    attach_hz, detach_hz = _at_once(session, amounts["batch"])
    capacity_hz, capacity_cpu = _capacity(session, crowd, pids, amounts["seconds"] / 2)
    shares = CpuShares(pids)
    session.pass_time(amounts["seconds"])
    keepalive_cpu = shares.so_far()
    crowd.check()
    return {
        "leases": leases,
        "attach": attach,
        "detach": detach,
        "attach_hz": round(attach_hz),
        "detach_hz": round(detach_hz),
        "keepalive_cpu": keepalive_cpu,
        "capacity_hz": round(capacity_hz),
        "capacity_cpu": capacity_cpu,
        "expiry": _expiry(session, crowd),
    }


def _one_by_one(session: Session, role: Role, count: int) -> tuple[Figures, Figures]:
    """From just before a request is sent to its answer heard; a short random pause in between."""
    attach_s, detach_s = [], []
    for _ in range(count):
        session.pass_time(random.uniform(0, _LONGEST_PAUSE_S), 0.0005)
        client_id, sent_s = next(client_ids), time.monotonic()
        asked = session.request_attach(PROBE_STREAM, client_id, role)
        lease, _, heard_s = session.await_lease(asked, client_id, role, sent_s)
        attach_s.append(heard_s - sent_s)
        session.pass_time(random.uniform(0, _LONGEST_PAUSE_S), 0.0005)
        sent_s = time.monotonic()
        detach_s.append(session.await_detached(session.request_detach(lease)) - sent_s)
    return figures_ms(attach_s), figures_ms(detach_s)


def _at_once(session: Session, count: int) -> tuple[float, float]:
    """Attaches and detaches a second, some requests under way at a time."""
    start_s = time.monotonic()
    leases = attach_many(session, count)
    attached_s = time.monotonic()
    detach_many(session, leases)
    return count / (attached_s - start_s), count / (time.monotonic() - attached_s)


def _capacity(
    session: Session, crowd: Crowd, pids: dict[str, int], seconds: float
) -> tuple[float, dict[str, float]]:
    """Keepalives a second that the driver takes, from the first to the last of them handled."""
    session.meanwhile = lambda: None
    session.round_trip()
    shares = CpuShares(pids)
    start_s = time.monotonic()
    count = crowd.flood(seconds)
    session.round_trip()
    elapsed_s = time.monotonic() - start_s
    used = shares.so_far()
    session.meanwhile = crowd.step
    return count / elapsed_s, used


def _expiry(session: Session, crowd: Crowd) -> Figures:
    """All fall silent: from the end of each one's life to its revocation heard."""
    session.meanwhile = lambda: None
    watched = [*crowd.leases, *attach_many(session, max(_WATCHED - len(crowd.leases), 0))]
    session.wait_until(
        lambda: len(session.revoked) == len(watched), LEASE_LIFE_S + DEADLINE_S, _EXPIRY_PAUSE_S
    )
    late = [session.revoked[lease.lease_id] - lease.sent_s - LEASE_LIFE_S for lease in watched]
    session.revoked.clear()
    return figures_ms(late)
