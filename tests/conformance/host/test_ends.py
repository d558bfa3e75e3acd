"""How a driver ends, and what its successor does (Driver §4.13, §6, §7, §10)."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tensorpool.registry import RegistryReader
from tensorpool.shm.uri import parse_region_uri
from tensorpool.wire.control import ResponseCode, ShmPoolAnnounce
from tensorpool.wire.driver import (
    LeaseRevokeReason,
    Role,
    ShmAttachResponse,
    ShmDriverShutdown,
    ShmDriverShutdownRequest,
    ShmLeaseRevoked,
    ShutdownReason,
)
from tests.conformance.driver.test_lease_ends import lease_of
from tests.integration.host import STREAM, RunningHost, Tables, running_host
from tests.leftovers import unique_shm_directory
from tests.support import wait_until
from tests.wire_client import WireClient

TOKEN = "correct-horse-battery"  # noqa: S105 - of this test
TABLES: Tables = {
    "policies": {
        "announce_period_ms": 100,
        "lease_keepalive_interval_ms": 200,
        "node_id_reuse_cooldown_ms": 60_000,
        "shutdown_token": TOKEN,
        "shutdown_timeout_ms": 400,
    },
    "supervisor": None,
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


def granted(client: WireClient, role: Role, client_id: int) -> ShmAttachResponse:
    """Attach until it is granted, as clients do.

    A new driver joins each control log where its slowest reader stands: it may meet requests
    that its predecessor has answered, and give leases that nobody keeps alive.
    """

    def attach() -> ShmAttachResponse | None:
        answer = client.attach(STREAM, role, client_id)
        return answer if answer.code == ResponseCode.OK else None

    answer = wait_until(attach, 20, f"a lease for client {client_id}")
    assert answer is not None
    return answer


@pytest.mark.clause("Driver §10-2", "Driver §4.8-1", "Driver §6-2", "Driver §4.9-5", "Driver §7-2")
@pytest.mark.clause("Driver §4.7a-2", "Driver §4.7a-3", "Driver §4.9-12")
@pytest.mark.parametrize("role", list(Role))
def test_a_killed_drivers_successor_revokes_raises_the_epoch_and_serves(
    host: RunningHost, client: WireClient, role: Role
) -> None:
    before = granted(client, role, 61)
    lease_id, epoch = lease_of(before), before.epoch
    assert epoch is not None
    client.round_trip()
    former = host.pid_of("driver")
    os.kill(former, signal.SIGKILL)
    revoked = client.expect(ShmLeaseRevoked, lambda m: m.lease_id == lease_id)
    assert (revoked.reason, revoked.role) == (LeaseRevokeReason.REVOKED, role)
    announce = client.announce(STREAM, above=epoch)
    assert announce.announce_timestamp_ns > revoked.timestamp_ns
    host.wait_restarted("driver", former)
    after = granted(client, role, 61)
    assert after.epoch is not None
    assert after.epoch > epoch
    assert lease_of(after) > lease_id
    assert not psutil.pid_exists(former)
    client.detach(lease_of(after), STREAM, 61, role)
    client.round_trip()


@pytest.mark.clause("Driver §4.2-2", "Driver §10-2")
def test_node_ids_cool_down_across_a_restart(host: RunningHost, client: WireClient) -> None:
    answer = granted(client, Role.CONSUMER, 71)
    client.round_trip()
    former = host.pid_of("driver")
    os.kill(former, signal.SIGKILL)
    host.wait_restarted("driver", former)
    refused = client.attach(STREAM, Role.CONSUMER, 72, desired_node_id=answer.node_id)
    assert (refused.code, refused.node_id) == (ResponseCode.REJECTED, None)
    assert "cooling down" in refused.error_message


@pytest.mark.clause("Driver §4.13-1", "Driver §4.13-2", "Driver §4.13-3", "Driver §4.13-4")
@pytest.mark.clause("Driver §4.13-5", "Driver §4.13-6", "Driver §6-5", "Driver §10-2")
def test_a_token_drains_the_host_and_another_layout_starts_above_its_epoch(
    tmp_shm: Path,
) -> None:
    host = RunningHost(tmp_shm, TABLES)
    host.start()
    try:
        host.wait_ready()
        with WireClient(host.settings) as client:
            last = client.attach(STREAM, Role.CONSUMER, 81)
            for token in (b"", TOKEN[:-1].encode(), TOKEN.encode() + b"x", TOKEN.upper().encode()):
                client.send(ShmDriverShutdownRequest(1, ShutdownReason.ERROR, token))
            client.round_trip()
            kept = client.attach(STREAM, Role.CONSUMER, 82)
            assert kept.code == ResponseCode.OK, "wrong tokens change nothing"
            client.heard.clear()
            client.send(ShmDriverShutdownRequest(2, ShutdownReason.ADMIN, TOKEN.encode()))
            client.announce(STREAM)
            refused = client.attach(STREAM, Role.CONSUMER, 83)
            assert (refused.code, refused.lease_id) == (ResponseCode.REJECTED, None)
            shutdown = client.expect(ShmDriverShutdown)
            assert shutdown.reason == ShutdownReason.ADMIN
            assert not any(isinstance(m, ShmAttachResponse) for m in client.heard)
        assert host.wait_ended() == 0, host.logged()
        everything = host.logged() + host.printed()
        for token_part in (TOKEN, TOKEN[:-1], TOKEN.upper()):
            assert token_part not in everything

        layout = {"header_nslots": 16, "payload_pools": [{"pool_id": 1, "stride_bytes": 64}]}
        host.configure({**TABLES, "profiles": {"default": layout}})
        host.start()
        host.wait_ready()
        with WireClient(host.settings) as client:
            changed = granted(client, Role.CONSUMER, 81)
            assert changed.header_nslots == 16
            assert changed.epoch is not None
            assert last.epoch is not None
            assert changed.epoch > last.epoch
            assert lease_of(changed) > lease_of(kept)
            assert os.path.exists(parse_region_uri(changed.header_region_uri).path)
            host.process.send_signal(signal.SIGTERM)
            assert client.expect(ShmDriverShutdown).reason == ShutdownReason.NORMAL
            assert not any(
                isinstance(m, ShmPoolAnnounce) and m.epoch < changed.epoch for m in client.heard
            )
        assert host.wait_ended() == 0, host.logged()
    finally:
        host.close()


@pytest.mark.clause("Driver §10-2")
def test_a_successor_gives_no_second_lease_for_an_answered_request(
    host: RunningHost, client: WireClient
) -> None:
    """A subscriber that lags keeps the requests in the log, where a new driver reads them again."""
    with WireClient(host.settings):  # never polls
        for client_id in range(81, 86):
            granted(client, Role.CONSUMER, client_id)
        victim = host.pid_of("driver")
        os.kill(victim, signal.SIGKILL)
        host.wait_restarted("driver", victim)
        granted(client, Role.CONSUMER, 90)  # in its turn behind all that was there before
        with RegistryReader(host.settings.shm.registry_path) as registry:
            assert registry.writer.pid != victim
            assert not [lease for lease in registry.leases() if lease.client_id in range(81, 86)]
