"""Counters of the driver, plain integers on the hot path; `tensorpool.metrics` exports them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tensorpool.aeron.outbox import SendTotals
from tensorpool.driver.attach import RejectReason
from tensorpool.metrics import Histogram
from tensorpool.metrics.histogram import REQUEST_BOUNDS_S, WORK_BOUNDS_S
from tensorpool.wire.driver import Role


@dataclass(slots=True)
class DriverStats:
    """Totals since the process started.

    Attributes:
        attach_times: from an attach request seen to its grant sent.
        detach_times: from a detach request seen to its response sent.
        keepalive_delays: from the client's timestamp to the lease extended.
        provision_times: from an epoch wanted to its regions made, or failed.
        outbox, announces: what went out, over all connections.
    """

    attach_requests: int = 0
    attaches: int = 0
    detaches: int = 0
    keepalives: int = 0
    ignored_keepalives: int = 0
    rejects: Counter[RejectReason] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    """Leases ended, by LeaseRevokeReason name."""
    epoch_bumps: Counter[str] = field(default_factory=Counter)
    """By BumpReason name."""
    malformed_messages: int = 0
    refused_shutdowns: int = 0
    provisioned_bytes: int = 0
    provision_failures: int = 0
    stalls: int = 0
    media_driver_losses: int = 0
    superseded_leases: int = 0
    attach_times: dict[Role, Histogram] = field(
        default_factory=lambda: {role: Histogram(REQUEST_BOUNDS_S) for role in Role}
    )
    detach_times: Histogram = field(default_factory=lambda: Histogram(REQUEST_BOUNDS_S))
    keepalive_delays: Histogram = field(default_factory=lambda: Histogram(REQUEST_BOUNDS_S))
    provision_times: Histogram = field(default_factory=lambda: Histogram(WORK_BOUNDS_S))
    outbox: SendTotals = field(default_factory=SendTotals)
    announces: SendTotals = field(default_factory=SendTotals)
