"""The per-frame path, in C and in Python: the same cases for both, and each with the other."""

import gc
import importlib
import mmap
import struct
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tensorpool.client import slots
from tensorpool.client.slots import REFUSED, decode_layout, empty_view, encode_header
from tensorpool.clock import monotonic_ns
from tensorpool.native import PURE_PYTHON_VARIABLE
from tensorpool.shm.errors import TensorError
from tensorpool.shm.layout import HEADER_SLOT_BYTES, SUPERBLOCK_BYTES, TENSOR_HEADER_BYTES
from tensorpool.wire.control import CONTROL, FrameDescriptor

NSLOTS = 4
POOLS = ((7, 256), (9, 4096))
STREAM, EPOCH = 10000, 2**53 + 1
PREFIX = CONTROL.by_type[FrameDescriptor].header
NULL_U64, NULL_U32 = 2**64 - 1, 2**32 - 1
BLOCK = struct.Struct("<IQQQIQ")
# Offsets of a slot's fields (Wire §8.2).
VALUES_LEN, PAYLOAD_SLOT, POOL_ID, PAYLOAD_OFFSET, HEADER_LENGTH, TENSOR = 8, 12, 16, 18, 60, 64


def native() -> ModuleType:
    # Not a skip: `make setup` builds it where a compiler is, and these tests run where one is.
    return importlib.import_module("tensorpool._hot")


def implementation(name: str) -> Any:
    return native() if name == "native" else slots


both = pytest.mark.parametrize("name", ["native", "pure"])
pairs = pytest.mark.parametrize(
    ("writing", "reading"),
    [("native", "native"), ("native", "pure"), ("pure", "native"), ("pure", "pure")],
)


class Regions:
    """Regions of an epoch in memory of this process."""

    def __init__(self) -> None:
        self.ring = mmap.mmap(-1, SUPERBLOCK_BYTES + NSLOTS * HEADER_SLOT_BYTES)
        self.memory = [mmap.mmap(-1, SUPERBLOCK_BYTES + NSLOTS * stride) for _, stride in POOLS]

    def writer(self, code: Any, encode: Callable[..., bytes] = encode_header) -> Any:
        pools = [(*pool, memory) for pool, memory in zip(POOLS, self.memory, strict=True)]
        return code.SlotWriter(self.ring, pools, NSLOTS, STREAM, EPOCH, PREFIX, encode, 1 << 20)

    def reader(self, code: Any, decode: Callable[..., Any] = decode_layout) -> Any:
        pools = [
            (*pool, memoryview(memory).toreadonly())
            for pool, memory in zip(POOLS, self.memory, strict=True)
        ]

        class Frame(code.FrameState):  # type: ignore[misc] # of either implementation
            __slots__ = ()

        ring = memoryview(self.ring).toreadonly()
        owner = SimpleNamespace()
        return code.SlotReader(ring, pools, NSLOTS, Frame, owner, decode, REFUSED, empty_view)

    def poke(self, seq: int, offset: int, octets: bytes) -> None:
        at = SUPERBLOCK_BYTES + seq % NSLOTS * HEADER_SLOT_BYTES + offset
        self.ring[at : at + len(octets)] = octets

    def peek(self, seq: int, offset: int, count: int) -> bytes:
        at = SUPERBLOCK_BYTES + seq % NSLOTS * HEADER_SLOT_BYTES + offset
        return self.ring[at : at + count]


def arrays() -> list[Any]:
    made: list[Any] = [
        np.arange(12).astype(dtype).reshape(3, 4)
        for dtype in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "?")
    ]
    made += [np.arange(24.0).reshape(2, 3, 4), np.asfortranarray(np.arange(12.0).reshape(3, 4))]
    made += [np.arange(5), np.zeros((1,) * 8), np.zeros((0, 3)), np.arange(4096, dtype="u1")]
    return made


@pairs
@pytest.mark.parametrize("array", arrays(), ids=lambda a: f"{a.dtype}-{a.strides}".replace(" ", ""))
def test_what_is_published_is_read(writing: str, reading: str, array: Any) -> None:
    regions = Regions()
    writer = regions.writer(implementation(writing))
    reader = regions.reader(implementation(reading))
    told: list[bytes] = []

    def offer(message: bytearray) -> bool:
        told.append(bytes(message))
        return True

    for seq in (0, 3, 4, 11):  # the same header again, and the ring's second round
        assert writer.publish(array, seq, 5 + seq, 3, 2**63, offer) is True
        frame = reader.read(seq, EPOCH, NULL_U64, 2**63)
        np.testing.assert_array_equal(frame.array, array)
        assert frame.array.dtype == array.dtype
        assert frame.array.flags.f_contiguous == array.flags.f_contiguous
        assert not frame.array.flags.writeable
        assert (frame.seq, frame.epoch, frame.timestamp_ns) == (seq, EPOCH, 5 + seq)
        assert (frame.meta_version, frame.trace_id, frame.published_ns) == (3, 2**63, None)
        assert frame.layout.shape == array.shape
        assert frame.valid
        assert told[-1] == PREFIX + BLOCK.pack(STREAM, EPOCH, seq, NULL_U64, 3, 2**63)


@both
def test_both_write_the_same_octets(name: str) -> None:
    regions, pure = Regions(), Regions()
    array = np.arange(30, dtype="<u2").reshape(5, 6)
    regions.writer(implementation(name)).publish(array, 6, 77, 0, 0, None)
    pure.writer(slots).publish(array, 6, 77, 0, 0, None)
    assert regions.ring[:] == pure.ring[:]
    assert [m[:] for m in regions.memory] == [m[:] for m in pure.memory]


@both
def test_smallest_pool_that_fits_is_used(name: str) -> None:
    regions = Regions()
    writer = regions.writer(implementation(name))
    for nbytes, pool_id in ((256, 7), (257, 9), (4096, 9)):
        assert writer.publish(np.zeros(nbytes, "u1"), 0, None, 0, 0, None) is False
        assert regions.peek(0, POOL_ID, 2) == pool_id.to_bytes(2, "little")


@both
@pytest.mark.parametrize(
    "array",
    [
        np.zeros(4097, "u1"),
        np.zeros((4, 4))[:, ::2],
        np.zeros(4, ">f8"),
        np.array(1.0),
        np.ma.masked_array([1.0]),
        memoryview(b"abc"),
        [1, 2],
    ],
    ids=["too-long", "strided", "swapped", "scalar", "subclass", "buffer", "list"],
)
def test_what_is_not_for_this_path_leaves_the_slot_alone(name: str, array: Any) -> None:
    regions = Regions()
    before = regions.ring[:]
    assert regions.writer(implementation(name)).publish(array, 1, None, 0, 0, None) is None
    assert regions.ring[:] == before


@both
def test_refused_dtype_leaves_the_slot_alone(name: str) -> None:
    regions = Regions()
    before = regions.ring[:]
    with pytest.raises(TensorError, match="complex128"):
        regions.writer(implementation(name)).publish(np.zeros(2, complex), 1, None, 0, 0, None)
    assert regions.ring[:] == before


@both
@pytest.mark.parametrize("answer", [True, False, None, 1, OSError("gone")])
def test_only_true_is_told(name: str, answer: Any) -> None:
    regions = Regions()

    def offer(_: bytearray) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    is_told = regions.writer(implementation(name)).publish(np.ones(2), 0, None, 0, 0, offer)
    assert is_told is (answer is True)
    frame = regions.reader(slots).read(0, EPOCH, NULL_U64, 0)
    assert frame is not None
    assert frame.valid


@both
def test_no_metadata_is_null_in_the_descriptor(name: str) -> None:
    told = bytearray()
    Regions().writer(implementation(name)).publish(np.ones(2), 9, None, 0, 4, told.extend)
    assert told == PREFIX + BLOCK.pack(STREAM, EPOCH, 9, NULL_U64, NULL_U32, 4)


@both
def test_time_of_capture_is_monotonic_unless_it_is_given(name: str) -> None:
    regions = Regions()
    before = monotonic_ns()
    regions.writer(implementation(name)).publish(np.ones(2), 0, None, 0, 0, None)
    frame = regions.reader(slots).read(0, EPOCH, NULL_U64, 0)
    assert before <= frame.timestamp_ns <= monotonic_ns()


@both
def test_claim_in_place(name: str) -> None:
    regions = Regions()
    code = implementation(name)
    writer, reader = regions.writer(code), regions.reader(slots)
    writer.begin(5)
    assert reader.read(5, EPOCH, NULL_U64, 0) is None
    assert regions.peek(5, 0, 8) == (5 << 1).to_bytes(8, "little")
    view = writer.view(5, 1, (2, 3), np.dtype("<f4"), True)
    assert view.flags.f_contiguous
    view[:] = [[1, 2, 3], [4, 5, 6]]
    header = encode_header(view, 1)
    writer.body(5, 1, header, view.nbytes, 8, 2, False)
    assert reader.read(5, EPOCH, NULL_U64, 0) is None
    writer.body(5, 1, header, view.nbytes, 8, 2, True)
    frame = reader.read(5, EPOCH, NULL_U64, 0)
    np.testing.assert_array_equal(frame.array, view)
    assert (frame.timestamp_ns, frame.meta_version) == (8, 2)


@both
def test_view_never_leaves_its_slot(name: str) -> None:
    writer = Regions().writer(implementation(name))
    last = NSLOTS - 1
    assert writer.view(last, 0, (256,), np.dtype("u1"), False).nbytes == 256
    with pytest.raises((ValueError, TypeError)):
        writer.view(last, 0, (257,), np.dtype("u1"), False)
    with pytest.raises((ValueError, IndexError)):
        writer.view(0, 2, (1,), np.dtype("u1"), False)


@both
def test_frame_is_valid_until_its_slot_is_taken(name: str) -> None:
    regions = Regions()
    writer, reader = regions.writer(slots), regions.reader(implementation(name))
    writer.publish(np.ones(2), 1, None, 0, 0, None)
    frame = reader.read(1, EPOCH, 123, 0)
    assert frame.published_ns == 123
    writer.publish(np.ones(2), 2, None, 0, 0, None)
    assert frame.valid
    writer.begin(1 + NSLOTS)
    assert not frame.valid
    assert reader.read(1, EPOCH, NULL_U64, 0) is None
    writer.publish(np.ones(2), 1 + NSLOTS, None, 0, 0, None)
    assert not frame.valid
    assert reader.read(1, EPOCH, NULL_U64, 0) is None


@both
def test_late_frame_tells_how_far_the_producer_is(name: str) -> None:
    regions = Regions()
    reader = regions.reader(implementation(name))
    assert reader.overtaken(1) == -1
    for seq in range(2 * NSLOTS + 2):
        regions.writer(slots).publish(np.ones(2), seq, None, 0, 0, None)
    # Slot 1 holds 2 * NSLOTS + 1: everything up to a ring before is gone, nothing after it is.
    assert reader.overtaken(1) == NSLOTS + 1
    assert reader.overtaken(2 * NSLOTS + 1) == -1
    assert reader.read(NSLOTS + 1, EPOCH, NULL_U64, 0) is None
    assert reader.read(NSLOTS + 2, EPOCH, NULL_U64, 0)
    regions.poke(1, 0, (3 << 1).to_bytes(8, "little"))  # not of this slot: nothing is believed
    assert reader.overtaken(1) == -1


@both
@pytest.mark.parametrize(
    ("offset", "octets"),
    [
        (VALUES_LEN, (257).to_bytes(4, "little")),
        (VALUES_LEN, (15).to_bytes(4, "little")),
        (PAYLOAD_SLOT, (2).to_bytes(4, "little")),
        (PAYLOAD_SLOT, (1 + NSLOTS).to_bytes(4, "little")),
        (POOL_ID, (8).to_bytes(2, "little")),
        (PAYLOAD_OFFSET, (64).to_bytes(4, "little")),
        (HEADER_LENGTH, (191).to_bytes(4, "little")),
        (HEADER_LENGTH, (0).to_bytes(4, "little")),
        (TENSOR, b"\0\0"),
        (TENSOR + 4, (901).to_bytes(2, "little")),
        (TENSOR + 8, (99).to_bytes(2, "little")),
    ],
)
def test_header_that_breaks_a_rule_is_invalid(name: str, offset: int, octets: bytes) -> None:
    regions = Regions()
    reader = regions.reader(implementation(name))
    regions.writer(slots).publish(np.ones(2), 1, None, 0, 0, None)
    assert reader.read(1, EPOCH, NULL_U64, 0)
    regions.poke(1, offset, octets)
    assert reader.read(1, EPOCH, NULL_U64, 0) is False


@both
def test_every_octet_of_the_header_is_looked_at(name: str) -> None:
    """Whatever one octet says: no crash, and what is handed out lies in its slot."""
    regions = Regions()
    regions.writer(slots).publish(np.ones((2, 4)), 1, None, 0, 0, None)
    reader, pure = regions.reader(implementation(name)), regions.reader(slots)
    for offset in range(8, HEADER_SLOT_BYTES):
        whole = regions.peek(1, offset, 1)
        for value in (0, 1, 2, 0x7F, 0x80, 0xFF):
            regions.poke(1, offset, bytes([value]))
            frame, twin = (r.read(1, EPOCH, NULL_U64, 0) for r in (reader, pure))
            assert bool(frame) == bool(twin), (offset, value)
            if frame:
                assert frame.layout == twin.layout
                assert frame.array.strides == twin.array.strides
                assert frame.array.tobytes() == twin.array.tobytes()
        regions.poke(1, offset, whole)


@both
def test_error_of_ours_is_not_taken_for_an_invalid_frame(name: str) -> None:
    regions = Regions()
    regions.writer(slots).publish(np.ones(2), 1, None, 0, 0, None)

    def decode(*_: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        regions.reader(implementation(name), decode).read(1, EPOCH, NULL_U64, 0)


@both
def test_header_is_decoded_once_for_many_frames(name: str) -> None:
    regions = Regions()
    decoded: list[int] = []

    def decode(raw: bytes, nbytes: int) -> Any:
        assert len(raw) == TENSOR_HEADER_BYTES
        decoded.append(nbytes)
        return decode_layout(raw, nbytes)

    writer, reader = regions.writer(slots), regions.reader(implementation(name), decode)
    for seq, count in enumerate((2, 2, 2, 3, 3)):
        writer.publish(np.ones(count), seq, None, 0, 0, None)
        assert reader.read(seq, EPOCH, NULL_U64, 0).array.shape == (count,)
    assert decoded == [16, 24]


@both
def test_headers_of_ever_other_shapes_are_not_all_kept(name: str) -> None:
    kept = 0

    class Header(bytes):
        def __init__(self, _: bytes) -> None:
            nonlocal kept
            kept += 1

        def __del__(self) -> None:
            nonlocal kept
            kept -= 1

    writer = Regions().writer(implementation(name), lambda *array: Header(encode_header(*array)))
    for seq in range(100):
        assert writer.publish(np.zeros(1 + seq, np.uint8), seq, 0, 0, 0, None) is False
    assert kept <= 1


@both
def test_view_keeps_its_memory_mapped(name: str) -> None:
    regions = Regions()
    regions.writer(slots).publish(np.ones(2), 0, None, 0, 0, None)
    reader = regions.reader(implementation(name))
    array = reader.read(0, EPOCH, NULL_U64, 0).array
    mapping = weakref.ref(regions.memory[0])
    del reader, regions
    gc.collect()
    assert mapping() is not None
    np.testing.assert_array_equal(array, np.ones(2))
    del array
    gc.collect()
    assert mapping() is None


@both
def test_sink_keeps_the_descriptors_of_its_stream(name: str) -> None:
    kept: deque[tuple[int, ...]] = deque()
    sink = implementation(name).DescriptorSink(PREFIX, STREAM, kept)
    values = (STREAM, EPOCH, 8, NULL_U64, NULL_U32, 2**64 - 1)
    good = PREFIX + BLOCK.pack(*values)
    for message in (good, bytearray(good)):
        sink(message, None)
    assert list(kept) == [values, values]
    for other in (
        b"",
        good[:-1],
        good + b"\0",
        b"\1" + good[1:],
        PREFIX + BLOCK.pack(STREAM + 1, *values[1:]),
        PREFIX + BLOCK.pack(STREAM, EPOCH, 2**63, *values[3:]),
    ):
        sink(other, None)
    assert list(kept) == [values, values]
    assert sink.waiting is kept


_WRITE_FOREVER = """
import itertools, mmap, sys
import numpy as np
sys.path.insert(0, {root!r})
from tests.unit.client import test_slots
regions = test_slots.Regions.__new__(test_slots.Regions)
with open({path!r}, "r+b") as file:
    whole = mmap.mmap(file.fileno(), 0)
sizes = (len(memory) for memory in test_slots.Regions().memory)
views = memoryview(whole)
regions.ring = views[: 4096]
regions.memory = [views[4096:8192], views[8192 : 8192 + 65536]]
writer = regions.writer(test_slots.implementation({name!r}))
print("ready", flush=True)
for seq in itertools.count():
    writer.publish(np.full(512, seq, "<u8"), seq, None, 0, 0, None)
"""


@pairs
def test_no_torn_frame_is_taken_for_a_whole_one(
    tmp_path: Any, writing: str, reading: str, request: pytest.FixtureRequest
) -> None:
    """A process writes without a pause; what the seqlock lets through is of one frame."""
    path = tmp_path / "regions"
    path.write_bytes(bytes(8192 + 65536))
    code = _WRITE_FOREVER.format(root=str(request.config.rootpath), path=str(path), name=writing)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            with path.open("rb") as file:
                whole = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            regions = Regions()
            ring: Any = memoryview(whole)[:4096]
            regions.ring = ring
            regions.memory = [memoryview(whole)[4096:8192], memoryview(whole)[8192:]]  # type: ignore[list-item]
            reader = regions.reader(implementation(reading))
            words = ring.cast("Q")
            accepted, seen = 0, -1
            while accepted < 300:
                assert child.poll() is None
                commits = [int(words[(64 + slot * 256) // 8]) for slot in range(NSLOTS)]
                seq = max(commits) >> 1
                frame = reader.read(seq, EPOCH, NULL_U64, 0)
                if not frame:
                    assert frame is None, "a torn header was taken for a whole one"
                    continue
                copied = frame.array.copy()
                if frame.valid and seq != seen:
                    assert (copied == seq).all()
                    accepted, seen = accepted + 1, seq
        finally:
            child.kill()


@pytest.mark.parametrize(("variable", "is_native"), [("", True), ("0", True), ("1", False)])
def test_environment_chooses(variable: str, is_native: bool) -> None:
    code = "from tensorpool.client import hot; print(hot.is_native, repr(hot.why_pure))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path), PURE_PYTHON_VARIABLE: variable},
        capture_output=True,
        text=True,
        check=True,
    )
    reason = "" if is_native else f"{PURE_PYTHON_VARIABLE} is set"
    assert run.stdout == f"{is_native} {reason!r}\n"
