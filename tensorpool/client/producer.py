"""Writing frames: one copy with `publish`, none with `claim`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorpool.aeron.client import MediaDriverLost, Publication
from tensorpool.client.attachment import Attachment
from tensorpool.client.errors import FrameTooLarge, LeaseLost
from tensorpool.client.keeper import LeaseKeeper
from tensorpool.client.mapping import MappedEpoch, MappedPool
from tensorpool.client.tensors import AnyArray, contiguous_header, wire_dtype
from tensorpool.clock import NS_PER_MS, monotonic_ns
from tensorpool.shm.layout import HEADER_SLOT_BYTES, SUPERBLOCK_BYTES, payload_slot_offset
from tensorpool.shm.seqlock import committed, in_progress, store_release
from tensorpool.shm.slot import write_body
from tensorpool.wire.codec import MESSAGE_HEADER
from tensorpool.wire.control import CONTROL, Dtype, FrameDescriptor, MajorOrder
from tensorpool.wire.driver import Role

_DESCRIPTOR_CODEC = CONTROL.by_type[FrameDescriptor]
_DESCRIPTOR = struct.Struct(_DESCRIPTOR_CODEC.block.format)
_NULL_U64 = 2**64 - 1
_NULL_U32 = 2**32 - 1
_BACK_PRESSURE_PATIENCE_NS = NS_PER_MS
"""The ring is lossy and the producer never waits: this long a descriptor is offered again."""
_CONNECT_PATIENCE_NS = 50 * NS_PER_MS


class ClaimedFrame:
    """A payload slot to be written in place.

    Attributes:
        array: writable view of the slot, of the claimed shape and dtype, C order.
        seq: the frame's sequence number.
        timestamp_ns: capture time; set it to override the time of the claim.
    """

    __slots__ = ("array", "seq", "timestamp_ns")

    def __init__(self, array: AnyArray, seq: int, timestamp_ns: int) -> None:
        self.array = array
        self.seq = seq
        self.timestamp_ns = timestamp_ns


class Producer(Attachment):
    """The one producer of a stream. For one thread.

    Attributes:
        published: frames committed.
        drops_back_pressured: frames committed whose descriptor could not be sent.
    """

    _role = Role.PRODUCER
    _writable = True

    def __init__(
        self, keeper: LeaseKeeper, stream_id: int, *, client_id: int | None, timeout_s: float
    ) -> None:
        self.published = 0
        self.drops_back_pressured = 0
        self._seq = 0
        self._publication: Publication | None = None
        self._patience_ns = _CONNECT_PATIENCE_NS
        self._headers: dict[tuple[tuple[int, ...], Dtype, MajorOrder], bytes] = {}
        self._descriptor = bytearray(MESSAGE_HEADER.size + _DESCRIPTOR.size)
        self._descriptor[: MESSAGE_HEADER.size] = _DESCRIPTOR_CODEC.header
        super().__init__(keeper, stream_id, client_id=client_id, timeout_s=timeout_s)
        self._lease.progress = lambda: (max(self._seq - 1, 0), 0, 0)
        self._ready(timeout_s)

    @property
    def next_seq(self) -> int:
        """Sequence number of the next frame; starts at 0 with each epoch (Wire §15.2)."""
        return self._seq

    @property
    def is_connected(self) -> bool:
        """Whether any consumer listens."""
        return self._publication is not None and self._publication.is_connected

    def publish(
        self,
        array: npt.ArrayLike,
        *,
        timestamp_ns: int | None = None,
        meta_version: int = 0,
        trace_id: int = 0,
        timeout_s: float | None = None,
    ) -> int:
        """Copy `array` into a payload slot and tell the consumers; the frame's seq.

        C-contiguous and Fortran-contiguous arrays keep their order; others become C order.
        `timestamp_ns` is the capture time (CLOCK_MONOTONIC now if None). While there is no
        lease it waits up to `timeout_s` (None: the attachment's own time-out).

        Raises:
            FrameTooLarge: no pool's stride holds the array.
            TensorError: its dtype or shape cannot be published (Wire §8.2).
            LeaseLost, NoDriver, AttachRejected: no lease in time.
        """
        source = np.asarray(array)
        dtype, code = wire_dtype(source.dtype)
        is_column = source.flags.f_contiguous and not source.flags.c_contiguous
        order = MajorOrder.COLUMN if is_column else MajorOrder.ROW
        header = self._header(source.shape, code, order)
        mapped = self._ready(timeout_s)
        seq, pool = self._seq, self._pool_for(mapped, source.nbytes)
        view: AnyArray = np.ndarray(
            source.shape,
            dtype,
            pool.memory,
            payload_slot_offset(seq & mapped.mask, pool.stride_bytes),
            order="F" if is_column else "C",
        )
        word = self._begin(mapped, seq)
        np.copyto(view, source, casting="equiv")
        captured_ns = monotonic_ns() if timestamp_ns is None else timestamp_ns
        self._commit(mapped, word, seq, pool, header, source.nbytes, captured_ns, meta_version)
        self._describe(mapped.epoch, seq, meta_version, trace_id)
        return seq

    @contextmanager
    def claim(
        self,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        *,
        meta_version: int = 0,
        trace_id: int = 0,
        timeout_s: float | None = None,
    ) -> Iterator[ClaimedFrame]:
        """A slot to write in place, published at the end of the block.

        An exception in the block abandons the slot: nothing is published, and consumers see
        it as never committed.

        Raises:
            as `publish` does; LeaseLost also if the lease ended during the block.
        """
        numpy_dtype, code = wire_dtype(dtype)
        header = self._header(tuple(shape), code, MajorOrder.ROW)
        nbytes = int(np.prod(shape, dtype=np.int64)) * numpy_dtype.itemsize
        mapped = self._ready(timeout_s)
        seq, pool = self._seq, self._pool_for(mapped, nbytes)
        offset = payload_slot_offset(seq & mapped.mask, pool.stride_bytes)
        frame = ClaimedFrame(
            np.ndarray(shape, numpy_dtype, pool.memory, offset), seq, monotonic_ns()
        )
        word = self._begin(mapped, seq)
        yield frame
        if self._refresh() is not mapped:
            raise LeaseLost(
                f"stream {self.stream_id}: the lease ended while frame {seq} was being written"
            )
        self._commit(mapped, word, seq, pool, header, nbytes, frame.timestamp_ns, meta_version)
        self._describe(mapped.epoch, seq, meta_version, trace_id)

    # -- one frame ------------------------------------------------------------------------

    def _begin(self, mapped: MappedEpoch, seq: int) -> int:
        word = (SUPERBLOCK_BYTES + (seq & mapped.mask) * HEADER_SLOT_BYTES) // 8
        store_release(mapped.words, word, in_progress(seq))
        return word

    def _commit(  # noqa: PLR0913 - one argument a field
        self,
        mapped: MappedEpoch,
        word: int,
        seq: int,
        pool: MappedPool,
        header: bytes,
        nbytes: int,
        timestamp_ns: int,
        meta_version: int,
    ) -> None:
        write_body(
            mapped.ring,
            word * 8,
            header,
            values_len_bytes=nbytes,
            payload_slot=seq & mapped.mask,
            pool_id=pool.pool_id,
            timestamp_ns=timestamp_ns,
            meta_version=meta_version,
        )
        store_release(mapped.words, word, committed(seq))
        self._seq = seq + 1
        self.published += 1

    def _describe(self, epoch: int, seq: int, meta_version: int, trace_id: int) -> None:
        _DESCRIPTOR.pack_into(
            self._descriptor,
            MESSAGE_HEADER.size,
            self._lease.stream_id,
            epoch,
            seq,
            _NULL_U64,
            meta_version or _NULL_U32,
            trace_id,
        )
        publication = self._publication
        assert publication is not None
        try:
            if publication.raw_offer(self._descriptor) is True or not publication.is_connected:
                return
            deadline = monotonic_ns() + self._patience_ns
            while monotonic_ns() < deadline:
                if publication.raw_offer(self._descriptor) is True:
                    self._patience_ns = _BACK_PRESSURE_PATIENCE_NS
                    return
        except Exception as error:
            if not self._keeper.has_lost_connection(self._connection):
                raise MediaDriverLost(f"descriptor publication: {error}") from error
        self.drops_back_pressured += 1

    def _header(self, shape: tuple[int, ...], code: Dtype, order: MajorOrder) -> bytes:
        key = (shape, code, order)
        header = self._headers.get(key)
        if header is None:
            header = self._headers[key] = contiguous_header(shape, code, order)
        return header

    @staticmethod
    def _pool_for(mapped: MappedEpoch, nbytes: int) -> MappedPool:
        for pool in mapped.pools:
            if pool.stride_bytes >= nbytes:
                return pool
        strides = ", ".join(str(pool.stride_bytes) for pool in mapped.pools)
        raise FrameTooLarge(
            f"frame of {nbytes} bytes: the strides of stream {mapped.stream_id}'s pools are "
            f"{strides} bytes; add a larger pool to its profile"
        )

    # -- readiness ------------------------------------------------------------------------

    def _ready(self, timeout_s: float | None) -> MappedEpoch:
        """The mapping to write to; on the fast path two comparisons."""
        keeper = self._keeper
        if (
            self._version == self._lease.version
            and self._connection == keeper.connection
            and self._mapped is not None
        ):
            return self._mapped
        return self._become_ready(self._timeout_s if timeout_s is None else timeout_s)

    def _become_ready(self, timeout_s: float) -> MappedEpoch:
        deadline = monotonic_ns() + int(timeout_s * 1e9)
        while True:
            mapped = self._refresh()
            if mapped is None:
                self._await_lease(max(deadline - monotonic_ns(), 0) / 1e9)
                continue
            if self._connection != self._keeper.connection:
                self._connect_descriptors()
            return mapped

    def _connect_descriptors(self) -> None:
        connection = self._keeper.connection
        publication = self._keeper.client.publication(self._keeper.settings.driver.descriptor)
        self._publication, self._connection = publication, connection
        # A subscriber that is there already opens the window within a media driver's cycle:
        # without this patience the first frame of all would find none and be dropped.
        self._patience_ns = _CONNECT_PATIENCE_NS

    def _on_map(self) -> None:
        self._seq = 0

    def close(self) -> None:
        """Detach and let go; idempotent."""
        publication: Any = self._publication
        self._publication = None
        super().close()
        if publication is not None and not self._keeper.has_lost_connection(self._connection):
            publication.close()
