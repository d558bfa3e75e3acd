"""The main job: tensors from a producer's process to consumers' processes and threads."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

import tensorpool
from tests.integration.host import STREAM, RunningHost
from tests.support import wait_until


def follow(host: RunningHost, *arguments: str) -> subprocess.Popen[str]:
    """A command that runs beside the test."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "tensorpool", *arguments, "--config", str(host.config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=host.environment,
    )


def fail_in_a_claim(camera: tensorpool.Producer) -> None:
    with camera.claim((4,), np.uint8) as frame:
        frame.array[:] = 1
        raise RuntimeError("sensor")


def test_the_readme_exchange(host: RunningHost) -> None:
    with follow(host, "consume", str(STREAM), "--count", "16") as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.readline().startswith("attached")
        produced = host.command(
            "produce", str(STREAM), "--count", "16", "--rate", "500", "--shape", "48x64"
        )
        assert produced.status == 0, produced
        printed = consumer.stdout.read()
    assert consumer.returncode == 0, printed
    assert re.findall(r"^seq=(\d+) 48x64 uint16 ok$", printed, re.MULTILINE) == [
        str(seq) for seq in range(16)
    ]


def test_consume_tells_a_wrong_byte(host: RunningHost) -> None:
    with follow(host, "consume", str(STREAM), "--count", "1") as consumer:
        assert consumer.stdout is not None
        consumer.stdout.readline()
        with tensorpool.connect(host.config) as pool, pool.producer(STREAM) as producer:
            producer.publish(np.full((4, 4), 99, np.uint16))
            printed = consumer.stdout.read()
    assert consumer.returncode == 1
    assert "WRONG at byte 0" in printed


def test_consume_gives_up_after_its_timeout(host: RunningHost) -> None:
    done = host.command("consume", str(STREAM), "--count", "1", "--timeout", "0.2")
    assert done.status == 1
    assert "0 of 1 received" in done.errors


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "f4", "f8", "?", ">i4"])
def test_arrays_arrive_as_they_were(host: RunningHost, dtype: str, order: str) -> None:
    dice = np.random.default_rng(7)
    with (
        tensorpool.connect(host.config) as pool,
        pool.consumer(STREAM) as view,
        pool.producer(STREAM) as camera,
    ):
        for shape in ((5,), (3, 4), (2, 3, 4), (1, 2, 1, 2, 1, 2, 1, 2)):
            array = np.asarray(dice.integers(0, 2, shape)).astype(dtype, order=order)  # type: ignore[call-overload]
            seq = camera.publish(array, timestamp_ns=42)
            frame = view.next(10)
            assert frame is not None
            assert (frame.seq, frame.timestamp_ns, frame.epoch) == (seq, 42, camera.epoch)
            assert not frame.array.flags.writeable
            assert frame.dtype == array.dtype.newbyteorder("=")
            np.testing.assert_array_equal(frame.copy(), array)
            np.testing.assert_array_equal(np.asarray(frame), array)
            assert frame.valid


def test_strided_input_is_published_in_c_order(host: RunningHost) -> None:
    with (
        tensorpool.connect(host.config) as pool,
        pool.consumer(STREAM) as view,
        pool.producer(STREAM) as camera,
    ):
        array = np.arange(100, dtype=np.int32).reshape(10, 10)[::2, ::3]
        camera.publish(array)
        frame = view.next(10)
        assert frame is not None
        np.testing.assert_array_equal(frame.array, array)
        assert frame.array.flags.c_contiguous


def test_claim_writes_in_place_and_an_exception_publishes_nothing(host: RunningHost) -> None:
    with (
        tensorpool.connect(host.config) as pool,
        pool.consumer(STREAM) as view,
        pool.producer(STREAM) as camera,
    ):
        with pytest.raises(RuntimeError, match="sensor"):
            fail_in_a_claim(camera)
        with camera.claim((4,), np.uint8) as frame:
            frame.array[:] = 2
        received = view.next(10)
        assert received is not None
        assert received.seq == 0
        assert received.array.tolist() == [2, 2, 2, 2]
        assert view.next(0) is None


@pytest.mark.clause("Wire §15.4-1")
def test_overwritten_frames_are_late_and_gone(host: RunningHost) -> None:
    """A ring of 8 slots, 20 frames: the last 8 are there, the others are counted."""
    with (
        tensorpool.connect(host.config) as pool,
        pool.consumer(STREAM) as view,
        pool.producer(STREAM) as camera,
    ):
        for value in range(20):
            camera.publish(np.full(4, value, np.uint8))
        frames = [view.next(10) for _ in range(8)]
        assert [frame.seq for frame in frames if frame] == list(range(12, 20))
        assert (view.drops_late, view.drops_gap) == (12, 0)
        last = frames[-1]
        assert last is not None
        for value in range(8):
            camera.publish(np.full(4, value, np.uint8))
        assert not last.valid
        with pytest.raises(tensorpool.StaleFrame):
            last.copy()


def test_the_smallest_fitting_pool_is_used_and_none_is_an_error(host: RunningHost) -> None:
    with tensorpool.connect(host.config) as pool, pool.producer(STREAM) as camera:
        with pytest.raises(tensorpool.FrameTooLarge, match="4096, 1048576"):
            camera.publish(np.zeros((1 << 20) + 1, np.uint8))
        assert camera.next_seq == 0
        camera.publish(np.zeros(1 << 20, np.uint8))


def test_a_view_outlives_its_consumer(host: RunningHost) -> None:
    with tensorpool.connect(host.config) as pool, pool.producer(STREAM) as camera:
        with pool.consumer(STREAM) as view:
            camera.publish(np.full(4, 7, np.uint8))
            frame = view.next(10)
        assert frame is not None
        assert frame.array.tolist() == [7, 7, 7, 7]


def test_a_second_producer_is_told_who_is_first(host: RunningHost) -> None:
    with (
        tensorpool.connect(host.config) as pool,
        pool.producer(STREAM) as camera,
        pytest.raises(tensorpool.AttachRejected, match=str(camera.client_id)),
    ):
        pool.producer(STREAM)


def test_a_dynamic_stream_on_demand(host: RunningHost) -> None:
    with tensorpool.connect(host.config) as pool, pool.producer(0) as camera:
        assert camera.stream_id in host.settings.driver.stream_id_range  # type: ignore[operator]
        with pool.consumer(camera.stream_id) as view:
            camera.publish(np.arange(3, dtype=np.uint8))
            frame = view.next(10)
            assert frame is not None
            assert frame.array.tolist() == [0, 1, 2]


def test_sixteen_consumers_all_get_every_frame(host: RunningHost) -> None:
    with tensorpool.connect(host.config) as pool, pool.producer(STREAM) as camera:
        views = [pool.consumer(STREAM) for _ in range(16)]
        for value in range(8):
            camera.publish(np.full(4, value, np.uint8))
        for view in views:
            frames = [view.next(10) for _ in range(8)]
            assert [frame.array[0] for frame in frames if frame] == list(range(8))


def test_the_loop_goes_on_over_a_producer_restart_with_another_shape(host: RunningHost) -> None:
    with tensorpool.connect(host.config) as pool, pool.consumer(STREAM) as view:
        for shape in ((4,), (2, 3), (5, 5, 5)):
            with pool.producer(STREAM) as camera:
                camera.publish(np.ones(shape, np.float32))
                frame = view.next(10)
                assert frame is not None
                assert (frame.shape, frame.epoch) == (shape, camera.epoch)


def test_poll_never_waits(host: RunningHost) -> None:
    with (
        tensorpool.connect(host.config) as pool,
        pool.consumer(STREAM) as view,
        pool.producer(STREAM) as camera,
    ):
        seen: list[int] = []
        assert view.poll(lambda frame: seen.append(frame.seq)) == 0
        for value in range(5):
            camera.publish(np.full(4, value, np.uint8))
        wait_until(
            lambda: view.poll(lambda frame: seen.append(frame.seq), limit=2) == 0 and seen,
            10,
            "frames",
        )
        wait_until(lambda: len(seen) == 5, 10, "all of them")
        assert seen == list(range(5))


def test_closing_leaves_no_lease(host: RunningHost) -> None:
    with tensorpool.connect(host.config) as pool:
        pool.producer(STREAM)
        pool.consumer(STREAM)
    done = host.command("status", "--json")
    assert '"client_id"' not in done.output


def test_no_host_is_one_clear_message(tmp_shm: object) -> None:
    with pytest.raises(tensorpool.HostError, match="tensorpool up"):
        tensorpool.connect(aeron_dir=f"{tmp_shm}/nothing")


def test_use_after_close_is_an_error(host: RunningHost) -> None:
    with tensorpool.connect(host.config) as pool:
        camera = pool.producer(STREAM)
        camera.close()
        with pytest.raises(tensorpool.PoolClosed):
            camera.publish(np.zeros(4, np.uint8))
