"""The examples do what they say, as a user runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.integration.host import STREAM, RunningHost

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_a_camera_and_its_watcher(host: RunningHost) -> None:
    environment = host.environment | {"TENSORPOOL_CONFIG": str(host.config)}
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "watch.py", str(STREAM), "10"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline().startswith("watching")
        camera = subprocess.run(
            [sys.executable, EXAMPLES / "camera.py", str(STREAM), "20"],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        )
        printed = watcher.stdout.read()
    assert camera.stdout == "20 frames published\n"
    assert watcher.returncode == 0
    seen = re.findall(r"seq (\d+): bar at column (\d+)", printed)
    assert seen
    assert all(seq == column for seq, column in seen)
