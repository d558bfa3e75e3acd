"""Beginnings and ends: forks, lingering, waiting for a lease, events, and the ten-line consumer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import tensorpool
from tests.integration.host import STREAM, RunningHost
from tests.support import wait_until

_FORK = """
import os, sys, warnings
import numpy as np, tensorpool
warnings.simplefilter("ignore", DeprecationWarning)

config, stream = sys.argv[1], int(sys.argv[2])
pool = tensorpool.connect(config)
view = pool.consumer(stream)
camera = pool.producer(stream)
claim = camera.claim(4, np.uint8)

def refused(what):
    try:
        what()
    except tensorpool.ForkedProcess as error:
        assert "spawn" in str(error)
        return
    raise SystemExit(f"{what} was allowed")

child = os.fork()
if child == 0:
    for what in (
        lambda: camera.publish([1]), lambda: camera.claim(1, "u1"), claim.publish,
        lambda: view.next(0), view.latest, lambda: view.poll(print), lambda: next(iter(view)),
        lambda: pool.producer(stream), lambda: pool.consumer(stream),
    ):
        refused(what)
    claim.abandon(), camera.close(), view.close(), pool.close()
    with tensorpool.connect(config) as own, own.consumer(stream) as mine:
        mine.next(0)
    sys.exit(7)  # a whole interpreter's end, destructors and all

assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
claim.publish()
for value in range(100):
    camera.publish(np.full(4, value, np.uint8))
    assert view.next(10) is not None
assert {e.what for e in pool.events} <= {"attached", "epoch_changed"}, list(pool.events)
pool.close()
print("parent went on")
"""


def test_a_forked_child_is_refused_and_ends_nothing(host: RunningHost) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORK, str(host.config), str(STREAM)],
        capture_output=True,
        text=True,
        env=host.environment,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "parent went on\n"), done.stderr


def test_the_end_of_a_stream_waits_for_its_consumers(pool: tensorpool.Pool) -> None:
    with pool.consumer(STREAM) as view:
        camera = pool.producer(STREAM)
        for value in range(6):
            camera.publish(np.full(4, value, np.uint8))
        wait_until(lambda: view.client_id in camera.consumer_ids, 10, "the consumer to be known")
        closing = threading.Thread(target=camera.close, args=(60,))
        closing.start()
        seen: list[int] = []
        while len(seen) < 6:
            frame = view.next(10)
            assert frame is not None
            seen.append(frame.seq)
        closing.join()  # not after 60 s: the consumer has reported
        assert seen == list(range(6))


def test_lingering_is_bounded_and_can_be_left_out(pool: tensorpool.Pool) -> None:
    with pool.consumer(STREAM) as idle:
        camera = pool.producer(STREAM)
        camera.publish([1])
        wait_until(lambda: idle.client_id in camera.consumer_ids, 10, "the consumer to be known")
        camera.close(0.05)
        camera = pool.producer(STREAM)
        camera.publish([1])
        camera.close(0)
        wait_until(lambda: idle.next(0) is None and idle.epoch > camera.epoch, 10, "another epoch")


def test_publish_waits_for_the_lease_or_says_so(host: RunningHost) -> None:
    """The driver ends in good order, and the launcher, frozen, does not start another."""
    with tensorpool.connect(host.config) as pool, pool.producer(STREAM, timeout_s=60) as camera:
        os.kill(host.process.pid, signal.SIGSTOP)
        try:
            os.kill(host.pid_of("driver"), signal.SIGTERM)
            wait_until(lambda: any(e.what == "driver_shutdown" for e in pool.events), 30, "its end")
            with pytest.raises(tensorpool.LeaseLost) as caught:
                camera.publish([1], timeout_s=0)
            assert isinstance(caught.value, tensorpool.TensorPoolError)
        finally:
            os.kill(host.process.pid, signal.SIGCONT)
        assert camera.publish([1]) == 0  # waits for the next driver
        host.wait_ready()


def test_publish_waits_for_the_media_driver(host: RunningHost) -> None:
    with tensorpool.connect(host.config) as pool, pool.producer(STREAM, timeout_s=60) as camera:
        former = host.pid_of("media_driver")
        os.kill(former, signal.SIGKILL)
        wait_until(lambda: any(e.what == "media_driver_lost" for e in pool.events), 20, "the loss")
        camera.publish([1])
        wait_until(lambda: any(e.what == "media_driver_back" for e in pool.events), 20, "the event")
        host.wait_restarted("media_driver", former)


def test_events_come_in_order_with_no_lock_held(
    pool: tensorpool.Pool, calm_host: RunningHost
) -> None:
    seen: list[str] = []
    refusals: list[tensorpool.ClientError] = []

    def on_event(event: tensorpool.PoolEvent) -> None:
        seen.append(event.what)
        try:
            watched.consumer(STREAM)
        except tensorpool.ClientError as error:
            refusals.append(error)
        raise RuntimeError("the user's own fault")

    with tensorpool.connect(calm_host.config, on_event=on_event) as watched:
        with watched.producer(STREAM, timeout_s=30) as camera:
            with pytest.raises(tensorpool.AttachRejected):
                watched.producer(STREAM)
            camera.publish([1])
        wait_until(lambda: seen == ["attached", "attach_rejected"], 10, lambda: f"{seen}")
        assert [event.what for event in watched.events] == seen
        assert len(refusals) == 2
        assert "keeper's thread" in str(refusals[0])


_TEN_LINES = """
import sys, tensorpool
with tensorpool.connect(sys.argv[1]) as pool, pool.consumer(int(sys.argv[2])) as view:
    for frame in view:
        image = frame.try_copy()
        if image is not None:
            print(frame.epoch, *image.shape, flush=True)
"""


def test_a_consumer_of_a_few_lines_survives_everything(host: RunningHost) -> None:
    """Producer restart with another shape, driver kill, media driver kill, epoch change."""
    stop = threading.Event()
    shape: tuple[int, ...] = (3,)

    def publish() -> None:
        with tensorpool.connect(host.config) as pool:
            while not stop.is_set():
                told = shape
                with pool.producer(STREAM, timeout_s=30) as camera:
                    while not stop.wait(0.005) and told == shape:
                        camera.publish(np.ones(told, np.uint8))

    consumer = subprocess.Popen(
        [sys.executable, "-c", _TEN_LINES, str(host.config), str(STREAM)],
        stdout=subprocess.PIPE,
        text=True,
        env=host.environment,
    )
    producer = threading.Thread(target=publish)
    producer.start()
    try:
        assert consumer.stdout is not None
        lines = consumer.stdout

        def expect(dims: str, other_than: str) -> str:
            while True:
                epoch, told = lines.readline().split(maxsplit=1)
                if told.strip() == dims and epoch != other_than:
                    return epoch

        epoch = expect("3", "")
        shape = (2, 5)
        epoch = expect("2 5", epoch)
        former = host.pid_of("driver")
        os.kill(former, signal.SIGKILL)
        epoch = expect("2 5", epoch)
        host.wait_restarted("driver", former)
        former = host.pid_of("media_driver")
        os.kill(former, signal.SIGKILL)
        host.wait_restarted("media_driver", former)
        shape = (4,)
        epoch = expect("4", epoch)
        assert consumer.poll() is None
    finally:
        stop.set()
        producer.join()
        consumer.kill()
        consumer.communicate()
