"""The first 64 bytes of a region: written by the driver, checked by every client (Wire §7.1)."""

from __future__ import annotations

from typing import NamedTuple

from tensorpool.shm.errors import RegionError
from tensorpool.shm.layout import LAYOUT_VERSION, SUPERBLOCK_BYTES
from tensorpool.wire.codec import Buffer
from tensorpool.wire.control import CONTROL, RegionType, ShmRegionSuperblock

MAGIC = 0x544F504C53484D31
"""The number of Wire §7.1, which every implementation uses. In memory it reads 1MHSLPOT;
its bytes do not spell the TPOLSHM1 that the specification prints beside it."""

POOL_SLOT_BYTES = 0xFFFFFFFF
"""`slot_bytes` of a payload pool: the null value, since its slots are `stride_bytes` long."""

_CODEC = CONTROL.by_type[ShmRegionSuperblock]
EPOCH_OFFSET = _CODEC.offsets["epoch"]
PID_OFFSET = _CODEC.offsets["pid"]
ACTIVITY_WORD = _CODEC.offsets["activity_timestamp_ns"] // 8
"""Index of `activity_timestamp_ns` in the region seen as 8-byte words."""


class RegionLayout(NamedTuple):
    """What an announce or an attach response says that a region is."""

    layout_version: int
    epoch: int
    stream_id: int
    region_type: RegionType
    pool_id: int
    nslots: int
    slot_bytes: int
    stride_bytes: int


def header_ring_layout(stream_id: int, epoch: int, nslots: int, slot_bytes: int) -> RegionLayout:
    """The layout of a header ring: pool id and stride are 0 (Wire §7.1)."""
    return RegionLayout(
        LAYOUT_VERSION, epoch, stream_id, RegionType.HEADER_RING, 0, nslots, slot_bytes, 0
    )


def payload_pool_layout(
    stream_id: int, epoch: int, nslots: int, pool_id: int, stride_bytes: int
) -> RegionLayout:
    """The layout of a payload pool."""
    return RegionLayout(
        LAYOUT_VERSION,
        epoch,
        stream_id,
        RegionType.PAYLOAD_POOL,
        pool_id,
        nslots,
        POOL_SLOT_BYTES,
        stride_bytes,
    )


def encode_superblock(layout: RegionLayout, *, pid: int, now_ns: int) -> bytes:
    """The superblock of a new region, started and active at `now_ns` (CLOCK_MONOTONIC)."""
    return _CODEC.encode_body(ShmRegionSuperblock(MAGIC, *layout, pid, now_ns, now_ns))


def decode_superblock(buffer: Buffer) -> ShmRegionSuperblock:
    """The superblock at the start of `buffer`.

    Raises:
        RegionError: fewer than 64 bytes, or another magic.
    """
    if len(buffer) < SUPERBLOCK_BYTES:
        raise RegionError(f"region of {len(buffer)} bytes: too short for a superblock")
    superblock, _ = _CODEC.decode_body(buffer, 0)
    if superblock.magic != MAGIC:
        raise RegionError(f"region magic {superblock.magic:#018x}, expected {MAGIC:#018x}")
    assert isinstance(superblock, ShmRegionSuperblock)
    return superblock


def check_superblock(superblock: ShmRegionSuperblock, expected: RegionLayout) -> None:
    """Raises RegionError naming the first field that differs from the announced (Wire §15.1)."""
    for name in RegionLayout._fields:
        found, wanted = getattr(superblock, name), getattr(expected, name)
        if found != wanted:
            raise RegionError(f"superblock {name} is {found}, announced was {wanted}")
