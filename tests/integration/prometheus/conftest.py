"""One whole host on a file system of its own, scraped by a real Prometheus."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.host import RunningHost, Tables, running_host
from tests.integration.prometheus.server import Prometheus
from tests.leftovers import unique_shm_directory
from tests.support import wait_until

SHM_BYTES = 1 << 30
PROCESSES = {"launcher", "media_driver", "driver", "supervisor", "gc"}


@pytest.fixture(scope="session")
def scraped_host() -> Iterator[RunningHost]:
    """A ready host with metrics on a tmpfs that a test can fill."""
    assert os.geteuid() == 0, "a tmpfs of its own is mounted for this test: run it as root"
    directory = unique_shm_directory()
    mount = directory / "host"
    mount.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SHM_BYTES}", "none", str(mount)], check=True
    )
    tables: Tables = {
        "metrics": {"enabled": True, "discovery_file": str(mount / "targets.json")},
        # Tests kill and stop children more often than a healthy host would bear.
        "launcher": {"crash_loop_restarts": 1000, "hang_timeout_ms": 120_000},
        "driver": {"instance_id": "test-pool"},
    }
    try:
        with running_host(mount, tables) as running:
            yield running
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def prometheus(
    scraped_host: RunningHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that has scraped every process of the host."""
    directory: Path = tmp_path_factory.mktemp("prometheus")
    targets = Path(scraped_host.settings.metrics.discovery_file)
    with Prometheus(directory, targets).running() as server:
        wait_until(
            lambda: server.healthy_processes() == PROCESSES,
            60,
            lambda: f"all to be scraped, not only {server.healthy_processes()}",
        )
        yield server
