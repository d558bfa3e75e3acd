"""The short way in C: a frame in one call, and every reason for which Python has to look."""

import importlib
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tensorpool.client import slots
from tensorpool.client.claims import SlotPlan
from tensorpool.client.slots import REFUSED, decode_layout, empty_view, encode_header
from tensorpool.client.states import ConsumerState, ProducerState, UserGate
from tensorpool.shm.errors import TensorError
from tensorpool.shm.layout import HEADER_SLOT_BYTES, SUPERBLOCK_BYTES
from tests.unit.client.test_slots import BLOCK, EPOCH, NULL_U32, NULL_U64, PREFIX, STREAM

# Not a skip: `make setup` builds it where a compiler is, and these tests run where one is.
hot: Any = importlib.import_module("tensorpool._hot")
NSLOTS, STRIDE = 8, 4096
RING_BYTES = SUPERBLOCK_BYTES + NSLOTS * HEADER_SLOT_BYTES
POOL_BYTES = SUPERBLOCK_BYTES + NSLOTS * STRIDE


class Consumer(hot.ConsumerState):  # type: ignore[misc] # of the C module
    """As `tensorpool.Consumer` uses it."""


class Producer(hot.ProducerState):  # type: ignore[misc]
    """As `tensorpool.Producer` uses it."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, int]] = []

    def _tell(self, seq: int, meta_version: int, trace_id: int) -> None:
        self.told.append((seq, meta_version, trace_id))


class Frame(hot.FrameState):  # type: ignore[misc]
    """As `tensorpool.Frame`."""

    __slots__ = ()


class Claim(hot.ClaimState):  # type: ignore[misc]
    """As `ClaimedFrame`."""

    __slots__ = ()


class Ends:
    """Both ends of a stream on regions in files; what is offered waits to be polled."""

    def __init__(self, directory: Path) -> None:
        self.files = [directory / "ring", directory / "pool"]
        for path, size in zip(self.files, (RING_BYTES, POOL_BYTES), strict=True):
            path.write_bytes(bytes(size))
        self.mappings = tuple(self._map(path) for path in self.files)
        ring, pool = self.mappings
        pools = [(7, STRIDE, pool)]
        self.lease = SimpleNamespace(version=3)
        self.keeper = SimpleNamespace(connection=7)
        self.gate = hot.UserGate()
        self.sent: deque[bytes] = deque()
        self.waiting: deque[tuple[int, ...]] = deque()
        self.claims: dict[int, Any] = {}
        self.audience = SimpleNamespace(side_streams=(), policy=None)
        self.publication = SimpleNamespace(raw_offer=self._offer)
        self.subscription = SimpleNamespace(raw_poll=self._poll)
        self.writer = hot.SlotWriter(
            ring, pools, NSLOTS, STREAM, EPOCH, PREFIX, encode_header, 1 << 20
        )
        owner = SimpleNamespace()
        self.reader = hot.SlotReader(
            ring, pools, NSLOTS, Frame, owner, decode_layout, REFUSED, empty_view
        )
        self.sink = hot.DescriptorSink(PREFIX, STREAM, self.waiting)
        self.consumer, self.producer = Consumer(), Producer()
        self.consumer._last_seq, self.consumer._last_epoch = -1, EPOCH
        self.arm_consumer()
        self.arm_producer()

    def arm_consumer(self) -> None:
        self.consumer._arm(*self._guard(), self.reader, self.sink, self.subscription)

    def arm_producer(self) -> None:
        parts = (self.writer, self.publication, self.audience, self.claims)
        self.producer._arm(*self._guard(), *parts)

    def _guard(self) -> tuple[Any, ...]:
        return self.lease, 3, self.keeper, 7, self.gate, self.mappings

    @staticmethod
    def _map(path: Path) -> mmap.mmap:
        with path.open("r+b") as file:
            return mmap.mmap(file.fileno(), 0)

    def _offer(self, message: bytearray) -> bool:
        self.sent.append(bytes(message))
        return True

    def _poll(self, handler: Callable[[Any, Any], object], limit: int, *, assemble: bool) -> int:
        assert not assemble
        count = min(limit, len(self.sent))
        for _ in range(count):
            handler(self.sent.popleft(), None)
        return count

    def publish(self, number: int = 0, **extra: Any) -> Any:
        plain = {"timestamp_ns": None, "meta_version": 0, "trace_id": 0} | extra
        return self.producer._publish_at_once(np.full(4, number, "<u8"), *plain.values())

    def take(self) -> Any:
        return self.consumer._take_at_once()

    def claim(self, *values: Any, is_column: bool = False) -> Any:
        header = encode_header(np.zeros((2, 3), "<u2"), int(is_column))
        plan = SlotPlan(SimpleNamespace(), self.writer, 0, header, 12)  # type: ignore[arg-type]
        extra = values or (None, 0, 0)
        return self.producer._claim_at_once(Claim, plan, (2, 3), np.dtype("<u2"), is_column, *extra)

    def tell(self, seq: int, epoch: int = EPOCH) -> None:
        self.sent.append(PREFIX + BLOCK.pack(STREAM, epoch, seq, NULL_U64, NULL_U32, 0))

    @property
    def counts(self) -> tuple[int, int, int, int]:
        one = self.consumer
        return one.received, one.drops_gap, one.drops_late, one.drops_invalid


CHANGES: dict[str, Callable[[Ends], object]] = {
    "another version of the lease": lambda e: setattr(e.lease, "version", 4),
    "another connection": lambda e: setattr(e.keeper, "connection", 8),
    "somebody is inside": lambda e: e.gate.enter(),
    "disarmed": lambda e: (e.consumer._disarm(), e.producer._disarm()),
    "an error of the lease": lambda e: delattr(e.lease, "version"),
}


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    made = Ends(tmp_path)
    yield made
    made.consumer._disarm()
    made.producer._disarm()


def test_frames_go_from_end_to_end(ends: Ends) -> None:
    for number in range(3 * NSLOTS):
        assert ends.publish(number, timestamp_ns=number, meta_version=2, trace_id=9) == number
        frame = ends.take()
        assert (frame.array == number).all()
        assert (frame.seq, frame.epoch, frame.timestamp_ns) == (number, EPOCH, number)
        assert (frame.meta_version, frame.trace_id) == (2, 9)
    assert ends.take() is None
    assert ends.counts == (3 * NSLOTS, 0, 0, 0)
    assert (ends.producer.published, ends.producer._described) == (3 * NSLOTS, 3 * NSLOTS - 1)
    assert ends.producer.told == []


def test_what_is_missing_is_a_gap_and_what_was_seen_is_passed_over(ends: Ends) -> None:
    for _ in range(6):
        ends.publish()
    ends.sent.clear()
    for seq in (2, 2, 1, 5):
        ends.tell(seq)
    assert [ends.take().seq, ends.take().seq, ends.take()] == [2, 5, None]
    assert ends.counts == (2, 2, 0, 0)  # before the first frame nothing was missed


def test_what_was_overwritten_is_late_and_passed_over_at_one_look(ends: Ends) -> None:
    for _ in range(2 * NSLOTS):
        ends.publish()
    ends.publish()
    assert [frame.seq for frame in iter(ends.take, None)] == list(range(NSLOTS + 1, 2 * NSLOTS + 1))
    assert ends.counts == (NSLOTS, 0, NSLOTS + 1, 0)


def test_a_header_that_breaks_a_rule_is_invalid(ends: Ends) -> None:
    ends.publish()
    ends.publish()
    at = SUPERBLOCK_BYTES + 16  # the pool id of the first slot (Wire §8.2)
    ends.mappings[0][at : at + 2] = b"\xff\xff"
    assert ends.take().seq == 1
    assert ends.counts == (1, 0, 0, 1)


def test_another_epoch_is_for_python_and_nothing_is_lost(ends: Ends) -> None:
    ends.publish()
    ends.publish()
    ends.tell(0, EPOCH + 1)
    ends.tell(1, EPOCH + 1)
    assert [ends.take().seq, ends.take().seq, ends.take()] == [0, 1, False]
    assert [d[1:3] for d in ends.sink.waiting] == [(EPOCH + 1, 0), (EPOCH + 1, 1)]
    assert ends.take() is False, "what waits for Python comes first"
    ends.sink.waiting.clear()
    assert ends.take() is None


def test_what_is_left_of_a_batch_stays_before_what_comes_next(ends: Ends) -> None:
    for _ in range(4):
        ends.publish()
    assert ends.take().seq == 0
    ends.sink(PREFIX + BLOCK.pack(STREAM, EPOCH, 9, NULL_U64, NULL_U32, 0), None)
    assert [descriptor[2] for descriptor in ends.sink.waiting] == [1, 2, 3, 9]


@pytest.mark.parametrize("change", CHANGES)
def test_after_any_change_python_looks(ends: Ends, change: str) -> None:
    ends.publish()
    CHANGES[change](ends)
    before = ends.mappings[0][:]
    assert ends.publish() is None
    assert ends.take() is False
    assert ends.mappings[0][:] == before


def test_who_is_inside_takes_by_another_name(ends: Ends) -> None:
    ends.publish()
    assert ends.gate.enter() is True
    assert ends.gate.enter() is False
    assert ends.take() is False
    assert ends.consumer._take_inside().seq == 0
    ends.gate.leave()
    assert ends.take() is None
    assert ends.gate.is_in_use is False


def test_frames_of_regions_that_were_cut_are_dropped(ends: Ends) -> None:
    for _ in range(3):
        ends.publish()
    os.truncate(ends.files[1], 100)
    assert ends.take() is None
    assert ends.counts == (0, 0, 0, 3)
    ends.arm_producer()  # and so looks at once, not within a millisecond
    assert ends.publish() is None


@pytest.mark.parametrize("error", [OSError("closed"), KeyboardInterrupt()])
def test_an_error_of_the_poll_is_judged_in_python(ends: Ends, error: BaseException) -> None:
    def fail(*_: Any, **__: Any) -> int:
        raise error

    ends.subscription.raw_poll = fail
    if isinstance(error, Exception):
        assert ends.take() is False
    else:
        with pytest.raises(KeyboardInterrupt):
            ends.take()
    assert ends.gate.is_in_use is False


def test_closed_in_the_middle_of_a_poll(ends: Ends) -> None:
    """Another thread's `close` may come while the binding lets others run."""
    real = ends.subscription.raw_poll

    def poll(*args: Any, **names: Any) -> int:
        ends.consumer._disarm()
        del ends.reader
        return int(real(*args, **names))

    ends.publish()
    ends.subscription.raw_poll = poll
    assert ends.take().seq == 0
    assert ends.take() is False


def test_an_array_that_is_not_for_this_way_leaves_the_slot_alone(ends: Ends) -> None:
    before = ends.mappings[0][:]
    for array in (np.zeros((4, 4))[:, ::2], np.zeros(STRIDE + 1, "u1"), [1, 2]):
        assert ends.producer._publish_at_once(array, None, 0, 0) is None
    with pytest.raises(TensorError, match="complex128"):
        ends.producer._publish_at_once(np.zeros(2, complex), None, 0, 0)
    assert ends.mappings[0][:] == before
    assert (ends.producer.published, ends.producer._seq) == (0, 0)
    assert ends.gate.is_in_use is False


def test_open_claims_are_for_python(ends: Ends) -> None:
    ends.claims[0] = object()
    assert ends.publish() is None
    ends.claims.clear()
    assert ends.publish() == 0


@pytest.mark.parametrize("why", ["refused", "side streams", "closed"])
def test_what_could_not_be_told_directly_is_told_in_python(ends: Ends, why: str) -> None:
    def fail(_: bytearray) -> bool:
        raise OSError(why)

    if why == "side streams":
        ends.audience.side_streams = (object(),)
    else:
        ends.publication.raw_offer = fail if why == "closed" else lambda _: False
    assert ends.publish(meta_version=4, trace_id=5) == 0
    assert ends.producer.told == [(0, 4, 5)]
    assert not ends.sent
    assert ends.reader.read(0, EPOCH, NULL_U64, 0).valid


def test_a_claim_goes_from_end_to_end(ends: Ends) -> None:
    for number in range(2 * NSLOTS):
        frame = ends.claim(5, 6, 7)
        assert (frame.seq, frame.is_open, ends.claims) == (number, True, {number: frame})
        assert ends.take() is None
        frame.array[:] = number
        assert ends.producer._finish_at_once(frame) == number
        assert (frame.is_open, frame.array.flags.writeable, ends.claims) == (False, False, {})
        read = ends.take()
        assert (read.array == number).all()
        assert read.array.shape == (2, 3)
        assert (read.timestamp_ns, read.meta_version, read.trace_id) == (5, 6, 7)
    assert ends.producer.published == 2 * NSLOTS


def test_what_is_set_in_a_claim_counts(ends: Ends) -> None:
    frame = ends.claim(None, 0, 0, is_column=True)
    assert frame.array.flags.f_contiguous
    frame._timestamp_ns, frame._meta_version, frame._trace_id = 8, 9, 10
    ends.producer._finish_at_once(frame)
    read = ends.take()
    assert (read.timestamp_ns, read.meta_version, read.trace_id) == (8, 9, 10)
    assert read.array.flags.f_contiguous


@pytest.mark.parametrize("change", CHANGES)
def test_claims_are_for_python_after_any_change(ends: Ends, change: str) -> None:
    frame = ends.claim()
    CHANGES[change](ends)
    before = ends.mappings[0][:]
    assert ends.claim() is None
    assert ends.producer._finish_at_once(frame) is None
    assert (frame.is_open, ends.mappings[0][:]) == (True, before)


@pytest.mark.parametrize(
    "why", ["two are open", "of another epoch", "another claim", "ended", "progress", "version"]
)
def test_which_claims_are_for_python(ends: Ends, why: str) -> None:
    if why == "progress":
        ends.audience.policy = object()
        assert ends.claim() is None
        return
    frame = ends.claim()
    assert ends.claim() is None, "one is open"
    if why == "two are open":
        ends.claims[9] = frame
    elif why == "of another epoch":
        frame._plan = frame._plan._replace(writer=object())
    elif why == "another claim":
        ends.claims[0] = object()
    elif why == "ended":
        frame.is_open = False
    else:
        frame._meta_version = 2**32
    assert ends.producer._finish_at_once(frame) is None
    assert ends.producer.published == 0


@pytest.mark.parametrize("name", ["array", "_plan"])
def test_a_claim_that_lacks_a_part_is_for_python(ends: Ends, name: str) -> None:
    frame = ends.claim()
    delattr(frame, name)
    assert ends.producer._finish_at_once(frame) is None
    assert ends.claims


def test_numpy_integers_are_integers(ends: Ends) -> None:
    numbers = (np.uint64(5), np.int32(6), np.uint8(7))
    for _ in range(2):
        ends.producer._publish_at_once(np.zeros(2), *numbers)
        ends.producer._finish_at_once(ends.claim(*numbers))
    for _ in range(4):
        read = ends.take()
        assert (read.timestamp_ns, read.meta_version, read.trace_id) == (5, 6, 7)
    assert ends.gate.is_in_use is False


@pytest.mark.parametrize(
    "numbers",
    [(1.5, 0, 0), (-1, 0, 0), (NULL_U64, 0, 0), (0, NULL_U32, 0), (0, 0, 2**64), (0, 0, "x")],
)
def test_what_the_wire_cannot_carry_is_refused_in_python(ends: Ends, numbers: Any) -> None:
    before = ends.mappings[0][:]
    assert ends.producer._publish_at_once(np.zeros(2), *numbers) is None
    assert ends.claim(*numbers) is None
    assert (ends.mappings[0][:], ends.claims, ends.gate.is_in_use) == (before, {}, False)


def test_a_claim_that_could_not_be_told_directly_is_told_in_python(ends: Ends) -> None:
    frame = ends.claim(1, 2, 3)
    ends.audience.side_streams = (object(),)
    assert ends.producer._finish_at_once(frame) == 0
    assert ends.producer.told == [(0, 2, 3)]
    assert ends.reader.read(0, EPOCH, NULL_U64, 0).valid


def test_a_claim_that_cannot_be_made_takes_no_slot(ends: Ends) -> None:
    before = ends.mappings[0][:]
    plan = SlotPlan(SimpleNamespace(), ends.writer, 0, bytes(192), STRIDE + 1)  # type: ignore[arg-type]
    for dims, error in (((STRIDE + 1,), "longer than the slot"), ((-1,), "negative")):
        with pytest.raises(ValueError, match=error):
            ends.producer._claim_at_once(Claim, plan, dims, np.dtype("u1"), False, None, 0, 0)
    with pytest.raises(TypeError, match="SlotPlan"):
        ends.producer._claim_at_once(Claim, (), (1,), np.dtype("u1"), False, None, 0, 0)
    assert (ends.mappings[0][:], ends.claims, ends.producer._seq) == (before, {}, 0)
    assert ends.gate.is_in_use is False


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_large_frames_are_whole_past_the_cache_and_in_it(cache_bytes: int) -> None:
    """At every length around a line's."""
    stride, nslots = 1 << 20, 8
    with (
        mmap.mmap(-1, SUPERBLOCK_BYTES + nslots * stride) as pool,
        mmap.mmap(-1, SUPERBLOCK_BYTES + nslots * HEADER_SLOT_BYTES) as ring,
    ):
        writer = hot.SlotWriter(
            ring, [(1, stride, pool)], nslots, STREAM, EPOCH, PREFIX, encode_header, cache_bytes
        )
        random = np.random.default_rng(3)
        lengths = (stride, 1 << 18, (1 << 18) + 1, (1 << 19) - 1, (1 << 19) + 63)
        for seq, nbytes in enumerate(lengths):
            array = random.integers(0, 256, nbytes, "u1")
            assert writer.publish(array, seq, 0, 0, 0, None) is False
            at = SUPERBLOCK_BYTES + seq * stride
            assert pool[at : at + nbytes] == array.tobytes()
            assert not any(pool[at + nbytes : at + min(nbytes + 64, stride)])
        del writer


def test_the_pure_twins_always_leave_it_to_python(ends: Ends) -> None:
    consumer: ConsumerState[slots.FrameState] = ConsumerState()
    producer, gate = ProducerState(), UserGate()
    consumer._arm()
    producer._arm()
    assert consumer._take_at_once() is False
    assert consumer._take_inside() is False
    assert producer._publish_at_once(np.zeros(1), None, 0, 0) is None
    assert producer._claim_at_once(Claim, (), (1,), np.dtype("u1"), False, None, 0, 0) is None
    assert producer._finish_at_once(None) is None
    assert (gate.enter(), gate.enter(), gate.is_in_use) == (True, False, True)
    gate.leave()
    assert not gate.is_in_use
