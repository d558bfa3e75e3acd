"""What a consumer makes of slots and descriptors, right and wrong (Wire §8, §10.2, §15.21)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tensorpool
from tensorpool import wire
from tensorpool.wire.control import (
    Dtype,
    FrameDescriptor,
    FrameProgress,
    FrameProgressState,
    MajorOrder,
    ProgressUnit,
    TensorHeader,
)
from tests.conformance.client.test_attach import await_mapped
from tests.scripted_driver import NSLOTS, PAYLOAD, STREAM, ScriptedDriver
from tests.support import wait_until

TENSOR = TensorHeader(
    Dtype.UINT8, MajorOrder.ROW, 2, 0, ProgressUnit.NONE, 0, (3, 4, *[0] * 6), (4, 1, *[0] * 6)
)


@pytest.fixture
def view(driver: ScriptedDriver, pool: tensorpool.Pool) -> Iterator[tensorpool.Consumer]:
    with pool.consumer(STREAM) as consumer:
        await_mapped(consumer, driver)
        yield consumer


def next_frame(view: tensorpool.Consumer) -> tensorpool.Frame:
    frame = wait_until(lambda: view.next(0.05), 10, "a frame")
    assert frame is not None
    return frame


def expect_only(view: tensorpool.Consumer, driver: ScriptedDriver, seq: int) -> tensorpool.Frame:
    """Publish a good frame as `seq`: it must be the next that comes."""
    driver.regions.write(seq)
    driver.describe(seq)
    frame = next_frame(view)
    assert frame.seq == seq
    assert frame.array.tobytes() == PAYLOAD
    return frame


def is_valid(frame: tensorpool.Frame) -> bool:
    return frame.valid


def strides(*values: int) -> tuple[int, ...]:
    return values + (0,) * (8 - len(values))


@pytest.mark.clause("Wire §10.2.1-3", "Wire §9-1", "Wire §8.1-1", "Wire §8.3-1")
@pytest.mark.parametrize("seq", [0, NSLOTS - 1, NSLOTS, 5 * NSLOTS + 3, 2**40 + 1])
def test_the_slot_is_found_by_the_sequence(
    view: tensorpool.Consumer, driver: ScriptedDriver, seq: int
) -> None:
    frame = expect_only(view, driver, seq)
    assert (frame.shape, frame.timestamp_ns) == ((3, 4), 5)
    assert frame.dtype == np.uint8


@pytest.mark.clause("Wire §8.2-5", "Wire §10.2.1-4", "Wire §15.3-1", "Wire §15.21-1")
@pytest.mark.clause("Wire §15.21-3", "Wire §15.21-4", "Wire §15.4-1")
@pytest.mark.parametrize(
    "commit",
    [2 * 9, 2 * 8, 2 * 1 + 1, 2 * (9 + NSLOTS) + 1, 0],
    ids=["in progress", "former in progress", "lower", "overwritten", "never written"],
)
def test_an_unstable_or_other_commit_word_is_late(
    view: tensorpool.Consumer, driver: ScriptedDriver, commit: int
) -> None:
    driver.regions.write(9, seq_commit=commit)
    driver.describe(9)
    expect_only(view, driver, 10)
    assert (view.drops_late, view.drops_gap, view.drops_invalid) == (1, 0, 0)


@pytest.mark.clause("Wire §15.4-1")
def test_missing_descriptors_are_a_gap(view: tensorpool.Consumer, driver: ScriptedDriver) -> None:
    expect_only(view, driver, 0)
    expect_only(view, driver, 4)
    assert (view.drops_gap, view.drops_late) == (3, 0)


@pytest.mark.clause("Wire §8.3-4", "Wire §15.21-1")
def test_a_frame_overwritten_while_it_is_read_says_so(
    view: tensorpool.Consumer, driver: ScriptedDriver
) -> None:
    frame = expect_only(view, driver, 0)
    assert is_valid(frame)
    driver.regions.write(NSLOTS, seq_commit=2 * NSLOTS)
    assert not is_valid(frame)
    with pytest.raises(tensorpool.StaleFrame):
        frame.copy()


@pytest.mark.clause("Wire §8.2-8", "Wire §10.2.1-5", "Wire §10.2.1-6", "Wire §8.3-2")
@pytest.mark.clause("Wire §15.21-2", "Wire §15.5-2")
@pytest.mark.parametrize(
    "slot",
    [
        {"payload_offset": 64},
        {"payload_slot": 1},
        {"payload_slot": NSLOTS},
        {"payload_slot": 2**32 - 1},
        {"pool_id": 0},
        {"pool_id": 8},
        {"values_len_bytes": 129},
        {"values_len_bytes": 2**32 - 1},
        {"values_len_bytes": 11},
        {"header_bytes": wire.encode(TENSOR)[:-1]},
        {"raw": b""[:0].ljust(192, b"\0")},
        {"raw": wire.encode(FrameDescriptor(1, 2, 3)).ljust(192, b"\0")},
    ],
    ids=str,
)
def test_a_slot_that_breaks_a_rule_is_dropped(
    view: tensorpool.Consumer, driver: ScriptedDriver, slot: dict[str, Any]
) -> None:
    driver.regions.write(0, **slot)
    driver.describe(0)
    expect_only(view, driver, 1)
    assert view.drops_invalid == 1


@pytest.mark.clause("Wire §8.3-2", "Wire §15.21-2")
@pytest.mark.parametrize("offset", [0, 2, 4, 6], ids=["block", "template", "schema", "version"])
def test_an_embedded_header_of_another_kind_is_dropped(
    view: tensorpool.Consumer, driver: ScriptedDriver, offset: int
) -> None:
    raw = bytearray(wire.encode(TENSOR))
    raw[offset] ^= 1
    driver.regions.write(0, raw=bytes(raw))
    driver.describe(0)
    expect_only(view, driver, 1)
    assert view.drops_invalid == 1


@pytest.mark.clause("Wire §8.2-7", "Wire §8.2-11", "Wire §8.2-12", "Wire §15.8-1")
@pytest.mark.parametrize(
    "tensor",
    [
        {"ndims": 0},
        {"ndims": 9},
        {"dtype": 0},
        {"dtype": 12},
        {"dtype": 15},
        {"major_order": 0},
        {"major_order": 3},
        {"dims": strides(-3, 4)},
        {"dims": strides(4, 4)},
        {"strides": strides(3, 1)},
        {"strides": strides(1, 3)},
        {"strides": strides(-4, 1)},
        {"progress_unit": 1},
        {"progress_unit": 1, "progress_stride_bytes": 5},
        {"progress_unit": 3, "progress_stride_bytes": 4},
    ],
    ids=str,
)
def test_a_tensor_header_that_breaks_a_rule_is_dropped(
    view: tensorpool.Consumer, driver: ScriptedDriver, tensor: dict[str, Any]
) -> None:
    driver.regions.write(0, tensor=tensor)
    driver.describe(0)
    expect_only(view, driver, 1)
    assert view.drops_invalid == 1


@pytest.mark.clause("Wire §8.2-10", "Wire §8.2-13")
def test_what_is_reserved_is_not_looked_at(
    view: tensorpool.Consumer, driver: ScriptedDriver
) -> None:
    tensor = {
        "dims": (3, 4, -1, 7, 7, 7, 7, 7),
        "strides": (4, 1, 9, 9, 9, 9, 9, 9),
        "pad_align": 255,
        "pad": b"\xff" * 109,
    }
    driver.regions.write(0, tensor=tensor, pad=b"\xff" * 26)
    driver.describe(0)
    assert next_frame(view).array.tobytes() == PAYLOAD


@pytest.mark.clause("Wire §8.2-16")
def test_of_an_empty_payload_nothing_is_read(
    view: tensorpool.Consumer, driver: ScriptedDriver
) -> None:
    driver.regions.write(0, values_len_bytes=0)
    driver.describe(0)
    assert next_frame(view).array.size == 0


@pytest.mark.clause("Wire §10.2.1-2", "Wire §15.21-5", "Driver §6-7")
def test_a_descriptor_of_an_earlier_epoch_or_another_stream_is_ignored(
    view: tensorpool.Consumer, driver: ScriptedDriver
) -> None:
    driver.regions.write(0)
    driver.describe(0, epoch=driver.regions.epoch - 1)
    driver.describe(0, stream_id=STREAM + 1)
    expect_only(view, driver, 0)
    assert view.received == 1
    assert view.drops_gap == view.drops_late == view.drops_invalid == 0


@pytest.mark.clause("Wire §15.21-6", "Wire §15.21-5", "Wire §15.2-2")
def test_frames_of_a_new_epoch_come_from_the_new_regions_only(
    view: tensorpool.Consumer, driver: ScriptedDriver
) -> None:
    """The same sequence is committed in the old regions: it must not be taken for the new one."""
    expect_only(view, driver, 0)
    former = driver.regions
    former.write(1)
    driver.regions = driver.new_regions()
    driver.describe(1)
    assert view.next(0.05) is None
    driver.regions.write(1)
    driver.announce()
    frame = next_frame(view)
    assert (frame.seq, frame.epoch) == (1, driver.regions.epoch)
    driver.describe(2, epoch=former.epoch)
    former.write(2)
    expect_only(view, driver, 2)


@pytest.mark.clause("Wire §10.2.2-3")
def test_progress_is_no_frame(view: tensorpool.Consumer, driver: ScriptedDriver) -> None:
    descriptor = driver.settings.driver.descriptor
    driver.regions.write(0)
    for state in FrameProgressState:
        driver.send(FrameProgress(STREAM, driver.regions.epoch, 0, 12, state), descriptor)
    expect_only(view, driver, 1)
    assert view.received == 1


@pytest.mark.clause("Wire §10.2.1-9", "Wire §10.1-2")
@pytest.mark.parametrize("timestamp_ns", [None, 5, 6])
def test_publish_time_and_capture_time_are_two_things(
    view: tensorpool.Consumer, driver: ScriptedDriver, timestamp_ns: int | None
) -> None:
    driver.regions.write(0)
    driver.describe(0, timestamp_ns=timestamp_ns, trace_id=None)
    frame = next_frame(view)
    assert (frame.timestamp_ns, frame.trace_id) == (5, 0)


@pytest.mark.clause("Wire §15.21-4", "Driver §4.4a-1", "Driver §4.4a-4")
def test_garbage_on_the_descriptor_stream_is_no_frame(
    view: tensorpool.Consumer, driver: ScriptedDriver
) -> None:
    good = wire.encode(FrameDescriptor(STREAM, driver.regions.epoch, 0))
    driver.regions.write(0)
    for offset in range(0, 8, 2):
        bad = bytearray(good)
        bad[offset] ^= 3
        driver.send(bytes(bad), driver.settings.driver.descriptor)
    for length in (1, 8, len(good) - 1):
        driver.send(good[:length], driver.settings.driver.descriptor)
    expect_only(view, driver, 1)
    assert view.received == 1
