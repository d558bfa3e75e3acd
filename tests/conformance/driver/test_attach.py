"""Attaching, on the wire, against a running driver (Driver §4.2, §4.3, §4.6, §5, §11)."""

from __future__ import annotations

import os
import stat
from typing import Any

import pytest

from tensorpool import wire
from tensorpool.shm.paths import canonical_bases
from tensorpool.shm.region import map_region
from tensorpool.shm.superblock import header_ring_layout, payload_pool_layout
from tensorpool.shm.uri import parse_region_uri
from tensorpool.wire.control import ClockDomain, ResponseCode
from tensorpool.wire.driver import (
    PublishMode,
    Role,
    ShmAttachRequest,
    ShmAttachResponse,
    ShmLeaseRevoked,
)
from tests.wire_client import WireClient

STATIC = 10000
DYNAMIC = 20005
UNKNOWN = 20777


@pytest.mark.clause("Driver §4.2-1", "Driver §4.2-6", "Driver §4.2-7", "Driver §4.2-11")
@pytest.mark.clause("Driver §4.2-16", "Driver §4.2-19", "Driver §4.2-23", "Driver §3-4")
@pytest.mark.clause("Driver §3-1", "Driver §4.6-1", "Wire §15.5-1", "Wire §7.1-3", "Wire §7.1-4")
@pytest.mark.config_key("streams.stream_id", "streams.profile")
def test_ok_has_every_required_field_and_regions_that_map(client: WireClient) -> None:
    answer = client.attach(STATIC, Role.CONSUMER, 11)
    assert answer.code == ResponseCode.OK
    assert None not in (answer.lease_id, answer.stream_id, answer.epoch, answer.layout_version)
    assert (answer.stream_id, answer.header_slot_bytes) == (STATIC, 256)
    assert answer.lease_expiry_timestamp_ns is not None
    assert answer.node_id is not None
    assert answer.error_message == ""
    assert answer.payload_pools
    bases = canonical_bases(client.settings.shm.allowed_base_dirs)
    assert answer.epoch is not None
    assert answer.header_nslots is not None
    ring = header_ring_layout(STATIC, answer.epoch, answer.header_nslots, 256)
    map_region(answer.header_region_uri, bases, ring, writable=False).close()
    for pool in answer.payload_pools:
        assert pool.pool_nslots == answer.header_nslots
        expected = payload_pool_layout(
            STATIC, answer.epoch, pool.pool_nslots, pool.pool_id, pool.stride_bytes
        )
        map_region(pool.region_uri, bases, expected, writable=False).close()


@pytest.mark.clause("Driver §4.2-8", "Driver §4.2-9", "Driver §4.2-12", "Driver §4.2-25")
@pytest.mark.clause("Driver §4.6-3")
def test_failure_has_null_sentinels_code_and_diagnostic(client: WireClient) -> None:
    answer = client.attach(STATIC, Role.CONSUMER, 0)
    assert answer.code == ResponseCode.INVALID_PARAMS
    assert answer[2:10] == (None,) * 8
    assert answer.payload_pools == ()
    assert answer.header_region_uri == ""
    assert 0 < len(answer.error_message.encode()) <= 1024


@pytest.mark.clause("Driver §4.2-2", "Driver §4.2-7")
def test_desired_node_id(client: WireClient) -> None:
    first = client.attach(STATIC, Role.CONSUMER, 11, desired_node_id=77)
    assert first.node_id == 77
    second = client.attach(STATIC, Role.CONSUMER, 12, desired_node_id=77)
    assert (second.code, second.node_id) == (ResponseCode.REJECTED, None)


@pytest.mark.clause("Driver §4.2-3", "Driver §4.3-3", "Driver §4.2-13")
@pytest.mark.parametrize("mode", [None, PublishMode.REQUIRE_EXISTING])
def test_without_leave_to_create_an_unknown_stream_is_refused(
    client: WireClient, mode: int | None
) -> None:
    answer = client.attach(UNKNOWN, Role.CONSUMER, 11, publish_mode=mode)
    assert answer.code == ResponseCode.REJECTED
    assert client.attach(STATIC, Role.CONSUMER, 11, publish_mode=mode).code == ResponseCode.OK


@pytest.mark.clause("Driver §4.3-1", "Driver §4.3-2")
def test_layout_version(client: WireClient) -> None:
    wrong = client.attach(STATIC, Role.CONSUMER, 11, expected_layout_version=7)
    assert wrong.code == ResponseCode.REJECTED
    right = client.attach(STATIC, Role.CONSUMER, 11, expected_layout_version=1)
    assert (right.code, right.layout_version) == (ResponseCode.OK, 1)


@pytest.mark.clause("Driver §4.3-4", "Driver §4.3-5")
def test_hugepages_on_tmpfs_are_rejected(client: WireClient) -> None:
    answer = client.attach(STATIC, Role.CONSUMER, 11, require_hugepages=2)
    assert answer.code == ResponseCode.REJECTED
    assert "hugetlbfs" in answer.error_message
    assert client.attach(STATIC, Role.CONSUMER, 11, require_hugepages=1).code == ResponseCode.OK


@pytest.mark.clause("Driver §4.6-2", "Driver §4.6-3", "Driver §4.6-4")
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"publish_mode": 7}, ResponseCode.UNSUPPORTED),
        ({"role": 9}, ResponseCode.INVALID_PARAMS),
        ({"require_hugepages": 9}, ResponseCode.INVALID_PARAMS),
        ({"stream_id": 5}, ResponseCode.REJECTED),
    ],
)
def test_response_codes(client: WireClient, fields: dict[str, Any], code: ResponseCode) -> None:
    assert client.attach(STATIC, Role.CONSUMER, 11, **fields).code == code


@pytest.mark.clause("Driver §4.4a-3", "Driver §4.6-2")
def test_newer_schema_version_is_unsupported(client: WireClient) -> None:
    data = bytearray(wire.encode(ShmAttachRequest(4711, STATIC, 11, Role.CONSUMER)))
    data[6:8] = (2).to_bytes(2, "little")
    client.send_bytes(bytes(data))
    answer = client.expect(ShmAttachResponse, lambda m: m.correlation_id == 4711)
    assert answer.code == ResponseCode.UNSUPPORTED


@pytest.mark.clause("Driver §4.8-4", "Driver §4.8-1")
def test_client_id_is_unique_among_active_leases(client: WireClient) -> None:
    first = client.attach(STATIC, Role.CONSUMER, 11)
    again = client.attach(STATIC, Role.CONSUMER, 11)
    assert again.code == ResponseCode.REJECTED
    assert again.error_message == "client_id already attached"
    assert first.lease_id is not None
    client.detach(first.lease_id, STATIC, 11, Role.CONSUMER)
    third = client.attach(STATIC, Role.CONSUMER, 11)
    assert third.code == ResponseCode.OK
    assert third.lease_id != first.lease_id, "lease ids are never reused"


@pytest.mark.clause("Driver §5-1")
def test_second_producer_is_rejected_consumers_are_not(client: WireClient) -> None:
    assert client.attach(STATIC, Role.PRODUCER, 11).code == ResponseCode.OK
    assert client.attach(STATIC, Role.PRODUCER, 12).code == ResponseCode.REJECTED
    for client_id in range(13, 20):
        assert client.attach(STATIC, Role.CONSUMER, client_id).code == ResponseCode.OK


@pytest.mark.clause("Driver §11-1")
@pytest.mark.config_key("driver.stream_id_range", "policies.allow_dynamic_streams")
def test_dynamic_streams_only_inside_the_range(client: WireClient) -> None:
    inside = client.attach(DYNAMIC, Role.PRODUCER, 11)
    assert (inside.code, inside.stream_id) == (ResponseCode.OK, DYNAMIC)
    assert client.attach(40000, Role.PRODUCER, 12).code == ResponseCode.REJECTED
    ids = client.settings.driver.stream_id_range
    assert ids is not None
    chosen = client.attach(0, Role.PRODUCER, 13)
    assert chosen.stream_id in ids
    assert chosen.stream_id != DYNAMIC


@pytest.mark.clause("Wire §15.21a.3-1", "Wire §15.21a.3-4", "Wire §15.21a.4-1", "Wire §15.10-1")
@pytest.mark.clause("Driver §15-1")
@pytest.mark.config_key("shm.base_dir", "shm.permissions_mode")
def test_canonical_layout_and_exact_modes(client: WireClient) -> None:
    answer = client.attach(STATIC, Role.PRODUCER, 11)
    shm = client.settings.shm
    directory = f"{shm.namespace_dir}/{STATIC}/{answer.epoch}"
    assert parse_region_uri(answer.header_region_uri).path == f"{directory}/header.ring"
    for pool in answer.payload_pools:
        assert parse_region_uri(pool.region_uri).path == f"{directory}/{pool.pool_id}.pool"
    for name in os.listdir(directory):
        mode = os.stat(f"{directory}/{name}").st_mode
        assert stat.S_ISREG(mode)
        assert stat.S_IMODE(mode) == shm.permissions_mode
    assert os.stat(directory).st_mode & 0o022 == 0


@pytest.mark.clause("Wire §10.1.1-5", "Driver §8-2", "Driver §6-1")
def test_announce_agrees_with_the_attach_and_names_the_producer(client: WireClient) -> None:
    before = client.announce(STATIC)
    assert before.producer_id == 0
    answer = client.attach(STATIC, Role.PRODUCER, 11)
    announce = client.announce(STATIC, above=before.epoch)
    assert announce.epoch == answer.epoch
    assert announce.producer_id == 11
    assert announce.announce_clock_domain == ClockDomain.MONOTONIC
    assert announce.header_region_uri == answer.header_region_uri
    assert announce.payload_pools == answer.payload_pools
    later = client.announce(STATIC, above=before.epoch)
    assert later.announce_timestamp_ns > announce.announce_timestamp_ns


@pytest.mark.clause("Driver §4.8-6")
def test_the_newest_request_of_a_waiting_client_is_answered(client: WireClient) -> None:
    """It asks again with a correlation id of its own (Driver §B.1) and awaits that answer."""
    request = ShmAttachRequest(98, STATIC, 11, Role.PRODUCER, publish_mode=2)
    client.send(request)
    client.send(request._replace(correlation_id=99))
    answer = client.expect(ShmAttachResponse, lambda m: m.correlation_id in {98, 99})
    assert (answer.correlation_id, answer.code) == (99, ResponseCode.OK)
    assert client.hears_nothing(ShmAttachResponse, lambda m: m.correlation_id == 98)
    assert client.hears_nothing(ShmLeaseRevoked, lambda m: m.lease_id == answer.lease_id)


@pytest.mark.clause("Driver §4.8-6", "Driver §4.8-4")
def test_another_request_of_a_waiting_client_is_refused(client: WireClient) -> None:
    """It asks for something else: what was asked for first would be no answer to it."""
    request = ShmAttachRequest(98, STATIC, 11, Role.PRODUCER, publish_mode=2)
    client.send(request)
    client.send(request._replace(correlation_id=99, desired_node_id=7))
    refusal = client.expect(ShmAttachResponse, lambda m: m.correlation_id == 99)
    assert (refusal.code, refusal.error_message) == (
        ResponseCode.REJECTED,
        "client_id already attached",
    )
    answer = client.expect(ShmAttachResponse, lambda m: m.correlation_id == 98)
    assert answer.code == ResponseCode.OK


@pytest.mark.clause("Driver §4.8-6")
def test_a_repeated_request_in_flight_gets_one_answer(client: WireClient) -> None:
    request = ShmAttachRequest(99, STATIC, 11, Role.PRODUCER, publish_mode=2)
    client.send(request)
    client.send(request)
    answer = client.expect(ShmAttachResponse, lambda m: m.correlation_id == 99)
    assert answer.code == ResponseCode.OK
    assert client.hears_nothing(
        ShmAttachResponse, lambda m: m.correlation_id == 99 and m.code == ResponseCode.OK
    )
    assert client.hears_nothing(ShmLeaseRevoked, lambda m: m.lease_id == answer.lease_id)
