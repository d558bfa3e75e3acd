"""`tensorpool status` from outside, in every condition of the host."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.host import DEADLINE_S, STREAM, RunningHost
from tests.support import wait_until


def status(host: RunningHost, expected: int) -> Any:
    done = host.command("status", "--json")
    assert done.status == expected, done
    return json.loads(done.output)


def test_a_healthy_host(host: RunningHost) -> None:
    found = status(host, 0)
    assert found["health"] == "healthy"
    assert found["problems"] == []
    names = [process["name"] for process in found["processes"]]
    assert names == ["launcher", "media_driver", "driver", "supervisor", "gc"]
    for process in found["processes"]:
        assert process["pid"] > 0
        assert process["uptime_s"] > 0
        assert process["memory_bytes"] > 0
        assert process["cpu_percent"] >= 0
    assert found["driver"]["alive"]
    assert found["driver"]["state"] == "serving"
    [stream] = found["streams"]
    assert (stream["stream_id"], stream["name"]) == (STREAM, "cam1")
    assert found["memory"]["used_bytes"] >= stream["bytes"] > 0
    assert found["memory"]["free_bytes"] > 0


def test_leases_and_rates_of_a_running_stream(host: RunningHost) -> None:
    command = [
        *(sys.executable, "-m", "tensorpool", "produce", str(STREAM), "--config", str(host.config)),
        *("--count", "1000000", "--rate", "200", "--shape", "8x8"),
    ]
    with subprocess.Popen(
        command, env=host.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as producer:
        wait_until(lambda: status(host, 0)["leases"], DEADLINE_S, "a lease")

        def streaming() -> Any:
            found = status(host, 0)
            return found if found["streams"][0]["rate_hz"] else None

        found = wait_until(streaming, DEADLINE_S, "a rate")
        [lease] = found["leases"]
        assert lease["role"] == "producer"
        assert lease["state"] == "active"
        assert lease["stream_id"] == STREAM
        assert lease["expires_in_ms"] > 0
        [stream] = found["streams"]
        assert stream["producer_client_id"] == lease["client_id"]
        assert stream["frames"] > 0
        producer.kill()


def test_people_see_the_same(host: RunningHost) -> None:
    done = host.command("status")
    assert done.status == 0
    for text in ("healthy", "media_driver", "supervisor", "cam1", "shared memory"):
        assert text in done.output


def test_a_driver_that_is_down_is_said_to_be(tmp_shm: Path) -> None:
    slow = {"restart_backoff_initial_ms": 3_600_000, "restart_backoff_max_ms": 3_600_000}
    host = RunningHost(tmp_shm, {"launcher": slow})
    host.start()
    try:
        host.wait_ready()
        os.kill(host.pid_of("driver"), signal.SIGKILL)
        wait_until(lambda: not host.is_ready, DEADLINE_S, "the launcher to notice")
        found = status(host, 1)
        assert found["health"] == "degraded"
        assert not found["driver"]["alive"]
        assert any("driver is restarting" in problem for problem in found["problems"])
        assert [stream["stream_id"] for stream in found["streams"]] == [STREAM]
        assert host.stop() == 0
    finally:
        host.close()


def test_without_a_host_it_is_down(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    found = status(host, 2)
    assert found["health"] == "down"
    assert found["processes"] == []
    assert host.command("status").status == 2


def test_wait_ends_when_the_host_is_ready(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "tensorpool", "status", "--wait", str(DEADLINE_S)),
            *("--config", str(host.config)),
        ],
        env=host.environment,
    ) as waiting:
        host.start()
        try:
            assert waiting.wait(DEADLINE_S) == 0
            assert host.is_ready
            assert host.stop() == 0
        finally:
            host.close()


def test_wait_in_vain_says_what_is_missing(tmp_shm: Path) -> None:
    done = RunningHost(tmp_shm).command("status", "--wait", "0.05")
    assert done.status == 1
    assert "not ready after 0.05 s: no `tensorpool up` runs" in done.errors


def test_watch_follows_the_host_until_ctrl_c(host: RunningHost) -> None:
    """`status --watch --json`: one object a look; it outlives a driver's death."""
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "tensorpool", "status", "--watch", "--json"),
            *("--interval", "0.1", "--config", str(host.config)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=host.environment,
    ) as watcher:
        try:
            assert watcher.stdout is not None
            former = driver_pid(json.loads(watcher.stdout.readline()))
            assert former == host.pid_of("driver")
            os.kill(former, signal.SIGKILL)
            looks = (json.loads(line) for line in watcher.stdout)
            assert any(look["health"] != "healthy" for look in looks)
            assert any(look["health"] == "healthy" and driver_pid(look) != former for look in looks)
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(DEADLINE_S) == 0
        finally:
            watcher.kill()


def driver_pid(look: dict[str, Any]) -> int | None:
    """The driver's process in one look of `status --json`."""
    pid: int | None = next(p["pid"] for p in look["processes"] if p["name"] == "driver")
    return pid
