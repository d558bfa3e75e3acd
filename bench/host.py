"""A real host of its own for a benchmark, in unique directories."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tensorpool.config import load, to_settings
from tensorpool.launcher.host_file import HostReport, read_host

_CONFIG = """\
[driver]
aeron_dir = "{root}/aeron"
announce_stream_id = 1001
[shm]
base_dir = "{root}/shm"
[profiles.default]
header_nslots = 64
payload_pools = [{{ pool_id = 1, stride_bytes = 65536 }}, {{ pool_id = 2, stride_bytes = 1048576 }}]
[profiles.small]
header_nslots = 16
payload_pools = [{{ pool_id = 1, stride_bytes = 4096 }}]
[streams.frames]
stream_id = 10000
profile = "default"
[streams.small]
stream_id = 10001
profile = "small"
[supervisor]
# Benchmarks kill children more often than a host that is well would lose them.
[launcher]
crash_loop_restarts = 1000
"""
_START_S = _END_S = 20
_LOOK_S = 0.005


@dataclass(frozen=True)
class BenchHost:
    """A running host.

    Attributes:
        config: its configuration file.
        ready_s: seconds from its start until every process served.
        ready_at_s: the same of each process, by name; `launcher`: until it ran.
        pid: the launcher's.
    """

    config: str
    ready_s: float
    ready_at_s: dict[str, float]
    pid: int


def _common(root: str) -> str:
    return _CONFIG.format(root=root)


def _await_ready(config: Path) -> HostReport:
    shm = to_settings(load(str(config), {}).config).shm
    deadline_s = time.monotonic() + _START_S
    while (report := read_host(shm)) is None or not report["ready"]:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"the host is not ready within {_START_S} s: {report}")
        time.sleep(_LOOK_S)
    return report


@contextmanager
def bench_host(
    extra_config: str = "", *, configure: Callable[[str], str] = _common
) -> Iterator[BenchHost]:
    """Start a host, wait until it is ready, and leave nothing behind.

    `configure` gives the text of its configuration for the directory that is its own;
    `extra_config` is added to that: profiles and streams of the benchmark's own.

    Raises:
        RuntimeError: the host was not ready in time, left a process or a file, or did not end
            well.
    """
    root = tempfile.mkdtemp(prefix="tp-bench-", dir="/dev/shm")
    config = Path(root, "host.toml")
    config.write_text(configure(root) + extra_config, encoding="ascii")
    started_at = time.time()
    environment = os.environ | {"TP_LOG_LEVEL": "0"}
    up = subprocess.Popen(
        [sys.executable, "-m", "tensorpool", "up", str(config)],
        env=environment,
        stdout=subprocess.DEVNULL,
        process_group=0,  # a Ctrl-C is ours, who end the host when its users have left
    )
    try:
        report = _await_ready(config)
        ready_s = time.time() - started_at
        ready_at_s = {"launcher": report["started_at"] - started_at}
        ready_at_s |= {p["name"]: p["since"] - started_at for p in report["processes"]}
        yield BenchHost(str(config), ready_s, ready_at_s, up.pid)
        tree = psutil.Process(up.pid).children(recursive=True)
        up.terminate()
        status = up.wait(_END_S)
        _, alive = psutil.wait_procs(tree, timeout=_END_S)
        # The registry stays, for what must survive the host (node id cooldowns, last epochs).
        files = [p for p in Path(root).rglob("*") if p.is_file() and p.name != "registry"]
        files.remove(config)
        if status or alive or files:
            raise RuntimeError(f"the host ended with status {status} and left {alive}, {files}")
    finally:
        if up.poll() is None:
            up.terminate()
            up.wait(_END_S)
        shutil.rmtree(root, ignore_errors=True)
