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
_END_S = 20


@dataclass(frozen=True)
class BenchHost:
    """A running host: its configuration file, how long it took to be ready in seconds, its pid."""

    config: str
    ready_s: float
    pid: int


def _common(root: str) -> str:
    return _CONFIG.format(root=root)


@contextmanager
def bench_host(
    extra_config: str = "", *, configure: Callable[[str], str] = _common
) -> Iterator[BenchHost]:
    """Start a host, wait until it is ready, and leave nothing behind.

    `configure` gives the text of its configuration for the directory that is its own;
    `extra_config` is added to that: profiles and streams of the benchmark's own.

    Raises:
        RuntimeError: the host itself left a process or a file, or did not end well.
    """
    root = tempfile.mkdtemp(prefix="tp-bench-", dir="/dev/shm")
    config = Path(root, "host.toml")
    config.write_text(configure(root) + extra_config, encoding="ascii")
    command = [sys.executable, "-m", "tensorpool"]
    start = time.perf_counter()
    environment = os.environ | {"TP_LOG_LEVEL": "0"}
    up = subprocess.Popen(
        [*command, "up", str(config)],
        env=environment,
        stdout=subprocess.DEVNULL,
        process_group=0,  # a Ctrl-C is ours, who end the host when its users have left
    )
    try:
        wait = [*command, "status", "--wait", "20", "--config", str(config)]
        subprocess.run(wait, check=True, env=environment, stdout=subprocess.DEVNULL)
        yield BenchHost(str(config), time.perf_counter() - start, up.pid)
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
