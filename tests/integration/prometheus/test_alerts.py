"""Alerts that fire on a living host, and end when it is cured."""

import os
import signal
import threading

import numpy as np

import tensorpool
from tests.integration.host import STREAM, RunningHost
from tests.integration.prometheus.server import Prometheus
from tests.support import wait_until

DEADLINE_S = 90


def await_firing(prometheus: Prometheus, alert: str) -> dict[str, str]:
    """Until it fires; the labels of the alert."""
    found = wait_until(
        lambda: prometheus.firing().get(alert), DEADLINE_S, lambda: f"{alert} to fire"
    )
    assert found is not None
    (fired,) = found
    assert fired["annotations"]["summary"]
    labels: dict[str, str] = fired["labels"]
    assert labels["pool"] == "test-pool"
    return labels


def await_end(prometheus: Prometheus, alert: str) -> None:
    wait_until(
        lambda: alert not in prometheus.firing(), DEADLINE_S, lambda: f"{alert} to fire no more"
    )


def test_a_child_in_a_crash_loop(scraped_host: RunningHost, prometheus: Prometheus) -> None:
    for _ in range(5):
        pid = scraped_host.pid_of("supervisor")
        os.kill(pid, signal.SIGKILL)
        scraped_host.wait_restarted("supervisor", pid)
    labels = await_firing(prometheus, "TensorpoolChildCrashLoop")
    assert (labels["child"], labels["severity"]) == ("supervisor", "critical")
    await_end(prometheus, "TensorpoolChildCrashLoop")


def test_shared_memory_nearly_full(scraped_host: RunningHost, prometheus: Prometheus) -> None:
    ballast = scraped_host.directory / "ballast"
    space = os.statvfs(scraped_host.directory)
    wanted = (space.f_bavail - space.f_blocks // 20) * space.f_frsize
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, wanted)
    try:
        await_firing(prometheus, "TensorpoolSharedMemoryNearlyFull")
    finally:
        ballast.unlink()
    await_end(prometheus, "TensorpoolSharedMemoryNearlyFull")


def test_consumers_that_drop(scraped_host: RunningHost, prometheus: Prometheus) -> None:
    stop = threading.Event()
    with (
        tensorpool.connect(scraped_host.config) as pool,
        pool.producer(STREAM) as camera,
        pool.consumer(STREAM) as view,
    ):

        def drop() -> None:
            """Many rings' worth of frames for each one that is read."""
            frame = np.zeros(16, np.uint8)
            while not stop.is_set():
                for _ in range(100):
                    camera.publish(frame)
                view.next(1)
                stop.wait(0.02)

        with_drops = threading.Thread(target=drop)
        with_drops.start()
        try:
            labels = await_firing(prometheus, "TensorpoolConsumerDrops")
            assert labels["stream"] == str(STREAM)
        finally:
            stop.set()
            with_drops.join()
    await_end(prometheus, "TensorpoolConsumerDrops")


def test_a_driver_that_is_down(scraped_host: RunningHost, prometheus: Prometheus) -> None:
    pid = scraped_host.pid_of("driver")
    os.kill(pid, signal.SIGSTOP)
    try:
        labels = await_firing(prometheus, "TensorpoolDriverDown")
        assert labels["severity"] == "critical"
        wait_until(
            lambda: "TensorpoolScrapeMissing" in prometheus.firing(),
            DEADLINE_S,
            "the stopped process to be missed",
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    await_end(prometheus, "TensorpoolDriverDown")
    await_end(prometheus, "TensorpoolScrapeMissing")
