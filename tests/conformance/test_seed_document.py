"""The seed document's section "Attach / Lease / Epoch Behavior", a case a sentence.

Its keys of the configuration are named by `config_key` marks all over the tests; that each
is named is checked by tests/unit/conformance.
"""

from __future__ import annotations

import os

import pytest

from tensorpool.shm.uri import parse_region_uri
from tensorpool.wire.control import ResponseCode, ShmPoolAnnounce
from tensorpool.wire.driver import LeaseRevokeReason, Role
from tests.conformance.driver.test_lease_ends import lease_of, revocation
from tests.support import wait_until
from tests.wire_client import WireClient

STATIC = 10000
DYNAMIC = 20020


@pytest.mark.clause("Driver §4.6-1", "Driver §4.6-4", "Driver §4.3-1", "Driver §5-1")
def test_attach_is_accepted_or_rejected_by_policy_layout_version_and_exclusivity(
    client: WireClient,
) -> None:
    assert client.attach(STATIC, Role.PRODUCER, 11).code == ResponseCode.OK
    outside = client.attach(50000, Role.PRODUCER, 12)
    assert "driver.stream_id_range" in outside.error_message
    layout = client.attach(STATIC, Role.CONSUMER, 12, expected_layout_version=2)
    assert "layout version" in layout.error_message
    exclusive = client.attach(STATIC, Role.PRODUCER, 12)
    assert "has a producer already" in exclusive.error_message
    assert {a.code for a in (outside, layout, exclusive)} == {ResponseCode.REJECTED}


@pytest.mark.clause("Driver §5-1")
def test_producer_leases_are_exclusive_per_stream(client: WireClient) -> None:
    assert client.attach(STATIC, Role.PRODUCER, 11).code == ResponseCode.OK
    assert client.attach(DYNAMIC, Role.PRODUCER, 12).code == ResponseCode.OK
    for stream_id in (STATIC, DYNAMIC):
        assert client.attach(stream_id, Role.PRODUCER, 13).code == ResponseCode.REJECTED


@pytest.mark.clause("Driver §4.2-3", "Driver §4.3-3")
def test_regions_are_created_on_demand_when_the_publish_mode_says_so(client: WireClient) -> None:
    stream_id = DYNAMIC + 1
    assert client.attach(stream_id, Role.CONSUMER, 11, publish_mode=1).code != ResponseCode.OK
    answer = client.attach(stream_id, Role.CONSUMER, 11, publish_mode=2)
    assert answer.code == ResponseCode.OK
    for uri in (answer.header_region_uri, *(pool.region_uri for pool in answer.payload_pools)):
        assert os.path.isfile(parse_region_uri(uri).path)


@pytest.mark.clause("Driver §6-1", "Driver §6-2", "Driver §6-3", "Driver §6-4", "Driver §4.9-3")
@pytest.mark.clause("Driver §4.7a-2")
@pytest.mark.parametrize("end", list(LeaseRevokeReason))
def test_producer_attach_detach_revoke_and_expiry_increment_the_epoch(
    client: WireClient, end: LeaseRevokeReason
) -> None:
    before = client.announce(STATIC).epoch
    with WireClient(client.settings) as producer:
        answer = producer.attach(STATIC, Role.PRODUCER, 11)
        assert answer.epoch is not None
        assert answer.epoch > before
        lease_id = lease_of(answer)
        if end is LeaseRevokeReason.DETACHED:
            client.detach(lease_id, STATIC, 11, Role.PRODUCER)
        elif end is LeaseRevokeReason.EXPIRED:
            assert revocation(client, lease_id).reason == end
    # Revoked: its client went away without a word, and its successor does not wait.
    if end is LeaseRevokeReason.REVOKED:
        wait_until(
            lambda: client.attach(STATIC, Role.PRODUCER, 11).code == ResponseCode.OK,
            20,
            "the successor",
        )
    assert client.announce(STATIC, above=answer.epoch).epoch > answer.epoch


@pytest.mark.clause("Driver §4.9-5", "Driver §4.9-12")
@pytest.mark.parametrize("end", ["detach", "expiry"])
def test_revocations_are_reported_before_the_epoch_is_announced(
    client: WireClient, end: str
) -> None:
    answer = client.attach(STATIC, Role.PRODUCER, 11)
    assert answer.epoch is not None
    if end == "detach":
        client.detach(lease_of(answer), STATIC, 11, Role.PRODUCER)
    revoked = revocation(client, lease_of(answer))
    announce = client.announce(STATIC, above=answer.epoch)
    assert revoked.timestamp_ns < announce.announce_timestamp_ns
    stale = [
        m
        for m in client.heard
        if isinstance(m, ShmPoolAnnounce)
        and m.epoch == answer.epoch
        and m.announce_timestamp_ns > revoked.timestamp_ns
    ]
    assert not stale, "the epoch of a producer that is gone is announced no more"


@pytest.mark.clause("Driver §4.2-7", "Driver §4.2-2")
@pytest.mark.config_key("policies.node_id_reuse_cooldown_ms")
def test_node_ids_are_assigned_unique_and_cool_down(client: WireClient) -> None:
    """The document says that the cooldown is not yet enforced; here it is."""
    answers = [client.attach(STATIC, Role.CONSUMER, client_id) for client_id in range(11, 16)]
    node_ids = {answer.node_id for answer in answers}
    assert len(node_ids - {None}) == 5
    for client_id, answer in enumerate(answers, 11):
        client.detach(lease_of(answer), STATIC, client_id, Role.CONSUMER)
    again = [client.attach(STATIC, Role.CONSUMER, client_id) for client_id in range(11, 16)]
    assert not node_ids & {answer.node_id for answer in again}
