"""Clients that do what none should: die while writing, keep a lease and never map, never poll."""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import tensorpool
from tensorpool.aeron.client import AeronClient
from tensorpool.clock import monotonic_ns
from tensorpool.wire.driver import Role, ShmLeaseRevoked
from tests.chaos.length import IS_FULL
from tests.integration.host import DEADLINE_S, STREAM, RunningHost, Tables, running_host
from tests.support import wait_until
from tests.wire_client import WireClient, settings_of

WORDS = 100_000
ROUNDS = 20 if IS_FULL else 2
_DIES_IN_A_CLAIM = """
import os, signal, sys, numpy as np, tensorpool
pool = tensorpool.connect(sys.argv[1])
camera = pool.producer(int(sys.argv[2]), client_id=77, timeout_s=20)
for number in range(3):
    camera.publish(np.full({words}, number, np.uint64))
frame = camera.claim({words}, np.uint64)
frame.array[: {words} // 2] = 666
os.kill(os.getpid(), signal.SIGKILL)
"""
_CHANNELS = {
    f"{kind}_channel": "aeron:ipc?term-length=64k"
    for kind in ("control", "announce", "metadata", "qos")
}
_TETHERED: Tables = {
    "driver": _CHANNELS,
    "supervisor": _CHANNELS,
    "media_driver": {"tether_subscriptions": True},
    "policies": {"announce_period_ms": 20, "lease_keepalive_interval_ms": 200},
    "metrics": {"enabled": True},
}


@pytest.fixture
def host(tmp_shm: Path) -> Iterator[RunningHost]:
    """A ready host with the default tables."""
    with running_host(tmp_shm) as running:
        yield running


def catch_up(view: tensorpool.Consumer, is_there: Callable[[], bool]) -> None:
    """Read on, whatever there is, until then."""

    def has_come() -> bool:
        view.next(0)
        return is_there()

    wait_until(has_come, DEADLINE_S, "the epoch")


def test_a_producer_killed_in_the_middle_of_a_claim(host: RunningHost) -> None:
    """Nobody reads what it had half written, and the next one goes on."""
    code = _DIES_IN_A_CLAIM.format(words=WORDS)
    with tensorpool.connect(host.config) as pool, pool.consumer(STREAM) as view:
        seen: set[int] = set()
        for _ in range(ROUNDS):
            former = view.epoch
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-c", code, str(host.config), str(STREAM)],
                host.environment,
            )
            while True:
                frame = view.next(0.01)
                if frame is not None and (copied := frame.try_copy()) is not None:
                    assert len(np.unique(copied)) == 1
                    seen.add(int(copied[0]))
                elif os.waitpid(pid, os.WNOHANG)[0]:
                    break
            assert seen <= {0, 1, 2}
            catch_up(view, lambda former=former: view.epoch > former)  # type: ignore[misc]
        assert seen
        assert view.drops_invalid == 0
        with pool.producer(STREAM, client_id=77, timeout_s=20) as camera:
            catch_up(view, lambda: view.epoch == camera.epoch)
            camera.publish(np.full(WORDS, 9, np.uint64))
            frame = view.next(10)
            assert frame is not None
            assert (frame.seq, int(frame.copy()[-1])) == (0, 9)


def test_a_lease_that_is_kept_and_never_mapped(host: RunningHost) -> None:
    """Epochs come and go, the lease stays, and the GC is held up by it no more than by others."""
    with (
        WireClient(settings_of(str(host.config)), tether=False) as wire,
        tensorpool.connect(host.config) as pool,
    ):
        lease_id = wire.attach(STREAM, Role.CONSUMER, 5).lease_id
        assert lease_id is not None
        interval_ns = host.settings.policies.lease_keepalive_interval_ns
        kept_ns = 0
        for _ in range(20):
            with pool.producer(STREAM, timeout_s=20) as camera:
                camera.publish(np.zeros(4, np.uint8))
            if monotonic_ns() >= kept_ns:
                wire.keep_alive(lease_id, STREAM, 5, Role.CONSUMER)
                kept_ns = monotonic_ns() + interval_ns // 2
            wire.poll()
        stream_dir = host.namespace_dir / str(STREAM)
        most = host.settings.epochs_at_once(1 << 20) + 1  # and the lease's own

        def is_tidy() -> bool:
            wire.keep_alive(lease_id, STREAM, 5, Role.CONSUMER)
            wire.poll()
            return sum(1 for path in stream_dir.iterdir() if path.name.isdigit()) <= most

        wait_until(is_tidy, DEADLINE_S, "the GC")
        assert not any(
            isinstance(m, ShmLeaseRevoked) and m.lease_id == lease_id for m in wire.heard
        )


def test_back_pressure_on_every_publication(tmp_shm: Path) -> None:
    """Somebody listens to all with a tether and never polls; when it is gone all go on."""
    with running_host(tmp_shm, _TETHERED) as host, tensorpool.connect(host.config) as pool:
        driver = host.settings.driver
        children = {name: host.pid_of(name) for name in ("driver", "supervisor", "gc")}
        with pool.producer(STREAM) as camera, pool.consumer(STREAM) as view:
            with AeronClient(host.settings.aeron_dir, "never polls") as deaf:
                endpoints = (driver.control, driver.announce, driver.metadata, driver.qos)
                _ears = [deaf.subscription(endpoint, tether=True) for endpoint in endpoints]

                def is_blocked() -> bool:
                    camera.publish(np.zeros(4, np.uint8))
                    return _back_pressured(host) > 0

                wait_until(is_blocked, DEADLINE_S, "back pressure")
                # Longer than a lease lives: no keepalive comes through.
                until_ns = monotonic_ns() + 2 * host.settings.policies.lease_ttl_ns
                while monotonic_ns() < until_ns:
                    view.next(0.05)
                assert {name: host.pid_of(name) for name in children} == children

            def is_streaming() -> bool:
                try:
                    number = camera.publish(np.full(4, 3, np.uint8), timeout_s=0)
                except tensorpool.LeaseLost:
                    return False
                frame = view.next(0.2)
                return frame is not None and frame.seq == number

            wait_until(is_streaming, DEADLINE_S, "frames")
        assert {name: host.pid_of(name) for name in children} == children


def _back_pressured(host: RunningHost) -> float:
    """Offers of the driver that were refused, as its metrics tell."""
    url = host.process_report("driver")["metrics"]
    assert url is not None
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310
        families = text_string_to_metric_families(response.read().decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "tensorpool_driver_back_pressured_total"
        )
