"""The superblock's checks, one field at a time (Wire §7.1, §15.1)."""

from __future__ import annotations

import struct

import pytest

from tensorpool.shm import layout
from tensorpool.shm.errors import RegionError
from tensorpool.shm.superblock import (
    ACTIVITY_WORD,
    EPOCH_OFFSET,
    MAGIC,
    PID_OFFSET,
    RegionLayout,
    check_superblock,
    decode_superblock,
    encode_superblock,
    header_ring_layout,
    payload_pool_layout,
)
from tensorpool.wire.control import RegionType

RING = header_ring_layout(10000, 5, 64, 256)
POOL = payload_pool_layout(10000, 5, 64, 2, 4096)


@pytest.mark.parametrize("expected", [RING, POOL], ids=["ring", "pool"])
def test_what_was_written_passes(expected: RegionLayout) -> None:
    superblock = decode_superblock(encode_superblock(expected, pid=42, now_ns=7))
    check_superblock(superblock, expected)
    assert superblock.magic == MAGIC
    assert (superblock.pid, superblock.start_timestamp_ns, superblock.activity_timestamp_ns) == (
        42,
        7,
        7,
    )


@pytest.mark.clause("Wire §15.1-1", "Wire §7.1-1")
@pytest.mark.parametrize("field", RegionLayout._fields)
@pytest.mark.parametrize("expected", [RING, POOL], ids=["ring", "pool"])
def test_one_field_differs(expected: RegionLayout, field: str) -> None:
    wanted = getattr(expected, field)
    other = 3 - wanted if field == "region_type" else wanted ^ 1
    found = decode_superblock(
        encode_superblock(expected._replace(**{field: other}), pid=1, now_ns=1)
    )
    with pytest.raises(RegionError, match=f"superblock {field} is {other}, announced was"):
        check_superblock(found, expected)


@pytest.mark.parametrize("pid", [0, 2**64 - 1])
def test_pid_and_times_are_no_part_of_the_layout(pid: int) -> None:
    check_superblock(decode_superblock(encode_superblock(RING, pid=pid, now_ns=pid)), RING)


@pytest.mark.clause("Wire §7.1-2")
@pytest.mark.parametrize("bit", range(64))
def test_other_magic(bit: int) -> None:
    data = bytearray(encode_superblock(RING, pid=1, now_ns=1))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RegionError, match="region magic 0x"):
        decode_superblock(data)


@pytest.mark.parametrize("length", [0, 1, 63])
def test_too_short(length: int) -> None:
    data = encode_superblock(RING, pid=1, now_ns=1)
    with pytest.raises(RegionError, match=f"{length} bytes: too short"):
        decode_superblock(data[:length])


def test_offsets_for_in_place_updates() -> None:
    data = encode_superblock(RING, pid=42, now_ns=7)
    assert struct.unpack_from("<Q", data, EPOCH_OFFSET) == (RING.epoch,)
    assert struct.unpack_from("<Q", data, PID_OFFSET) == (42,)
    assert memoryview(data).cast("Q")[ACTIVITY_WORD] == 7
    assert ACTIVITY_WORD * 8 == 56


@pytest.mark.clause("Wire §7.1-3")
def test_identity_of_a_header_ring() -> None:
    assert (RING.region_type, RING.pool_id, RING.slot_bytes, RING.stride_bytes) == (
        RegionType.HEADER_RING,
        0,
        256,
        0,
    )
    assert (POOL.region_type, POOL.slot_bytes) == (RegionType.PAYLOAD_POOL, 0xFFFFFFFF)


@pytest.mark.parametrize("exponent", range(33))
def test_powers_of_two(exponent: int) -> None:
    assert layout.is_power_of_two(1 << exponent)
    assert not layout.is_power_of_two((1 << exponent) * 3)
    assert not layout.is_power_of_two(-(1 << exponent))
    assert not layout.is_power_of_two(0)
