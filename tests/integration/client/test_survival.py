"""The user's loop goes on: whatever is killed, frames come again and nothing has to be called."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import tensorpool
from tensorpool.clock import NS_PER_S, monotonic_ns
from tests.integration.host import STREAM, RunningHost
from tests.support import wait_until

_VICTIM = """
import os, signal, tensorpool
producer = tensorpool.connect({config!r}).producer({stream}, client_id=77)
os.write({fd}, b"!")
signal.pause()
"""


def expect_frames(view: tensorpool.Consumer) -> None:
    """Wait until frames come again."""
    wanted = view.received + 20
    wait_until(lambda: view.next(1) is not None and view.received >= wanted, 30, "frames")


@contextmanager
def stream_of_frames(host: RunningHost) -> Iterator[tuple[tensorpool.Producer, threading.Event]]:
    """A producer in a thread of its own that publishes for ever, whatever happens."""
    stop = threading.Event()
    with tensorpool.connect(host.config) as pool, pool.producer(STREAM, timeout_s=30) as camera:

        def publish() -> None:
            value = 0
            while not stop.wait(0.002):
                try:
                    camera.publish(np.full(64, value % 256, np.uint8))
                except tensorpool.TensorPoolError:
                    continue
                value += 1

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            yield camera, stop
        finally:
            stop.set()
            thread.join()


@pytest.mark.clause("Driver §10-1", "Driver §4.13-8")
@pytest.mark.parametrize("victim", ["driver", "gc", "supervisor", "media_driver"])
def test_kill(host: RunningHost, victim: str) -> None:
    with (
        stream_of_frames(host),
        tensorpool.connect(host.config) as pool,
        pool.consumer(STREAM) as view,
    ):
        for _ in range(2):
            assert view.next(20) is not None
            former = host.pid_of(victim)
            os.kill(former, signal.SIGKILL)
            host.wait_restarted(victim, former)
            expect_frames(view)
        assert view.drops_invalid == 0
        # Logs that are mapped outlive their media driver, so frames may come before the event.
        expected = {"driver": "lease_revoked", "media_driver": "media_driver_back"}.get(victim)
        if expected is not None:
            wait_until(lambda: any(e.what == expected for e in pool.events), 20, expected)
        expect_frames(view)


def test_the_keeper_survives_what_nobody_foresaw(
    host: RunningHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mock, since a process that is short of memory does not fail at a chosen place."""
    with tensorpool.connect(host.config) as pool, pool.producer(STREAM) as camera:
        lease_id, channels = camera.lease_id, pool._keeper._channels
        calls = 0

        def poll(*_: object) -> int:
            nonlocal calls
            calls += 1
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(channels, "poll", poll)
            wait_until(lambda: calls > 1, 10, "a second try")
        assert "lease keeper" in caplog.messages
        # Longer than a lease lives that nobody keeps.
        time.sleep(2 * host.settings.policies.lease_ttl_ns / NS_PER_S)
        camera.publish(np.zeros(4, np.uint8))
        assert camera.lease_id == lease_id
        with pool.consumer(STREAM, timeout_s=5):
            pass


def told_by(pool: tensorpool.Pool) -> set[str]:
    return {event.what for event in list(pool.events)}


def test_regions_of_a_lease_that_is_over_break_no_rule(host: RunningHost) -> None:
    """As a process finds them that was stopped before it mapped: gone, like its connection."""
    with tensorpool.connect(host.config) as pool, pool.producer(STREAM) as camera:
        keeper, lease = pool._keeper, camera._lease
        with keeper._lock, lease.changed:  # its thread has not looked yet
            lease.deadline_ns = monotonic_ns()
            assert not keeper.drop(lease, lease.regions, tensorpool.ShmError("no such file"))
        wait_until(lambda: "reattached" in told_by(pool), 20, "another lease")
        camera.publish(np.zeros(4, np.uint8), timeout_s=20)
        assert "lease_expired" in told_by(pool)
        assert "protocol_error" not in told_by(pool)


def test_a_frozen_driver_revokes_no_lease(host: RunningHost) -> None:
    """Stopped for longer than a lease lasts, then continued (design §4.7)."""
    with (
        stream_of_frames(host) as (camera, _),
        tensorpool.connect(host.config) as pool,
        pool.consumer(STREAM) as view,
    ):
        leases = {camera.lease_id, view.lease_id}
        driver = host.pid_of("driver")
        policies = host.settings.policies
        os.kill(driver, signal.SIGSTOP)
        try:
            threading.Event().wait(policies.lease_ttl_ns / 1e9 + 0.5)
        finally:
            os.kill(driver, signal.SIGCONT)
        expect_frames(view)
        assert {camera.lease_id, view.lease_id} == leases
        assert not any(event.what == "lease_revoked" for event in pool.events)
        assert host.pid_of("driver") == driver


def test_a_killed_producer_leaves_the_stream_to_the_next(host: RunningHost) -> None:
    ready_read, ready_write = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        [
            sys.executable,
            "-c",
            _VICTIM.format(config=str(host.config), stream=STREAM, fd=ready_write),
        ],
        host.environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, ready_write, ready_write)],
    )
    try:
        os.set_inheritable(ready_write, False)
        assert os.read(ready_read, 1) == b"!"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready_read)
        os.close(ready_write)
    with tensorpool.connect(host.config) as pool:

        def attach() -> tensorpool.Producer | None:
            try:
                return pool.producer(STREAM, client_id=77, timeout_s=1)
            except tensorpool.AttachRejected:
                return None

        camera = wait_until(attach, 20, "the killed client's successor to be let in")
        assert camera is not None
        camera.publish(np.zeros(4, np.uint8))
