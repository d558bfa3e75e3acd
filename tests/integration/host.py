"""A whole host as a test subject: `tensorpool up` on directories of its own.

    def test_something(host: RunningHost) -> None:
        host.command("produce", "10000", "--count", "1")
        os.kill(host.pid_of("driver"), signal.SIGKILL)
        host.wait_ready()

The `host` fixture starts one that is ready, and asserts at the end that it drains with
exit status 0 and leaves nothing but its registry behind.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tensorpool.config import load, to_settings
from tensorpool.launcher.host_file import HostReport, ProcessReport, read_host
from tensorpool.settings import HostSettings
from tests.support import wait_until

DEADLINE_S = 30.0
STREAM = 10000
"""The configured stream; frames up to 1 MiB."""

_OURS = ("TENSORPOOL_CONFIG", "AERON_DIR", "TP_LOG_LEVEL", "NOTIFY_SOCKET", "WATCHDOG_USEC")
_TABLES: dict[str, dict[str, Any]] = {
    "driver": {
        "announce_stream_id": 1001,
        "stream_id_range": "20000-29999",
        "descriptor_stream_id_range": "31000-31999",
        "control_stream_id_range": "32000-32999",
    },
    "shm": {},
    "policies": {"allow_dynamic_streams": True},
    "profiles": {
        "default": {
            "header_nslots": 8,
            "payload_pools": [
                {"pool_id": 1, "stride_bytes": 4096},
                {"pool_id": 2, "stride_bytes": 1 << 20},
            ],
        }
    },
    "streams": {"cam1": {"stream_id": STREAM, "profile": "default"}},
    "supervisor": {"per_consumer_enabled": True},
}

type Tables = Mapping[str, Mapping[str, Any] | None]


def to_toml(tables: Mapping[str, Any], prefix: str = "") -> str:
    """`tables` as TOML."""
    text, inner = "", ""
    for name, value in tables.items():
        if isinstance(value, Mapping):
            inner += f"\n[{prefix}{name}]\n" + to_toml(value, f"{prefix}{name}.")
        else:
            text += f"{name} = {_value(value)}\n"
    return text + inner


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value)


def clean_environment() -> dict[str, str]:
    """Ours, without what would change a host's configuration."""
    return {name: value for name, value in os.environ.items() if name not in _OURS}


class RunningHost:
    """`tensorpool up` in a process group of its own.

    Attributes:
        directory: holds everything of this host; a fresh one in /dev/shm.
        config: its configuration file.
        environment: of this host and its commands.
        process: the launcher.
        log: what launcher and children wrote to standard error.
        output: what the launcher wrote to standard output.
    """

    def __init__(self, directory: Path, tables: Tables | None = None) -> None:
        self.directory = directory
        self.config = directory / "config.toml"
        self.log = directory / "log"
        self.output = directory / "output"
        self.environment = clean_environment()
        self.configure(tables or {})
        self.settings: HostSettings = to_settings(load(str(self.config), {}).config)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def aeron_dir(self) -> Path:
        return Path(self.settings.aeron_dir)

    @property
    def namespace_dir(self) -> Path:
        return Path(self.settings.shm.namespace_dir)

    def configure(self, tables: Tables) -> None:
        """Write the file: the defaults above, each table updated; None leaves a table out."""
        merged: dict[str, Any] = {name: dict(table) for name, table in _TABLES.items()}
        merged["driver"]["aeron_dir"] = str(self.directory / "aeron")
        merged["shm"]["base_dir"] = str(self.directory / "base")
        for name, table in tables.items():
            if table is None:
                merged.pop(name, None)
            else:
                merged[name] = {**merged.get(name, {}), **table}
        self.config.write_text(to_toml(merged))

    def start(self) -> None:
        """Start `tensorpool up`; not ready yet."""
        with self.log.open("ab") as log, self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tensorpool", "up", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )

    def adopt(self, process: subprocess.Popen[bytes]) -> None:
        """Take another process than the last one started for the launcher."""
        self._process = process

    def command(
        self, *arguments: str, deadline_s: float = DEADLINE_S, config: bool = True
    ) -> "Completed":
        """Run `tensorpool ARGUMENTS --config FILE` to its end, or as it stands."""
        option = ["--config", str(self.config)] if config else []
        done = subprocess.run(
            [sys.executable, "-m", "tensorpool", *arguments, *option],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=deadline_s,
            check=False,
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    # -- state ----------------------------------------------------------------------------

    def report(self) -> HostReport | None:
        """The launcher's account, None if none runs."""
        return read_host(self.settings.shm)

    def process_report(self, name: str) -> ProcessReport:
        """The account of one child."""
        report = self.report()
        assert report is not None, f"no host runs\n{self.logged()}"
        return next(item for item in report["processes"] if item["name"] == name)

    def pid_of(self, name: str) -> int:
        """The child's process."""
        pid = self.process_report(name)["pid"]
        assert pid is not None, f"{name} has no process\n{self.logged()}"
        return pid

    @property
    def is_ready(self) -> bool:
        report = self.report()
        return report is not None and report["ready"]

    def wait_ready(self) -> None:
        """Until every process serves; fails at once if the launcher ends."""
        wait_until(
            lambda: self.is_ready or self.process.poll() is not None,
            DEADLINE_S,
            lambda: f"ready\n{self.logged()}",
        )
        assert self.process.poll() is None, f"the launcher ended\n{self.logged()}"

    def wait_restarted(self, name: str, former_pid: int) -> None:
        """Until the child has another process and the host is ready."""

        def is_restarted() -> bool:
            # One account for both: of two, the first could be of before the child's end.
            report = self.report()
            if report is None or not report["ready"]:
                return False
            (process,) = (item for item in report["processes"] if item["name"] == name)
            return process["pid"] != former_pid

        wait_until(is_restarted, DEADLINE_S, lambda: f"another {name}\n{self.logged()}")

    def wait_ended(self) -> int:
        """Until the launcher ends by itself; its exit status."""
        return self.process.wait(DEADLINE_S)

    def descendants(self) -> list[psutil.Process]:
        """Every process below the launcher, multiprocessing's tracker among them."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def logged(self) -> str:
        """Standard error so far."""
        return self.log.read_text() if self.log.exists() else ""

    def printed(self) -> str:
        """The launcher's standard output so far."""
        return self.output.read_text() if self.output.exists() else ""

    # -- end ------------------------------------------------------------------------------

    def stop(self) -> int:
        """SIGTERM and wait; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait_ended()

    def leftovers(self) -> list[Path]:
        """Files below the directory that a clean end must not leave; the registry may stay."""
        kept = {self.config, self.log, self.output, Path(self.settings.shm.registry_path)}
        return sorted(
            path for path in self.directory.rglob("*") if not path.is_dir() and path not in kept
        )

    def close(self) -> None:
        """End whatever is left, by force; for tests that failed or killed the launcher."""
        if self._process is None:
            return
        tree = [psutil.Process(self._process.pid)] if self._process.poll() is None else []
        tree += [child for parent in tree for child in parent.children(recursive=True)]
        for process in tree:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait(DEADLINE_S)


class Completed:
    """A command that has ended."""

    def __init__(self, status: int, output: str, errors: str) -> None:
        self.status = status
        self.output = output
        self.errors = errors

    def __repr__(self) -> str:
        return f"status {self.status}\n{self.output}\n{self.errors}"


def _is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that only waits for its new parent to reap it does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def running_host(directory: Path, tables: Tables | None = None) -> Iterator[RunningHost]:
    """A ready host with `tables` over the defaults; drained and checked at the end."""
    host = RunningHost(directory, tables)
    host.start()
    try:
        host.wait_ready()
        yield host
        tree = host.descendants()
        assert host.stop() == 0, host.logged()
        wait_until(lambda: not any(map(_is_alive, tree)), DEADLINE_S, "the tree to be gone")
        assert not host.leftovers()
    finally:
        host.close()


@pytest.fixture
def host(tmp_shm: Path) -> Iterator[RunningHost]:
    """A ready host with the default tables."""
    with running_host(tmp_shm) as running:
        yield running
