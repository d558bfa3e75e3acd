"""Control messages packed straight into bytes: the side that measures must not be the slow one."""

from __future__ import annotations

import struct

from tensorpool import wire
from tensorpool.wire.driver import (
    PublishMode,
    Role,
    ShmAttachRequest,
    ShmDetachRequest,
    ShmLeaseKeepalive,
)

_HEADER_BYTES = 8
_KEEPALIVE = struct.Struct("<8sQIIBQ")
_DETACH = struct.Struct("<8sqQIIB")
_ATTACH_HEAD = struct.Struct("<8sqIIB")
_EXAMPLE_ATTACH = wire.encode(
    ShmAttachRequest(0, 0, 0, Role.CONSUMER, publish_mode=PublishMode.REQUIRE_EXISTING)
)
_ATTACH_REST = _EXAMPLE_ATTACH[_ATTACH_HEAD.size :]
_ATTACH_HEADER = _EXAMPLE_ATTACH[:_HEADER_BYTES]
_DETACH_HEADER = wire.encode(ShmDetachRequest(0, 0, 0, 0, 0))[:_HEADER_BYTES]
_KEEPALIVE_HEADER = wire.encode(ShmLeaseKeepalive(0, 0, 0, 0, 0))[:_HEADER_BYTES]


def attach_request(correlation_id: int, stream_id: int, client_id: int, role: int) -> bytes:
    """A `ShmAttachRequest` for a stream that exists."""
    head = _ATTACH_HEAD.pack(_ATTACH_HEADER, correlation_id, stream_id, client_id, role)
    return head + _ATTACH_REST


def detach_request(
    correlation_id: int, lease_id: int, stream_id: int, client_id: int, role: int
) -> bytes:
    """A `ShmDetachRequest`."""
    return _DETACH.pack(_DETACH_HEADER, correlation_id, lease_id, stream_id, client_id, role)


def keepalive(lease_id: int, stream_id: int, client_id: int, role: int, timestamp_ns: int) -> bytes:
    """A `ShmLeaseKeepalive`."""
    return _KEEPALIVE.pack(_KEEPALIVE_HEADER, lease_id, stream_id, client_id, role, timestamp_ns)
