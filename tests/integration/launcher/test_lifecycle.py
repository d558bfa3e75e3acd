"""`tensorpool up` from start to end: readiness, refusal of a second one, drain, clean end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tensorpool.launcher.locks import aeron_lock_path, namespace_lock_path
from tests.integration.host import DEADLINE_S, STREAM, RunningHost, running_host
from tests.support import wait_until

CHILDREN = ["media_driver", "driver", "supervisor", "gc"]


def test_it_says_that_it_is_ready_and_what_to_try(host: RunningHost) -> None:
    printed = wait_until(host.printed, DEADLINE_S, "output")
    assert "ready in" in printed
    assert str(host.aeron_dir) in printed
    assert str(host.namespace_dir) in printed
    assert f"tensorpool consume {STREAM} --count 16 --config {host.config}" in printed
    report = host.report()
    assert report is not None
    assert [process["name"] for process in report["processes"]] == CHILDREN
    assert {process["state"] for process in report["processes"]} == {"ready"}


def test_the_console_script_and_the_module_are_the_same(host: RunningHost) -> None:
    script = "import sys; from tensorpool.cli import main; sys.argv[0] = 'tensorpool'; main()"
    command = [sys.executable, "-c", script, "status", "--wait", "0", "--config", str(host.config)]
    assert subprocess.run(command, env=host.environment, check=False).returncode == 0
    assert host.command("status", "--wait", "0").status == 0


def test_a_host_that_spins_serves_like_any_other(tmp_shm: Path) -> None:
    with running_host(tmp_shm, {"launcher": {"idle_strategy": "busy_spin"}}) as host:
        done = host.command("produce", str(STREAM), "--count", "3", "--shape", "8x8")
        assert done.status == 0, done
        driver = psutil.Process(host.pid_of("driver"))
        wait_until(lambda: driver.status() == "running", DEADLINE_S, "a driver that spins")


def test_no_supervisor_table_no_supervisor(tmp_shm: Path) -> None:
    with running_host(tmp_shm, {"supervisor": None}) as host:
        report = host.report()
        assert report is not None
        names = [process["name"] for process in report["processes"]]
        assert names == ["media_driver", "driver", "gc"]


@pytest.mark.clause("Driver §2.1-1")
def test_a_second_one_is_refused_by_pid_and_harms_nothing(host: RunningHost) -> None:
    before = host.report()
    second = host.command("up")
    assert second.status == 1
    assert f"pid {host.process.pid}" in second.errors
    assert "Traceback" not in second.errors
    assert len(second.errors.strip().splitlines()) == 1
    assert before is not None
    for process in before["processes"]:
        assert host.pid_of(process["name"]) == process["pid"]
    assert host.command("produce", str(STREAM), "--count", "1").status == 0


def test_another_namespace_on_the_same_aeron_directory_is_refused(host: RunningHost) -> None:
    host.environment["SHM_NAMESPACE"] = "other"
    second = host.command("up")
    assert second.status == 1
    assert "Aeron directory" in second.errors
    assert f"pid {host.process.pid}" in second.errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_drains_in_order(tmp_shm: Path, number: signal.Signals) -> None:
    with_host = RunningHost(tmp_shm)
    with_host.start()
    try:
        with_host.wait_ready()
        tree = with_host.descendants()
        os.killpg(with_host.process.pid, number)
        assert with_host.wait_ended() == 0, with_host.logged()
        _, left = psutil.wait_procs(tree, timeout=DEADLINE_S)
        assert not left
        assert not with_host.leftovers()
        assert "Traceback" not in with_host.logged()
    finally:
        with_host.close()


def test_a_signal_before_it_is_ready_ends_it_as_cleanly(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    host.start()
    try:
        wait_until(host.report, DEADLINE_S, "the first report")
        tree = host.descendants()
        os.killpg(host.process.pid, signal.SIGINT)
        assert host.wait_ended() == 0, host.logged()
        _, left = psutil.wait_procs(tree, timeout=DEADLINE_S)
        assert not left
        assert not host.leftovers()
        assert "Traceback" not in host.logged()
    finally:
        host.close()


def test_a_second_ctrl_c_cuts_a_long_drain_short(tmp_shm: Path) -> None:
    # Longer than the test may last: only the second signal can end it.
    host = RunningHost(tmp_shm, {"policies": {"shutdown_timeout_ms": 3_600_000}})
    host.start()
    try:
        host.wait_ready()
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "tensorpool", "consume", str(STREAM)),
                *("--config", str(host.config)),
            ],
            env=host.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as consumer:
            assert consumer.stdout is not None
            assert consumer.stdout.readline().startswith(b"attached")
            consumer.send_signal(signal.SIGSTOP)  # It must not leave by itself.
            tree = host.descendants()
            host.process.send_signal(signal.SIGINT)
            wait_until(
                lambda: (report := host.report()) and report["state"] == "draining",
                DEADLINE_S,
                "draining",
            )
            host.process.send_signal(signal.SIGINT)
            assert host.wait_ended() == 1
            consumer.kill()
        _, left = psutil.wait_procs(tree, timeout=DEADLINE_S)
        assert not left
    finally:
        host.close()


def test_after_sigkill_of_the_launcher_no_child_survives_and_a_new_one_starts(
    tmp_shm: Path,
) -> None:
    host = RunningHost(tmp_shm)
    host.start()
    try:
        host.wait_ready()
        tree = host.descendants()
        host.process.kill()
        host.process.wait()
        assert host.report() is None
        host.start()  # At once: it waits for the children of the first one.
        host.wait_ready()
        _, left = psutil.wait_procs(tree, timeout=DEADLINE_S)
        assert not left
        assert host.stop() == 0
        assert not host.leftovers()
    finally:
        host.close()


def test_locks_are_held_by_the_children_too(host: RunningHost) -> None:
    paths = {aeron_lock_path(str(host.aeron_dir)), namespace_lock_path(host.settings.shm)}
    for name in CHILDREN:
        links = set()
        for link in Path(f"/proc/{host.pid_of(name)}/fd").iterdir():
            links.add(os.readlink(link))
        assert paths <= links


def test_an_external_media_driver_is_used_and_left_alone(tmp_shm: Path) -> None:
    script = (
        "import sys, pyaeron\n"
        "media_driver = pyaeron.MediaDriver(dir=sys.argv[1], dir_delete_on_shutdown=True)\n"
        "print('up', flush=True)\nsys.stdin.read()\nmedia_driver.close()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_shm / "aeron")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as external:
        assert external.stdout is not None
        assert external.stdout.readline() == b"up\n"
        host = RunningHost(tmp_shm)
        host.start()
        try:
            host.wait_ready()
            report = host.process_report("media_driver")
            assert not report["needed"]
            assert str(external.pid) in report["detail"]
            wait_until(
                lambda: host.process_report("media_driver")["pid"] is None, DEADLINE_S, "its end"
            )
            assert host.is_ready
            assert host.command("produce", str(STREAM), "--count", "1").status == 0
            assert host.stop() == 0
            assert external.poll() is None
            assert (tmp_shm / "aeron" / "cnc.dat").exists()
        finally:
            host.close()
            assert external.stdin is not None
            external.stdin.close()
