"""How frames are taken: one by one, the latest, in a loop; what is lost is counted exactly."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest

import tensorpool
from tests.integration.host import STREAM
from tests.support import wait_until


def publish(camera: tensorpool.Producer, *values: int) -> None:
    for value in values:
        camera.publish(np.full(16, value, np.uint8))


def counted(view: tensorpool.Consumer) -> int:
    """Every frame that the consumer accounts for."""
    return (
        view.received
        + view.skipped
        + view.drops_gap
        + view.drops_late
        + view.drops_epoch
        + view.drops_invalid
    )


def test_a_checked_block_confirms_or_raises(pool: tensorpool.Pool) -> None:
    with pool.consumer(STREAM) as view, pool.producer(STREAM) as camera:
        publish(camera, 1)
        frame = view.next(10)
        assert frame is not None
        with frame.checked() as array:
            total = int(array.sum())
        assert total == 16
        with pytest.raises(tensorpool.StaleFrame, match="more slots"), frame.checked() as array:
            publish(camera, *range(8))
        assert frame.try_copy() is None
        with pytest.raises(ZeroDivisionError) as caught, frame.checked():
            _ = 1 / 0
        assert "overwritten" in caught.value.__notes__[0]
        assert view.stale == 3


def test_the_latest_skips_what_is_older(pool: tensorpool.Pool) -> None:
    with pool.consumer(STREAM) as view, pool.producer(STREAM) as camera:
        assert view.latest() is None
        publish(camera, *range(6))
        frame = view.latest(10)
        assert frame is not None
        assert (frame.seq, view.received, view.skipped) == (5, 1, 5)
        publish(camera, *range(20))
        frame = view.latest(10)
        assert frame is not None
        assert (frame.seq, view.received, view.skipped) == (25, 2, 24)
        assert view.drops_gap == view.drops_late == 0
        assert counted(view) == 26


def test_too_far_behind_goes_on_with_the_latest(pool: tensorpool.Pool) -> None:
    with (
        pool.consumer(STREAM, max_outstanding_seq_gap=4) as view,
        pool.producer(STREAM) as camera,
    ):
        publish(camera, 0)
        assert view.next(10) is not None
        publish(camera, *range(6))
        frame = view.next(10)
        assert frame is not None
        assert (frame.seq, view.drops_gap, view.resyncs) == (6, 5, 1)
        publish(camera, *range(4))
        assert [view.next(10).seq for _ in range(4)] == [7, 8, 9, 10]  # type: ignore[union-attr]
        assert view.resyncs == 1


def test_async_iteration_lets_other_tasks_run(pool: tensorpool.Pool) -> None:
    with pool.consumer(STREAM) as view, pool.producer(STREAM) as camera:

        async def read() -> list[int]:
            seen = []
            async for frame in view:
                seen.append(int(frame.array[0]))
                if len(seen) == 5:
                    break
            return seen

        async def write() -> None:
            for value in range(5):
                await asyncio.sleep(0.001)
                publish(camera, value)

        async def both() -> list[int]:
            seen, _ = await asyncio.gather(read(), write())
            return seen

        assert asyncio.run(asyncio.wait_for(both(), 20)) == list(range(5))


def test_no_wait_and_short_wait(pool: tensorpool.Pool) -> None:
    with pool.consumer(STREAM) as view:
        assert view.next(0) is None
        assert view.next(0.01) is None
        assert view.latest(0.01) is None


def test_two_threads_are_told(pool: tensorpool.Pool) -> None:
    with pool.consumer(STREAM) as view:
        started, ended = threading.Event(), threading.Event()

        def wait() -> None:
            started.set()
            with pytest.raises(tensorpool.PoolClosed):
                view.next()
            ended.set()

        thread = threading.Thread(target=wait)
        thread.start()
        started.wait()

        def is_refused() -> bool:
            try:
                view.next(0)
            except tensorpool.ConcurrentUse:
                return True
            return False

        wait_until(is_refused, 10, "the second thread to be refused")
        view.close()
        assert ended.wait(10)
        thread.join()


def test_a_handler_must_not_use_its_consumer(pool: tensorpool.Pool) -> None:
    with pool.consumer(STREAM) as view, pool.producer(STREAM) as camera:
        publish(camera, 1)

        def handler(_: tensorpool.Frame) -> None:
            view.next(0)

        with pytest.raises(tensorpool.ConcurrentUse, match="outer call"):
            wait_until(lambda: view.poll(handler), 10, "a frame")


def test_a_closed_consumer_ends_the_loop(pool: tensorpool.Pool) -> None:
    with pool.consumer(STREAM) as view, pool.producer(STREAM) as camera:
        publish(camera, 1, 2)
        seen = []
        for frame in view:
            seen.append(frame.seq)
            if len(seen) == 2:
                view.close()
        assert seen == [0, 1]


def test_a_rate_is_kept_by_the_frames_own_clock(pool: tensorpool.Pool) -> None:
    """100 frames a second wanted of 1000: one in ten, whenever they are polled."""
    with (
        pool.consumer(STREAM, max_rate_hz=100, own_stream=False) as view,
        pool.producer(STREAM) as camera,
    ):
        seen = []
        for number in range(100):
            camera.publish(np.full(4, number, np.uint8), timestamp_ns=10**9 + number * 10**6)
            frame = view.next(0)
            if frame is not None:
                seen.append(frame.seq)
        wait_until(lambda: view.next(0) is None and counted(view) == 100, 10, "all of them")
        assert seen == list(range(0, 100, 10))
        assert (view.skipped, view.drops_gap, view.drops_late) == (90, 0, 0)


def test_a_source_whose_clock_stands_still_is_not_cut_off(pool: tensorpool.Pool) -> None:
    with (
        pool.consumer(STREAM, max_rate_hz=1000, own_stream=False) as view,
        pool.producer(STREAM) as camera,
    ):

        def another() -> bool:
            camera.publish(np.zeros(4, np.uint8), timestamp_ns=42)
            view.next(0)
            return view.received >= 3

        wait_until(another, 10, "three frames")


def test_every_frame_is_counted_once_across_epochs(pool: tensorpool.Pool) -> None:
    dice = np.random.default_rng(11)
    published = 0
    with pool.consumer(STREAM) as view:
        for _ in range(3):
            with pool.producer(STREAM) as camera:
                publish(camera, 0)
                published += 1
                assert view.next(10) is not None
                for _ in range(50):
                    burst = int(dice.integers(1, 20))
                    publish(camera, *range(burst))
                    published += burst
                    for _ in range(int(dice.integers(0, 6))):
                        view.next(0)
                expected = published
                wait_until(
                    lambda n=expected: view.next(0) is None and counted(view) == n,  # type: ignore[misc]
                    10,
                    "all",
                )
        assert view.received + view.drops_late == published
        assert view.drops_late > 0


OTHER_STREAMS = range(20001, 20009)
FOREIGN = 70
"""Frames of each of them: one poll of a subscription takes 64 descriptors, whosever they are."""
ROUNDS = 5
"""Polls begin with another publisher each time."""


class BusyHost:
    """A consumer whose stream is one of many that share the stream of descriptors."""

    def __init__(self, pool: tensorpool.Pool, stack: ExitStack) -> None:
        self.others = [stack.enter_context(pool.producer(number)) for number in OTHER_STREAMS]
        self.camera = stack.enter_context(pool.producer(STREAM))
        self.view = stack.enter_context(pool.consumer(STREAM))
        for camera in (*self.others, self.camera):
            wait_until(partial(getattr, camera, "is_connected"), 20, "the subscription")

    def publish(self, value: int) -> None:
        """One frame among many."""
        for other in self.others:
            publish(other, *[0] * FOREIGN)
        publish(self.camera, value)


@pytest.fixture
def busy(pool: tensorpool.Pool) -> Iterator[BusyHost]:
    with ExitStack() as stack:
        yield BusyHost(pool, stack)


def test_frames_of_others_are_no_reason_to_come_back_later(busy: BusyHost) -> None:
    for value in range(1, ROUNDS):
        busy.publish(value)
        frame = busy.view.next(0)
        assert frame is not None
        assert frame.array[0] == value


def test_poll_is_not_held_up_by_frames_of_others(busy: BusyHost) -> None:
    for value in range(1, ROUNDS):
        busy.publish(value)
        assert busy.view.poll(lambda _: None) == 1


def test_the_latest_is_the_latest_whatever_others_have_sent(busy: BusyHost) -> None:
    for value in range(1, ROUNDS):
        busy.publish(0)
        busy.publish(value)
        frame = busy.view.latest()
        assert frame is not None
        assert frame.array[0] == value


def test_a_gathering_is_not_held_up_by_frames_of_others(
    pool: tensorpool.Pool, busy: BusyHost
) -> None:
    with pool.gather([busy.view]) as gathering:
        for value in range(1, ROUNDS):
            busy.publish(value)
            taken = gathering.next(0)
            assert taken is not None
            assert taken[1].array[0] == value
