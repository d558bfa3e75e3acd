"""Schema 900: announcements, consumers, frames, QoS, metadata, and what stands in memory.

Wire §16. Field order, widths, null values and ids are the specification's.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, NamedTuple

from tensorpool.wire.codec import Schema
from tensorpool.wire.fields import (
    ASCII,
    DATA,
    INT16,
    INT32,
    INT64,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    Array,
    Group,
    Padding,
)

CONTROL = Schema(schema_id=900, version=1)

MAX_DIMS = 8


class Mode(IntEnum):
    """Consumer mode (Wire §11)."""

    STREAM = 1
    RATE_LIMITED = 2


class FrameProgressState(IntEnum):
    """Progress of a frame being written (Wire §10.2.2)."""

    UNKNOWN = 0
    STARTED = 1
    PROGRESS = 2
    COMPLETE = 3


class ProgressUnit(IntEnum):
    """What a progress stride counts (Wire §8.2)."""

    NONE = 0
    ROWS = 1
    COLUMNS = 2


class ResponseCode(IntEnum):
    """Outcome of a request (Driver §4.6, Wire §15.17)."""

    OK = 0
    UNSUPPORTED = 1
    INVALID_PARAMS = 2
    REJECTED = 3
    INTERNAL_ERROR = 4


class ClockDomain(IntEnum):
    """Clock of `ShmPoolAnnounce.announce_timestamp_ns` (Wire §10.1.1)."""

    MONOTONIC = 1
    REALTIME_SYNCED = 2


class RegionType(IntEnum):
    """What a region holds (Wire §7.1)."""

    HEADER_RING = 1
    PAYLOAD_POOL = 2


class Dtype(IntEnum):
    """Scalar element types (Wire §15.8)."""

    UNKNOWN = 0
    UINT8 = 1
    INT8 = 2
    UINT16 = 3
    INT16 = 4
    UINT32 = 5
    INT32 = 6
    UINT64 = 7
    INT64 = 8
    FLOAT32 = 9
    FLOAT64 = 10
    BOOLEAN = 11
    BYTES = 13
    BIT = 14


class MajorOrder(IntEnum):
    """Memory order of a tensor (Wire §15.8)."""

    UNKNOWN = 0
    ROW = 1
    COLUMN = 2


class PayloadPool(NamedTuple):
    """One pool in an announce or an attach response (both schemas encode it alike)."""

    pool_id: Annotated[int, UINT16]
    pool_nslots: Annotated[int, UINT32]
    stride_bytes: Annotated[int, UINT32]
    region_uri: Annotated[str, ASCII]


@CONTROL.message(1)
class ShmPoolAnnounce(NamedTuple):
    """Driver to all: the regions of a stream's current epoch (Wire §10.1.1)."""

    stream_id: Annotated[int, UINT32]
    producer_id: Annotated[int, UINT32]
    epoch: Annotated[int, UINT64]
    announce_timestamp_ns: Annotated[int, UINT64]
    announce_clock_domain: Annotated[int, UINT8]
    layout_version: Annotated[int, UINT32]
    header_nslots: Annotated[int, UINT32]
    header_slot_bytes: Annotated[int, UINT16]
    payload_pools: Annotated[tuple[PayloadPool, ...], Group(PayloadPool)]
    header_region_uri: Annotated[str, ASCII]


@CONTROL.message(2)
class ConsumerHello(NamedTuple):
    """Consumer to producer and supervisor: capabilities and wishes (Wire §10.1.2)."""

    stream_id: Annotated[int, UINT32]
    consumer_id: Annotated[int, UINT32]
    supports_shm: Annotated[int, UINT8]
    supports_progress: Annotated[int, UINT8]
    mode: Annotated[int, UINT8]
    max_rate_hz: Annotated[int, UINT32]
    expected_layout_version: Annotated[int, UINT32]
    progress_interval_us: Annotated[int | None, UINT32.optional()] = None
    progress_bytes_delta: Annotated[int | None, UINT32.optional()] = None
    progress_major_delta_units: Annotated[int | None, UINT32.optional()] = None
    descriptor_stream_id: Annotated[int, UINT32] = 0
    control_stream_id: Annotated[int, UINT32] = 0
    descriptor_channel: Annotated[str, ASCII] = ""
    control_channel: Annotated[str, ASCII] = ""


@CONTROL.message(3)
class ConsumerConfig(NamedTuple):
    """Supervisor or producer to consumer: what it was granted (Wire §10.1.3)."""

    stream_id: Annotated[int, UINT32]
    consumer_id: Annotated[int, UINT32]
    use_shm: Annotated[int, UINT8]
    mode: Annotated[int, UINT8]
    descriptor_stream_id: Annotated[int, UINT32] = 0
    control_stream_id: Annotated[int, UINT32] = 0
    payload_fallback_uri: Annotated[str, ASCII] = ""
    descriptor_channel: Annotated[str, ASCII] = ""
    control_channel: Annotated[str, ASCII] = ""


@CONTROL.message(4)
class FrameDescriptor(NamedTuple):
    """Producer to consumers: a frame is committed (Wire §10.2.1)."""

    stream_id: Annotated[int, UINT32]
    epoch: Annotated[int, UINT64]
    seq: Annotated[int, UINT64]
    timestamp_ns: Annotated[int | None, UINT64.optional()] = None
    meta_version: Annotated[int | None, UINT32.optional()] = None
    trace_id: Annotated[int | None, UINT64.optional(0)] = None


@CONTROL.message(5)
class QosConsumer(NamedTuple):
    """Consumer to supervisor and producer: position and drops (Wire §10.4.1)."""

    stream_id: Annotated[int, UINT32]
    consumer_id: Annotated[int, UINT32]
    epoch: Annotated[int, UINT64]
    last_seq_seen: Annotated[int, UINT64]
    drops_gap: Annotated[int, UINT64]
    drops_late: Annotated[int, UINT64]
    mode: Annotated[int, UINT8]


@CONTROL.message(6)
class QosProducer(NamedTuple):
    """Producer to all: position (Wire §10.4.2)."""

    stream_id: Annotated[int, UINT32]
    producer_id: Annotated[int, UINT32]
    epoch: Annotated[int, UINT64]
    current_seq: Annotated[int, UINT64]
    watermark: Annotated[int | None, UINT32.optional()] = None


@CONTROL.message(7)
class DataSourceAnnounce(NamedTuple):
    """Producer to all: beacon of a data source (Wire §10.3.1)."""

    stream_id: Annotated[int, UINT32]
    producer_id: Annotated[int, UINT32]
    epoch: Annotated[int, UINT64]
    meta_version: Annotated[int, UINT32]
    name: Annotated[str, ASCII] = ""
    summary: Annotated[str, ASCII] = ""


class MetaAttribute(NamedTuple):
    """One key, format and value of a data source's metadata."""

    key: Annotated[str, ASCII]
    format: Annotated[str, ASCII]
    value: Annotated[bytes, DATA]


@CONTROL.message(8)
class DataSourceMeta(NamedTuple):
    """Producer to all: structured metadata (Wire §10.3.2)."""

    stream_id: Annotated[int, UINT32]
    meta_version: Annotated[int, UINT32]
    timestamp_ns: Annotated[int, UINT64]
    attributes: Annotated[tuple[MetaAttribute, ...], Group(MetaAttribute)] = ()


@CONTROL.message(9)
class ControlResponse(NamedTuple):
    """Answer to a control request (Wire §15.17)."""

    correlation_id: Annotated[int, INT64]
    code: Annotated[int, INT32]
    error_message: Annotated[str, ASCII] = ""


@CONTROL.message(10)
class MetaBlobAnnounce(NamedTuple):
    """Producer to all: large metadata follows in chunks (Wire §10.3.3, experimental)."""

    stream_id: Annotated[int, UINT32]
    meta_version: Annotated[int, UINT32]
    blob_type: Annotated[int, UINT32]
    total_len: Annotated[int, UINT64]
    checksum: Annotated[int, UINT64]


@CONTROL.message(11)
class FrameProgress(NamedTuple):
    """Producer to consumers that opted in: a frame is being written (Wire §10.2.2)."""

    stream_id: Annotated[int, UINT32]
    epoch: Annotated[int, UINT64]
    seq: Annotated[int, UINT64]
    payload_bytes_filled: Annotated[int, UINT64]
    state: Annotated[int, UINT8]


@CONTROL.message(12)
class MetaBlobChunk(NamedTuple):
    """Producer to all: the bytes of a blob from `chunk_offset` on (Wire §10.3.3)."""

    stream_id: Annotated[int, UINT32]
    meta_version: Annotated[int, UINT32]
    chunk_offset: Annotated[int, UINT64]
    data: Annotated[bytes, DATA]


@CONTROL.message(13)
class MetaBlobComplete(NamedTuple):
    """Producer to all: every chunk of a blob has been sent (Wire §10.3.3)."""

    stream_id: Annotated[int, UINT32]
    meta_version: Annotated[int, UINT32]
    checksum: Annotated[int, UINT64]


@CONTROL.message(50, block_length=64)
class ShmRegionSuperblock(NamedTuple):
    """The first 64 bytes of every region, without a message header (Wire §7.1)."""

    magic: Annotated[int, UINT64]
    layout_version: Annotated[int, UINT32]
    epoch: Annotated[int, UINT64]
    stream_id: Annotated[int, UINT32]
    region_type: Annotated[int, INT16]
    pool_id: Annotated[int, UINT16]
    nslots: Annotated[int, UINT32]
    slot_bytes: Annotated[int, UINT32]
    stride_bytes: Annotated[int, UINT32]
    pid: Annotated[int, UINT64]
    start_timestamp_ns: Annotated[int, UINT64]
    activity_timestamp_ns: Annotated[int, UINT64]


@CONTROL.message(51, block_length=60)
class SlotHeader(NamedTuple):
    """A header slot without a message header; `header_bytes` holds a TensorHeader (Wire §8.2)."""

    seq_commit: Annotated[int, UINT64]
    values_len_bytes: Annotated[int, UINT32]
    payload_slot: Annotated[int, UINT32]
    pool_id: Annotated[int, UINT16]
    payload_offset: Annotated[int, UINT32]
    timestamp_ns: Annotated[int, UINT64]
    meta_version: Annotated[int, UINT32]
    pad: Annotated[bytes, Padding(26)]
    header_bytes: Annotated[bytes, DATA]


@CONTROL.message(52, block_length=184)
class TensorHeader(NamedTuple):
    """Shape, element type and strides, with a message header, in `header_bytes` (Wire §8.2)."""

    dtype: Annotated[int, INT16]
    major_order: Annotated[int, INT16]
    ndims: Annotated[int, UINT8]
    pad_align: Annotated[int, UINT8]
    progress_unit: Annotated[int, UINT8]
    progress_stride_bytes: Annotated[int, UINT32]
    dims: Annotated[tuple[int, ...], Array(INT32, MAX_DIMS)]
    strides: Annotated[tuple[int, ...], Array(INT32, MAX_DIMS)]
    pad: Annotated[bytes, Padding(109)] = bytes(109)
