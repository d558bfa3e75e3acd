"""Control messages packed in one step: the side that measures must not be the slow one."""

from __future__ import annotations

from typing import Any

from tensorpool import wire
from tensorpool.wire.codec import MESSAGE_HEADER
from tensorpool.wire.driver import (
    DRIVER,
    PublishMode,
    Role,
    ShmAttachRequest,
    ShmDetachRequest,
    ShmLeaseKeepalive,
)


class _Packed:
    """Messages like `example`; those of its fields that differ come first in its block."""

    def __init__(self, example: tuple[Any, ...], fields: int) -> None:
        codec = DRIVER.by_type[type(example)]
        self._pack_into = codec.block.pack_into
        encoded = wire.encode(example)
        block = encoded[MESSAGE_HEADER.size : MESSAGE_HEADER.size + codec.block_length]
        self._same = codec.block.unpack(block)[fields:]
        self._encoded = bytearray(encoded)

    def pack(self, *values: int) -> bytes:
        """The message with these first fields."""
        self._pack_into(self._encoded, MESSAGE_HEADER.size, *values, *self._same)
        return bytes(self._encoded)


attach_request = _Packed(
    ShmAttachRequest(0, 0, 0, Role.CONSUMER, publish_mode=PublishMode.REQUIRE_EXISTING), 4
).pack
"""A request for a stream that exists: correlation id, stream id, client id, role."""
detach_request = _Packed(ShmDetachRequest(0, 0, 0, 0, Role.CONSUMER), 5).pack
"""All of its fields."""
keepalive = _Packed(ShmLeaseKeepalive(0, 0, 0, Role.CONSUMER, 0), 5).pack
"""All of its fields."""
