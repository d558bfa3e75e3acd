"""What is known of a host from outside: the launcher's file, the registry, /proc. No Aeron.

Every type here is a JSON object of `tensorpool status --json`; the keys are stable, new
ones may come.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict

import psutil

from tensorpool.clock import NS_PER_MS, monotonic_ns
from tensorpool.gc_report import read_report
from tensorpool.launcher.host_file import HostReport, ProcessReport, has_own_pids, read_host
from tensorpool.registry import (
    BumpReason,
    DriverState,
    LeaseRecord,
    LeaseState,
    RegistryError,
    RegistryReader,
    StreamRecord,
)
from tensorpool.settings import HostSettings, ShmSettings
from tensorpool.shm.layout import HEADER_SLOT_BYTES, SUPERBLOCK_BYTES, header_ring_bytes
from tensorpool.shm.paths import HEADER_RING_NAME, epoch_dir
from tensorpool.wire.driver import Role

HEALTHY, DEGRADED, DOWN = 0, 1, 2
"""Exit status of `tensorpool status`."""

_BLOCK_BYTES = 512
_PERCENT = 100.0


class ProcessStatus(TypedDict):
    """A process of the host; `cpu_percent` is of one core, over the time between two looks."""

    name: str
    pid: int | None
    state: str
    needed: bool
    restarts: int
    uptime_s: float | None
    cpu_percent: float | None
    memory_bytes: int | None
    lag_ms: float | None
    metrics: str | None
    detail: str
    last_exit: str | None


class StreamStatus(TypedDict):
    """A stream. `rate_hz` counts frames between two looks; null without regions."""

    stream_id: int
    name: str
    profile: str
    epoch: int | None
    epoch_reason: str
    epoch_bumps: int
    producer_client_id: int | None
    consumers: int
    rate_hz: float | None
    frames: int | None
    bytes: int


class LeaseStatus(TypedDict):
    """A lease; `expires_in_ms` is negative when the driver is late or down."""

    lease_id: int
    stream_id: int
    client_id: int
    role: str
    state: str
    node_id: int
    expires_in_ms: float


class DriverStatus(TypedDict):
    """What the registry says of the driver, and whether that is the word of a living one."""

    alive: bool
    state: str
    pid: int | None
    heartbeat_age_ms: float | None
    registry_error: str | None


class MemoryStatus(TypedDict):
    """Shared memory of this namespace, and of the file system that holds it."""

    used_bytes: int
    free_bytes: int | None
    total_bytes: int | None


class GcStatus(TypedDict):
    """Totals of the epoch GC since it started."""

    passes: int
    epochs_deleted: int
    bytes_freed: int
    errors: int


class HostStatus(TypedDict):
    """The host. `health` is "healthy", "degraded" or "down"; `problems` says why not healthy."""

    health: str
    problems: list[str]
    state: str
    pid: int | None
    uptime_s: float | None
    config: str | None
    instance_id: str
    aeron_dir: str
    namespace_dir: str
    driver: DriverStatus
    processes: list[ProcessStatus]
    streams: list[StreamStatus]
    leases: list[LeaseStatus]
    memory: MemoryStatus
    gc: GcStatus | None


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    value: float


class StatusReader:
    """Looks at one host again and again; rates are between two looks, absent in the first."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self._samples: dict[object, _Sample] = {}

    def look(self) -> HostStatus:
        """The host as it is now. A host that is down is no error."""
        shm = self._settings.shm
        host = read_host(shm)
        driver, streams, leases = self._registry(shm)
        processes = self._processes(host)
        problems = find_problems(host, driver)
        report = read_report(shm.namespace_dir)
        return {
            "health": _health(host, driver, problems),
            "problems": problems,
            "state": host["state"] if host is not None else "down",
            "pid": host["pid"] if host is not None else None,
            "uptime_s": time.time() - host["started_at"] if host is not None else None,
            "config": host["config"] if host is not None else None,
            "instance_id": self._settings.driver.instance_id,
            "aeron_dir": self._settings.aeron_dir,
            "namespace_dir": shm.namespace_dir,
            "driver": driver,
            "processes": processes,
            "streams": streams,
            "leases": leases,
            "memory": _memory(shm),
            "gc": {
                "passes": report.passes,
                "epochs_deleted": report.deleted,
                "bytes_freed": report.bytes_freed,
                "errors": report.errors,
            }
            if report is not None
            else None,
        }

    # -- processes ------------------------------------------------------------------------

    def _processes(self, host: HostReport | None) -> list[ProcessStatus]:
        if host is None:
            return []
        launcher: ProcessReport = {
            "name": "launcher",
            "pid": host["pid"],
            "state": host["state"],
            "needed": True,
            "restarts": 0,
            "since": host["started_at"],
            "detail": "",
            "last_exit": None,
            "lag_ms": 0.0,
            "metrics": host["metrics"],
        }
        return [
            self._process(report, lag=report is not launcher, is_visible=has_own_pids(host))
            for report in (launcher, *host["processes"])
        ]

    def _process(self, report: ProcessReport, *, lag: bool, is_visible: bool) -> ProcessStatus:
        pid, cpu, memory = report["pid"], None, None
        # Of another container the number is some other process's here.
        if pid is not None and is_visible:
            # It may end, or be another user's.
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                with process.oneshot():
                    times = process.cpu_times()
                    cpu = self._rate(("cpu", pid), times.user + times.system)
                    memory = process.memory_info().rss
        return {
            "name": report["name"],
            "pid": pid,
            "state": report["state"],
            "needed": report["needed"],
            "restarts": report["restarts"],
            "uptime_s": time.time() - report["since"] if pid is not None else None,
            "cpu_percent": cpu * _PERCENT if cpu is not None else None,
            "memory_bytes": memory,
            "lag_ms": report["lag_ms"] if lag and pid is not None else None,
            "metrics": report["metrics"],
            "detail": report["detail"],
            "last_exit": report["last_exit"],
        }

    def _rate(self, key: object, value: float) -> float | None:
        now = time.monotonic()
        former, self._samples[key] = self._samples.get(key), _Sample(now, value)
        if former is None or now <= former.at:
            return None
        return max(value - former.value, 0.0) / (now - former.at)

    # -- registry -------------------------------------------------------------------------

    def _registry(
        self, shm: ShmSettings
    ) -> tuple[DriverStatus, list[StreamStatus], list[LeaseStatus]]:
        try:
            with RegistryReader(shm.registry_path) as registry:
                return (
                    _driver(registry),
                    [self._stream(shm, record) for record in registry.streams()],
                    _leases(registry.leases()) if registry.is_of_this_boot() else [],
                )
        except RegistryError as error:
            nobody: DriverStatus = {
                "alive": False,
                "state": "unknown",
                "pid": None,
                "heartbeat_age_ms": None,
                "registry_error": str(error),
            }
            return nobody, [], []

    def _stream(self, shm: ShmSettings, record: StreamRecord) -> StreamStatus:
        directory = epoch_dir(shm.namespace_dir, record.stream_id, record.epoch)
        frames = newest_sequence(os.path.join(directory, HEADER_RING_NAME), record.header_nslots)
        rate = None
        if frames is not None:
            rate = self._rate(("frames", record.stream_id, record.epoch), frames)
        return {
            "stream_id": record.stream_id,
            "name": record.name,
            "profile": record.profile,
            "epoch": record.epoch or None,
            "epoch_reason": _name(BumpReason, record.reason),
            "epoch_bumps": record.epoch_bumps,
            "producer_client_id": record.producer_client_id if record.producer_lease_id else None,
            "consumers": record.consumers,
            "rate_hz": rate,
            "frames": frames,
            "bytes": record.epoch_bytes if record.epoch else 0,
        }


def find_problems(host: HostReport | None, driver: DriverStatus) -> list[str]:
    """Why the host is not healthy, one sentence each; empty if it is."""
    if host is None:
        problems = ["no `tensorpool up` runs on this namespace"]
        if driver["alive"]:
            problems.append(f"a driver without a launcher still serves (pid {driver['pid']})")
        return problems
    problems = [
        f"{process['name']} is {process['state']}"
        + (f" (last end: {process['last_exit']})" if process["last_exit"] else "")
        for process in host["processes"]
        if process["state"] != "ready" and process["needed"]
    ]
    if host["state"] == "draining":
        problems.append("the host is draining")
    if not driver["alive"]:
        problems.append(f"the driver is down: {driver['registry_error'] or 'no heartbeat'}")
    elif driver["state"] != DriverState.SERVING.name.lower():
        problems.append(f"the driver is {driver['state']}, not serving")
    return problems


def _health(host: HostReport | None, driver: DriverStatus, problems: list[str]) -> str:
    if host is None and not driver["alive"]:
        return "down"
    return "degraded" if problems else "healthy"


def exit_status(status: HostStatus) -> int:
    """0 healthy, 1 degraded, 2 down."""
    return {"healthy": HEALTHY, "degraded": DEGRADED, "down": DOWN}[status["health"]]


def _driver(registry: RegistryReader) -> DriverStatus:
    is_alive = registry.is_writer_alive()
    age_ns = monotonic_ns() - registry.heartbeat_ns
    return {
        "alive": is_alive,
        "state": registry.state.name.lower() if is_alive else "down",
        "pid": registry.writer.pid if is_alive else None,
        "heartbeat_age_ms": age_ns / NS_PER_MS if registry.is_of_this_boot() else None,
        "registry_error": None,
    }


def _leases(records: Iterable[LeaseRecord]) -> list[LeaseStatus]:
    now_ns = monotonic_ns()
    return [
        {
            "lease_id": record.lease_id,
            "stream_id": record.stream_id,
            "client_id": record.client_id,
            "role": _name(Role, record.role),
            "state": _name(LeaseState, record.state),
            "node_id": record.node_id,
            "expires_in_ms": (record.expiry_ns - now_ns) / NS_PER_MS,
        }
        for record in records
        if record.state in {LeaseState.ACTIVE, LeaseState.ORPHANED}
    ]


def _name(kind: type[BumpReason | LeaseState | Role], value: int) -> str:
    try:
        return kind(value).name.lower()
    except ValueError:
        return str(value)


def newest_sequence(ring_path: str, nslots: int) -> int | None:
    """How many frames were committed to a header ring; None if it cannot be read.

    A commit word is `(seq << 1) | 1`, 0 while its slot was never written (Wire §8.2).
    """
    try:
        fd = os.open(ring_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not nslots or os.fstat(fd).st_size < header_ring_bytes(nslots):
            return None
        # Read, not mapped: a file that is cut meanwhile gives less instead of a SIGBUS.
        ring = os.pread(fd, header_ring_bytes(nslots), 0)
        if len(ring) < header_ring_bytes(nslots):
            return None
        slots = memoryview(ring).cast("Q")[SUPERBLOCK_BYTES // 8 :: HEADER_SLOT_BYTES // 8]
        newest = max((word >> 1 for word in slots if word & 1), default=-1)
    except OSError:
        return None
    finally:
        os.close(fd)
    return newest + 1


def _memory(shm: ShmSettings) -> MemoryStatus:
    used = 0
    for directory, _, names in os.walk(shm.namespace_dir):
        for name in names:
            with contextlib.suppress(OSError):
                used += os.lstat(os.path.join(directory, name)).st_blocks * _BLOCK_BYTES
    try:
        space = os.statvfs(shm.base_dir)
    except OSError:
        return {"used_bytes": used, "free_bytes": None, "total_bytes": None}
    return {
        "used_bytes": used,
        "free_bytes": space.f_bavail * space.f_frsize,
        "total_bytes": space.f_blocks * space.f_frsize,
    }
