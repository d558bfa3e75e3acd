"""What a lease's user says and hears besides the lease itself; all of it on the keeper's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from tensorpool.clock import NS_PER_S
from tensorpool.settings import Policies

if TYPE_CHECKING:
    from tensorpool.client.channels import Channels
    from tensorpool.client.lease import ClientLease

MAX_CADENCE_NS = NS_PER_S


def cadence_ns(policies: Policies) -> int:
    """From one QoS message or metadata beacon to the next.

    Wire §15.11 names one cadence for announces, QoS and beacons, 1 Hz; the configuration knows it
    as `announce_period_ms`. A longer period of announces must not let us pass for stale.
    """
    return min(policies.announce_period_ns, MAX_CADENCE_NS)


class Talk(Protocol):
    """A producer's or a consumer's part in the traffic of its stream."""

    def on_connected(self, channels: Channels) -> None:
        """A new connection to a media driver: whatever was open on the former one is dead."""

    def on_regions(self, lease: ClientLease) -> None:
        """A new lease or a new epoch."""

    def hear(self, lease: ClientLease, message: Any, now_ns: int) -> None:
        """A message of the lease's stream."""

    def tick(self, lease: ClientLease, channels: Channels, now_ns: int) -> int:
        """Say what is due while the lease is attached; how much work that was."""

    def on_closed(self) -> None:
        """The lease was given back."""
