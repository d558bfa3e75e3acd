"""What clients are told of their requests and of their leases' ends, and the log with them."""

from __future__ import annotations

import logging
from typing import Any

from tensorpool.aeron.outbox import Outbox
from tensorpool.clock import monotonic_ns
from tensorpool.driver.attach import RejectReason
from tensorpool.driver.leases import Lease
from tensorpool.driver.stats import DriverStats
from tensorpool.driver.streams import Stream, Waiting
from tensorpool.fault_points import FaultPoint, fault_point
from tensorpool.logs import RateLimit, counted
from tensorpool.shm.layout import HEADER_SLOT_BYTES, LAYOUT_VERSION
from tensorpool.wire.control import ResponseCode
from tensorpool.wire.driver import (
    MAX_ERROR_MESSAGE_BYTES,
    LeaseRevokeReason,
    ShmAttachRequest,
    ShmAttachResponse,
    ShmDetachRequest,
    ShmDetachResponse,
    ShmLeaseRevoked,
)

_log = logging.getLogger(__name__)


class Answers:
    """Sends them.

    Attributes:
        outbox: the way out; another one with each connection.
    """

    outbox: Outbox

    def __init__(self, stats: DriverStats) -> None:
        self._stats = stats
        self._refusal_log = RateLimit()

    def granted(self, stream: Stream, entry: Waiting) -> None:
        """The lease is the client's, with these regions (Driver §4.2)."""
        assert stream.epoch is not None
        lease, epoch = entry.lease, stream.epoch
        times = self._stats.attach_times[lease.role]
        self.outbox.send(
            ShmAttachResponse(
                entry.request.correlation_id,
                ResponseCode.OK,
                lease.lease_id,
                lease.expiry_ns,
                stream.stream_id,
                epoch.epoch,
                LAYOUT_VERSION,
                stream.profile.header_nslots,
                HEADER_SLOT_BYTES,
                lease.node_id,
                epoch.pools,
                epoch.header_uri,
            ),
            lambda: times.observe_ns(monotonic_ns() - entry.seen_ns),
        )
        fault_point(FaultPoint.CLIENT_ANSWERED)
        _log.info("lease attached", extra=_ids(lease) | {"epoch": epoch.epoch})

    def refused(
        self,
        correlation_id: int,
        reason: RejectReason,
        message: str,
        request: ShmAttachRequest | None = None,
    ) -> None:
        """No lease, and why."""
        self._stats.rejects[reason] += 1
        self.outbox.send(
            ShmAttachResponse(
                correlation_id, reason.code, error_message=message[:MAX_ERROR_MESSAGE_BYTES]
            )
        )
        fields: dict[str, Any] = {"code": reason.code.name, "why": message}
        if request is not None:
            fields |= {"stream_id": request.stream_id, "client_id": request.client_id}
        suppressed = self._refusal_log.take()
        level = logging.DEBUG if suppressed is None else logging.INFO
        _log.log(level, "attach rejected", extra=fields | counted(suppressed or 0))

    def unsupported(self, correlation_id: int, *, is_attach: bool, text: str) -> None:
        """The client's schema version is newer than ours (Driver §4.4a)."""
        if is_attach:
            self.refused(correlation_id, RejectReason.SCHEMA_VERSION, text)
        else:
            self.outbox.send(
                ShmDetachResponse(
                    correlation_id, ResponseCode.UNSUPPORTED, text[:MAX_ERROR_MESSAGE_BYTES]
                )
            )

    def detached(self, request: ShmDetachRequest, seen_ns: int) -> None:
        """The lease is over, as its client wished (Driver §4.9)."""
        self.outbox.send(
            ShmDetachResponse(request.correlation_id, ResponseCode.OK),
            lambda: self._stats.detach_times.observe_ns(monotonic_ns() - seen_ns),
        )

    def not_detached(self, request: ShmDetachRequest) -> None:
        """There is no such lease of this client."""
        self.outbox.send(
            ShmDetachResponse(
                request.correlation_id,
                ResponseCode.REJECTED,
                f"lease {request.lease_id} is unknown or already over, or stream, client or "
                "role do not match it",
            )
        )

    def revoked(self, lease: Lease, reason: LeaseRevokeReason, text: str) -> None:
        """The lease has ended, for whoever it concerns (Driver §4.9)."""
        self.outbox.send(
            ShmLeaseRevoked(
                monotonic_ns(),
                lease.lease_id,
                lease.stream_id,
                lease.client_id,
                lease.role,
                reason,
                text,
            )
        )
        fault_point(FaultPoint.REVOCATION_SENT)
        self._stats.ends[reason.name] += 1
        _log.info("lease ended", extra=_ids(lease) | {"reason": reason.name, "why": text})


def _ids(lease: Lease) -> dict[str, Any]:
    return {
        "stream_id": lease.stream_id,
        "lease_id": lease.lease_id,
        "client_id": lease.client_id,
        "role": lease.role.name,
    }
