"""`tensorpool streams`, `drain` and `completion` on real hosts and shells."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tensorpool
from tests.integration.host import DEADLINE_S, STREAM, RunningHost
from tests.support import wait_until


def listed(host: RunningHost) -> dict[int, Any]:
    done = host.command("streams", "list", "--json")
    assert done.status == 0, done
    return {row["stream_id"]: row for row in json.loads(done.output)}


def test_configured_and_dynamic_streams_are_listed(host: RunningHost) -> None:
    with tensorpool.connect(host.config) as pool, pool.producer(0) as producer:
        rows = listed(host)
        dynamic = rows[producer.stream_id]
        assert not dynamic["configured"]
        assert dynamic["epoch"] == producer.epoch
        assert dynamic["producer_client_id"]
    assert rows[STREAM] == {
        "stream_id": STREAM,
        "name": "cam1",
        "profile": "default",
        "configured": True,
        "epoch": rows[STREAM]["epoch"],
        "producer_client_id": None,
        "consumers": 0,
    }
    text = host.command("streams", "list").output
    for word in ("cam1", "configured", "dynamic"):
        assert word in text


def test_streams_of_a_host_that_never_ran(tmp_shm: Path) -> None:
    assert listed(RunningHost(tmp_shm))[STREAM]["epoch"] is None


def test_a_stream_added_to_a_running_host(host: RunningHost) -> None:
    host.config.chmod(0o640)
    before = host.config.read_text()
    done = host.command("streams", "add", "cam2", "--id", "10002")
    assert done.status == 0, done
    assert "[streams.cam2]" in done.output
    assert "stream 10002 is served" in done.output
    assert host.config.read_text().startswith(before)
    assert stat.S_IMODE(host.config.stat().st_mode) == 0o640
    assert listed(host)[10002]["name"] == "cam2"
    with tensorpool.connect(host.config) as pool, pool.producer(10002) as producer:
        assert producer.stream_id == 10002


def test_a_stream_added_before_the_start(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    done = host.command("streams", "add", "front-camera", "--id", "10002", "--profile", "default")
    assert done.status == 0, done
    assert "the next start has the stream" in done.output
    assert listed(host)[10002]["name"] == "front-camera"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("cam1", "--id", "10002"), 2, "is there already"),
        (("cam2", "--id", str(STREAM)), 2, "stream_id"),
        (("cam2", "--id", "10002", "--profile", "none"), 2, "profile"),
        (("cam2", "--id", "-1"), 2, "stream_id"),
    ],
)
def test_what_is_not_added(
    tmp_shm: Path, arguments: tuple[str, ...], status: int, text: str
) -> None:
    host = RunningHost(tmp_shm)
    before = host.config.read_bytes()
    done = host.command("streams", "add", *arguments)
    assert done.status == status, done
    assert text in done.errors
    assert host.config.read_bytes() == before
    assert sorted(os.listdir(tmp_shm)) == ["config.toml"]


def test_nothing_is_added_to_the_built_in_default(tmp_shm: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tensorpool", "streams", "add", "x", "--id", "9"],
        capture_output=True,
        text=True,
        env={**RunningHost(tmp_shm).environment, "AERON_DIR": str(tmp_shm / "aeron")},
        check=False,
    )
    assert done.returncode == 2
    assert "built-in default" in done.stderr


def test_another_file_than_the_running_hosts_is_not_touched(host: RunningHost) -> None:
    other = host.directory / "other.toml"
    other.write_bytes(host.config.read_bytes())
    mine, host.config = host.config, other
    done = host.command("streams", "add", "cam2", "--id", "10002")
    host.config = mine
    assert done.status == 1
    assert str(mine) in done.errors
    assert other.read_bytes() == mine.read_bytes()
    other.unlink()


def test_drain(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    host.start()
    try:
        host.wait_ready()
        tree = host.descendants()
        done = host.command("drain")
        assert done.status == 0, done
        assert "drained in" in done.output
        assert host.wait_ended() == 0
        wait_until(lambda: not any(p.is_running() for p in tree), DEADLINE_S, "the children")
        assert not host.leftovers()
        again = host.command("drain")
        assert again.status == 1
        assert "no `tensorpool up` runs" in again.errors
    finally:
        host.close()


def test_a_drain_that_takes_longer_goes_on(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm, {"policies": {"shutdown_timeout_ms": 60_000}})
    host.start()
    try:
        host.wait_ready()
        with tensorpool.connect(host.config) as pool, pool.consumer(STREAM):
            done = host.command("drain", "--timeout", "0.2")
            assert done.status == 1, done
            assert "still drains after 0.2 s" in done.errors
        assert host.wait_ended() == 0
    finally:
        host.close()


def test_a_killed_launcher_is_not_taken_for_a_running_one(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    host.start()
    try:
        host.wait_ready()
        tree = host.descendants()
        # The children hold the lock as long as they are stopped.
        for child in tree:
            child.suspend()
        host.process.kill()
        host.process.wait()
        done = host.command("drain")
        assert done.status == 1, done
        assert "no launcher answers" in done.errors
        for child in tree:
            child.resume()
        wait_until(lambda: not any(p.is_running() for p in tree), DEADLINE_S, "the children")
    finally:
        host.close()


def completions(tmp_path: Path, environment: dict[str, str], line: str) -> list[str]:
    """What bash offers for `line`, by the script that we write."""
    program = tmp_path / "tensorpool"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.argv[0] = 'tensorpool'\n"
        "from tensorpool.cli import main\nmain()\n"
    )
    program.chmod(0o755)
    words = line.split(" ")
    script = (
        "source <(tensorpool completion bash)\n"
        f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n"
        '_tensorpool_completion tensorpool; printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env={**environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True,
        timeout=DEADLINE_S,
    )
    return done.stdout.split()


def test_bash_completes_commands_and_options(tmp_path: Path, tmp_shm: Path) -> None:
    environment = RunningHost(tmp_shm).environment
    assert completions(tmp_path, environment, "tensorpool do") == ["doctor"]
    assert completions(tmp_path, environment, "tensorpool streams a") == ["add"]
    assert "--kind" in completions(tmp_path, environment, "tensorpool tail --k")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(tmp_shm: Path, shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tensorpool", "completion", shell],
        capture_output=True,
        text=True,
        env=RunningHost(tmp_shm).environment,
        check=True,
    )
    assert "_TENSORPOOL_COMPLETE=complete_" + shell in done.stdout
    assert done.stdout.count("tensorpool") > 1


def test_an_unknown_shell(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    done = subprocess.run(
        [sys.executable, "-m", "tensorpool", "completion", "tcsh"],
        capture_output=True,
        text=True,
        env=host.environment,
        check=False,
    )
    assert done.returncode == 2
