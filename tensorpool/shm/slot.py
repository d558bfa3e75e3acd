"""Header slots: 256 bytes that say what lies in the payload slot of the same index (Wire §8.2).

A slot is a SlotHeader whose `header_bytes` hold a TensorHeader with its message header.
The commit word at offset 0 is written by `seqlock.store_release` only, the rest as one block.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from tensorpool.shm.layout import HEADER_SLOT_BYTES, TENSOR_HEADER_BYTES
from tensorpool.wire.control import CONTROL, MAX_DIMS, SlotHeader, TensorHeader
from tensorpool.wire.errors import MalformedMessage

_TENSOR = CONTROL.by_type[TensorHeader]
_SLOT = CONTROL.by_type[SlotHeader]

BODY_OFFSET = 8
"""Everything behind the commit word."""

TENSOR_HEADER_OFFSET = _SLOT.block_length + 4
"""Offset of the embedded message in a slot: behind the block and the length of `header_bytes`."""

# valuesLenBytes, payloadSlot, poolId, payloadOffset, timestampNs, metaVersion, pad, then the
# length of headerBytes; the embedded TensorHeader follows as it is.
_FIELDS = struct.Struct("<IIHIQI26xI")
_TENSOR_HEADER_END = TENSOR_HEADER_OFFSET + TENSOR_HEADER_BYTES
assert BODY_OFFSET + _FIELDS.size == TENSOR_HEADER_OFFSET
assert _TENSOR_HEADER_END == HEADER_SLOT_BYTES


class SlotFields(NamedTuple):
    """A slot's fields behind the commit word."""

    values_len_bytes: int
    payload_slot: int
    pool_id: int
    payload_offset: int
    timestamp_ns: int
    meta_version: int
    header_length: int


def encode_tensor_header(header: TensorHeader) -> bytes:
    """The 192 bytes of an embedded TensorHeader."""
    return _TENSOR.encode(header)


def decode_tensor_header(raw: bytes) -> TensorHeader:
    """The TensorHeader in the 192 embedded bytes.

    Raises:
        MalformedMessage: another schema, template, version or length (Wire §8.3 (5)).
    """
    if len(raw) != TENSOR_HEADER_BYTES or raw[: len(_TENSOR.header)] != _TENSOR.header:
        raise MalformedMessage(
            f"{len(raw)} header bytes that start with {bytes(raw[:8]).hex()}, not "
            f"{TENSOR_HEADER_BYTES} that start with {_TENSOR.header.hex()} (a TensorHeader)"
        )
    message, _ = _TENSOR.decode_body(raw, len(_TENSOR.header))
    assert isinstance(message, TensorHeader)
    return message


def write_body(  # noqa: PLR0913 - one argument a field
    ring: memoryview,
    slot_offset: int,
    tensor_header: bytes,
    *,
    values_len_bytes: int,
    payload_slot: int,
    pool_id: int,
    timestamp_ns: int,
    meta_version: int,
) -> None:
    """Write everything but the commit word of the slot at `slot_offset`; `ring` is bytes."""
    _FIELDS.pack_into(
        ring,
        slot_offset + BODY_OFFSET,
        values_len_bytes,
        payload_slot,
        pool_id,
        0,
        timestamp_ns,
        meta_version,
        TENSOR_HEADER_BYTES,
    )
    ring[slot_offset + TENSOR_HEADER_OFFSET : slot_offset + _TENSOR_HEADER_END] = tensor_header


def read_fields(ring: memoryview, slot_offset: int) -> SlotFields:
    """The fields of the slot at `slot_offset`, to be trusted only if the seqlock holds."""
    return SlotFields._make(_FIELDS.unpack_from(ring, slot_offset + BODY_OFFSET))


def read_tensor_header(ring: memoryview, slot_offset: int) -> bytes:
    """The embedded message's bytes, to be trusted only if the seqlock holds."""
    return bytes(ring[slot_offset + TENSOR_HEADER_OFFSET : slot_offset + _TENSOR_HEADER_END])


def padded(values: tuple[int, ...]) -> tuple[int, ...]:
    """`values` filled with zeros to MAX_DIMS (Wire §8.2)."""
    return values + (0,) * (MAX_DIMS - len(values))
