"""The per-frame path in pure Python: what runs where the C module (`native/`) was not built.

Both have these four types, and behave alike; `tests/unit/client/test_slots.py` holds them to it.
Whatever changes here changes there.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from tensorpool.client.tensors import (
    AnyArray,
    TensorLayout,
    contiguous_header,
    layout_of,
    wire_dtype,
)
from tensorpool.clock import monotonic_ns
from tensorpool.shm.errors import ShmError
from tensorpool.shm.layout import (
    HEADER_SLOT_BYTES,
    SUPERBLOCK_BYTES,
    TENSOR_HEADER_BYTES,
    payload_slot_offset,
)
from tensorpool.shm.seqlock import committed, in_progress, load_acquire, store_release
from tensorpool.shm.slot import (
    SlotFields,
    decode_tensor_header,
    read_fields,
    read_tensor_header,
    write_body,
)
from tensorpool.wire.control import MAX_DIMS, MajorOrder
from tensorpool.wire.errors import WireError

type Descriptor = tuple[int, int, int, int, int, int]
"""Stream id, epoch, seq, time of publication, metadata version, trace id; nulls as on the wire."""
type PoolMemory = tuple[int, int, Any]
"""Pool id, stride in bytes, and the mapping as a buffer."""
type Offer = Callable[[bytearray], object]
"""Says True if the message was sent."""

NULL_U64 = 2**64 - 1
NULL_U32 = 2**32 - 1
REFUSED = (ShmError, WireError)
"""What `decode_layout` raises for a header that breaks the specification."""
_BLOCK = struct.Struct("<IQQQIQ")
_PREFIX_BYTES = 8
_SEQS = 1 << 63
_MESSAGE_BYTES = _PREFIX_BYTES + _BLOCK.size


def decode_layout(raw_header: bytes, values_len_bytes: int) -> TensorLayout:
    """The layout that an embedded header describes.

    Raises:
        ShmError, WireError: it breaks Wire §8.2.
    """
    return layout_of(decode_tensor_header(raw_header), values_len_bytes)


def encode_header(array: AnyArray, is_column: int) -> bytes:
    """The embedded header of a contiguous array.

    Raises:
        TensorError: it cannot be published (Wire §8.2, §15.8).
    """
    order = MajorOrder.COLUMN if is_column else MajorOrder.ROW
    return contiguous_header(array.shape, wire_dtype(array.dtype)[1], order)


def empty_view(layout: TensorLayout) -> AnyArray:
    """What is seen of a frame without values: nothing of its payload may be read (Wire §8.2)."""
    shape = layout.shape if 0 in layout.shape else tuple(0 for _ in layout.shape)
    empty: AnyArray = np.empty(shape, layout.dtype)
    empty.flags.writeable = False
    return empty


class FrameState:
    """What a received frame is made of; `SlotReader` makes it."""

    __slots__ = (
        "_committed",
        "_consumer",
        "_word",
        "_words",
        "array",
        "epoch",
        "layout",
        "meta_version",
        "published_ns",
        "seq",
        "timestamp_ns",
        "trace_id",
    )

    def __init__(  # noqa: PLR0913 - one argument a field
        self,
        array: AnyArray,
        layout: TensorLayout,
        seq: int,
        epoch: int,
        timestamp_ns: int,
        published_ns: int | None,
        meta_version: int,
        trace_id: int,
        words: memoryview,
        word: int,
        commit: int,
        consumer: Any,
    ) -> None:
        self.array = array
        self.layout = layout
        self.seq = seq
        self.epoch = epoch
        self.timestamp_ns = timestamp_ns
        self.published_ns = published_ns
        self.meta_version = meta_version
        self.trace_id = trace_id
        self._words = words
        self._word = word
        self._committed = commit
        self._consumer = consumer

    @property
    def valid(self) -> bool:
        """Whether the slot still holds this frame: what was read of it so far is whole."""
        return load_acquire(self._words, self._word) == self._committed


class SlotReader[F: FrameState]:
    """Reads the frames of one mapped epoch.

    Args:
        ring: the header ring's mapping.
        pools: the payload pools.
        nslots: slots of ring and pools, a power of two.
        frame_type: what to make.
        consumer: what each frame refers to.
        decode: `decode_layout`.
        refused: what `decode` raises for a header that breaks the specification.
        empty: `empty_view`.
    """

    def __init__(  # noqa: PLR0913 - a snapshot of its surroundings
        self,
        ring: Any,
        pools: Sequence[PoolMemory],
        nslots: int,
        frame_type: type[F],
        consumer: Any,
        decode: Callable[[bytes, int], TensorLayout],
        refused: tuple[type[Exception], ...],
        empty: Callable[[TensorLayout], AnyArray],
    ) -> None:
        self._ring, self._words = _views(ring)
        self._pools = {pool_id: (stride, memory) for pool_id, stride, memory in pools}
        self._mask = nslots - 1
        self._frame_type = frame_type
        self._consumer = consumer
        self._decode = decode
        self._refused = refused
        self._empty = empty
        self._key = (b"", 0)
        self._layout: TensorLayout | None = None

    def read(
        self, seq: int, epoch: int, published_ns: int, trace_id: int
    ) -> F | Literal[False] | None:
        """The frame that a descriptor tells of.

        None if it is late: overwritten, or not committed (Wire §8.3). False if its headers
        break the specification (Wire §8.2, §10.2.1).
        """
        word = _word_of(seq, self._mask)
        commit = committed(seq)
        if load_acquire(self._words, word) != commit:
            return None
        fields = read_fields(self._ring, word * 8)
        raw_header = read_tensor_header(self._ring, word * 8)
        if load_acquire(self._words, word) != commit:
            return None
        try:
            array, layout = self.view(seq, fields, raw_header)
        except self._refused:
            return False
        return self._frame_type(
            array,
            layout,
            seq,
            epoch,
            fields.timestamp_ns,
            None if published_ns == NULL_U64 else published_ns,
            fields.meta_version,
            trace_id,
            self._words,
            word,
            commit,
            self._consumer,
        )

    def overtaken(self, seq: int) -> int:
        """The latest seq whose slot the producer has surely taken again, if `seq` is late.

        It goes round in order: whoever sees a later frame in a slot knows of all slots before.
        -1 if nothing is known.
        """
        newest = load_acquire(self._words, _word_of(seq, self._mask)) >> 1
        if newest <= seq or (newest - seq) & self._mask:
            return -1
        return newest - self._mask - 1

    def view(
        self, seq: int, fields: SlotFields, raw_header: bytes
    ) -> tuple[AnyArray, TensorLayout]:
        """The payload as its headers say. Raises one of `refused` if they break a rule."""
        stride, memory = self._pools.get(fields.pool_id, (0, None))
        if (
            memory is None
            or fields.payload_slot != seq & self._mask
            or fields.payload_offset != 0
            or fields.header_length != TENSOR_HEADER_BYTES
            or fields.values_len_bytes > stride
        ):
            raise ShmError(f"slot of frame {seq} breaks the layout: {fields}")
        key, layout = (raw_header, fields.values_len_bytes), self._layout
        if layout is None or key != self._key:
            layout = self._layout = self._decode(*key)
            self._key = key
        if layout.nbytes > stride:
            raise ShmError(f"tensor of frame {seq} is longer than its slot")
        if fields.values_len_bytes == 0:
            return self._empty(layout), layout
        offset = payload_slot_offset(fields.payload_slot, stride)
        view: AnyArray = np.ndarray(layout.shape, layout.dtype, memory, offset, layout.strides)
        return view, layout


class SlotWriter:
    """Writes the frames of one mapped epoch.

    Args:
        ring: the header ring's mapping.
        pools: the payload pools, sorted by stride: the first that fits is the smallest (Wire §9).
        nslots: slots of ring and pools, a power of two.
        stream_id: for the descriptors.
        epoch: for the descriptors.
        prefix: the descriptors' message header.
        encode: the embedded header of an array that is contiguous, column-major if the second
            argument is true; raises TensorError if it cannot be published.
        cache_bytes: of the last-level cache; large frames go past it into larger pools, in C.
    """

    def __init__(  # noqa: PLR0913 - a snapshot of its surroundings
        self,
        ring: Any,
        pools: Sequence[PoolMemory],
        nslots: int,
        stream_id: int,
        epoch: int,
        prefix: bytes,
        encode: Callable[[AnyArray, int], bytes],
        cache_bytes: int,  # noqa: ARG002 - numpy copies as it does
    ) -> None:
        self._ring, self._words = _views(ring)
        self._pools = list(pools)
        self._mask = nslots - 1
        self._encode = encode
        self._key: tuple[Any, ...] = ()
        self._header = b""
        self._source = (stream_id, epoch)
        self._message = bytearray(prefix + bytes(_BLOCK.size))

    def publish(  # noqa: PLR0913 - one argument a field
        self,
        array: AnyArray,
        seq: int,
        timestamp_ns: int | None,
        meta_version: int,
        trace_id: int,
        offer: Offer | None,
    ) -> bool | None:
        """Copy `array` into the slot of `seq`, commit it, and offer its descriptor.

        True if it was sent; False if it has yet to be: `offer` is None, failed, or was not
        accepted. None if nothing was done: the array is no plain, contiguous numpy array in
        the machine's byte order, of 1 to 8 dimensions, that fits a pool.

        Raises:
            TensorError: from `encode`; nothing was done.
        """
        if type(array) is not np.ndarray or not array.dtype.isnative:
            return None
        flags, nbytes = array.flags, array.nbytes
        is_column = not flags.c_contiguous
        if (is_column and not flags.f_contiguous) or not 1 <= array.ndim <= MAX_DIMS:
            return None
        index = next((i for i, pool in enumerate(self._pools) if pool[1] >= nbytes), None)
        if index is None or nbytes > NULL_U32:
            return None
        key = (array.dtype.num, is_column, array.shape)
        if key != self._key:
            self._header = self._encode(array, is_column)
            self._key = key
        self.begin(seq)
        target = self.view(seq, index, array.shape, array.dtype, is_column)
        np.copyto(target, array, casting="equiv")
        captured_ns = monotonic_ns() if timestamp_ns is None else timestamp_ns
        self.body(seq, index, self._header, nbytes, captured_ns, meta_version, is_whole=True)
        if offer is None:
            return False
        _BLOCK.pack_into(
            self._message,
            _PREFIX_BYTES,
            *self._source,
            seq,
            NULL_U64,
            meta_version or NULL_U32,
            trace_id,
        )
        try:
            return offer(self._message) is True
        except Exception:  # noqa: BLE001 - the caller offers again, and judges
            return False

    def begin(self, seq: int) -> None:
        """From here on consumers know that the slot of `seq` is being written (Wire §8.3)."""
        store_release(self._words, _word_of(seq, self._mask), in_progress(seq))

    def view(
        self,
        seq: int,
        pool_index: int,
        shape: tuple[int, ...],
        dtype: np.dtype[np.generic],
        is_column: bool,  # noqa: FBT001 - a positional argument in C
    ) -> AnyArray:
        """The payload slot of `seq` as a writable array."""
        _, stride, memory = self._pools[pool_index]
        offset = payload_slot_offset(seq & self._mask, stride)
        order = "F" if is_column else "C"
        return np.ndarray(shape, dtype, memory, offset, order=order)  # type: ignore[arg-type]

    def body(  # noqa: PLR0913 - one argument a field
        self,
        seq: int,
        pool_index: int,
        header: bytes,
        nbytes: int,
        timestamp_ns: int,
        meta_version: int,
        is_whole: bool,  # noqa: FBT001 - a positional argument in C
    ) -> None:
        """Write the header slot of `seq`; commit it if the frame is whole."""
        word = _word_of(seq, self._mask)
        write_body(
            self._ring,
            word * 8,
            header,
            values_len_bytes=nbytes,
            payload_slot=seq & self._mask,
            pool_id=self._pools[pool_index][0],
            timestamp_ns=timestamp_ns,
            meta_version=meta_version,
        )
        if is_whole:
            store_release(self._words, word, committed(seq))


class DescriptorSink:
    """What a subscription calls with each fragment: keeps the descriptors of one stream.

    Args:
        prefix: the descriptors' message header.
        stream_id: the stream.
        waiting: gets each (Wire §10.2.1).

    Attributes:
        waiting: the queue of those that were not taken yet.
    """

    def __init__(self, prefix: bytes, stream_id: int, waiting: deque[Descriptor]) -> None:
        self._prefix = prefix
        self._stream_id = stream_id
        self.waiting = waiting

    def __call__(self, buffer: Any, _: Any) -> None:
        """Keep the fragment if it is such a descriptor: others may share the stream (Wire §5)."""
        view = memoryview(buffer)
        if len(view) != _MESSAGE_BYTES or view[:_PREFIX_BYTES] != self._prefix:
            return
        descriptor = _BLOCK.unpack_from(view, _PREFIX_BYTES)
        # A seq beyond these can stand in no commit word (Wire §8.3).
        if descriptor[0] == self._stream_id and descriptor[2] < _SEQS:
            self.waiting.append(descriptor)


def _views(ring: Any) -> tuple[memoryview, memoryview]:
    octets = memoryview(ring).cast("B")
    return octets, octets.cast("Q")


def _word_of(seq: int, mask: int) -> int:
    return (SUPERBLOCK_BYTES + (seq & mask) * HEADER_SLOT_BYTES) // 8
