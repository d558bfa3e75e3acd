"""Containers that share a directory number their processes each in its own way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tensorpool.host_lock import HostLock
from tensorpool.registry import RegistryWriter
from tests.support import wait_until

_TAKE = """
import sys
from tensorpool.errors import HostError
from tensorpool.host_lock import HostLock
try:
    HostLock(sys.argv[1], "the thing", wait_s=0.1)
except HostError as error:
    print(error)
"""
_LOOK = """
import sys
from tensorpool.gc.watch import RegistryWatch
watch = RegistryWatch(sys.argv[1])
print(watch.view().is_writer_alive)
"""
_WRITE = """
import sys
from tensorpool.registry import RegistryWriter
writer = RegistryWriter(sys.argv[1], max_streams=1, max_leases=1, mode=0o600)
writer.publish()
print("written", flush=True)
sys.stdin.read()
"""


def elsewhere(code: str, path: Path) -> str:
    """What `code` prints in a pid namespace of its own."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", *user, "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    done = subprocess.run([*command, path], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_a_lock_of_another_container_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = HostLock(str(path), "the thing")
    try:
        refusal = elsewhere(_TAKE, path)
    finally:
        lock.release()
    assert f"in use by a `tensorpool up` of another container (its pid {os.getpid()}," in refusal


def test_a_lock_that_is_free_is_taken(tmp_path: Path) -> None:
    assert elsewhere(_TAKE, tmp_path / "lock") == ""


def test_a_stopped_driver_of_another_container_is_there(tmp_path: Path) -> None:
    path = tmp_path / "registry"
    with subprocess.Popen(
        [sys.executable, "-c", _WRITE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"written\n"
        driver.send_signal(signal.SIGSTOP)
        wait_until(
            lambda: psutil.Process(driver.pid).status() == psutil.STATUS_STOPPED, 10, "its stop"
        )
        assert elsewhere(_LOOK, path) == "True"
        driver.kill()
    assert elsewhere(_LOOK, path) == "False"


def test_a_driver_that_ended_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "registry"
    writer = RegistryWriter(str(path), max_streams=1, max_leases=1, mode=0o600)
    writer.publish()
    writer.close()
    assert elsewhere(_LOOK, path) == "False"
