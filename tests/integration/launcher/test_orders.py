"""What the launcher is told: reload, dump, service manager, a shutdown by an authorised peer."""

import signal
import socket
from pathlib import Path

import pytest

from tensorpool import wire
from tensorpool.aeron.client import AeronClient
from tensorpool.wire.driver import ShmDriverShutdownRequest, ShutdownReason
from tests.integration.host import DEADLINE_S, RunningHost, running_host
from tests.support import wait_until


def wait_logged(host: RunningHost, text: str, count: int = 1) -> None:
    wait_until(
        lambda: host.logged().count(text) >= count,
        DEADLINE_S,
        lambda: f"{text!r} in the log\n{host.logged()}",
    )


def wait_dumped(host: RunningHost) -> None:
    for role in ("launcher", "media_driver", "driver", "supervisor", "gc"):
        wait_logged(host, f'"message": "state", "process": "{role}"')


def test_sighup_adds_a_stream(host: RunningHost) -> None:
    host.configure(
        {
            "streams": {"cam2": {"stream_id": 10001, "profile": "small"}},
            "profiles": {
                "small": {
                    "header_nslots": 4,
                    "payload_pools": [{"pool_id": 1, "stride_bytes": 4096}],
                }
            },
        }
    )
    host.process.send_signal(signal.SIGHUP)
    wait_logged(host, '"message": "reloaded"')
    # The launcher has passed it on; the driver takes it over in its next duty cycle.
    produce = ("produce", "10001", "--count", "1", "--shape", "8x8")
    wait_until(lambda: host.command(*produce).status == 0, DEADLINE_S, host.logged)


def test_sighup_refuses_the_rest_by_name_and_applies_nothing(host: RunningHost) -> None:
    host.configure(
        {
            "policies": {"announce_period_ms": 77},
            "streams": {"cam2": {"stream_id": 10001, "profile": "default"}},
        }
    )
    host.process.send_signal(signal.SIGHUP)
    wait_logged(host, "policies.announce_period_ms")
    assert '"message": "reloaded"' not in host.logged()
    assert host.command("produce", "10001", "--count", "1").status == 1
    assert host.is_ready


def test_sighup_with_a_broken_file_changes_nothing(host: RunningHost) -> None:
    host.config.write_text("[driver\n")
    host.process.send_signal(signal.SIGHUP)
    wait_logged(host, "reload refused")
    host.configure({})
    assert host.is_ready


def test_sighup_changes_the_log_level_of_every_process(tmp_shm: Path) -> None:
    with running_host(tmp_shm, {"logging": {"level": 0}}) as host:
        assert not host.logged()
        host.configure({"logging": {"level": 2}})
        host.process.send_signal(signal.SIGHUP)
        wait_logged(host, '"message": "reloaded"')
        host.process.send_signal(signal.SIGUSR1)
        wait_dumped(host)


def test_sigusr1_dumps_the_state_of_every_process(host: RunningHost) -> None:
    host.process.send_signal(signal.SIGUSR1)
    wait_dumped(host)
    assert host.is_ready


def test_the_service_manager_is_told(tmp_shm: Path) -> None:
    path = str(tmp_shm / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(DEADLINE_S)
        host = RunningHost(tmp_shm)
        host.environment |= {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "100000"}
        host.start()
        try:
            seen: set[bytes] = set()
            while not {b"READY=1", b"WATCHDOG=1"} <= seen:
                seen.add(manager.recv(4096).splitlines()[0])
            assert b"STOPPING=1" not in seen
            host.process.send_signal(signal.SIGTERM)
            while b"STOPPING=1" not in seen:
                seen.add(manager.recv(4096).splitlines()[0])
            assert host.wait_ended() == 0
        finally:
            host.close()


@pytest.mark.clause("Driver §4.13-2")
def test_an_authorised_peer_stops_the_whole_host(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm, {"policies": {"shutdown_token": "sesame"}})
    host.start()
    try:
        host.wait_ready()
        request = ShmDriverShutdownRequest(1, ShutdownReason.ADMIN, b"sesame", "test")
        with AeronClient(host.settings.aeron_dir, "test") as client:
            publication = client.publication(host.settings.driver.control)
            wait_until(lambda: publication.is_connected, DEADLINE_S, "the driver")
            publication.offer(wire.encode(request))
            assert host.wait_ended() == 0, host.logged()
        assert "sesame" not in host.logged()
        assert "ShmDriverShutdownRequest" in host.logged()
    finally:
        host.close()


@pytest.mark.clause("Driver §4.13-3")
def test_a_wrong_token_stops_nothing(tmp_shm: Path) -> None:
    with running_host(tmp_shm, {"policies": {"shutdown_token": "sesame"}}) as host:
        request = ShmDriverShutdownRequest(1, ShutdownReason.ADMIN, b"guess", "test")
        with AeronClient(host.settings.aeron_dir, "test") as client:
            publication = client.publication(host.settings.driver.control)
            wait_until(lambda: publication.is_connected, DEADLINE_S, "the driver")
            publication.offer(wire.encode(request))
            assert host.command("produce", "10000", "--count", "1").status == 0
        assert host.is_ready
