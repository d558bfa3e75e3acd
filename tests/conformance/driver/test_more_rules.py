"""Identity, streams and liveness on the wire, against a running driver (Driver §3 to §6)."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

from tensorpool import wire
from tensorpool.shm.superblock import decode_superblock
from tensorpool.shm.uri import parse_region_uri
from tensorpool.wire.control import ResponseCode, ShmPoolAnnounce
from tensorpool.wire.driver import (
    Role,
    ShmAttachRequest,
    ShmAttachResponse,
    ShmDetachRequest,
    ShmDetachResponse,
    ShmLeaseRevoked,
)
from tests.conformance.driver.test_lease_ends import lease_of, revocation
from tests.support import wait_until
from tests.wire_client import WireClient

STATIC = 10000
DYNAMIC = 20010


@pytest.mark.clause("Driver §4.2-5", "Driver §4.9-4", "Driver §4.2-8")
@pytest.mark.parametrize("correlation_id", [0, -1, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("client_id", [11, 0], ids=["OK", "refused"])
def test_correlation_ids_come_back_unchanged(
    client: WireClient, correlation_id: int, client_id: int
) -> None:
    client.send(ShmAttachRequest(correlation_id, STATIC, client_id, Role.CONSUMER))
    client.expect(ShmAttachResponse, lambda m: m.correlation_id == correlation_id)
    client.send(ShmDetachRequest(correlation_id, 1, STATIC, client_id, Role.CONSUMER))
    client.expect(ShmDetachResponse, lambda m: m.correlation_id == correlation_id)


@pytest.mark.clause("Driver §4.2-7", "Driver §4.8-1")
def test_node_ids_and_lease_ids_are_unique(client: WireClient) -> None:
    answers = [client.attach(STATIC, Role.CONSUMER, client_id) for client_id in range(11, 31)]
    assert len({answer.node_id for answer in answers} - {None}) == 20
    assert len({lease_of(answer) for answer in answers}) == 20


@pytest.mark.clause("Driver §4.2-2")
@pytest.mark.config_key("policies.node_id_reuse_cooldown_ms")
def test_a_released_node_id_cools_down(client: WireClient) -> None:
    first = client.attach(STATIC, Role.CONSUMER, 11, desired_node_id=77)
    client.detach(lease_of(first), STATIC, 11, Role.CONSUMER)
    second = client.attach(STATIC, Role.CONSUMER, 12, desired_node_id=77)
    assert (second.code, second.node_id) == (ResponseCode.REJECTED, None)

    def is_given_again() -> bool:
        return client.attach(STATIC, Role.CONSUMER, 12, desired_node_id=77).node_id == 77

    wait_until(is_given_again, 20, "the cooldown to end")


@pytest.mark.clause("Driver §4.6-3")
@pytest.mark.parametrize("node_id", [0, 2**32 - 2])
def test_any_free_node_id_can_be_desired(client: WireClient, node_id: int) -> None:
    answer = client.attach(STATIC, Role.CONSUMER, 11, desired_node_id=node_id)
    assert (answer.code, answer.node_id) == (ResponseCode.OK, node_id)


@pytest.mark.clause("Driver §4.3-6", "Driver §4.3-2")
def test_what_is_unspecified_is_the_drivers_choice(client: WireClient) -> None:
    answer = client.attach(STATIC, Role.CONSUMER, 11, require_hugepages=0)
    assert (answer.code, answer.layout_version) == (ResponseCode.OK, 1)


@pytest.mark.clause("Driver §4.4a-2")
@pytest.mark.parametrize("kind", ["attach", "detach"])
def test_answers_carry_a_version_that_the_client_knows(client: WireClient, kind: str) -> None:
    """Version 0 and 1 have the same blocks here; the answer is never of a newer version."""
    data = bytearray(
        wire.encode(ShmAttachRequest(4712, STATIC, 11, Role.CONSUMER))
        if kind == "attach"
        else wire.encode(ShmDetachRequest(4712, 1, STATIC, 11, Role.CONSUMER))
    )
    data[6:8] = (1).to_bytes(2, "little")
    raw: list[bytes] = []
    ear = client.subscription(client.settings.driver.control)
    client.send_bytes(bytes(data))
    wanted = {ShmAttachResponse, ShmDetachResponse}

    def heard() -> list[bytes]:
        ear.poll(lambda buffer, _: raw.append(bytes(buffer)), 100)
        return [r for r in raw if type(wire.decode(r)) in wanted]

    answer = wait_until(heard, 10, "an answer")[0]
    assert wire.read_header(answer).version <= 1


@pytest.mark.clause("Driver §4.4a-3", "Driver §4.6-2")
def test_a_detach_of_a_newer_schema_is_unsupported_too(client: WireClient) -> None:
    data = bytearray(wire.encode(ShmDetachRequest(4713, 1, STATIC, 11, Role.CONSUMER)))
    data[6:8] = (2).to_bytes(2, "little")
    client.send_bytes(bytes(data))
    answer = client.expect(ShmDetachResponse, lambda m: m.correlation_id == 4713)
    assert answer.code == ResponseCode.UNSUPPORTED


@pytest.mark.clause("Driver §4.5-1")
def test_leases_travel_on_the_control_stream(client: WireClient) -> None:
    """Announces are on a stream of their own here: each stream carries its kind only."""
    driver = client.settings.driver
    assert driver.control != driver.announce
    kinds: dict[str, set[type]] = {"control": set(), "announce": set()}
    ears = {
        "control": client.subscription(driver.control),
        "announce": client.subscription(driver.announce),
    }
    answer = client.attach(STATIC, Role.PRODUCER, 11)
    client.detach(lease_of(answer), STATIC, 11, Role.PRODUCER)
    revocation(client, lease_of(answer))

    def hears_all() -> bool:
        for name, ear in ears.items():
            found = kinds[name]
            ear.poll(lambda buffer, _, found=found: found.add(type(wire.decode(buffer))), 100)
        return {ShmAttachResponse, ShmLeaseRevoked, ShmDetachResponse} <= kinds["control"] and bool(
            kinds["announce"]
        )

    wait_until(hears_all, 10, lambda: str(kinds))
    assert kinds["announce"] == {ShmPoolAnnounce}
    assert ShmPoolAnnounce not in kinds["control"]


@pytest.mark.clause("Driver §3-5", "Wire §7.1-4", "Driver §3-1")
def test_the_driver_keeps_the_activity_time_fresh(client: WireClient) -> None:
    answer = client.attach(STATIC, Role.CONSUMER, 11)
    path = parse_region_uri(answer.header_region_uri).path

    def activity() -> int:
        with open(path, "rb") as file:
            block = decode_superblock(file.read(64))
        assert block.pid != os.getpid()
        return block.activity_timestamp_ns

    first = activity()
    wait_until(lambda: activity() > first, 10, "a refresh")


@pytest.mark.clause("Driver §4.3-3", "Driver §4.2-3")
def test_a_stream_made_on_demand_exists_from_then_on(client: WireClient) -> None:
    made = client.attach(DYNAMIC, Role.PRODUCER, 11, publish_mode=2)
    assert made.code == ResponseCode.OK
    for mode in (None, 1):
        found = client.attach(DYNAMIC, Role.CONSUMER, 12 + (mode or 0), publish_mode=mode)
        assert (found.code, found.epoch) == (ResponseCode.OK, made.epoch)


@pytest.mark.clause("Driver §6-6")
def test_files_made_anew_are_a_new_epoch(client: WireClient) -> None:
    answer = client.attach(STATIC, Role.CONSUMER, 11)
    assert answer.epoch is not None
    shutil.rmtree(os.path.dirname(parse_region_uri(answer.header_region_uri).path))
    announce = client.announce(STATIC, above=answer.epoch)
    assert os.path.exists(parse_region_uri(announce.header_region_uri).path)


@pytest.mark.clause("Driver §5-1", "Driver §4.6-4")
def test_of_many_producers_at_once_one_gets_the_stream(client: WireClient) -> None:
    for client_id in range(11, 19):
        client.send(ShmAttachRequest(client_id, STATIC, client_id, Role.PRODUCER, publish_mode=2))
    answers: list[Any] = [
        client.expect(ShmAttachResponse, lambda m, i=i: m.correlation_id == i)  # type: ignore[misc]
        for i in range(11, 19)
    ]
    codes = sorted(answer.code for answer in answers)
    assert codes == [ResponseCode.OK] + [ResponseCode.REJECTED] * 7


@pytest.mark.clause("Driver §4.9-2", "Driver §4.9-15")
def test_a_detach_repeated_is_harmless(client: WireClient) -> None:
    lease_id = lease_of(client.attach(STATIC, Role.PRODUCER, 11))
    for correlation_id in (1, 2, 3):
        client.send(ShmDetachRequest(correlation_id, lease_id, STATIC, 11, Role.PRODUCER))
    codes = [
        client.expect(ShmDetachResponse, lambda m, i=i: m.correlation_id == i).code  # type: ignore[misc]
        for i in (1, 2, 3)
    ]
    assert codes == [ResponseCode.OK, ResponseCode.REJECTED, ResponseCode.REJECTED]
    revocation(client, lease_id)
    assert client.hears_nothing(ShmLeaseRevoked, lambda m: m.lease_id == lease_id)
