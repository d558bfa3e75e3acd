"""Counters of the driver, plain integers on the hot path; `tensorpool.metrics` exports them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class DriverStats:
    """Totals since the process started."""

    attach_requests: int = 0
    attaches: int = 0
    detaches: int = 0
    keepalives: int = 0
    ignored_keepalives: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    """By response code name."""
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
