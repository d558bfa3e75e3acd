"""A region file as a client maps it: superblock, slot headers, tensor headers, the view."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.array_utils import byte_bounds

from tensorpool.client.tensors import contiguous_header, layout_of
from tensorpool.gc.processes import is_stamper_alive
from tensorpool.shm import paths
from tensorpool.shm.errors import RegionError, ShmError
from tensorpool.shm.layout import (
    HEADER_SLOT_BYTES,
    SUPERBLOCK_BYTES,
    TENSOR_HEADER_BYTES,
    header_slot_offset,
)
from tensorpool.shm.region import map_region, region_bytes
from tensorpool.shm.seqlock import committed, load_acquire
from tensorpool.shm.slot import decode_tensor_header, read_fields, read_tensor_header, write_body
from tensorpool.shm.superblock import (
    RegionLayout,
    decode_superblock,
    encode_superblock,
    header_ring_layout,
    payload_pool_layout,
)
from tensorpool.shm.uri import RegionUri
from tensorpool.wire.control import Dtype, MajorOrder
from tensorpool.wire.errors import WireError

_STREAM, _EPOCH, _NSLOTS, _STRIDE = 10000, 7, 2, 4096
_RING = header_ring_layout(_STREAM, _EPOCH, _NSLOTS, HEADER_SLOT_BYTES)
_POOL = payload_pool_layout(_STREAM, _EPOCH, _NSLOTS, 1, _STRIDE)
_WHOLE, _TRUE_SUPERBLOCK, _IS_POOL = 1, 2, 4


@contextmanager
def open_validator(directory: Path) -> Iterator[Callable[[bytes], None]]:
    """The first byte says: padded to its whole length, its superblock a true one, a pool."""
    path = directory / "region"
    bases = paths.canonical_bases([str(directory)])
    uri = str(RegionUri(str(path)))

    def check(data: bytes) -> None:
        flags, content = (data[0], bytearray(data[1:])) if data else (0, bytearray())
        expected = _POOL if flags & _IS_POOL else _RING
        if flags & _TRUE_SUPERBLOCK:
            content[:SUPERBLOCK_BYTES] = encode_superblock(expected, pid=1, now_ns=1)
        if flags & _WHOLE:
            content = content.ljust(region_bytes(expected), b"\0")
        _check_superblock(bytes(content))
        # A new file each: an input must not see what the one before has left.
        path.write_bytes(content)
        try:
            mapping = map_region(uri, bases, expected, writable=False)
        except ShmError as error:
            assert str(path) in str(error), error
            return
        finally:
            path.unlink()
        try:
            assert len(mapping) == region_bytes(expected)
            assert mapping[:8] == encode_superblock(expected, pid=1, now_ns=1)[:8]
            if expected is _RING:
                with memoryview(mapping) as ring, ring.cast("Q") as words:
                    for index in range(_NSLOTS):
                        _check_slot(ring, words, header_slot_offset(index))
        finally:
            mapping.close()

    yield check


def _check_superblock(content: bytes) -> None:
    try:
        superblock = decode_superblock(content)
    except RegionError:
        return
    is_stamper_alive(superblock.pid, superblock.start_timestamp_ns)


def _check_slot(ring: memoryview, words: memoryview, offset: int) -> None:
    load_acquire(words, offset // 8)
    fields = read_fields(ring, offset)
    if fields.values_len_bytes > _STRIDE:
        return
    try:
        layout = layout_of(
            decode_tensor_header(read_tensor_header(ring, offset)), fields.values_len_bytes
        )
    except (ShmError, WireError):
        return
    if fields.values_len_bytes == 0:
        np.empty(tuple(0 for _ in layout.shape), layout.dtype)
        return
    # Nothing that passed may reach outside its slot.
    payload = bytearray(_STRIDE)
    array = np.ndarray(layout.shape, layout.dtype, payload, 0, layout.strides)
    assert layout.nbytes <= fields.values_len_bytes
    if array.size:
        low, high = byte_bounds(array)
        start = np.frombuffer(payload, np.uint8).ctypes.data
        assert start <= low
        assert high - start <= layout.nbytes


def seeds() -> list[bytes]:
    """A ring with two frames, a pool, and each cut or with a foreign superblock."""
    ring = bytearray(region_bytes(_RING))
    ring[:SUPERBLOCK_BYTES] = _superblock(_RING)
    for index, (shape, order) in enumerate(
        (((4, 8), MajorOrder.ROW), ((2, 3, 4), MajorOrder.COLUMN))
    ):
        offset = header_slot_offset(index)
        write_body(
            memoryview(ring),
            offset,
            contiguous_header(shape, Dtype.FLOAT32, order),
            values_len_bytes=int(np.prod(shape)) * 4,
            payload_slot=index,
            pool_id=1,
            timestamp_ns=5,
            meta_version=0,
        )
        ring[offset : offset + 8] = committed(index).to_bytes(8, "little")
    assert len(read_tensor_header(memoryview(ring), SUPERBLOCK_BYTES)) == TENSOR_HEADER_BYTES
    return [
        bytes([_WHOLE | _TRUE_SUPERBLOCK]) + ring,
        bytes([0]) + ring,
        bytes([_TRUE_SUPERBLOCK]) + ring[: SUPERBLOCK_BYTES + HEADER_SLOT_BYTES],
        bytes([_WHOLE | _IS_POOL]) + _superblock(_POOL),
        bytes([_WHOLE]) + _superblock(_POOL),
        bytes([_WHOLE]) + _superblock(_RING._replace(epoch=8)),
    ]


def _superblock(layout: RegionLayout) -> bytes:
    return encode_superblock(layout, pid=os.getpid(), now_ns=1)
