"""An epoch's region files as they lie there: read with pread, never mapped, nothing followed.

A file that is truncated underneath gives a short read here, where a mapping would give SIGBUS.
Every type here is a JSON object of `tensorpool inspect --json`; the keys are stable, new ones
may come.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, TypedDict

from tensorpool.errors import TensorPoolError
from tensorpool.shm.errors import RegionError, TensorError
from tensorpool.shm.layout import (
    HEADER_SLOT_BYTES,
    SUPERBLOCK_BYTES,
    header_slot_offset,
    is_power_of_two,
    payload_slot_offset,
)
from tensorpool.shm.paths import HEADER_RING_NAME, POOL_SUFFIX, parse_decimal_name, pool_file_name
from tensorpool.shm.seqlock import COMMITTED
from tensorpool.shm.slot import decode_tensor_header, read_fields, read_tensor_header
from tensorpool.shm.superblock import decode_superblock
from tensorpool.wire.control import Dtype, MajorOrder, RegionType, ShmRegionSuperblock
from tensorpool.wire.errors import WireError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WORD_BYTES = 8
_ATTEMPTS = 8
_MAX_SLOTS = 1 << 22


class InspectError(TensorPoolError):
    """What was to be inspected is not there, or is no region."""


class RegionFacts(TypedDict):
    """A region file and its superblock; `problem` says why it is not what it should be."""

    file: str
    size_bytes: int
    region_type: str | None
    layout_version: int | None
    stream_id: int | None
    epoch: int | None
    pool_id: int | None
    nslots: int | None
    slot_bytes: int | None
    stride_bytes: int | None
    pid: int | None
    start_timestamp_ns: int | None
    activity_timestamp_ns: int | None
    problem: str | None


class SlotFacts(TypedDict):
    """A header slot and the tensor header in it; all but `index` and `state` null if empty."""

    index: int
    state: str
    seq: int | None
    pool_id: int | None
    payload_slot: int | None
    values_len_bytes: int | None
    timestamp_ns: int | None
    meta_version: int | None
    dtype: str | None
    major_order: str | None
    shape: list[int] | None
    strides: list[int] | None
    problem: str | None


class FrameData(NamedTuple):
    """A whole frame, copied out and found untouched afterwards."""

    seq: int
    timestamp_ns: int
    meta_version: int
    dtype: str
    array: npt.NDArray[np.generic]


class EpochReader:
    """The region files in `directory`; a context manager.

    Raises:
        InspectError: it is no directory, or a symlink, or may not be read.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        try:
            self._fd = os.open(directory, _DIRECTORY)
        except OSError as error:
            raise InspectError(
                f"{directory}: {error.strerror}; name an epoch's directory"
            ) from error
        self._files: dict[str, int] = {}

    def regions(self) -> list[RegionFacts]:
        """Every region file, the header ring first."""
        names = [name for name in os.listdir(self._fd) if is_region_name(name)]
        return [self._region(name) for name in sorted(names, key=_order)]

    def slots(self) -> Iterator[SlotFacts]:
        """Every slot of the header ring, in its order.

        Raises:
            InspectError: there is no whole ring.
        """
        for index in range(self._ring_slots()):
            yield _slot_facts(index, self._slot(index))

    def frame(self, seq: int | None = None) -> FrameData:
        """The frame `seq`, or the newest.

        Raises:
            InspectError: there is none, it was overwritten meanwhile, or it breaks its layout.
        """
        nslots = self._ring_slots()
        for _ in range(_ATTEMPTS):
            wanted = self._newest(nslots) if seq is None else seq
            if wanted is None:
                raise InspectError(f"{self.directory}: no frame was committed yet")
            found = self._try_frame(wanted, wanted & nslots - 1)
            if found is not None:
                return found
            if seq is not None:
                break
        which = "the newest frame" if seq is None else f"frame {seq}"
        raise InspectError(
            f"{self.directory}: {which} is not in the ring, or was overwritten while it was read; "
            "`tensorpool inspect` shows which are there"
        )

    def close(self) -> None:
        """Close every file."""
        for fd in (*self._files.values(), self._fd):
            os.close(fd)
        self._files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- files ----------------------------------------------------------------------------

    def _open(self, name: str) -> int:
        if name not in self._files:
            try:
                fd = os.open(name, _FILE, dir_fd=self._fd)
            except OSError as error:
                raise InspectError(f"{self.directory}/{name}: {error.strerror}") from error
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise InspectError(f"{self.directory}/{name}: no regular file")
            self._files[name] = fd
        return self._files[name]

    def _read(self, name: str, count: int, offset: int) -> bytes:
        data = os.pread(self._open(name), count, offset)
        while len(data) < count:
            more = os.pread(self._open(name), count - len(data), offset + len(data))
            if not more:
                raise InspectError(
                    f"{self.directory}/{name}: {os.fstat(self._open(name)).st_size} bytes, "
                    f"{offset + count} are needed: truncated"
                )
            data += more
        return data

    def _superblock(self, name: str) -> ShmRegionSuperblock:
        return decode_superblock(self._read(name, SUPERBLOCK_BYTES, 0))

    def _region(self, name: str) -> RegionFacts:
        block, problem, size = None, None, 0
        try:
            size = os.fstat(self._open(name)).st_size
            block = self._superblock(name)
        except (InspectError, RegionError) as error:
            problem = str(error)
        if block is not None and problem is None:
            problem = _region_problem(name, block, size)
        return {
            "file": name,
            "size_bytes": size,
            "region_type": None if block is None else _enum_name(RegionType, block.region_type),
            "layout_version": None if block is None else block.layout_version,
            "stream_id": None if block is None else block.stream_id,
            "epoch": None if block is None else block.epoch,
            "pool_id": None if block is None else block.pool_id,
            "nslots": None if block is None else block.nslots,
            "slot_bytes": None if block is None else block.slot_bytes,
            "stride_bytes": None if block is None else block.stride_bytes,
            "pid": None if block is None else block.pid,
            "start_timestamp_ns": None if block is None else block.start_timestamp_ns,
            "activity_timestamp_ns": None if block is None else block.activity_timestamp_ns,
            "problem": problem,
        }

    # -- slots ----------------------------------------------------------------------------

    def _ring_slots(self) -> int:
        try:
            block = self._superblock(HEADER_RING_NAME)
        except RegionError as error:
            raise InspectError(f"{self.directory}/{HEADER_RING_NAME}: {error}") from error
        if not is_power_of_two(block.nslots) or block.nslots > _MAX_SLOTS:
            raise InspectError(
                f"{self.directory}/{HEADER_RING_NAME}: {block.nslots} slots, no power of two that "
                "a ring can have"
            )
        return block.nslots

    def _slot(self, index: int) -> bytes:
        return self._read(HEADER_RING_NAME, HEADER_SLOT_BYTES, header_slot_offset(index))

    def _word(self, index: int) -> int:
        raw = self._read(HEADER_RING_NAME, _WORD_BYTES, header_slot_offset(index))
        return int.from_bytes(raw, "little")

    def _newest(self, nslots: int) -> int | None:
        words = (self._word(index) for index in range(nslots))
        return max((word >> 1 for word in words if word & COMMITTED), default=None)

    def _try_frame(self, seq: int, index: int) -> FrameData | None:
        import numpy as np  # noqa: PLC0415 - superblocks and slots need none

        from tensorpool.client.tensors import layout_of  # noqa: PLC0415

        raw = self._slot(index)
        word = int.from_bytes(raw[:_WORD_BYTES], "little")
        if not word & COMMITTED or word >> 1 != seq:
            return None
        fields = read_fields(memoryview(raw), 0)
        try:
            header = decode_tensor_header(read_tensor_header(memoryview(raw), 0))
            layout = layout_of(header, fields.values_len_bytes)
            name = pool_file_name(fields.pool_id)
            pool = self._superblock(name)
            if fields.payload_slot >= pool.nslots or layout.nbytes > pool.stride_bytes:
                raise RegionError(
                    f"{layout.nbytes} bytes in slot {fields.payload_slot} are not in {name}: "
                    f"{pool.nslots} slots of {pool.stride_bytes} bytes"
                )
            at = payload_slot_offset(fields.payload_slot, pool.stride_bytes) + fields.payload_offset
            payload = self._read(name, layout.nbytes, at)
        except (WireError, TensorError, RegionError) as error:
            if self._word(index) != word:
                return None
            raise InspectError(f"{self.directory}: frame {seq}: {error}") from error
        # The producer may have come round while we copied (Wire §8.3).
        if self._word(index) != word:
            return None
        array = np.ndarray(layout.shape, layout.dtype, payload, 0, layout.strides)
        return FrameData(
            seq,
            fields.timestamp_ns,
            fields.meta_version,
            _enum_name(Dtype, header.dtype),
            array,
        )


def is_region_name(name: str) -> bool:
    """Whether a file of this name is a region."""
    stem = name.removesuffix(POOL_SUFFIX)
    return name == HEADER_RING_NAME or (stem != name and parse_decimal_name(stem) is not None)


def _order(name: str) -> tuple[bool, int]:
    return (name != HEADER_RING_NAME, parse_decimal_name(name.removesuffix(POOL_SUFFIX)) or 0)


def _region_problem(name: str, block: ShmRegionSuperblock, size: int) -> str | None:
    is_ring = name == HEADER_RING_NAME
    wanted = RegionType.HEADER_RING if is_ring else RegionType.PAYLOAD_POOL
    if block.region_type != wanted:
        return f"region type {block.region_type}, the file's name says {wanted.name}"
    stride = HEADER_SLOT_BYTES if is_ring else block.stride_bytes
    needed = SUPERBLOCK_BYTES + block.nslots * stride
    return f"{size} bytes, its superblock says {needed}" if size < needed else None


def _slot_facts(index: int, raw: bytes) -> SlotFacts:
    word = int.from_bytes(raw[:_WORD_BYTES], "little")
    facts: SlotFacts = {
        "index": index,
        "state": "empty" if word == 0 else "committed" if word & COMMITTED else "writing",
        "seq": word >> 1 if word else None,
        "pool_id": None,
        "payload_slot": None,
        "values_len_bytes": None,
        "timestamp_ns": None,
        "meta_version": None,
        "dtype": None,
        "major_order": None,
        "shape": None,
        "strides": None,
        "problem": None,
    }
    if not word & COMMITTED:
        return facts  # What stands behind the word of a slot being written means nothing.
    fields = read_fields(memoryview(raw), 0)
    facts["pool_id"], facts["payload_slot"] = fields.pool_id, fields.payload_slot
    facts["values_len_bytes"], facts["timestamp_ns"] = fields.values_len_bytes, fields.timestamp_ns
    facts["meta_version"] = fields.meta_version
    try:
        header = decode_tensor_header(read_tensor_header(memoryview(raw), 0))
    except WireError as error:
        facts["problem"] = str(error)
        return facts
    facts["dtype"] = _enum_name(Dtype, header.dtype)
    facts["major_order"] = _enum_name(MajorOrder, header.major_order)
    facts["shape"] = list(header.dims[: header.ndims])
    facts["strides"] = list(header.strides[: header.ndims])
    return facts


def _enum_name(kind: type[Dtype | MajorOrder | RegionType], value: int) -> str:
    try:
        return kind(value).name.lower()
    except ValueError:
        return str(value)
