"""Hostile lengths, null values, unknown enum values and values that do not fit."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from tensorpool import wire
from tensorpool.wire.control import (
    CONTROL,
    DataSourceMeta,
    FrameDescriptor,
    MetaAttribute,
    PayloadPool,
    QosConsumer,
    ShmPoolAnnounce,
    SlotHeader,
    TensorHeader,
)
from tensorpool.wire.driver import (
    ShmAttachRequest,
    ShmAttachResponse,
    ShmDetachResponse,
    ShmDriverShutdownRequest,
    ShmLeaseKeepalive,
)

ANNOUNCE = ShmPoolAnnounce(1, 2, 3, 4, 1, 1, 64, 256, (PayloadPool(1, 64, 128, "u"),), "h")
METADATA = DataSourceMeta(1, 2, 3, (MetaAttribute("k", "f", b"v"),))
KEEPALIVE = ShmLeaseKeepalive(1, 2, 3, 1, 4)
TENSOR = TensorHeader(3, 1, 2, 0, 0, 0, (0,) * 8, (0,) * 8)
SLOT = SlotHeader(1, 2, 3, 4, 0, 5, 6, bytes(26), b"")


def patched(message: tuple[Any, ...], offset: int, raw: bytes) -> bytes:
    data = bytearray(wire.encode(message))
    data[offset : offset + len(raw)] = raw
    return bytes(data)


HOSTILE = [
    pytest.param(patched(ANNOUNCE, 45, b"\xff\xff"), id="group-count"),
    pytest.param(patched(METADATA, 26, b"\xff\xff"), id="count-of-entries-without-a-block"),
    pytest.param(
        patched(METADATA, 26, b"\xff\xff") + bytes(60_000), id="count-beyond-a-large-buffer"
    ),
    pytest.param(patched(ANNOUNCE, 43, b"\xff\xff\xff\xff"), id="group-block-and-count"),
    pytest.param(patched(ANNOUNCE, 57, b"\xff" * 4), id="length-in-a-group"),
    pytest.param(patched(METADATA, 38, b"\xff" * 4), id="data-length-in-a-group"),
    pytest.param(patched(ShmDetachResponse(1, 0), 20, b"\xff" * 4), id="text-length"),
    pytest.param(patched(ShmDetachResponse(1, 0), 20, b"\0\0\0\x40"), id="text-length-of-1-GiB"),
    pytest.param(patched(ShmDriverShutdownRequest(1, 0, b""), 17, b"\xff" * 4), id="data-length"),
]


@pytest.mark.parametrize("data", HOSTILE)
def test_giant_lengths_are_refused_without_allocating(data: bytes) -> None:
    with pytest.raises(wire.MalformedMessage):
        wire.decode(data)  # once unmeasured, so that caches do not count
    tracemalloc.start()
    try:
        with pytest.raises(wire.MalformedMessage):
            wire.decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * 1024


@pytest.mark.parametrize("block_length", [0, 9, 11, 65535])
def test_other_group_block_length_is_malformed(block_length: int) -> None:
    data = patched(ANNOUNCE, 43, block_length.to_bytes(2, "little")) + bytes(70_000)
    with pytest.raises(wire.MalformedMessage, match=r"ShmPoolAnnounce\.payload_pools"):
        wire.decode(data)


def test_as_many_entries_as_a_count_can_tell() -> None:
    entries = (MetaAttribute("", "", b""),) * 65535
    decoded = wire.decode(wire.encode(METADATA._replace(attributes=entries)))
    assert decoded.attributes == entries
    with pytest.raises(wire.EncodeError, match="65536 entries"):
        wire.encode(METADATA._replace(attributes=(*entries, entries[0])))


@pytest.mark.parametrize("length", range(8))
def test_less_than_a_message_header(length: int) -> None:
    with pytest.raises(wire.MalformedMessage, match=f"{length} bytes"):
        wire.decode(wire.encode(KEEPALIVE)[:length])


@pytest.mark.clause("Wire §10.1-1", "Wire §10.1-2", "Driver §4.2-10")
def test_null_values_decode_to_none_and_none_to_null_values() -> None:
    absent = ShmAttachResponse(1, 3)
    data = wire.encode(absent)
    assert data[20:62] == b"\xff" * 42
    assert wire.decode(data) == absent
    assert wire.decode(data).lease_id is None

    as_numbers = ShmAttachResponse(
        1, 3, 2**64 - 1, 2**64 - 1, 2**32 - 1, 2**64 - 1, 2**32 - 1, 2**32 - 1, 2**16 - 1, 2**32 - 1
    )
    assert wire.encode(as_numbers) == data, "the sentinel itself cannot be told from absence"


def test_the_null_value_of_a_trace_id_is_zero() -> None:
    assert wire.decode(wire.encode(FrameDescriptor(1, 2, 3, trace_id=0))).trace_id is None
    largest = FrameDescriptor(1, 2, 3, trace_id=2**64 - 1)
    assert wire.decode(wire.encode(largest)) == largest


@pytest.mark.clause("Driver §4.2-10")
def test_required_fields_have_no_null_value() -> None:
    largest = KEEPALIVE._replace(lease_id=2**64 - 1, client_id=2**32 - 1, role=255)
    assert wire.decode(wire.encode(largest)) == largest
    with pytest.raises(wire.EncodeError):
        wire.encode(KEEPALIVE._replace(lease_id=None))  # type: ignore[arg-type]


def test_unknown_enum_values_pass_as_plain_ints() -> None:
    request = ShmAttachRequest(1, 2, 3, role=99, publish_mode=77, require_hugepages=55)
    decoded = wire.decode(wire.encode(request))
    assert (decoded.role, decoded.publish_mode, decoded.require_hugepages) == (99, 77, 55)
    assert type(decoded.role) is int
    qos = QosConsumer(1, 2, 3, 4, 5, 6, mode=254)
    assert wire.decode(wire.encode(qos)).mode == 254


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(KEEPALIVE._replace(role=256), id="uint8-too-large"),
        pytest.param(KEEPALIVE._replace(stream_id=-1), id="uint32-negative"),
        pytest.param(KEEPALIVE._replace(stream_id=2**32), id="uint32-too-large"),
        pytest.param(KEEPALIVE._replace(lease_id=2**64), id="uint64-too-large"),
        pytest.param(ANNOUNCE._replace(header_slot_bytes=2**16), id="uint16-too-large"),
        pytest.param(ShmDetachResponse(2**63, 0), id="int64-too-large"),
        pytest.param(ShmDetachResponse(-(2**63) - 1, 0), id="int64-too-small"),
        pytest.param(ShmDetachResponse(1, 2**31), id="int32-too-large"),
        pytest.param(TENSOR._replace(dtype=2**15), id="int16-too-large"),
        pytest.param(
            ANNOUNCE._replace(payload_pools=(PayloadPool(65536, 1, 1, ""),)), id="in-group"
        ),
        pytest.param(TENSOR._replace(dims=(1,) * 7), id="array-too-short"),
        pytest.param(TENSOR._replace(strides=(1,) * 9), id="array-too-long"),
        pytest.param(TENSOR._replace(dims=(2**31,) + (0,) * 7), id="array-item-too-large"),
        pytest.param(SLOT._replace(pad=bytes(27)), id="padding-too-long"),
        pytest.param(SLOT._replace(pad=bytes(25)), id="padding-too-short"),
    ],
)
def test_values_that_do_not_fit(message: tuple[Any, ...]) -> None:
    with pytest.raises(wire.EncodeError, match=f"^({type(message).__name__}|PayloadPool): "):
        wire.encode(message)


def test_text_is_ascii_on_the_wire() -> None:
    """A foreign path in an error text must not cost the answer; foreign bytes must not raise."""
    assert wire.decode(wire.encode(ShmDetachResponse(1, 4, "no /dev/shm/é"))) == (
        1,
        4,
        r"no /dev/shm/\xe9",
    )
    data = patched(ShmDetachResponse(1, 4, "abc"), 25, b"\xff")
    assert wire.decode(data).error_message == "a\N{REPLACEMENT CHARACTER}c"


def test_older_version_with_our_block_length_is_read() -> None:
    assert wire.decode(patched(KEEPALIVE, 6, b"\0\0")) == KEEPALIVE


def test_schema_classes_are_compiled_once() -> None:
    assert CONTROL.by_type[ShmPoolAnnounce] is CONTROL.by_template[1]
