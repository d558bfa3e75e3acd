"""Limits of the processes: locked memory, descriptors, the control group's memory."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from tensorpool.doctor.cgroup import memory_limit
from tensorpool.doctor.finding import Finding, Severity
from tensorpool.doctor.need import locked_bytes, need_of
from tensorpool.doctor.texts import size
from tensorpool.launcher.host_file import read_host
from tensorpool.settings import HostSettings

_CAP_IPC_LOCK = 14
_EVERY_UID = ["0", "0", "4294967295"]
"""The map of user ids of the first user namespace."""


def check_memlock(settings: HostSettings) -> Iterator[Finding]:
    """With `mlock_shm`: the limit of locked memory, unless the process may lock anything."""
    if not settings.policies.mlock_shm:
        return
    pid = driver_pid(settings)
    wanted = locked_bytes(settings)
    soft = _soft_limit(pid, resource.RLIMIT_MEMLOCK)
    if soft is None or soft >= wanted or _has_capability(pid, _CAP_IPC_LOCK):
        return
    yield Finding(
        "memlock-limit",
        Severity.ERROR,
        f"the memlock limit of {_whose(pid)} is {size(soft)}; policies.mlock_shm locks up to "
        f"{size(wanted)}",
        "policies.mlock_shm = true needs CAP_IPC_LOCK, or a limit of two epochs of every static "
        "stream; a refused lock is fatal (Driver §17)",
        "LimitMEMLOCK=infinity in the systemd unit, `ulimit -l unlimited`, the IPC_LOCK "
        "capability of the container, or policies.mlock_shm = false",
    )


def check_descriptors(settings: HostSettings) -> Iterator[Finding]:
    """The driver's limit of open files."""
    pid = driver_pid(settings)
    wanted = need_of(settings).fds
    soft = _soft_limit(pid, resource.RLIMIT_NOFILE)
    if soft is not None and soft < wanted:
        yield Finding(
            "fd-limit",
            Severity.ERROR,
            f"{_whose(pid)} may open {soft} files; the static streams take {wanted}",
            "the limit of open files covers a descriptor for each mapped region of two epochs of "
            "every static stream",
            "LimitNOFILE=65536 in the systemd unit, or `ulimit -n 65536`",
        )


def check_cgroup(settings: HostSettings) -> Iterator[Finding]:
    """The memory limit of the control group that the host runs in."""
    limit = memory_limit(driver_pid(settings))
    need = need_of(settings)
    if limit is not None and limit.bytes < need.memory_bytes:
        yield Finding(
            "cgroup-memory",
            Severity.ERROR,
            f"control group {limit.path} may use {size(limit.bytes)}; the configuration takes "
            f"{size(need.region_bytes)} of regions, {size(need.aeron_bytes)} of term buffers and "
            f"{size(need.process_bytes)} for the processes",
            "a memory limit counts the pages of shared memory that a process writes first: the "
            "kernel kills a process when they do not fit",
            f"raise it to {size(need.memory_bytes)} (MemoryMax=, a container's limits.memory), "
            "or lower header_nslots, stride_bytes or policies.epoch_gc_keep",
        )


def driver_pid(settings: HostSettings) -> int:
    """The running driver, whose limits count; else this process, whose limits it would inherit."""
    host = read_host(settings.shm)
    for process in host["processes"] if host is not None else ():
        if process["name"] == "driver" and process["pid"] is not None:
            return process["pid"]
    return os.getpid()


def _whose(pid: int) -> str:
    return "this shell" if pid == os.getpid() else f"the running driver (pid {pid})"


def _soft_limit(pid: int, which: int) -> int | None:
    """The limit, or None if there is none or it may not be asked for."""
    try:
        soft, _ = resource.prlimit(pid, which)
    except (PermissionError, ProcessLookupError):
        return None
    return None if soft == resource.RLIM_INFINITY else soft


def _has_capability(pid: int, number: int) -> bool:
    """Whether the kernel honours it: in a user namespace of its own a process only seems to."""
    with open(f"/proc/{pid}/uid_map", encoding="ascii") as file:
        if file.read().split() != _EVERY_UID:
            return False
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False
