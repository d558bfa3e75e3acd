"""What the service manager is told."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tensorpool.launcher.systemd import ServiceManager


@pytest.fixture
def manager_socket(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(10)
        yield sock, path


def test_one_datagram_each(manager_socket: tuple[socket.socket, str]) -> None:
    sock, path = manager_socket
    manager = ServiceManager({"NOTIFY_SOCKET": path})
    manager.ready("4 processes")
    assert sock.recv(100) == b"READY=1\nSTATUS=4 processes"
    manager.alive()
    assert sock.recv(100) == b"WATCHDOG=1"
    manager.stopping()
    assert sock.recv(100).startswith(b"STOPPING=1")
    manager.reloading()
    assert sock.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")


def test_an_abstract_address() -> None:
    name = f"tensorpool-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        sock.settimeout(10)
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).alive()
        assert sock.recv(100) == b"WATCHDOG=1"


def test_the_watchdog_wants_a_beat_at_half_its_time() -> None:
    assert ServiceManager({"WATCHDOG_USEC": "3000000"}).watchdog_ns == 1_500_000_000
    ours = {"WATCHDOG_USEC": "2000", "WATCHDOG_PID": str(os.getpid())}
    assert ServiceManager(ours).watchdog_ns == 1_000_000


def test_another_process_watchdog_is_none_of_ours() -> None:
    environ = {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}
    assert ServiceManager(environ).watchdog_ns == 0
    assert ServiceManager({}).watchdog_ns == 0


def test_nobody_listens_and_nothing_breaks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")
    assert "not reachable" in caplog.text
