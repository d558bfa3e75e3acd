"""How leases end, and what follows: revocation, epoch, announce (Driver §4.4 to §7)."""

from __future__ import annotations

import pytest

from tensorpool.wire.control import ResponseCode, ShmPoolAnnounce
from tensorpool.wire.driver import LeaseRevokeReason, Role, ShmAttachResponse, ShmLeaseRevoked
from tests.wire_client import WireClient

STATIC = 10000


def lease_of(answer: ShmAttachResponse) -> int:
    assert answer.code == ResponseCode.OK, answer.error_message
    assert answer.lease_id is not None
    return answer.lease_id


def revocation(client: WireClient, lease_id: int) -> ShmLeaseRevoked:
    found = client.expect(ShmLeaseRevoked, lambda m: m.lease_id == lease_id)
    assert isinstance(found, ShmLeaseRevoked)
    return found


def _ends(message: object, lease: ShmAttachResponse) -> bool:
    return isinstance(message, ShmLeaseRevoked) and message.lease_id == lease.lease_id


@pytest.mark.clause("Driver §6-1", "Driver §6-4", "Driver §4.9-3", "Driver §8-2")
def test_every_producer_attach_and_detach_gives_a_higher_epoch(client: WireClient) -> None:
    epoch = client.announce(STATIC).epoch
    for client_id in (11, 12, 13):
        answer = client.attach(STATIC, Role.PRODUCER, client_id)
        assert answer.epoch is not None
        assert answer.epoch > epoch
        client.detach(lease_of(answer), STATIC, client_id, Role.PRODUCER)
        vacant = client.announce(STATIC, above=answer.epoch)
        assert vacant.producer_id == 0
        epoch = vacant.epoch


@pytest.mark.clause("Driver §6-1")
def test_consumers_come_and_go_without_a_new_epoch(client: WireClient) -> None:
    first = client.attach(STATIC, Role.CONSUMER, 11)
    client.detach(lease_of(first), STATIC, 11, Role.CONSUMER)
    second = client.attach(STATIC, Role.CONSUMER, 12)
    assert second.epoch is not None
    announce = client.announce(STATIC, above=second.epoch - 1)
    assert second.epoch == first.epoch == announce.epoch


@pytest.mark.clause("Driver §4.9-1", "Driver §4.9-2", "Driver §4.9-5", "Driver §4.9-15")
@pytest.mark.parametrize("role", list(Role))
def test_detach_is_answered_and_revoked_for_all_to_hear(client: WireClient, role: Role) -> None:
    lease_id = lease_of(client.attach(STATIC, role, 11))
    assert client.detach(lease_id, STATIC, 11, role).code == ResponseCode.OK
    revoked = revocation(client, lease_id)
    assert revoked.reason == LeaseRevokeReason.DETACHED
    assert (revoked.stream_id, revoked.client_id, revoked.role) == (STATIC, 11, role)
    again = client.detach(lease_id, STATIC, 11, role)
    assert again.code == ResponseCode.REJECTED
    assert client.hears_nothing(ShmLeaseRevoked, lambda m: m.lease_id == lease_id)


@pytest.mark.clause("Driver §4.9-1", "Driver §4.9-2")
@pytest.mark.parametrize(
    "wrong", [{"stream_id": 1}, {"client_id": 1}, {"role": Role.PRODUCER}, {"lease_id": 1}]
)
def test_detach_that_does_not_match_changes_nothing(
    client: WireClient, wrong: dict[str, int]
) -> None:
    lease_id = lease_of(client.attach(STATIC, Role.CONSUMER, 11))
    fields = {"lease_id": lease_id, "stream_id": STATIC, "client_id": 11, "role": Role.CONSUMER}
    answer = client.detach(**(fields | wrong))  # type: ignore[arg-type]
    assert answer.code == ResponseCode.REJECTED
    assert client.hears_nothing(ShmLeaseRevoked, lambda m: m.lease_id == lease_id)
    assert client.detach(**fields).code == ResponseCode.OK  # type: ignore[arg-type]


@pytest.mark.clause("Driver §4.9-12")
def test_revocation_is_heard_before_the_new_epoch(client: WireClient) -> None:
    """Two streams of Aeron have no common order, so order is judged by the driver's clock."""
    answer = client.attach(STATIC, Role.PRODUCER, 11)
    assert answer.epoch is not None
    client.detach(lease_of(answer), STATIC, 11, Role.PRODUCER)
    revoked = revocation(client, lease_of(answer))
    announce = client.announce(STATIC, above=answer.epoch)
    assert revoked.timestamp_ns < announce.announce_timestamp_ns


@pytest.mark.clause("Driver §4.4-1", "Driver §4.4-4", "Driver §4.1-1", "Driver §6-3")
@pytest.mark.clause("Driver §4.7a-2", "Driver §4.7a-3", "Driver §4.9-5")
@pytest.mark.config_key("policies.lease_keepalive_interval_ms")
@pytest.mark.config_key("policies.lease_expiry_grace_intervals")
@pytest.mark.parametrize("role", list(Role))
def test_silence_ends_a_lease(client: WireClient, role: Role) -> None:
    answer = client.attach(STATIC, role, 11)
    revoked = revocation(client, lease_of(answer))
    assert revoked.reason == LeaseRevokeReason.EXPIRED
    assert answer.lease_expiry_timestamp_ns is not None
    assert revoked.timestamp_ns >= answer.lease_expiry_timestamp_ns
    if role is Role.PRODUCER:
        assert answer.epoch is not None
        assert client.announce(STATIC, above=answer.epoch).producer_id == 0


@pytest.mark.clause("Driver §4.4-3")
def test_keepalives_extend_and_only_matching_ones_do(client: WireClient) -> None:
    kept = client.attach(STATIC, Role.CONSUMER, 11)
    mocked = client.attach(STATIC, Role.CONSUMER, 12)
    assert mocked.lease_expiry_timestamp_ns is not None
    ended: ShmLeaseRevoked | None = None
    while ended is None:
        client.keep_alive(lease_of(kept), STATIC, 11, Role.CONSUMER)
        client.keep_alive(lease_of(mocked), STATIC, 11, Role.CONSUMER)
        client.keep_alive(lease_of(mocked), STATIC + 1, 12, Role.CONSUMER)
        client.keep_alive(lease_of(mocked), STATIC, 12, Role.PRODUCER)
        client.round_trip()
        ended = next((m for m in client.heard if _ends(m, kept) or _ends(m, mocked)), None)
    assert ended.lease_id == mocked.lease_id
    assert client.detach(lease_of(kept), STATIC, 11, Role.CONSUMER).code == ResponseCode.OK


@pytest.mark.clause("Driver §7-2", "Driver §7-1")
def test_the_epoch_grows_before_the_next_producer_is_granted(client: WireClient) -> None:
    first = client.attach(STATIC, Role.PRODUCER, 11)
    revocation(client, lease_of(first))
    second = client.attach(STATIC, Role.PRODUCER, 12)
    assert first.epoch is not None
    assert second.epoch is not None
    assert second.epoch > first.epoch


@pytest.mark.clause("Driver §7-1", "Driver §6-2", "Driver §4.8-4")
def test_a_killed_client_with_a_fixed_id_comes_back_soon(client: WireClient) -> None:
    """Design §4.12: its session is gone or it missed a keepalive, so its successor is let in."""
    with WireClient(client.settings) as victim:
        former = lease_of(victim.attach(STATIC, Role.PRODUCER, 11))
    answer = client.attach(STATIC, Role.PRODUCER, 11)
    while answer.code != ResponseCode.OK:
        assert answer.error_message == "client_id already attached"
        answer = client.attach(STATIC, Role.PRODUCER, 11)
    revoked = revocation(client, former)
    interval = client.settings.policies.lease_keepalive_interval_ns
    assert revoked.reason in {LeaseRevokeReason.REVOKED, LeaseRevokeReason.EXPIRED}
    assert interval > 0


@pytest.mark.clause("Driver §4.4-3")
def test_a_keepalive_from_another_session_adopts_the_lease(client: WireClient) -> None:
    with WireClient(client.settings) as first:
        lease_id = lease_of(first.attach(STATIC, Role.CONSUMER, 11))
    ttl_ns = client.settings.policies.lease_ttl_ns
    start = client.announce(STATIC).announce_timestamp_ns
    while client.announce(STATIC).announce_timestamp_ns < start + 2 * ttl_ns:
        client.keep_alive(lease_id, STATIC, 11, Role.CONSUMER)
    assert not any(isinstance(m, ShmLeaseRevoked) and m.lease_id == lease_id for m in client.heard)
    assert client.detach(lease_id, STATIC, 11, Role.CONSUMER).code == ResponseCode.OK


@pytest.mark.clause("Wire §10.1.1-5")
@pytest.mark.config_key("policies.announce_period_ms")
def test_announces_come_at_the_cadence_and_stay_fresh(client: WireClient) -> None:
    period_ns = client.settings.policies.announce_period_ns
    times = [client.announce(STATIC).announce_timestamp_ns for _ in range(7)]
    assert times == sorted(set(times))
    # Over six periods, half of which a busy machine may hold the first of them back.
    assert times[-1] - times[0] > 3 * period_ns
    assert not any(isinstance(m, ShmPoolAnnounce) and m.stream_id == 0 for m in client.heard)
