"""What may be published, and how: any array, claims in flight, refusals that name the remedy."""

from __future__ import annotations

import array
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tensorpool
from tensorpool import Dtype
from tensorpool.native import PURE_PYTHON_VARIABLE
from tests.integration.host import STREAM, RunningHost
from tests.support import wait_until

type Exchange = tuple[tensorpool.Producer, tensorpool.Consumer]

ELEMENTS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "?"]


@pytest.fixture
def pair(pool: tensorpool.Pool) -> Iterator[Exchange]:
    with (
        pool.consumer(STREAM) as view,
        pool.producer(STREAM) as camera,
    ):
        yield camera, view


def received(view: tensorpool.Consumer) -> tensorpool.Frame:
    frame = view.next(10)
    assert frame is not None
    return frame


class Tensor:
    """Somebody's tensor: DLPack and nothing else."""

    def __init__(self, values: np.ndarray[Any, Any], device: tuple[int, int] = (1, 0)) -> None:
        self.values = values
        self.device = device

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def test_every_element_type_in_every_layout(pair: Exchange) -> None:
    camera, view = pair
    dice = np.random.default_rng(5)
    for element in ELEMENTS:
        base = dice.integers(0, 2, (6, 8)).astype(element)
        for variant in (
            base,
            np.asfortranarray(base),
            base.T,
            base[::2, 1::3],
            base[::-1],
            np.broadcast_to(base[0], (3, 8)),
            base.astype(base.dtype.newbyteorder(">")),
        ):
            camera.publish(variant)
            frame = received(view)
            np.testing.assert_array_equal(frame.array, variant)
            assert frame.dtype == base.dtype
            assert (
                frame.array.flags.f_contiguous
                == (variant.flags.f_contiguous and not variant.flags.c_contiguous)
                or frame.array.flags.c_contiguous
            )


def test_dlpack_buffers_and_lists(pair: Exchange) -> None:
    camera, view = pair
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    for source in (
        Tensor(values),
        memoryview(values),
        array.array("f", range(12)),
        [[1.0, 2.0], [3.0, 4.0]],
        np.array([7], np.float32),
    ):
        camera.publish(source)
        expected = source.values if isinstance(source, Tensor) else np.asarray(source)
        np.testing.assert_array_equal(received(view).array, expected)


@pytest.mark.clause("Wire §15.8-2")
def test_octets_of_a_meaning(pair: Exchange) -> None:
    camera, view = pair
    camera.publish(b"hello")
    frame = received(view)
    assert (frame.layout.code, frame.array.tobytes()) == (Dtype.BYTES, b"hello")
    packed = np.array([[0b0000_0101], [0b1000_0000]], np.uint8)
    camera.publish(packed, dtype=Dtype.BIT)
    frame = received(view)
    assert frame.layout.code is Dtype.BIT
    assert frame.bits().tolist() == [[1, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]]
    with camera.claim(4, Dtype.BYTES) as claim:
        claim.array[:] = 9
    frame = received(view)
    assert (frame.layout.code, frame.array.tolist()) == (Dtype.BYTES, [9] * 4)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.zeros(3, np.complex64), "one of"),
        (np.zeros(3, "f2"), "one of"),
        (np.float32(1), "reshape a scalar"),
        (np.zeros((1,) * 9), "1 to 8"),
        (Tensor(np.zeros(3), (2, 0)), "bring it to the host"),
        (object(), "one of"),
        ("text", "one of"),
        ([[1, 2], [3]], "no array"),
    ],
)
def test_what_cannot_be_published_is_told(pool: tensorpool.Pool, value: object, told: str) -> None:
    with pool.producer(STREAM) as camera:
        with pytest.raises(tensorpool.TensorError, match=told):
            camera.publish(value)
        assert camera.next_seq == 0
        camera.publish(np.zeros(3, np.uint8))


def test_octets_are_told_of_octets_only(pair: Exchange) -> None:
    camera, _ = pair
    with pytest.raises(tensorpool.TensorError, match="uint8"):
        camera.publish(np.zeros(3, np.uint16), dtype=Dtype.BIT)
    with pytest.raises(tensorpool.TensorError, match="BYTES and BIT only"):
        camera.publish(np.zeros(3, np.uint8), dtype=Dtype.FLOAT32)


@pytest.mark.clause("Wire §8.2-15", "Wire §8.2-16")
def test_empty_frames_are_frames(pair: Exchange) -> None:
    camera, view = pair
    camera.publish(np.zeros((0, 7), np.float64))
    frame = received(view)
    assert frame.shape == (0, 7)
    assert frame.dtype == np.float64


def test_what_a_frame_carries(pair: Exchange) -> None:
    camera, view = pair
    camera.publish([1], timestamp_ns=123, meta_version=4, trace_id=5)
    frame = received(view)
    assert (frame.timestamp_ns, frame.meta_version, frame.trace_id) == (123, 4, 5)
    assert frame.published_ns is None
    with camera.claim(1, np.uint8) as claim:
        claim.timestamp_ns, claim.meta_version, claim.trace_id = 6, 7, 8
    frame = received(view)
    assert (frame.timestamp_ns, frame.meta_version, frame.trace_id) == (6, 7, 8)


BAD_FIELDS = [
    *((name, bad) for name in ("timestamp_ns", "meta_version", "trace_id") for bad in (-1, 2**64)),
    ("timestamp_ns", 2**64 - 1),
    ("meta_version", 2**32 - 1),
    ("trace_id", 1.5),
    ("trace_id", "x"),
]


def refuse_all(camera: tensorpool.Producer, view: tensorpool.Consumer) -> None:
    """Every bad field, every way: named, and nothing is half done."""
    first = camera.next_seq
    for name, bad in BAD_FIELDS:
        told = rf"^{name} = .*must be"
        fields: dict[str, Any] = {name: bad}
        with pytest.raises(tensorpool.FrameFieldError, match=told):
            camera.publish(np.zeros(4, np.uint8), **fields)
        with pytest.raises(tensorpool.FrameFieldError, match=told):
            camera.publish([1, 2], **fields)
        with pytest.raises(tensorpool.FrameFieldError, match=told):
            camera.claim(4, np.uint8, **fields)
        with camera.claim(4, np.uint8) as frame:
            with pytest.raises(tensorpool.FrameFieldError, match=told):
                setattr(frame, name, bad)
            frame.array[:] = 7
        assert received(view).seq == camera.next_seq - 1
    assert camera.next_seq == first + len(BAD_FIELDS)
    assert (view.drops_gap, view.drops_invalid) == (0, 0)


def test_fields_out_of_range_are_told_by_name(pair: Exchange) -> None:
    refuse_all(*pair)


def test_fields_out_of_range_are_told_by_name_without_the_c_part(calm_host: RunningHost) -> None:
    code = (
        "import sys, tensorpool\n"
        "from tests.integration.client.test_publishing import refuse_all\n"
        "with tensorpool.connect(sys.argv[1]) as pool, pool.consumer(int(sys.argv[2])) as view:\n"
        "    with pool.producer(int(sys.argv[2])) as camera:\n"
        "        refuse_all(camera, view)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, calm_host.config, str(STREAM)],
        env={**os.environ, PURE_PYTHON_VARIABLE: "1"},
        check=True,
        timeout=60,
    )


def test_a_claim_in_column_major_order(pair: Exchange) -> None:
    camera, view = pair
    with camera.claim((2, 3), np.int32, order="F") as claim:
        assert claim.array.flags.f_contiguous
        claim.array[:] = [[1, 2, 3], [4, 5, 6]]
    frame = received(view)
    assert frame.array.flags.f_contiguous
    assert frame.array.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_claims_in_flight_come_in_order(pair: Exchange) -> None:
    camera, view = pair
    first, second, third = (camera.claim(1, np.uint8) for _ in range(3))
    assert [c.seq for c in (first, second, third)] == [0, 1, 2]
    for value, claim in enumerate((first, second, third)):
        claim.array[:] = value
    camera.publish([33])
    third.publish()
    second.publish()
    assert view.next(0) is None  # the first holds them up
    first.publish()
    frames = [received(view) for _ in range(4)]
    assert [(f.seq, int(f.array[0])) for f in frames] == [(0, 0), (1, 1), (2, 2), (3, 33)]
    assert view.drops_gap == view.drops_late == 0


def test_an_abandoned_claim_costs_a_seq_only_if_others_came_after(pair: Exchange) -> None:
    camera, view = pair
    first, second = camera.claim(1, np.uint8), camera.claim(1, np.uint8)
    second.abandon()
    first.abandon()
    assert camera.next_seq == 0
    camera.publish([1])
    first, second = camera.claim(1, np.uint8), camera.claim(1, np.uint8)
    first.abandon()
    second.publish()
    assert [received(view).seq for _ in range(2)] == [0, 2]
    assert view.drops_gap == 1


def test_a_claim_ends_once(pair: Exchange) -> None:
    camera, _ = pair
    claim = camera.claim(1, np.uint8)
    claim.publish()
    with pytest.raises(tensorpool.ClaimOver):
        claim.publish()
    with pytest.raises(ValueError, match="read-only"):
        claim.array[:] = 1
    claim.abandon()
    assert camera.next_seq == 1


def test_the_ring_is_never_claimed_whole(pair: Exchange) -> None:
    camera, view = pair
    claims = [camera.claim(1, np.uint8) for _ in range(7)]
    with pytest.raises(tensorpool.TooManyClaims, match="8 slots"):
        camera.claim(1, np.uint8)
    with pytest.raises(tensorpool.TooManyClaims):
        camera.publish([1])
    for claim in claims:
        claim.publish()
    assert [received(view).seq for _ in range(7)] == list(range(7))
    camera.publish([1])


def test_a_claim_of_a_former_epoch_is_lost(host: RunningHost) -> None:
    with tensorpool.connect(host.config) as pool, pool.producer(STREAM, timeout_s=30) as camera:
        claim = camera.claim(1, np.uint8)
        epoch = camera.epoch
        former = host.pid_of("driver")
        os.kill(former, signal.SIGKILL)
        host.wait_restarted("driver", former)
        wait_until(lambda: any(e.what == "reattached" for e in pool.events), 20, "a new lease")
        with pytest.raises(tensorpool.LeaseLost, match="lease ended"):
            claim.publish()
        assert camera.publish([1]) == 0
        assert camera.epoch > epoch
