"""A host runs under what the systemd unit leaves it: system calls, memory, umask."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.integration.host import DEADLINE_S, STREAM, RunningHost
from tests.support import wait_until
from tests.systemd_unit import allowed_system_calls, service

CONFINE = Path(__file__).with_name("confine.py")


def test_a_host_serves_when_confined(tmp_shm: Path, tmp_path: Path) -> None:
    unit = service()
    assert unit["MemoryDenyWriteExecute"] == ["yes"]
    specification = tmp_path / "specification.json"
    specification.write_text(
        json.dumps(
            {
                "umask": unit["UMask"][0],
                "system_calls": sorted(allowed_system_calls()),
            }
        )
    )
    host = RunningHost(tmp_shm, {"metrics": {"enabled": True}, "policies": {"mlock_shm": True}})
    command = [sys.executable, "-m", "tensorpool", "up", str(host.config)]
    with host.log.open("ab") as log:
        launcher = subprocess.Popen(
            [sys.executable, str(CONFINE), str(specification), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=host.environment,
        )
    try:
        wait_until(lambda: host.is_ready or launcher.poll() is not None, DEADLINE_S, host.logged)
        assert launcher.poll() is None, host.logged()
        status = Path(f"/proc/{launcher.pid}/status").read_text()
        assert "\nSeccomp:\t2\n" in status
        done = host.command("produce", str(STREAM), "--count", "16")
        assert done.status == 0, done
        assert (host.aeron_dir / "cnc.dat").stat().st_mode & 0o777 == 0o660
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(DEADLINE_S) == 0, host.logged()
        assert "Operation not permitted" not in host.logged()
        assert not host.leftovers()
    finally:
        if launcher.poll() is None:
            for process in psutil.Process(launcher.pid).children(recursive=True):
                process.kill()
            launcher.kill()
            launcher.wait(DEADLINE_S)
