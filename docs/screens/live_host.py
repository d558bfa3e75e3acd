"""A live host to be shown: `tensorpool up` in a directory of its own, with clients at work."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from docs.screens.processes import clean_environment, running
from docs.screens.waiting import DEADLINE_S, NotShown, wait_for
from tensorpool.cli.status_report import StatusReader
from tensorpool.config import load, to_settings

_CONFIG = """\
[driver]
instance_id = "lab"
aeron_dir = "{directory}/aeron"
stream_id_range = "20000-29999"
descriptor_stream_id_range = "31000-31999"
control_stream_id_range = "32000-32999"
[shm]
base_dir = "{directory}"
[policies]
allow_dynamic_streams = true
[profiles.image]
header_nslots = 16
payload_pools = [{{ pool_id = 1, stride_bytes = 1048576 }}]
[profiles.scan]
header_nslots = 32
payload_pools = [{{ pool_id = 1, stride_bytes = 65536 }}]
[streams.camera]
stream_id = 10000
profile = "image"
[streams.lidar]
stream_id = 10001
profile = "scan"
[supervisor]
per_consumer_enabled = true
[metrics]
enabled = true
discovery_file = "{directory}/targets.json"
"""
_FOR_EVER = ("--count", "1000000000")
_CLIENTS = (
    ("produce", "10000", "--rate", "30", "--shape", "480x640", "--dtype", "uint16", *_FOR_EVER),
    ("produce", "10001", "--rate", "10", "--shape", "1024x4", "--dtype", "float32", *_FOR_EVER),
    ("consume", "10000", "--no-check", *_FOR_EVER),
    ("consume", "10000", "--no-check", *_FOR_EVER),
    ("consume", "10001", "--no-check", *_FOR_EVER),
)
"""Clients that stay."""
_VISITORS = (
    ("consume", "10000", "--no-check", "--count", "5"),
    ("produce", "20000", "--rate", "20", "--shape", "256", "--dtype", "uint8", "--count", "10"),
    ("produce", "10000", "--count", "1"),
)
"""Clients that come and go: a consumer, a dynamic stream's producer, and one that is refused."""


@dataclass(frozen=True)
class LiveHost:
    """A host that is ready.

    Attributes:
        directory: holds everything of it; gone when it ends.
        environment: of its commands: they find its configuration there.
    """

    directory: Path
    environment: dict[str, str]

    @property
    def targets(self) -> Path:
        """The discovery file that its launcher writes for Prometheus."""
        return self.directory / "targets.json"

    @property
    def _log(self) -> Path:
        """What its clients complain of."""
        return self.directory / "clients.log"

    @cached_property
    def _status(self) -> StatusReader:
        """What `tensorpool status` reads, without a process for every look."""
        loaded = load(self.environment["TENSORPOOL_CONFIG"], self.environment)
        return StatusReader(to_settings(loaded.config))

    def ask(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `tensorpool ARGUMENTS` to its end, as a reader would type it."""
        return subprocess.run(
            _command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=DEADLINE_S,
            check=False,
        )

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Producers and consumers that stay, all attached."""
        with ExitStack() as clients:
            for arguments in _CLIENTS:
                clients.enter_context(running(_command(*arguments), self.environment, self._log))
            wait_for(
                lambda: len(self._status.look()["leases"]) >= len(_CLIENTS),
                lambda: f"the clients to be attached\n{self._log.read_text(encoding='utf-8')}",
            )
            yield

    def be_visited(self) -> None:
        """Let other clients come, work and go."""
        with ExitStack() as clients:
            visitors = [
                clients.enter_context(running(_command(*arguments), self.environment, self._log))
                for arguments in _VISITORS
            ]
            for visitor in visitors:
                visitor.wait(DEADLINE_S)


@contextmanager
def live_host() -> Iterator[LiveHost]:
    """Start a host and wait until it is ready; nothing of it is left at the end.

    Raises:
        NotShown: it is not ready in time.
    """
    directory = Path(tempfile.mkdtemp(prefix="tp-docs-", dir="/dev/shm"))
    try:
        config, log = directory / "host.toml", directory / "log"
        config.write_text(_CONFIG.format(directory=directory), encoding="utf-8")
        host = LiveHost(directory, clean_environment() | {"TENSORPOOL_CONFIG": str(config)})
        with running(_command("up"), host.environment, log):
            is_ready = host.ask("status", "--wait", f"{DEADLINE_S / 2}").returncode == 0
            if not is_ready:
                raise NotShown(f"the host is not ready\n{log.read_text(encoding='utf-8')}")
            yield host
    finally:
        shutil.rmtree(directory)


def _command(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tensorpool", *arguments)
