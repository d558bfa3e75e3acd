"""What a consumer hears of frames that are still being written (Wire §10.2.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorpool.aeron.client import MediaDriverLost, Subscription
from tensorpool.client.keeper import LeaseKeeper
from tensorpool.client.mapping import MappedEpoch
from tensorpool.client.presence import Presence
from tensorpool.client.progress import (
    PartialFrame,
    ProgressGuard,
    complete_part,
    decode_progress,
)
from tensorpool.client.tensors import AnyArray, TensorLayout
from tensorpool.settings import Endpoint
from tensorpool.shm.errors import ShmError
from tensorpool.shm.layout import HEADER_SLOT_BYTES, SUPERBLOCK_BYTES
from tensorpool.shm.seqlock import committed, in_progress, load_acquire
from tensorpool.shm.slot import SlotFields, read_fields, read_tensor_header
from tensorpool.wire.control import FrameProgress, FrameProgressState
from tensorpool.wire.errors import WireError

_READ_ON = 4096
_KEPT_UNREAD = 64

type View = Callable[[int, SlotFields, bytes], tuple[AnyArray, TensorLayout]]


class ProgressInbox:
    """Listens once it is polled. For the consumer's thread.

    Attributes:
        dropped: reports that broke a rule, or came too late for their slot.
    """

    def __init__(self, keeper: LeaseKeeper, presence: Presence) -> None:
        self.stream_id = 0
        self.dropped = 0
        self._keeper = keeper
        self._presence = presence
        self._connection = 0
        self._endpoint: Endpoint | None = None
        self._subscription: Subscription | None = None
        self._waiting: list[FrameProgress] = []
        self._guard = ProgressGuard()

    def poll(
        self,
        mapped: MappedEpoch,
        view: View,
        handler: Callable[[PartialFrame], None],
        limit: int,
    ) -> int:
        """Hand what was heard to `handler`; how many."""
        subscription = self._settled()
        if subscription is None:
            return 0
        try:
            subscription.raw_poll(self._on_fragment, limit, assemble=False)
        except Exception:
            if not self._keeper.has_lost_connection(self._connection):
                raise
            self._subscription = None
        heard, self._waiting = self._waiting, []
        count = 0
        for message in heard:
            partial = self._open(mapped, view, message)
            if partial is None:
                self.dropped += 1
                continue
            handler(partial)
            count += 1
        return count

    def read_on(self) -> None:
        """Hear what nobody asks for, if anybody ever did; only the newest is kept."""
        if self._subscription is not None:
            self._subscription.raw_poll(self._on_fragment, _READ_ON, assemble=False)
            del self._waiting[:-_KEPT_UNREAD]

    def _settled(self) -> Subscription | None:
        keeper = self._keeper
        wanted = self._presence.own_control or keeper.settings.driver.control
        if self._connection == keeper.connection and wanted == self._endpoint:
            return self._subscription
        try:
            if self._subscription is not None:
                self._subscription.close()
            connection = keeper.connection
            self._subscription = keeper.client.subscription(wanted)
        except MediaDriverLost:
            self._subscription = None
            return None
        self._connection, self._endpoint = connection, wanted
        return self._subscription

    def _on_fragment(self, buffer: Any, _: Any) -> None:
        message = decode_progress(memoryview(buffer))
        if message is not None and message.stream_id == self.stream_id:
            self._waiting.append(message)

    def _open(self, mapped: MappedEpoch, view: View, message: FrameProgress) -> PartialFrame | None:
        seq, filled = message.seq, message.payload_bytes_filled
        if message.epoch != mapped.epoch or not self._guard.accepts(message):
            return None
        word = (SUPERBLOCK_BYTES + (seq & mapped.mask) * HEADER_SLOT_BYTES) // 8
        expected = (in_progress(seq), committed(seq))
        if load_acquire(mapped.words, word) not in expected:
            return None
        fields = read_fields(mapped.ring, word * 8)
        raw_header = read_tensor_header(mapped.ring, word * 8)
        if load_acquire(mapped.words, word) not in expected or filled > fields.values_len_bytes:
            return None
        try:
            array, layout = view(seq, fields, raw_header)
        except (ShmError, WireError):
            return None
        return PartialFrame(
            seq,
            message.epoch,
            FrameProgressState(message.state),
            filled,
            layout,
            complete_part(array, layout, filled),
        )

    def close(self) -> None:
        """Stop listening; idempotent."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()
