"""Sizes and offsets of regions (Wire §6, §8.1, §9)."""

from __future__ import annotations

LAYOUT_VERSION = 1
"""The layout version that we create and read. 0 in a request means "whatever is there"."""

SUPERBLOCK_BYTES = 64
HEADER_SLOT_BYTES = 256
STRIDE_ALIGNMENT_BYTES = 64
TENSOR_HEADER_BYTES = 192
"""Message header and block of the TensorHeader embedded in a slot (Wire §8.2)."""


def header_ring_bytes(nslots: int) -> int:
    """File size of a header ring of `nslots` slots."""
    return SUPERBLOCK_BYTES + nslots * HEADER_SLOT_BYTES


def payload_pool_bytes(nslots: int, stride_bytes: int) -> int:
    """File size of a payload pool of `nslots` slots of `stride_bytes`."""
    return SUPERBLOCK_BYTES + nslots * stride_bytes


def header_slot_offset(index: int) -> int:
    """Byte offset of header slot `index` in its region."""
    return SUPERBLOCK_BYTES + index * HEADER_SLOT_BYTES


def payload_slot_offset(index: int, stride_bytes: int) -> int:
    """Byte offset of payload slot `index` in its region."""
    return SUPERBLOCK_BYTES + index * stride_bytes


def is_power_of_two(value: int) -> bool:
    """Whether `value` is a slot count that `seq & (nslots - 1)` can index."""
    return value > 0 and value & (value - 1) == 0
