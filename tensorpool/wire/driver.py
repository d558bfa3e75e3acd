"""Schema 901: leases and the driver's life (Driver, appendix A)."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, NamedTuple

from tensorpool.wire.codec import Schema
from tensorpool.wire.control import PayloadPool
from tensorpool.wire.fields import ASCII, DATA, INT32, INT64, UINT8, UINT16, UINT32, UINT64, Group

DRIVER = Schema(schema_id=901, version=1)

MAX_ERROR_MESSAGE_BYTES = 1024
"""Driver §4.2."""


class HugepagesPolicy(IntEnum):
    """What backing a client asks for (Driver §4.3)."""

    UNSPECIFIED = 0
    STANDARD = 1
    HUGEPAGES = 2


class Role(IntEnum):
    """What a lease allows (Driver §4.1)."""

    PRODUCER = 1
    CONSUMER = 2


class PublishMode(IntEnum):
    """Whether an attach may create the stream (Driver §4.3)."""

    REQUIRE_EXISTING = 1
    EXISTING_OR_CREATE = 2


class LeaseRevokeReason(IntEnum):
    """Why a lease ended (Driver §4.7)."""

    DETACHED = 1
    EXPIRED = 2
    REVOKED = 3


class ShutdownReason(IntEnum):
    """Why the driver stops (Driver §4.13)."""

    NORMAL = 0
    ADMIN = 1
    ERROR = 2


@DRIVER.message(1)
class ShmAttachRequest(NamedTuple):
    """Client to driver: a lease, please (Driver §4.2, §4.3)."""

    correlation_id: Annotated[int, INT64]
    stream_id: Annotated[int, UINT32]
    client_id: Annotated[int, UINT32]
    role: Annotated[int, UINT8]
    expected_layout_version: Annotated[int, UINT32] = 0
    publish_mode: Annotated[int | None, UINT8.optional()] = None
    require_hugepages: Annotated[int, UINT8] = HugepagesPolicy.UNSPECIFIED
    desired_node_id: Annotated[int | None, UINT32.optional()] = None


@DRIVER.message(2)
class ShmAttachResponse(NamedTuple):
    """Driver to client: the lease and its regions, or why not (Driver §4.2)."""

    correlation_id: Annotated[int, INT64]
    code: Annotated[int, INT32]
    lease_id: Annotated[int | None, UINT64.optional()] = None
    lease_expiry_timestamp_ns: Annotated[int | None, UINT64.optional()] = None
    stream_id: Annotated[int | None, UINT32.optional()] = None
    epoch: Annotated[int | None, UINT64.optional()] = None
    layout_version: Annotated[int | None, UINT32.optional()] = None
    header_nslots: Annotated[int | None, UINT32.optional()] = None
    header_slot_bytes: Annotated[int | None, UINT16.optional()] = None
    node_id: Annotated[int | None, UINT32.optional()] = None
    payload_pools: Annotated[tuple[PayloadPool, ...], Group(PayloadPool)] = ()
    header_region_uri: Annotated[str, ASCII] = ""
    error_message: Annotated[str, ASCII] = ""


@DRIVER.message(3)
class ShmDetachRequest(NamedTuple):
    """Client to driver: the lease is no longer needed (Driver §4.9)."""

    correlation_id: Annotated[int, INT64]
    lease_id: Annotated[int, UINT64]
    stream_id: Annotated[int, UINT32]
    client_id: Annotated[int, UINT32]
    role: Annotated[int, UINT8]


@DRIVER.message(4)
class ShmDetachResponse(NamedTuple):
    """Driver to client: outcome of a detach (Driver §4.9)."""

    correlation_id: Annotated[int, INT64]
    code: Annotated[int, INT32]
    error_message: Annotated[str, ASCII] = ""


@DRIVER.message(5)
class ShmLeaseKeepalive(NamedTuple):
    """Client to driver: still here (Driver §4.4)."""

    lease_id: Annotated[int, UINT64]
    stream_id: Annotated[int, UINT32]
    client_id: Annotated[int, UINT32]
    role: Annotated[int, UINT8]
    client_timestamp_ns: Annotated[int, UINT64]


@DRIVER.message(6)
class ShmDriverShutdown(NamedTuple):
    """Driver to all: every lease is invalid now (Driver §4.13)."""

    timestamp_ns: Annotated[int, UINT64]
    reason: Annotated[int, UINT8]
    error_message: Annotated[str, ASCII] = ""


@DRIVER.message(7)
class ShmLeaseRevoked(NamedTuple):
    """Driver to all: a lease ended (Driver §4.9)."""

    timestamp_ns: Annotated[int, UINT64]
    lease_id: Annotated[int, UINT64]
    stream_id: Annotated[int, UINT32]
    client_id: Annotated[int, UINT32]
    role: Annotated[int, UINT8]
    reason: Annotated[int, UINT8]
    error_message: Annotated[str, ASCII] = ""


@DRIVER.message(8)
class ShmDriverShutdownRequest(NamedTuple):
    """Operator to driver: stop, with the configured token (Driver §4.13)."""

    correlation_id: Annotated[int, INT64]
    reason: Annotated[int, UINT8]
    token: Annotated[bytes, DATA]
    error_message: Annotated[str, ASCII] = ""
