"""Every process serves its own metrics, status tells where, and a taken port is one message."""

from __future__ import annotations

import json
import socket
import urllib.request
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

import tensorpool
from tensorpool.metrics import METRICS
from tests.integration.host import STREAM, RunningHost, running_host
from tests.support import wait_until


def scrape(host: RunningHost) -> dict[str, dict[str, float]]:
    """Process name to sample name to value, label values joined."""
    processes = json.loads(host.command("status", "--json").output)["processes"]
    found = {}
    for process in processes:
        with urllib.request.urlopen(process["metrics"], timeout=10) as response:  # noqa: S310
            text = response.read().decode()
        found[process["name"]] = {
            "/".join((sample.name, *sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    return found


def test_every_process_serves_its_own(tmp_shm: Path) -> None:
    with running_host(tmp_shm, {"metrics": {"enabled": True}}) as host:
        with (
            tensorpool.connect(host.config) as pool,
            pool.producer(STREAM) as camera,
            pool.consumer(STREAM) as view,
        ):
            camera.publish(np.zeros(4, np.uint8))
            assert view.next(10) is not None
            during = scrape(host)
        after = wait_until(
            lambda: (found := scrape(host))["driver"]["tensorpool_driver_leases"] == 0 and found,
            20,
            "the leases to be over",
        )
    assert set(during) == {"launcher", "media_driver", "driver", "supervisor", "gc"}
    for samples in during.values():
        assert samples[f"tensorpool_build_info/{tensorpool.__version__}"] == 1
        assert samples["process_resident_memory_bytes"] > 0
    assert during["driver"]["tensorpool_driver_leases"] == 2
    assert during["driver"]["tensorpool_driver_attaches_total"] == 2
    assert during["driver"]["tensorpool_driver_epoch_bumps_total/PRODUCER_ATTACHED"] == 1
    assert during["launcher"]["tensorpool_child_up/driver"] == 1
    assert after is not False
    assert after["driver"]["tensorpool_driver_lease_ends_total/DETACHED"] == 2
    exposed = {name.split("/")[0] for samples in after.values() for name in samples}
    labelled = {metric.name for metric in METRICS if metric.label is not None}
    # A labelled metric has no sample before its first event.
    assert {metric.name for metric in METRICS} - labelled <= exposed


def test_a_taken_port_is_named(tmp_shm: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        tables = {"metrics": {"enabled": True, "ports": {"driver": port}}}
        host = RunningHost(tmp_shm, tables)
        host.start()
        try:
            assert host.wait_ended() == 1
            assert f"port {port}" in host.logged()
            assert "metrics.ports.driver" in host.logged()
            assert "Traceback" not in host.logged()
        finally:
            host.close()
