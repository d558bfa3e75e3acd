"""What a producer leaves in memory and on the wire, read back with the codecs (Wire §8 to §10)."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

import tensorpool
from tensorpool import wire
from tensorpool.clock import monotonic_ns
from tensorpool.wire.control import ConsumerHello, Dtype, FrameDescriptor, MajorOrder, Mode
from tests.scripted_driver import NSLOTS, STREAM, ScriptedDriver
from tests.support import wait_until


class Ear:
    """What comes on the descriptor stream."""

    def __init__(self, driver: ScriptedDriver) -> None:
        self._first_epoch = driver.regions.epoch
        self._subscription = driver.subscription(driver.settings.driver.descriptor)
        self.raw: list[bytes] = []

    def _hear(self, buffer: memoryview, _: int) -> None:
        descriptor = wire.decode(buffer)
        assert isinstance(descriptor, FrameDescriptor)
        if descriptor.epoch >= self._first_epoch:  # else of a case before
            self.raw.append(bytes(buffer))

    def __call__(self, count: int) -> list[FrameDescriptor]:
        def hears() -> bool:
            self._subscription.poll(self._hear, 10)
            return len(self.raw) >= count

        wait_until(hears, 10, "descriptors")
        return [wire.decode(data) for data in self.raw]


@pytest.fixture
def ear(driver: ScriptedDriver) -> Ear:
    return Ear(driver)


@pytest.fixture
def camera(
    ear: Ear, driver: ScriptedDriver, pool: tensorpool.Pool
) -> Iterator[tensorpool.Producer]:
    with pool.producer(STREAM) as producer:
        yield producer


@pytest.mark.clause("Wire §8.2-2", "Wire §8.2-3", "Wire §8.2-9", "Wire §8.2-14", "Wire §8.3-1")
@pytest.mark.clause("Wire §15.5-2", "Wire §10.2.1-7", "Wire §15.7-1", "Wire §8.2-1")
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_slot(driver: ScriptedDriver, camera: tensorpool.Producer, order: str) -> None:
    array = np.arange(24, dtype="<i2").reshape(2, 3, 4).copy(order=order)  # type: ignore[arg-type]
    before_ns = monotonic_ns()
    seq = [camera.publish(array) for _ in range(NSLOTS + 2)][-1]
    slot = driver.regions.slot(seq)
    tensor = wire.decode(slot.header_bytes)
    assert slot.seq_commit == 2 * seq + 1
    assert (slot.payload_slot, slot.payload_offset) == (seq % NSLOTS, 0)
    assert slot.values_len_bytes == array.nbytes
    assert before_ns <= slot.timestamp_ns <= monotonic_ns()
    assert slot.pad == bytes(26)
    assert len(slot.header_bytes) == 192
    assert (tensor.dtype, tensor.ndims) == (Dtype.INT16, 3)
    assert tensor.major_order == (MajorOrder.ROW if order == "C" else MajorOrder.COLUMN)
    assert tensor.dims == (2, 3, 4, 0, 0, 0, 0, 0)
    assert tensor.strides[3:] == (0,) * 5
    assert (tensor.pad_align, tensor.pad) == (0, bytes(109))
    assert (tensor.progress_unit, tensor.progress_stride_bytes) == (0, 0)
    assert driver.regions.payload(slot) == array.tobytes(order="A")


@pytest.mark.clause("Wire §10.2.1-1", "Wire §10.2.1-8", "Wire §10.2.1-10", "Wire §8.3-3")
@pytest.mark.clause("Wire §10.1-1", "Wire §15.2-1")
def test_the_descriptor_follows_the_commit(
    driver: ScriptedDriver, camera: tensorpool.Producer, ear: Ear
) -> None:
    for value in range(3):
        camera.publish(np.full(4, value, np.uint8), trace_id=value)
        descriptors = ear(value + 1)
        assert descriptors[-1] == FrameDescriptor(
            STREAM, driver.regions.epoch, value, None, None, value or None
        )
        slot = driver.regions.slot(value)
        assert slot.seq_commit == 2 * value + 1
        assert driver.regions.payload(slot) == bytes([value] * 4)
    assert ear.raw[0][8 + 20 : 8 + 28] == b"\xff" * 8, "no publish time: the null value"


@pytest.mark.clause("Wire §8.2-6", "Wire §8.3-1", "Wire §8.3-3", "Wire §10.2.1-1")
def test_while_it_is_written_a_slot_is_in_progress_and_nothing_is_described(
    driver: ScriptedDriver, camera: tensorpool.Producer, ear: Ear
) -> None:
    camera.publish(np.zeros(4, np.uint8))
    ear(1)
    with camera.claim((4,), np.uint8) as frame:
        assert driver.regions.slot(1).seq_commit == 2 * 1
        frame.array[:] = 7
        assert len(ear(1)) == 1
    assert driver.regions.slot(1).seq_commit == 2 * 1 + 1
    assert ear(2)[-1].seq == 1


@pytest.mark.clause("Wire §8.2-6")
def test_no_reader_ever_sees_half_a_commit_word(
    driver: ScriptedDriver, camera: tensorpool.Producer
) -> None:
    first = 2**31 - 200
    seen: set[int] = set()
    done = threading.Event()

    def read() -> None:
        with memoryview(driver.regions.ring) as ring, ring.cast("Q") as words:
            while not done.is_set():
                seen.update(words[8::32])

    reader = threading.Thread(target=read)
    reader.start()
    try:

        def has_crossed_often() -> bool:
            camera._seq = first  # the word's halves change together a little later
            for _ in range(400):
                camera.publish(np.zeros(1, np.uint8))
            return len(seen) > 40

        wait_until(has_crossed_often, 20, lambda: f"the reader to see enough: {seen}")
    finally:
        done.set()
        reader.join()
    assert all(2 * first <= word <= 2 * (first + 400) for word in seen - {0})


@pytest.mark.clause("Wire §9-2", "Wire §9-3")
def test_the_smallest_pool_that_fits_and_none_is_a_drop(
    driver: ScriptedDriver, camera: tensorpool.Producer, ear: Ear
) -> None:
    for size, pool_id in ((1, 7), (128, 7), (129, 3), (4096, 3)):
        seq = camera.publish(np.zeros(size, np.uint8))
        assert driver.regions.slot(seq).pool_id == pool_id
    ring = bytes(driver.regions.ring)
    with pytest.raises(tensorpool.FrameTooLarge, match="128, 4096"):
        camera.publish(np.zeros(4097, np.uint8))
    assert bytes(driver.regions.ring) == ring
    assert len(ear(4)) == 4


@pytest.mark.clause("Wire §8.2-15")
def test_an_empty_payload_is_committed(
    driver: ScriptedDriver, camera: tensorpool.Producer, ear: Ear
) -> None:
    camera.publish(np.zeros(1, np.uint8))
    seq = camera.publish(np.zeros((0, 3), np.float32))
    slot = driver.regions.slot(seq)
    tensor = wire.decode(slot.header_bytes)
    assert (slot.seq_commit, slot.values_len_bytes, slot.payload_slot) == (3, 0, 1)
    assert tensor.dims[:2] == (0, 3)
    assert ear(2)[-1].seq == seq


@pytest.mark.clause("Wire §15.2-1", "Driver §10-1")
def test_the_sequence_starts_at_zero_with_each_epoch(
    driver: ScriptedDriver, camera: tensorpool.Producer
) -> None:
    assert [camera.publish(np.zeros(1, np.uint8)) for _ in range(3)] == [0, 1, 2]
    driver.regions = driver.new_regions()
    driver.announce()

    def seq_in_new_epoch() -> int | None:
        seq = camera.publish(np.zeros(1, np.uint8), timeout_s=10)
        return seq + 1 if camera.epoch == driver.regions.epoch else None

    assert wait_until(seq_in_new_epoch, 10, "the new epoch") == 1


@pytest.mark.clause("Wire §5-5")
def test_a_consumers_wish_for_a_rate_does_not_slow_the_shared_stream(
    driver: ScriptedDriver, camera: tensorpool.Producer, ear: Ear
) -> None:
    driver.send(ConsumerHello(STREAM, 9, 1, 0, Mode.RATE_LIMITED, 1, 1))
    for _ in range(50):
        camera.publish(np.zeros(1, np.uint8))
    assert [descriptor.seq for descriptor in ear(50)] == list(range(50))
