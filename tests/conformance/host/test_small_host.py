"""A host of little room: two dynamic streams, locked memory, forced policies of its supervisor."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tensorpool import wire
from tensorpool.aeron.client import AeronClient, Offer
from tensorpool.wire.control import ConsumerConfig, ConsumerHello, Mode, ResponseCode
from tensorpool.wire.driver import (
    LeaseRevokeReason,
    Role,
    ShmLeaseKeepalive,
    ShmLeaseRevoked,
)
from tests.conformance.driver.test_lease_ends import lease_of
from tests.integration.host import STREAM, RunningHost, running_host
from tests.integration.launcher.test_metrics import scrape
from tests.leftovers import unique_shm_directory
from tests.support import wait_until
from tests.wire_client import WireClient

IPC = "aeron:ipc?term-length="
FALLBACK = "aeron:udp?endpoint=10.0.0.1:40000"
TABLES: dict[str, dict[str, Any]] = {
    "driver": {"stream_id_range": "20000-20001"},
    "policies": {
        "default_profile": "tiny",
        "announce_period_ms": 100,
        "lease_keepalive_interval_ms": 200,
        "lease_expiry_grace_intervals": 3,
        "mlock_shm": True,
    },
    "profiles": {
        "tiny": {"header_nslots": 2, "payload_pools": [{"pool_id": 5, "stride_bytes": 64}]}
    },
    "metrics": {"enabled": True},
    "supervisor": {
        "consumer_capacity": 3,
        "consumer_stale_ms": 600,
        "per_consumer_enabled": True,
        "per_consumer_descriptor_channel": IPC + "64k",
        "per_consumer_descriptor_base": 5000,
        "per_consumer_descriptor_range": 2,
        "per_consumer_control_channel": IPC + "128k",
        "per_consumer_control_base": 6000,
        "per_consumer_control_range": 2,
        "force_no_shm": True,
        "force_mode": 2,
        "payload_fallback_uri": FALLBACK,
    },
}


@pytest.fixture(scope="module")
def host() -> Iterator[RunningHost]:
    directory = unique_shm_directory()
    try:
        with running_host(directory, TABLES) as running:
            yield running
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def client(host: RunningHost) -> Iterator[WireClient]:
    with WireClient(host.settings) as wire_client:
        yield wire_client


class Asker:
    """Hellos of one session, and the configs that answer them."""

    def __init__(self, host: RunningHost, client: AeronClient) -> None:
        supervisor = host.settings.supervisor
        assert supervisor is not None
        self._ear = client.subscription(supervisor.control)
        self._publication = client.publication(supervisor.control)
        self.configs: list[ConsumerConfig] = []

    def ask(self, consumer_id: int, **fields: Any) -> ConsumerConfig:
        plain = ConsumerHello(STREAM, consumer_id, 1, 0, Mode.STREAM, 0, 1)
        data = wire.encode(plain._replace(**fields))
        wait_until(lambda: self._publication.offer(data) is Offer.SENT, 10, "room for a hello")
        self.configs.clear()

        def answer() -> ConsumerConfig | None:
            self._ear.poll(self._hear, 100)
            return next((c for c in self.configs if c.consumer_id == consumer_id), None)

        found = wait_until(answer, 10, "a config")
        assert found is not None
        return found

    def _hear(self, buffer: memoryview, _: int) -> None:
        message = wire.decode(buffer)
        if isinstance(message, ConsumerConfig):
            self.configs.append(message)


@pytest.fixture
def asker(host: RunningHost) -> Iterator[Asker]:
    with AeronClient(host.settings.aeron_dir, "asker") as client:
        yield Asker(host, client)


@pytest.mark.clause("Driver §11-1", "Driver §11-2", "Driver §4.6-4")
@pytest.mark.config_key("driver.stream_id_range", "policies.default_profile")
def test_dynamic_streams_have_the_default_profile_until_the_range_is_exhausted(
    client: WireClient,
) -> None:
    answers = [client.attach(0, Role.PRODUCER, client_id) for client_id in (31, 32)]
    assert {answer.stream_id for answer in answers} == {20000, 20001}, "idle ones are given again"
    for answer in answers:
        assert answer.header_nslots == 2
        assert [(p.pool_id, p.stride_bytes) for p in answer.payload_pools] == [(5, 64)]
    exhausted = client.attach(0, Role.PRODUCER, 33)
    assert (exhausted.code, exhausted.stream_id) == (ResponseCode.REJECTED, None)
    assert "driver.stream_id_range 20000-20001 is exhausted" in exhausted.error_message
    for client_id, answer in zip((31, 32), answers, strict=True):
        assert answer.stream_id is not None
        done = client.detach(lease_of(answer), answer.stream_id, client_id, Role.PRODUCER)
        assert done.code == ResponseCode.OK


@pytest.mark.clause("Driver §17-6")
@pytest.mark.config_key("policies.mlock_shm", "policies.prefault_shm")
def test_the_driver_holds_its_regions_locked(host: RunningHost, client: WireClient) -> None:
    client.announce(STREAM)
    status = Path(f"/proc/{host.pid_of('driver')}/status").read_text(encoding="ascii")
    locked = next(line for line in status.splitlines() if line.startswith("VmLck"))
    assert int(locked.split()[1]) * 1024 >= 8 * ((1 << 20) + 4096)


@pytest.mark.clause("Driver §4.4-3", "Driver §4.4-1")
def test_keepalives_that_do_not_match_are_counted_and_ignored(
    host: RunningHost, client: WireClient
) -> None:
    """Four in which one field is wrong; the expiry of the lease is elsewhere (test_lease_ends)."""

    def ignored() -> float:
        return scrape(host)["driver"]["tensorpool_driver_ignored_keepalives_total"]

    before = ignored()
    lease_id = lease_of(client.attach(STREAM, Role.CONSUMER, 41))
    good = ShmLeaseKeepalive(lease_id, STREAM, 41, Role.CONSUMER, 0)
    for wrong in ({"lease_id": 1}, {"stream_id": 1}, {"client_id": 1}, {"role": Role.PRODUCER}):
        client.send(good._replace(**wrong))
    client.send(good)
    client.round_trip()
    assert ignored() == before + 4


@pytest.mark.clause("Driver §10-1")
def test_a_former_drivers_lease_is_revoked_whenever_it_is_kept_alive(client: WireClient) -> None:
    """Whoever had lost its connection when the new driver revoked it hears of it all the same."""
    own = lease_of(client.attach(STREAM, Role.CONSUMER, 41))
    former = ShmLeaseKeepalive(own - (own % 1000) - 5_000_000, STREAM, 42, Role.CONSUMER, 0)
    client.send(former)
    revoked = client.expect(ShmLeaseRevoked, lambda m: m.lease_id == former.lease_id)
    assert (revoked.stream_id, revoked.client_id, revoked.role) == former[1:4]
    assert revoked.reason == LeaseRevokeReason.REVOKED
    # Once an interval; never for what no driver can have given, nor for what nobody can hold.
    others = [
        former,
        former._replace(lease_id=2**62),
        former._replace(lease_id=0),
        former._replace(lease_id=former.lease_id - 1, role=9),
    ]
    for other in others:
        client.send(other)
    told = {other.lease_id for other in others}
    assert client.hears_nothing(ShmLeaseRevoked, lambda m: m.lease_id in told)


@pytest.mark.clause("Driver §4.6-5", "Driver §4.2-8", "Driver §4.2-12", "Driver §9-1")
def test_a_provisioning_that_fails_is_an_internal_error(
    host: RunningHost, client: WireClient
) -> None:
    """Something else lies where the stream's directory must be made."""
    planted = host.namespace_dir / "20001"
    shutil.rmtree(planted, ignore_errors=True)
    planted.write_text("not a directory")
    try:
        answer = client.attach(20001, Role.PRODUCER, 51)
    finally:
        planted.unlink()
    assert answer.code == ResponseCode.INTERNAL_ERROR
    assert "plain directory" in answer.error_message
    assert answer[2:10] == (None,) * 8
    assert client.attach(STREAM, Role.CONSUMER, 51).code == ResponseCode.OK, "the driver serves on"


@pytest.mark.clause("Wire §5-1", "Wire §5-6", "Driver §11-3", "Driver §11-5", "Wire §10.1.3-4")
@pytest.mark.config_key("supervisor.per_consumer_enabled")
@pytest.mark.config_key("supervisor.per_consumer_descriptor_channel")
@pytest.mark.config_key("supervisor.per_consumer_descriptor_base")
@pytest.mark.config_key("supervisor.per_consumer_descriptor_range")
@pytest.mark.config_key("supervisor.per_consumer_control_channel")
@pytest.mark.config_key("supervisor.per_consumer_control_base")
@pytest.mark.config_key("supervisor.per_consumer_control_range")
@pytest.mark.config_key("supervisor.consumer_capacity", "supervisor.consumer_stale_ms")
def test_per_consumer_streams_until_the_range_and_the_table_are_full(asker: Asker) -> None:
    wish = {
        "descriptor_channel": "aeron:ipc",
        "descriptor_stream_id": 5000,
        "control_channel": "aeron:ipc",
        "control_stream_id": 6001,
    }
    configs = [asker.ask(consumer_id, **wish) for consumer_id in (1, 2, 3, 4)]
    assert {c.descriptor_stream_id for c in configs[:2]} == {5000, 5001}
    assert {c.control_stream_id for c in configs[:2]} == {6000, 6001}
    assert {c.descriptor_channel for c in configs[:2]} == {IPC + "64k"}
    assert {c.control_channel for c in configs[:2]} == {IPC + "128k"}
    for declined in configs[2:]:  # one for its range, one for the table of consumers
        assert (declined.descriptor_channel, declined.descriptor_stream_id) == ("", 0)
        assert (declined.control_channel, declined.control_stream_id) == ("", 0)

    def is_freed() -> bool:
        return asker.ask(5, **wish | {"max_rate_hz": next(changing)}).descriptor_stream_id != 0

    changing = iter(range(1, 1000))
    wait_until(is_freed, 20, "a silent consumer's streams")


@pytest.mark.clause("Wire §10.1.3-2")
@pytest.mark.config_key("supervisor.force_no_shm", "supervisor.force_mode")
@pytest.mark.config_key("supervisor.payload_fallback_uri")
def test_forced_policies_reach_every_consumer(asker: Asker) -> None:
    config = asker.ask(7)
    assert (config.use_shm, config.mode, config.payload_fallback_uri) == (
        0,
        Mode.RATE_LIMITED,
        FALLBACK,
    )
    assert (config.descriptor_channel, config.control_channel) == ("", "")
