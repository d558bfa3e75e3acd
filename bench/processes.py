"""CPU time and memory of a host's processes, as the kernel counts them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TypedDict

import psutil

from tensorpool.clock import NS_PER_S
from tensorpool.launcher.host_file import read_host
from tensorpool.settings import HostSettings

_KIB_PER_MIB = 1024
_LAUNCHER = "launcher"
_RESOURCE_TRACKER = "resource tracker"
"""Of Python's multiprocessing: the one child of the launcher that is no child of the host."""


class Memory(TypedDict):
    """Of one process, in MiB.

    `pss` is what it has to itself and its share of each page that it has with others, so that the
    sum over all processes counts every page once; `shm` is the part of it in shared memory.
    """

    rss: float
    pss: float
    private: float
    shared: float
    shm: float


def host_processes(launcher_pid: int, settings: HostSettings) -> dict[str, int]:
    """Pid by name of every process of the host's tree.

    Raises:
        RuntimeError: the host does not run.
    """
    report = read_host(settings.shm)
    if report is None:
        raise RuntimeError("the host does not run")
    pids = {_LAUNCHER: launcher_pid}
    pids |= {item["name"]: item["pid"] for item in report["processes"] if item["pid"] is not None}
    others = psutil.Process(launcher_pid).children(recursive=True)
    for number, pid in enumerate(sorted({child.pid for child in others} - {*pids.values()})):
        pids[_RESOURCE_TRACKER if number == 0 else f"other {number}"] = pid
    return pids


def cpu_s(pid: int) -> float:
    """Seconds of CPU that the process's living threads have used.

    The scheduler's own nanoseconds where the kernel gives them: what wakes for a moment only, as
    an idle duty cycle does, is missed by accounting in clock ticks.
    """
    try:
        threads = Path(f"/proc/{pid}/task").iterdir()
        used_ns = sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)
    except FileNotFoundError:
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system
    return used_ns / NS_PER_S


class CpuShares:
    """Shares of one core (1.0: all of it) that processes use from the construction on.

    Args:
        pids: by name.
    """

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._start = time.monotonic()
        self._used_s = {name: cpu_s(pid) for name, pid in pids.items()}

    def so_far(self) -> dict[str, float]:
        """By name."""
        elapsed_s = time.monotonic() - self._start
        return {
            name: round((cpu_s(pid) - self._used_s[name]) / elapsed_s, 5)
            for name, pid in self._pids.items()
        }


def memory(pid: int) -> Memory:
    """What the process occupies, from its smaps_rollup."""
    kib: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        key, _, value = line.partition(":")
        kib[key] = int(value.split()[0])

    def mib(*keys: str) -> float:
        return round(sum(kib[key] for key in keys) / _KIB_PER_MIB, 2)

    return {
        "rss": mib("Rss"),
        "pss": mib("Pss"),
        "private": mib("Private_Clean", "Private_Dirty"),
        "shared": mib("Shared_Clean", "Shared_Dirty"),
        "shm": mib("Pss_Shmem"),
    }
