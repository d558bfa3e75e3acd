"""Children that die, hang or cannot run."""

import os
import signal
from pathlib import Path

import pytest

from tests.integration.host import DEADLINE_S, STREAM, RunningHost, running_host
from tests.support import wait_until


@pytest.mark.parametrize("name", ["media_driver", "driver", "supervisor", "gc"])
def test_a_killed_child_comes_back(host: RunningHost, name: str) -> None:
    former = host.pid_of(name)
    os.kill(former, signal.SIGKILL)
    host.wait_restarted(name, former)
    report = host.process_report(name)
    assert report["restarts"] == 1
    assert "SIGKILL" in str(report["last_exit"])
    assert "memory" in str(report["last_exit"])
    # Whatever died, the host does its job again.
    done = host.command("produce", str(STREAM), "--count", "3")
    assert done.status == 0, done


def test_the_others_stay(host: RunningHost) -> None:
    others = {name: host.pid_of(name) for name in ("media_driver", "supervisor", "gc")}
    former = host.pid_of("driver")
    os.kill(former, signal.SIGKILL)
    host.wait_restarted("driver", former)
    assert {name: host.pid_of(name) for name in others} == others


def test_a_child_that_hangs_is_killed_and_started_again(tmp_shm: Path) -> None:
    with running_host(tmp_shm, {"launcher": {"hang_timeout_ms": 1000}}) as host:
        former = host.pid_of("driver")
        os.kill(former, signal.SIGSTOP)
        host.wait_restarted("driver", former)
        assert "hung" in str(host.process_report("driver")["last_exit"])


def test_a_crash_loop_ends_the_host_and_says_why(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm, {"launcher": {"crash_loop_restarts": 2}})
    host.start()
    try:
        host.wait_ready()
        for _ in range(2):
            former = host.pid_of("gc")
            os.kill(former, signal.SIGKILL)
            host.wait_restarted("gc", former)
        os.kill(host.pid_of("gc"), signal.SIGKILL)
        assert host.wait_ended() == 1
        last = host.logged().strip().splitlines()[-1]
        assert last.startswith("tensorpool: gc: restarted 2 times within 30 s")
        assert "crash_loop_restarts" in last
        assert "Traceback" not in host.logged()
    finally:
        host.close()


def test_a_fatal_child_ends_the_host_with_its_reason_once(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm, {"media_driver": {"embedded": False}})
    host.start()
    try:
        assert host.wait_ended() == 1
        assert host.logged().count("media_driver.embedded is false") == 1
        assert "Traceback" not in host.logged()
        assert not host.leftovers()
    finally:
        host.close()


def test_a_long_back_off_does_not_delay_the_end(tmp_shm: Path) -> None:
    slow = {"restart_backoff_initial_ms": 3_600_000, "restart_backoff_max_ms": 3_600_000}
    host = RunningHost(tmp_shm, {"launcher": slow})
    host.start()
    try:
        host.wait_ready()
        os.kill(host.pid_of("gc"), signal.SIGKILL)
        wait_until(
            lambda: host.process_report("gc")["state"] == "restarting", DEADLINE_S, "the back-off"
        )
        assert host.stop() == 0
    finally:
        host.close()
