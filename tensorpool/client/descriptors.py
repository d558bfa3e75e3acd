"""Frame descriptors on their way out: to the shared stream, and to consumers' own (Wire §5)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tensorpool.aeron.client import MediaDriverLost, Publication
from tensorpool.client.audience import Audience, SideStream
from tensorpool.client.keeper import LeaseKeeper
from tensorpool.clock import NS_PER_MS, monotonic_ns
from tensorpool.wire.codec import MESSAGE_HEADER
from tensorpool.wire.control import CONTROL, FrameDescriptor

CODEC = CONTROL.by_type[FrameDescriptor]
BLOCK = struct.Struct(CODEC.block.format)
MESSAGE_BYTES = MESSAGE_HEADER.size + BLOCK.size
NULL_U64 = 2**64 - 1
NULL_U32 = 2**32 - 1
_BACK_PRESSURE_PATIENCE_NS = NS_PER_MS
"""The ring is lossy and the producer never waits: this long a descriptor is offered again."""
_CONNECT_PATIENCE_NS = 50 * NS_PER_MS


class DescriptorOutlet:
    """Sends descriptors. For the producer's thread.

    Attributes:
        connection: the keeper's connection that the shared publication belongs to.
        dropped: descriptors that could not be sent on the shared stream.
        publication: the shared one, None before the first connection and once closed.
    """

    def __init__(self, keeper: LeaseKeeper, audience: Audience) -> None:
        self.connection = 0
        self.dropped = 0
        self._keeper = keeper
        self._audience = audience
        self.publication: Publication | None = None
        self._patience_ns = _CONNECT_PATIENCE_NS
        self._message = bytearray(MESSAGE_BYTES)
        self._message[: MESSAGE_HEADER.size] = CODEC.header

    @property
    def is_connected(self) -> bool:
        """Whether anybody listens on the shared stream, to whichever source."""
        return self.publication is not None and self.publication.is_connected

    @property
    def direct_offer(self) -> Callable[[bytearray], object] | None:
        """How to offer a descriptor that nobody needs aside; None if somebody does."""
        publication = self.publication
        if publication is None or self._audience.side_streams:
            return None
        return publication.raw_offer

    def connect(self) -> None:
        """Open the shared publication on the keeper's present connection.

        Raises:
            MediaDriverLost: there is none just now.
        """
        connection = self._keeper.connection
        self.publication = self._keeper.client.publication(self._keeper.settings.driver.descriptor)
        self.connection = connection
        # A subscriber that is there already opens the window within a media driver's cycle:
        # without this patience the first frame of all would find none and be dropped.
        self._patience_ns = _CONNECT_PATIENCE_NS

    def send(self, stream_id: int, epoch: int, seq: int, meta_version: int, trace_id: int) -> None:
        """Tell everybody about a committed frame.

        Raises:
            MediaDriverLost: the publication is dead though the connection lives.
        """
        message = self._message
        BLOCK.pack_into(
            message,
            MESSAGE_HEADER.size,
            stream_id,
            epoch,
            seq,
            NULL_U64,
            meta_version or NULL_U32,
            trace_id,
        )
        publication = self.publication
        assert publication is not None
        try:
            if publication.raw_offer(message) is not True and publication.is_connected:
                self._insist(publication)
        except Exception as error:
            if not self._keeper.has_lost_connection(self.connection):
                raise MediaDriverLost(f"descriptor publication: {error}") from error
            self.dropped += 1
        for side in self._audience.side_streams:
            self._send_aside(side)

    def _insist(self, publication: Publication) -> None:
        deadline = monotonic_ns() + self._patience_ns
        while monotonic_ns() < deadline:
            if publication.raw_offer(self._message) is True:
                self._patience_ns = _BACK_PRESSURE_PATIENCE_NS
                return
        self.dropped += 1

    def _send_aside(self, side: SideStream) -> None:
        if side.period_ns:
            now_ns = monotonic_ns()
            if now_ns < side.due_ns:
                return
            # Without catching up: a pause is no credit for a burst.
            side.due_ns = max(side.due_ns + side.period_ns, now_ns)
        publication = side.publication
        deadline = 0
        try:
            while publication.raw_offer(self._message) is not True and publication.is_connected:
                now_ns = monotonic_ns()
                deadline = deadline or now_ns + _BACK_PRESSURE_PATIENCE_NS
                if now_ns >= deadline:
                    return
        except Exception:  # noqa: BLE001 - the keeper closed it: its consumer is gone
            return

    def close(self) -> None:
        """Close the shared publication; idempotent."""
        publication, self.publication = self.publication, None
        if publication is not None:
            publication.close()
