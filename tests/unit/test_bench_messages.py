"""The benchmark's fast way to pack a message gives what the codec gives."""

import pytest

from bench.control.messages import attach_request, detach_request, keepalive
from tensorpool import wire
from tensorpool.wire.driver import (
    PublishMode,
    Role,
    ShmAttachRequest,
    ShmDetachRequest,
    ShmLeaseKeepalive,
)


@pytest.mark.parametrize("role", Role)
def test_packed_messages_are_the_codecs(role: Role) -> None:
    assert attach_request(7, 10_000, 42, role) == wire.encode(
        ShmAttachRequest(7, 10_000, 42, role, publish_mode=PublishMode.REQUIRE_EXISTING)
    )
    assert detach_request(-8, 3 << 40, 10_001, 43, role) == wire.encode(
        ShmDetachRequest(-8, 3 << 40, 10_001, 43, role)
    )
    assert keepalive(3 << 40, 10_002, 44, role, 1 << 60) == wire.encode(
        ShmLeaseKeepalive(3 << 40, 10_002, 44, role, 1 << 60)
    )
