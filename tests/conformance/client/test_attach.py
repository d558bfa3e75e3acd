"""A client that gets answers no honest driver gives (Driver §4.2, §4.7a, §4.8, §B)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import tensorpool
from tensorpool import wire
from tensorpool.aeron.client import AeronClient
from tensorpool.client import lease_protocol
from tensorpool.client.audience import Audience
from tensorpool.client.events import EventLog
from tensorpool.client.lease import ClientLease
from tensorpool.client.lease_protocol import LeaseProtocol
from tensorpool.clock import monotonic_ns
from tensorpool.wire.control import ResponseCode, ShmPoolAnnounce
from tensorpool.wire.driver import (
    Role,
    ShmAttachRequest,
    ShmAttachResponse,
    ShmDetachRequest,
    ShmLeaseKeepalive,
)
from tests.integration.host import RunningHost
from tests.scripted_driver import STREAM, ScriptedDriver, silence
from tests.support import wait_until

type Happened = Callable[[str], list[str]]


def is_mapped(view: tensorpool.Consumer, driver: ScriptedDriver) -> bool:
    view.poll(lambda _: None)
    return view.epoch == driver.regions.epoch


def await_mapped(view: tensorpool.Consumer, driver: ScriptedDriver) -> None:
    wait_until(lambda: is_mapped(view, driver), 10, "the current regions to be mapped")


@pytest.mark.clause("Driver §4.2-15", "Driver §4.2-18", "Driver §4.7a-1", "Wire §10.1-2")
@pytest.mark.parametrize(
    "changes",
    [
        {"lease_id": None},
        {"stream_id": None},
        {"stream_id": STREAM + 1},
        {"epoch": None},
        {"layout_version": None},
        {"layout_version": 2},
        {"header_nslots": None},
        {"header_nslots": 7},
        {"header_slot_bytes": None},
        {"header_slot_bytes": 128},
        {"payload_pools": ()},
        {"lease_expiry_timestamp_ns": 1},
    ],
    ids=str,
)
def test_a_broken_ok_is_dropped_and_tried_again(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened, changes: dict[str, Any]
) -> None:
    driver.answer_with(**changes)
    with pool.consumer(STREAM) as view:
        assert view.lease_id == driver.lease_ids[1]
        assert len(happened("protocol_error")) == 1
        await_mapped(view, driver)
    assert len(driver.of(ShmAttachRequest)) == 2


@pytest.mark.clause("Driver §4.2-17")
@pytest.mark.parametrize("uri", ["", "   "])
@pytest.mark.parametrize("where", ["header", "pool"])
def test_a_missing_uri_is_a_protocol_error(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened, where: str, uri: str
) -> None:
    first, *others = driver.regions.payload_pools
    if where == "header":
        driver.answer_with(header_region_uri=uri)
    else:
        driver.answer_with(payload_pools=(first._replace(region_uri=uri), *others))
    with pool.consumer(STREAM) as view:
        assert view.lease_id == driver.lease_ids[1]
        assert "URI is missing" in happened("protocol_error")[0]


@pytest.mark.clause("Driver §4.2-20")
def test_a_pool_of_another_slot_count_is_a_protocol_error(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened
) -> None:
    first, *others = driver.regions.payload_pools
    driver.answer_with(payload_pools=(first, others[0]._replace(pool_nslots=16)))
    with pool.consumer(STREAM) as view:
        assert view.lease_id == driver.lease_ids[1]
        assert "slot count" in happened("protocol_error")[0]


@pytest.mark.clause("Driver §4.4a-1", "Driver §4.4a-4")
@pytest.mark.parametrize(
    ("offset", "value"),
    [(6, 2), (4, 902), (2, 99), (0, 60)],
    ids=["version", "schema", "template", "block"],
)
def test_a_response_of_another_schema_is_rejected(
    driver: ScriptedDriver, pool: tensorpool.Pool, offset: int, value: int
) -> None:
    """Well formed but for one field of its message header: it must not be acted upon."""

    def answer(request: ShmAttachRequest) -> list[Any]:
        data = bytearray(wire.encode(driver.ok(request)))
        data[offset : offset + 2] = value.to_bytes(2, "little")
        good = driver.ok(request)
        return [bytes(data), good]

    driver.answers.append(answer)
    with pool.consumer(STREAM) as view:
        assert view.lease_id == driver.lease_ids[1]
    assert len(driver.of(ShmAttachRequest)) == 1


@pytest.mark.clause("Driver §4.7a-1")
@pytest.mark.parametrize("length", [9, 60, -1])
def test_a_truncated_response_is_no_response(
    driver: ScriptedDriver, pool: tensorpool.Pool, length: int
) -> None:
    def answer(request: ShmAttachRequest) -> list[Any]:
        return [wire.encode(driver.ok(request))[:length], driver.ok(request)]

    driver.answers.append(answer)
    with pool.consumer(STREAM) as view:
        assert view.lease_id == driver.lease_ids[1]


@pytest.mark.clause("Driver §4.7a-1")
def test_an_unknown_response_code_is_no_success(
    driver: ScriptedDriver, pool: tensorpool.Pool
) -> None:
    driver.answer_with(code=99)
    with pytest.raises(tensorpool.AttachRejected) as caught:
        pool.consumer(STREAM)
    assert caught.value.code == 99


@pytest.mark.clause("Driver §4.2-4", "Driver §4.8-5", "Driver §B.1-3")
def test_an_attach_without_answer_is_repeated_one_at_a_time(
    driver: ScriptedDriver, pool: tensorpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_protocol, "_ATTACH_TIMEOUT_NS", 50_000_000)
    driver.answers.extend([silence] * 3)
    with pool.producer(STREAM) as camera:
        assert camera.lease_id == driver.lease_ids[0]
    requests = driver.of(ShmAttachRequest)
    assert len(requests) == 4
    assert len({request.correlation_id for request in requests}) == 4
    assert len({(request.client_id, request.role) for request in requests}) == 1


@pytest.mark.clause("Driver §4.2-4", "Driver §B.1-4")
def test_a_late_grant_is_as_good(
    driver: ScriptedDriver, pool: tensorpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver may need longer for the regions than a client waits before it asks again."""
    monkeypatch.setattr(lease_protocol, "_ATTACH_TIMEOUT_NS", 50_000_000)

    def refuse_and_grant_the_first(request: ShmAttachRequest) -> list[Any]:
        refusal = ShmAttachResponse(
            request.correlation_id,
            ResponseCode.REJECTED,
            error_message="client_id already attached",
        )
        return [refusal, driver.ok(driver.of(ShmAttachRequest)[0])]

    driver.answers.extend([silence, refuse_and_grant_the_first])
    with pool.producer(STREAM) as camera:
        driver.await_another(ShmLeaseKeepalive, 2)
        assert [camera.lease_id] == driver.lease_ids
        assert len(driver.of(ShmAttachRequest)) == 2


@pytest.mark.clause("Driver §4.9-1")
def test_a_grant_that_comes_too_late_is_given_back(
    driver: ScriptedDriver, pool: tensorpool.Pool
) -> None:
    """Until it expired, no other producer could attach."""
    driver.answers.append(silence)
    with pytest.raises(tensorpool.NoDriver):
        pool.producer(STREAM, client_id=77, timeout_s=0.2)
    request = driver.of(ShmAttachRequest)[-1]
    driver.send(driver.ok(request))
    (detach,) = driver.await_count(ShmDetachRequest, 1)
    assert (detach.lease_id, detach.stream_id) == (driver.lease_ids[-1], STREAM)
    assert (detach.client_id, detach.role) == (77, Role.PRODUCER)
    driver.send(driver.ok(request))
    with pool.consumer(STREAM):
        assert len(driver.of(ShmDetachRequest)) == 1, "a duplicate is no grant"


@pytest.mark.clause("Driver §4.2-4", "Driver §B.2-2")
def test_back_off_doubles_with_jitter_up_to_a_bound(host: RunningHost) -> None:
    waits: list[list[float]] = []
    for _ in range(20):
        protocol = LeaseProtocol(host.settings.policies, EventLog(None))
        talk = Audience(host.settings, lambda: 0)
        lease = ClientLease(STREAM, Role.PRODUCER, 5, has_fixed_id=True, publish_mode=2, talk=talk)
        waits.append([])
        for _ in range(12):
            before = monotonic_ns()
            with lease.changed:
                protocol.retry_later(lease, tensorpool.NoDriver("x"))
            waits[-1].append(lease.next_action_ns - before)
    assert len({tuple(wait) for wait in waits}) == 20, "clients that fail together do not retry so"
    medians = [sorted(column)[10] for column in zip(*waits, strict=True)]
    assert all(later > 1.2 * earlier for earlier, later in pairwise(medians[:5]))
    assert max(map(max, waits)) < 2 * 1.5 * 10**9


@pytest.mark.clause("Driver §B.2-2")
def test_a_drawn_id_that_is_taken_is_replaced(
    driver: ScriptedDriver, pool: tensorpool.Pool
) -> None:
    for _ in range(3):
        driver.reject_with(ResponseCode.REJECTED, "client_id already attached")
    with pool.consumer(STREAM) as view:
        ids = [request.client_id for request in driver.of(ShmAttachRequest)]
        assert len(set(ids)) == 4
        assert view.client_id == ids[-1]


@pytest.mark.clause("Driver §B.2-2")
def test_an_id_that_may_be_taken_by_ourselves_is_kept(
    driver: ScriptedDriver, pool: tensorpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request was granted, but its answer is lost: with another id, a producer would
    be refused for its own former lease."""
    monkeypatch.setattr(lease_protocol, "_ATTACH_TIMEOUT_NS", 50_000_000)
    driver.answers.append(silence)
    for _ in range(2):
        driver.reject_with(ResponseCode.REJECTED, "client_id already attached")
    with pool.producer(STREAM) as camera:
        ids = [request.client_id for request in driver.of(ShmAttachRequest)]
        assert ids == [camera.client_id] * 4


@pytest.mark.clause("Driver §B.2-1", "Driver §4.8-3")
def test_client_ids_are_drawn_and_never_zero(driver: ScriptedDriver, pool: tensorpool.Pool) -> None:
    for _ in range(4):
        pool.consumer(STREAM)
    pool.consumer(STREAM, client_id=0)
    ids = [request.client_id for request in driver.of(ShmAttachRequest)]
    assert len(set(ids)) == 5
    assert 0 not in ids


@pytest.mark.clause("Driver §4.2-13", "Wire §10.1-1")
def test_a_request_encodes_what_is_absent_as_null(
    host: RunningHost, driver: ScriptedDriver
) -> None:
    raw: list[bytes] = []
    with (
        AeronClient(host.settings.aeron_dir, "witness") as witness,
        tensorpool.connect(host.config) as pool,
    ):
        ear = witness.subscription(host.settings.driver.control)
        wait_until(lambda: ear.image_count >= 2, 10, "both sessions")
        pool.consumer(STREAM)

        def hears_it() -> bytes | None:
            ear.poll(lambda buffer, _: raw.append(bytes(buffer)), 10)
            return next(
                (data for data in raw if isinstance(wire.decode(data), ShmAttachRequest)), None
            )

        data = wait_until(hears_it, 10, "the request")
    assert data is not None
    request = wire.decode(data)
    assert request.desired_node_id is None
    assert data[-4:] == b"\xff" * 4
    absent = wire.encode(request._replace(publish_mode=None))
    assert absent[8 + 8 + 4 + 4 + 1 + 4] == 255


@pytest.mark.clause("Driver §B.1-1", "Driver §B.1-2")
def test_correlation_ids_start_at_random(host: RunningHost, driver: ScriptedDriver) -> None:
    for _ in range(3):
        with tensorpool.connect(host.config) as pool:
            pool.consumer(STREAM)
    ids = sorted(request.correlation_id for request in driver.of(ShmAttachRequest))
    assert all(later - earlier > 2**32 for earlier, later in pairwise(ids))


@pytest.mark.clause("Driver §B.1-1", "Driver §B.1-4", "Driver §B.1-5")
def test_only_the_first_ok_to_this_request_counts(
    driver: ScriptedDriver, pool: tensorpool.Pool
) -> None:
    def answer(request: ShmAttachRequest) -> list[Any]:
        stale = driver.ok(request, correlation_id=request.correlation_id - 1)
        accepted, duplicate = driver.ok(request), driver.ok(request)
        late = ShmAttachResponse(request.correlation_id, ResponseCode.REJECTED, error_message="no")
        return [stale, accepted, duplicate, late]

    driver.answers.append(answer)
    with pool.consumer(STREAM) as view:
        driver.await_another(ShmLeaseKeepalive, 2)
        assert view.lease_id == driver.lease_ids[1]
    assert {m.lease_id for m in driver.of(ShmLeaseKeepalive)} == {driver.lease_ids[1]}
    assert len(driver.of(ShmAttachRequest)) == 1


@pytest.mark.clause("Driver §3-2", "Driver §3-3", "Wire §15.21a.1-1", "Wire §15.21a.4-2")
@pytest.mark.clause("Driver §2.2-1", "Driver §2.3-1", "Driver §8-1")
def test_clients_map_what_they_are_told_and_make_nothing(
    host: RunningHost, driver: ScriptedDriver, pool: tensorpool.Pool
) -> None:
    """The regions' names mean nothing, so a client that derived or scanned would find none."""
    base = host.settings.shm.base_dir

    def everything() -> list[tuple[str, int, int]]:
        return sorted(
            (str(entry), entry.stat().st_ino, entry.stat().st_size)
            for entry in driver.directory.rglob("*")
        )

    before = everything()
    with pool.producer(STREAM) as camera, pool.consumer(STREAM) as view:
        camera.publish(np.zeros(4, np.uint8))
        wait_until(lambda: view.next(0.1), 10, "the frame")
        with open("/proc/self/maps", encoding="utf-8") as maps:
            modes = re.findall(
                rf"^\S+ (\S+) .* {re.escape(str(driver.directory))}", maps.read(), re.MULTILINE
            )
        assert set(modes) == {"rw-s", "r--s"}
    assert everything() == before
    assert os.listdir(base) == [driver.directory.name]
    assert not driver.of(ShmPoolAnnounce)


@pytest.mark.clause("Driver §4.8-2")
def test_the_lease_id_of_an_earlier_driver_means_nothing(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened
) -> None:
    """The next driver gives another client the number that ours had before."""
    with pool.consumer(STREAM) as view:
        former = view.lease_id
        driver.revoke(former, Role.CONSUMER)
        wait_until(lambda: happened("reattached"), 10, "another lease")
        assert view.lease_id != former
        driver.revoke(former, Role.CONSUMER)
        driver.await_another(ShmLeaseKeepalive, 2)
        assert len(happened("lease_revoked")) == 1


@pytest.mark.clause("Driver §4.7-1")
def test_a_detached_lease_is_kept_alive_no_more(
    driver: ScriptedDriver, pool: tensorpool.Pool
) -> None:
    with pool.consumer(STREAM):
        pass
    driver.await_count(ShmDetachRequest, 1)
    with pool.consumer(STREAM) as view:
        driver.await_another(ShmLeaseKeepalive, 2)
        after = driver.heard[driver.heard.index(driver.of(ShmDetachRequest)[0]) :]
        kept = {m.lease_id for m in after if isinstance(m, ShmLeaseKeepalive)}
        assert kept == {view.lease_id}
