"""Receiving frames: descriptors polled, slots validated by their seqlock, views handed out."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tensorpool.aeron.client import MediaDriverLost, Subscription
from tensorpool.aeron.idle import BackoffIdle
from tensorpool.client.attachment import Attachment
from tensorpool.client.frame import Frame
from tensorpool.client.keeper import LeaseKeeper
from tensorpool.client.mapping import MappedEpoch
from tensorpool.client.tensors import AnyArray, TensorLayout, layout_of
from tensorpool.clock import NS_PER_MS, monotonic_ns
from tensorpool.shm.errors import ShmError
from tensorpool.shm.layout import (
    HEADER_SLOT_BYTES,
    SUPERBLOCK_BYTES,
    TENSOR_HEADER_BYTES,
    payload_slot_offset,
)
from tensorpool.shm.seqlock import committed, load_acquire
from tensorpool.shm.slot import decode_tensor_header, read_fields, read_tensor_header
from tensorpool.wire.codec import MESSAGE_HEADER
from tensorpool.wire.control import CONTROL, FrameDescriptor
from tensorpool.wire.driver import Role
from tensorpool.wire.errors import WireError

type FrameHandler = Callable[[Frame], None]
type _Descriptor = tuple[int, int, int, int, int, int]

_CODEC = CONTROL.by_type[FrameDescriptor]
_DESCRIPTOR = struct.Struct(_CODEC.block.format)
_DESCRIPTOR_BYTES = MESSAGE_HEADER.size + _DESCRIPTOR.size
_DESCRIPTOR_HEADER = _CODEC.header
_POLL_LIMIT = 64
_MAX_PARK_NS = NS_PER_MS
_HELD_LIMIT = 4096
"""Descriptors of an epoch that is not announced yet, kept until it is."""


class Consumer(Attachment):
    """A consumer of a stream. For one thread.

    Attributes:
        received: frames handed out.
        drops_gap: frames that the producer wrote and this consumer never saw a descriptor of.
        drops_late: frames overwritten before or while they were looked at.
        drops_invalid: frames whose headers broke the specification.
    """

    _role = Role.CONSUMER
    _writable = False

    def __init__(
        self, keeper: LeaseKeeper, stream_id: int, *, client_id: int | None, timeout_s: float
    ) -> None:
        self.received = 0
        self.drops_gap = 0
        self.drops_late = 0
        self.drops_invalid = 0
        self._last_seq = -1
        self._last_epoch = 0
        self._subscription: Subscription | None = None
        self._inbox: deque[_Descriptor] = deque()
        self._held: deque[_Descriptor] = deque(maxlen=_HELD_LIMIT)
        self._layout_key = b""
        self._layout: tuple[int, TensorLayout] | None = None
        self._idle = BackoffIdle(_MAX_PARK_NS)
        super().__init__(keeper, stream_id, client_id=client_id, timeout_s=timeout_s)
        self._lease.progress = lambda: (max(self._last_seq, 0), self.drops_gap, self.drops_late)
        self._reconnect()

    def __iter__(self) -> Iterator[Frame]:
        """Frames as they come, for ever: the loop survives restarts of producer and driver."""
        while True:
            frame = self.next()
            if frame is not None:
                yield frame

    def next(self, timeout_s: float | None = None) -> Frame | None:
        """The next frame, or None after `timeout_s` (None: wait for ever)."""
        deadline = None if timeout_s is None else monotonic_ns() + int(timeout_s * 1e9)
        while True:
            frame = self._try_next()
            if frame is not None:
                return frame
            if deadline is not None and monotonic_ns() >= deadline:
                return None

    def poll(self, handler: FrameHandler, limit: int = _POLL_LIMIT) -> int:
        """Hand the frames that are there, `limit` at most, to `handler`; how many. Never waits."""
        count = 0
        while count < limit and (frame := self._take()) is not None:
            handler(frame)
            count += 1
        return count

    # -- descriptors ----------------------------------------------------------------------

    def _try_next(self) -> Frame | None:
        frame = self._take()
        self._idle.idle(0 if frame is None else 1)
        return frame

    def _take(self) -> Frame | None:
        if self._version != self._lease.version or self._connection != self._keeper.connection:
            self._catch_up()
        while True:
            while self._inbox:
                frame = self._open(self._inbox.popleft())
                if frame is not None:
                    return frame
            subscription = self._subscription
            if subscription is None:
                return None
            try:
                polled = subscription.raw_poll(self._on_descriptor, _POLL_LIMIT, assemble=False)
            except Exception:
                # The keeper's thread may close a lost connection at any moment; the next one is
                # noticed by its number.
                if not self._keeper.has_lost_connection(self._connection):
                    raise
                self._subscription = None
                return None
            if polled == 0 or not self._inbox:
                return None

    def _on_descriptor(self, buffer: Any, _: Any) -> None:
        view = memoryview(buffer)
        if len(view) != _DESCRIPTOR_BYTES or view[:8] != _DESCRIPTOR_HEADER:
            return  # other messages may share the stream (Wire §5)
        descriptor = _DESCRIPTOR.unpack_from(view, MESSAGE_HEADER.size)
        if descriptor[0] == self._lease.stream_id:
            self._inbox.append(descriptor)

    def _catch_up(self) -> None:
        """The lease, the epoch or the connection changed."""
        if self._connection != self._keeper.connection:
            self._reconnect()
        try:
            mapped = self._refresh()
        except ShmError:
            # Fail closed; the next announce or attach brings other regions (Wire §15.22).
            self.drops_invalid += 1
            return
        if mapped is not None and self._held:
            held, self._held = self._held, deque(maxlen=_HELD_LIMIT)
            self._inbox.extendleft(d for d in reversed(held) if d[1] >= mapped.epoch)

    def _reconnect(self) -> None:
        self._subscription = None
        connection = self._keeper.connection
        try:
            self._subscription = self._keeper.client.subscription(
                self._keeper.settings.driver.descriptor
            )
        except MediaDriverLost:
            return
        self._connection = connection

    # -- one frame ------------------------------------------------------------------------

    def _open(self, descriptor: _Descriptor) -> Frame | None:
        _, epoch, seq, _, _, trace_id = descriptor
        mapped = self._mapped
        if mapped is None or epoch != mapped.epoch:
            if mapped is None or epoch > mapped.epoch:
                self._held.append(descriptor)  # its announce is on the way
                self._version = -1 if self._lease.regions is not None else self._version
            return None
        if seq > self._last_seq + 1 and self._last_seq >= 0:
            self.drops_gap += seq - self._last_seq - 1
        elif seq <= self._last_seq:
            return None
        self._last_seq = seq
        word = (SUPERBLOCK_BYTES + (seq & mapped.mask) * HEADER_SLOT_BYTES) // 8
        commit = committed(seq)
        if load_acquire(mapped.words, word) != commit:
            self.drops_late += 1
            return None
        fields = read_fields(mapped.ring, word * 8)
        raw_header = read_tensor_header(mapped.ring, word * 8)
        if load_acquire(mapped.words, word) != commit:
            self.drops_late += 1
            return None
        try:
            array = self._view(mapped, seq, fields, raw_header)
        except (ShmError, WireError):
            self.drops_invalid += 1
            return None
        self.received += 1
        return Frame(
            array,
            seq,
            epoch,
            fields.timestamp_ns,
            fields.meta_version,
            trace_id,
            mapped.words,
            word,
            commit,
        )

    def _view(self, mapped: MappedEpoch, seq: int, fields: Any, raw_header: bytes) -> AnyArray:
        """The payload as its headers say, every rule of Wire §8.2 and §10.2.1 checked."""
        pool = mapped.pool_by_id.get(fields.pool_id)
        if (
            pool is None
            or fields.payload_slot != seq & mapped.mask
            or fields.payload_offset != 0
            or fields.header_length != TENSOR_HEADER_BYTES
            or fields.values_len_bytes > pool.stride_bytes
        ):
            raise ShmError(f"slot of frame {seq} breaks the layout: {fields}")
        cached = self._layout
        if cached is None or raw_header != self._layout_key or cached[0] != fields.values_len_bytes:
            layout = layout_of(decode_tensor_header(raw_header), fields.values_len_bytes)
            if layout.nbytes > pool.stride_bytes:
                raise ShmError(f"tensor of frame {seq} is longer than its slot")
            cached = self._layout = (fields.values_len_bytes, layout)
            self._layout_key = raw_header
        layout = cached[1]
        if fields.values_len_bytes == 0:
            # Nothing of the payload may be read (Wire §8.2).
            return np.empty(tuple(0 for _ in layout.shape), layout.dtype)
        return np.ndarray(
            layout.shape,
            layout.dtype,
            pool.memory,
            payload_slot_offset(fields.payload_slot, pool.stride_bytes),
            layout.strides,
        )

    def _on_map(self) -> None:
        # The epoch of a lost lease, mapped again, goes on: what passed meanwhile is a gap.
        if self.epoch != self._last_epoch:
            self._last_epoch, self._last_seq = self.epoch, -1

    def close(self) -> None:
        """Detach and let go; idempotent. Frames handed out keep their memory."""
        subscription, self._subscription = self._subscription, None
        super().close()
        if subscription is not None and not self._keeper.has_lost_connection(self._connection):
            subscription.close()
