"""A client's lease as its keeper and its user share it.

The keeper's thread changes it under `changed`; the user's thread reads `version` on every
frame (one attribute, no lock) and looks closer only when it moved.
"""

from __future__ import annotations

import enum
import random
import threading
from dataclasses import dataclass, field

from tensorpool.client.mapping import EpochRegions
from tensorpool.client.talk import Talk
from tensorpool.wire.driver import Role


def choose_client_id() -> int:
    """A random non-zero client id (Driver §B.2)."""
    return random.randrange(1, 1 << 31)


class LeaseStatus(enum.Enum):
    """Where a lease stands (Driver §4.12.1)."""

    BACKOFF = "backoff"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"
    CLOSED = "closed"


@dataclass(slots=True, eq=False)
class ClientLease:
    """One lease of this process.

    Attributes:
        version: grows with every change that the user of the lease must see.
        regions: what to map now; None while there is no lease, or no producer any more.
        regions_ns: the driver's time of the announce that told them, 0 if the attach did.
        vacant_epoch, vacant_since_ns: the epoch whose producer is gone, and since when.
        error: the driver's last refusal, if it is one that no retry cures by itself.
        asked: attach requests sent with this client id; more than one, and the id may be taken
            by a lease of our own, whose grant we never heard or whose connection we lost.
        unanswered: correlation ids of those that may be answered yet, oldest first.
        talk: what the user says and hears besides.
    """

    stream_id: int
    role: Role
    client_id: int
    has_fixed_id: bool
    publish_mode: int
    talk: Talk
    status: LeaseStatus = LeaseStatus.BACKOFF
    version: int = 0
    regions: EpochRegions | None = None
    regions_ns: int = 0
    vacant_epoch: int = 0
    vacant_since_ns: int = 0
    error: Exception | None = None
    lease_id: int = 0
    node_id: int = 0
    correlation_id: int = 0
    next_action_ns: int = 0
    next_tick_ns: int = 0
    deadline_ns: int = 0
    ttl_ns: int = 0
    attempts: int = 0
    asked: int = 0
    unanswered: dict[int, None] = field(default_factory=dict)
    attaches: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def bump(self) -> None:
        """Tell whoever uses or awaits the lease that it changed; `changed` is held."""
        self.version += 1
        self.changed.notify_all()
