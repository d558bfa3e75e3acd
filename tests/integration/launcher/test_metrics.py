"""Every process serves its own metrics, status tells where, and a taken port is one message."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

import tensorpool
from tensorpool.driver.provisioning import WORKERS
from tensorpool.metrics import METRICS
from tensorpool.metrics.server import MAX_CONNECTIONS
from tensorpool.wire.driver import Role
from tests.integration.host import STREAM, RunningHost, Tables, running_host
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


def leases(scraped: dict[str, dict[str, float]]) -> float:
    """How many the driver counts, of both roles."""
    return sum(scraped["driver"][f"tensorpool_driver_leases/{role.name}"] for role in Role)


def get(url: str, path: str) -> tuple[int, str]:
    """Status and body of another path on the port of a metrics URL."""
    try:
        with urllib.request.urlopen(url.replace("/metrics", path), timeout=10) as response:  # noqa: S310
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


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
            lambda: leases(found := scrape(host)) == 0 and found,
            20,
            "the leases to be over",
        )
    assert set(during) == {"launcher", "media_driver", "driver", "supervisor", "gc"}
    for samples in during.values():
        assert samples[f"tensorpool_build_info/{tensorpool.__version__}"] == 1
        assert samples["process_resident_memory_bytes"] > 0
    assert leases(during) == 2
    assert during["driver"]["tensorpool_driver_attaches_total"] == 2
    assert during["driver"]["tensorpool_driver_epoch_bumps_total/PRODUCER_ATTACHED"] == 1
    assert during["launcher"]["tensorpool_child_up/driver"] == 1
    assert during["launcher"]["tensorpool_driver_serving"] == 1
    assert after is not False
    assert after["driver"]["tensorpool_driver_lease_ends_total/DETACHED"] == 2
    exposed = {name.split("/")[0] for samples in after.values() for name in samples}
    sums = {
        f"{metric.name}_sum" if metric.kind == "histogram" else metric.name for metric in METRICS
    }
    assert sums <= exposed


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


def test_probes(tmp_shm: Path) -> None:
    tables: Tables = {"metrics": {"enabled": True}, "launcher": {"hang_timeout_ms": 60_000}}
    with running_host(tmp_shm, tables) as host:
        report = host.report()
        assert report is not None
        url = report["metrics"]
        assert url is not None
        assert get(url, "/healthz") == (200, "ok\n")
        assert get(url, "/readyz") == (200, '{"ready": true, "problems": []}\n')

        driver = host.pid_of("driver")
        os.kill(driver, signal.SIGSTOP)
        try:
            # The launcher cannot know yet; the registry does.
            _, body = wait_until(
                lambda: (answer := get(url, "/readyz"))[0] == 503 and answer,
                30,
                "a stopped driver to be noticed",
            ) or (0, "")
            assert json.loads(body) == {
                "ready": False,
                "problems": ["driver: no heartbeat in the registry"],
            }
            assert get(url, "/healthz") == (200, "ok\n")
        finally:
            os.kill(driver, signal.SIGCONT)
        wait_until(lambda: get(url, "/readyz")[0] == 200, 30, "ready again")

        os.kill(host.process.pid, signal.SIGSTOP)
        os.kill(host.process.pid, signal.SIGCONT)
        assert get(url, "/healthz")[0] == 200


def test_slow_scrapers_hurt_nobody(tmp_shm: Path) -> None:
    with running_host(tmp_shm, {"metrics": {"enabled": True}}) as host:
        url = host.process_report("driver")["metrics"]
        assert url is not None
        address, port = url.removeprefix("http://").removesuffix("/metrics").split(":")
        driver = psutil.Process(host.pid_of("driver"))
        get(url, "/metrics")
        threads, descriptors = driver.num_threads(), driver.num_fds()
        slow = [socket.create_connection((address, int(port)), 10) for _ in range(200)]
        try:
            for number, connection in enumerate(slow):
                asked = b"GET /metrics HTTP/1.1\r\n\r\n" if number % 2 else b"GET /met"
                try:
                    connection.sendall(asked)  # and reads nothing
                except OSError:
                    continue  # taken off for a newcomer already
            with (
                tensorpool.connect(host.config) as pool,
                pool.producer(STREAM) as camera,
                pool.consumer(STREAM) as view,
            ):
                camera.publish(np.zeros(4, np.uint8))
                assert view.next(10) is not None
                assert get(url, "/metrics")[0] == 200
                # Provisioning has workers; none of the 200 has a thread.
                assert driver.num_threads() <= threads + 2 * WORKERS
                assert driver.num_fds() <= descriptors + MAX_CONNECTIONS + 32
                assert host.process_report("driver")["restarts"] == 0
        finally:
            for connection in slow:
                connection.close()


def test_a_discovery_file_that_cannot_be_written_is_named(tmp_shm: Path) -> None:
    path = tmp_shm / "absent" / "targets.json"
    host = RunningHost(tmp_shm, {"metrics": {"enabled": True, "discovery_file": str(path)}})
    host.start()
    try:
        assert host.wait_ended() == 1
        assert str(path) in host.logged()
        assert "metrics.discovery_file" in host.logged()
        assert "Traceback" not in host.logged()
    finally:
        host.close()
