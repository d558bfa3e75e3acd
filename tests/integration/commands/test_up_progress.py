"""What `tensorpool up` tells of large pools: on a terminal, and nowhere else."""

import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.integration.host import DEADLINE_S, RunningHost, running_host
from tests.support import wait_until

LARGE: dict[str, Any] = {
    "profiles": {
        "default": {
            "header_nslots": 64,
            "payload_pools": [{"pool_id": 1, "stride_bytes": 5 << 20}],
        }
    }
}


def test_a_bar_on_a_terminal(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm, LARGE)
    terminal, end = pty.openpty()
    written = bytearray()

    def read() -> None:
        try:
            while data := os.read(terminal, 4096):
                written.extend(data)
        except OSError:  # the last writer is gone
            pass

    with subprocess.Popen(
        [sys.executable, "-m", "tensorpool", "up", str(host.config)],
        stdin=subprocess.DEVNULL,
        stdout=end,
        stderr=end,
        env=host.environment,
    ) as up:
        os.close(end)
        reader = threading.Thread(target=read)
        reader.start()
        try:
            wait_until(lambda: b"100 %  0.31 of 0.31 GiB" in written, DEADLINE_S, written.decode)
            wait_until(lambda: b"ready in" in written, DEADLINE_S, written.decode)
        finally:
            up.send_signal(signal.SIGTERM)
            assert up.wait(DEADLINE_S) == 0
            reader.join()
            os.close(terminal)
    assert written.count(b"shared memory [") <= 103


def test_nothing_in_a_file(tmp_shm: Path) -> None:
    with running_host(tmp_shm, LARGE) as host:
        assert "shared memory [" not in host.logged() + host.printed()
