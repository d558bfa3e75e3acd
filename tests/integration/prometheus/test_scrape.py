"""A real Prometheus finds every process by the shipped configuration, and what it asks is there."""

import json
import os
import signal
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import tensorpool
from tensorpool.metrics import METRICS
from tests.integration.host import STREAM, RunningHost
from tests.integration.prometheus.conftest import PROCESSES
from tests.integration.prometheus.server import Prometheus, promtool
from tests.support import wait_until

DEADLINE_S = 60


def metrics_urls(host: RunningHost) -> dict[str, str]:
    processes = json.loads(host.command("status", "--json").output)["processes"]
    return {process["name"]: process["metrics"] for process in processes}


@pytest.mark.parametrize("process", sorted(PROCESSES))
def test_promtool_accepts_the_metrics(scraped_host: RunningHost, process: str) -> None:
    url = metrics_urls(scraped_host)[process]
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310
        assert not promtool("check", "metrics", text=response.read().decode())


def test_every_metric_arrives(scraped_host: RunningHost, prometheus: Prometheus) -> None:
    names = {
        f"{metric.name}_count" if metric.kind == "histogram" else metric.name for metric in METRICS
    }
    wait_until(
        lambda: names <= set(prometheus.get("label/__name__/values")),
        DEADLINE_S,
        lambda: f"{names - set(prometheus.get('label/__name__/values'))}",
    )


def test_the_labels_are_those_of_the_host(prometheus: Prometheus) -> None:
    for labels, value in prometheus.query('up{job="tensorpool"}'):
        assert value == 1
        assert labels["pool"] == "test-pool"
        assert labels["instance"] == f"{labels['node']}/test-pool/{labels['process']}"


def test_traffic_is_counted(scraped_host: RunningHost, prometheus: Prometheus) -> None:
    (before,) = prometheus.query('tensorpool_driver_attach_seconds_count{role="PRODUCER"}')
    with (
        tensorpool.connect(scraped_host.config) as pool,
        pool.producer(STREAM) as camera,
        pool.consumer(STREAM) as view,
    ):

        def reported() -> bool:
            camera.publish(np.zeros(4, np.uint8))
            view.next(1)
            return bool(
                prometheus.query(
                    f'tensorpool_supervisor_stream_frames_total{{stream="{STREAM}"}} > 0'
                )
                and prometheus.query("tensorpool_driver_keepalive_delay_seconds_count > 0")
                and prometheus.query('sum(tensorpool_driver_leases{role="CONSUMER"}) == 1')
            )

        wait_until(reported, DEADLINE_S, "leases, keepalives and frames to be seen")
        (after,) = prometheus.query('tensorpool_driver_attach_seconds_count{role="PRODUCER"}')
        assert after[1] == before[1] + 1
        [(_, seconds)] = prometheus.query('tensorpool_driver_attach_seconds_sum{role="PRODUCER"}')
        assert seconds > 0
        [(_, created)] = prometheus.query(
            "time() - tensorpool_driver_stream_epoch_created_timestamp_seconds"
            f'{{stream="{STREAM}"}}'
        )
        assert 0 <= created < DEADLINE_S * 2
    wait_until(
        lambda: prometheus.query("tensorpool_driver_detach_seconds_count > 0"),
        DEADLINE_S,
        "the detaches to be seen",
    )


def test_a_restarted_child_is_found_on_its_new_port(
    scraped_host: RunningHost, prometheus: Prometheus
) -> None:
    former = metrics_urls(scraped_host)["gc"]
    pid = scraped_host.pid_of("gc")
    os.kill(pid, signal.SIGKILL)
    scraped_host.wait_restarted("gc", pid)
    assert metrics_urls(scraped_host)["gc"] != former
    restarts = 'tensorpool_child_restarts_total{child="gc", reason="signal"} > 0'
    wait_until(lambda: prometheus.query(restarts), DEADLINE_S, "the restart to be counted")
    # The same series go on: its labels did not change with the port.
    wait_until(
        lambda: len(prometheus.query('up{process="gc"} == 1')) == 1, DEADLINE_S, "one gc, scraped"
    )


def test_the_targets_go_with_the_host(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm, {"metrics": {"enabled": True}})
    host.start()
    try:
        host.wait_ready()
        (listed,) = host.directory.rglob(".default.targets.json")
        entries = json.loads(listed.read_text())
        assert {entry["labels"]["process"] for entry in entries} == PROCESSES
        assert host.stop() == 0
        assert not listed.exists()
    finally:
        host.close()
