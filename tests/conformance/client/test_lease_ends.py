"""How a client's lease ends, and that it then stops (Driver §4.4, §4.7, §4.9, §4.13, §10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorpool
from tensorpool.aeron.client import Offer
from tensorpool.clock import NS_PER_MS, monotonic_ns
from tensorpool.wire.driver import (
    Role,
    ShmAttachRequest,
    ShmDriverShutdown,
    ShmLeaseKeepalive,
    ShutdownReason,
)
from tests.conformance.client.test_attach import await_mapped
from tests.scripted_driver import STREAM, ScriptedDriver, silence
from tests.support import wait_until

type Happened = Callable[[str], list[str]]
FRAME = np.zeros(4, np.uint8)


def polled_epoch(view: tensorpool.Consumer) -> int:
    view.poll(lambda _: None)
    return view.epoch


@pytest.mark.clause("Driver §4.4-2")
def test_keepalives_come_before_a_short_expiry(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened
) -> None:
    """Granted for less than the configured interval: what the driver grants is what counts."""
    driver.answers.append(
        lambda r: [driver.ok(r, lease_expiry_timestamp_ns=monotonic_ns() + 45 * NS_PER_MS)]
    )
    with pool.consumer(STREAM) as view:
        driver.await_another(ShmLeaseKeepalive, 4)
        assert view.lease_id == driver.lease_ids[0]
        assert not happened("lease_expired")
    kept = driver.of(ShmLeaseKeepalive)
    assert {(m.lease_id, m.stream_id, m.client_id, m.role) for m in kept} == {
        (driver.lease_ids[0], STREAM, view.client_id, Role.CONSUMER)
    }


@pytest.mark.clause("Driver §4.2-22")
def test_without_an_expiry_time_keepalives_are_sent_all_the_same(
    driver: ScriptedDriver, pool: tensorpool.Pool
) -> None:
    driver.answer_with(lease_expiry_timestamp_ns=None)
    with pool.consumer(STREAM) as view:
        driver.await_another(ShmLeaseKeepalive, 3)
        assert view.lease_id == driver.lease_ids[0]


@pytest.mark.clause("Driver §4.2-21", "Driver §4.4-7", "Driver §4.7-1", "Driver §4.13-8")
def test_the_expiry_time_is_a_hard_deadline(
    driver: ScriptedDriver,
    pool: tensorpool.Pool,
    happened: Happened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No keepalive goes out: the client itself ends the lease, with no word from the driver."""
    with pool.consumer(STREAM) as view:
        await_mapped(view, driver)
        channels = pool._keeper._channels
        offer = channels.control

        def refuse(message: Any) -> Offer:
            is_keepalive = isinstance(message, ShmLeaseKeepalive)
            return Offer.BACK_PRESSURED if is_keepalive else offer(message)

        driver.answers.append(
            lambda r: [driver.ok(r, lease_expiry_timestamp_ns=monotonic_ns() + 60 * NS_PER_MS)]
        )
        monkeypatch.setattr(channels, "control", refuse)
        driver.revoke(view.lease_id, Role.CONSUMER)
        wait_until(lambda: happened("lease_expired"), 10, "the deadline to be kept")
        monkeypatch.undo()
        wait_until(lambda: view.lease_id in driver.lease_ids[2:], 10, "another attach")


@pytest.mark.clause("Driver §4.9-6", "Driver §4.7-1", "Driver §4.9-16")
def test_own_revocation_unmaps_drops_and_attaches_again(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened
) -> None:
    with pool.consumer(STREAM) as view:
        await_mapped(view, driver)
        driver.answers.append(silence)
        for _ in range(3):
            driver.revoke(view.lease_id, Role.CONSUMER)
        wait_until(lambda: polled_epoch(view) == 0, 10, "the mapping to be let go")
        driver.regions.write(0)
        driver.describe(0)
        assert view.next(0.05) is None, "no lease, no frame"
        assert len(happened("lease_revoked")) == 1
    assert len(driver.of(ShmAttachRequest)) == 2


@pytest.mark.clause("Driver §4.9-6")
def test_a_revoked_producer_writes_no_more(driver: ScriptedDriver, pool: tensorpool.Pool) -> None:
    with pool.producer(STREAM) as camera:
        former = driver.regions
        assert camera.publish(FRAME) == 0
        driver.answers.append(silence)
        driver.revoke(camera.lease_id, Role.PRODUCER)

        def is_refused() -> bool:
            try:
                camera.publish(FRAME, timeout_s=0)
            except tensorpool.LeaseLost:
                return True
            return False

        wait_until(is_refused, 10, "publishing to be refused")
        before = bytes(former.ring)
        assert is_refused()
        assert bytes(former.ring) == before


@pytest.mark.clause("Driver §4.9-10", "Driver §4.9-11", "Driver §4.9-8", "Driver §4.9-9")
@pytest.mark.parametrize(
    "changes",
    [
        {"reason": 0},
        {"reason": 4},
        {"role": 0},
        {"role": 3},
        {"role": 1},
        {"stream_id": 1},
        {"lease_id": 1},
    ],
    ids=str,
)
def test_a_revocation_that_is_not_ours_or_not_understood_ends_nothing(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened, changes: dict[str, int]
) -> None:
    with pool.consumer(STREAM) as view, pool.consumer(STREAM) as other:
        driver.revoke(view.lease_id, Role.CONSUMER, **changes)
        driver.revoke(other.lease_id, Role.CONSUMER)
        wait_until(lambda: happened("lease_revoked"), 10, "the true one")
        wait_until(lambda: other.lease_id in driver.lease_ids[2:], 10, "another lease")
        assert view.lease_id == driver.lease_ids[0]
        assert len(happened("lease_revoked")) == 1


@pytest.mark.clause("Driver §4.9-7", "Driver §4.9-14")
def test_after_the_producers_end_a_consumer_waits_for_a_higher_epoch_of_its_stream(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened
) -> None:
    with pool.consumer(STREAM) as view:
        await_mapped(view, driver)
        driver.revoke_producer()
        wait_until(lambda: polled_epoch(view) == 0, 10, "the mapping to be let go")
        driver.announce()
        following = driver.new_regions()
        driver.announce(following, stream_id=STREAM + 1)
        driver.announce(following, epoch=driver.regions.epoch - 1)
        driver.await_another(ShmLeaseKeepalive, 2)
        assert polled_epoch(view) == 0
        driver.regions = following
        driver.announce()
        await_mapped(view, driver)
        assert view.lease_id == driver.lease_ids[0], "its own lease stands"


@pytest.mark.clause("Driver §4.9-7")
def test_a_late_revocation_of_an_earlier_producer_changes_nothing(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened
) -> None:
    with pool.consumer(STREAM) as view:
        earlier = monotonic_ns()
        driver.regions = driver.new_regions()
        driver.announce()
        await_mapped(view, driver)
        driver.revoke(1, Role.PRODUCER, timestamp_ns=earlier)
        driver.await_another(ShmLeaseKeepalive, 2)
        assert polled_epoch(view) == driver.regions.epoch


@pytest.mark.clause("Driver §4.9-13")
def test_a_driver_that_keeps_the_epoch_is_followed_after_the_time_out(
    driver: ScriptedDriver, pool: tensorpool.Pool
) -> None:
    with pool.consumer(STREAM) as view:
        await_mapped(view, driver)
        driver.revoke_producer()
        wait_until(lambda: polled_epoch(view) == 0, 10, "the mapping to be let go")

        def resumes() -> bool:
            driver.announce()
            return polled_epoch(view) == driver.regions.epoch

        wait_until(resumes, 20, "the wait to end")


@pytest.mark.clause("Driver §4.13-7", "Driver §10-1")
@pytest.mark.parametrize("reason", [ShutdownReason.NORMAL, 77])
def test_a_shutdown_ends_every_lease_and_the_next_driver_gives_others(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened, reason: int
) -> None:
    with pool.consumer(STREAM) as view, pool.producer(STREAM) as camera:
        await_mapped(view, driver)
        driver.regions = driver.new_regions()
        driver.send(ShmDriverShutdown(monotonic_ns(), reason))
        wait_until(lambda: len(happened("driver_shutdown")) == 2, 10, "both leases to end")
        await_mapped(view, driver)
        assert camera.publish(FRAME, timeout_s=10) == 0
        assert camera.epoch == driver.regions.epoch
        assert {view.lease_id, camera.lease_id} == set(driver.lease_ids[2:])


@pytest.mark.clause("Driver §4.13-8", "Driver §10-1")
def test_a_producer_that_a_new_driver_does_not_know_stops_writing(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened
) -> None:
    """Neither shutdown nor revocation was heard: only the higher epoch tells."""
    with pool.producer(STREAM) as camera:
        camera.publish(FRAME)
        driver.regions = driver.new_regions()
        driver.announce()
        wait_until(lambda: happened("lease_lost"), 10, "the loss to be noticed")
        camera.publish(FRAME, timeout_s=10)
        assert (camera.epoch, camera.lease_id) == (driver.regions.epoch, driver.lease_ids[1])


@pytest.mark.clause("Driver §6-6")
def test_a_producer_whose_regions_were_made_anew_moves_with_its_lease(
    driver: ScriptedDriver, pool: tensorpool.Pool
) -> None:
    with pool.producer(STREAM) as camera:
        camera.publish(FRAME)
        driver.regions = driver.new_regions()
        driver.announce(producer_id=camera.client_id)

        def moves() -> bool:
            camera.publish(FRAME)
            return camera.epoch == driver.regions.epoch

        wait_until(moves, 10, "the producer to move")
        assert camera.lease_id == driver.lease_ids[0]


@pytest.mark.clause("Driver §4.9-9", "Wire §5-8")
def test_leases_of_one_pool_are_independent(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened
) -> None:
    with pool.producer(STREAM) as camera, pool.consumer(STREAM) as view:
        await_mapped(view, driver)
        driver.revoke(view.lease_id, Role.CONSUMER)
        wait_until(lambda: happened("reattached"), 10, "the consumer's next lease")
        assert camera.publish(FRAME) == 0
        assert camera.lease_id == driver.lease_ids[0]
        await_mapped(view, driver)


@pytest.mark.clause("Wire §10.1.1-4")
def test_an_unknown_clock_domain_is_not_believed(
    driver: ScriptedDriver, pool: tensorpool.Pool
) -> None:
    with pool.consumer(STREAM) as view:
        await_mapped(view, driver)
        former = driver.regions
        driver.announce(driver.new_regions(), announce_clock_domain=0)
        driver.announce(driver.new_regions(), announce_clock_domain=3)
        driver.await_another(ShmLeaseKeepalive, 2)
        assert polled_epoch(view) == former.epoch
