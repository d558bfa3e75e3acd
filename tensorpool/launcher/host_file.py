"""The launcher's account of its processes, for `tensorpool status` and for probes.

`<base_dir>/tensorpool-<user>/.<namespace>.host.json`, replaced whole on every change and
once a second, removed at the end. Keys, stable:

    version         1
    pid             the launcher's
    pid_namespace   that all pids are of, a container's for example; 0: not known
    written_ns      when this was written (CLOCK_MONOTONIC)
    state           "starting", "ready", "degraded" (was ready, a child is down) or "draining"
    ready           whether every process serves
    started_at      wall clock, seconds
    config          path of the configuration file; null: the built-in default
    instance_id     driver.instance_id
    aeron_dir       driver.aeron_dir
    namespace_dir   where the streams are
    metrics         URL of the launcher's metrics; null if they are disabled
    processes       the children in start order, each with
        name        media_driver, driver, supervisor, gc
        pid         null while there is none
        state       "starting", "ready", "stopping", "restarting" or "ended"
        needed      false: somebody else does its job, such as an external media driver
        restarts    since the host started
        since       when it entered its state (wall clock, seconds)
        detail      what it said of itself when it became ready
        last_exit   why its process last ended unasked; null: never
        lag_ms      longest duty cycle in the last second
        metrics     URL of its metrics; null if they are disabled
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any, TypedDict, TypeGuard, get_origin, get_type_hints

from tensorpool.clock import NS_PER_S, monotonic_ns
from tensorpool.host_lock import is_held
from tensorpool.launcher.locks import host_file_path, namespace_lock_path
from tensorpool.pid_namespace import own_pid_namespace
from tensorpool.settings import ShmSettings

VERSION = 1
_SILENT_NS = 5 * NS_PER_S
"""A launcher writes once a second."""
_MAX_BYTES = 1 << 20
_MAX_PID = 1 << 22  # the kernel's limit on 64-bit machines
_ABSENT = object()


class ProcessReport(TypedDict):
    """One child; keys as in the module's description."""

    name: str
    pid: int | None
    state: str
    needed: bool
    restarts: int
    since: float
    detail: str
    last_exit: str | None
    lag_ms: float
    metrics: str | None


class HostReport(TypedDict):
    """The host; keys as in the module's description."""

    version: int
    pid: int
    pid_namespace: int
    written_ns: int
    state: str
    ready: bool
    started_at: float
    config: str | None
    instance_id: str
    aeron_dir: str
    namespace_dir: str
    metrics: str | None
    processes: list[ProcessReport]


class HostFile:
    """The one writer. The directory must exist."""

    def __init__(self, shm: ShmSettings) -> None:
        self._path = host_file_path(shm)
        self._mode = shm.report_mode

    def write(self, report: HostReport) -> None:
        """Replace the account.

        Raises:
            OSError: no space, or the directory is gone.
        """
        replace_file(self._path, json.dumps(report), self._mode)

    def remove(self) -> None:
        """Take it away; a missing one is no fault."""
        for path in (self._path, f"{self._path}.new"):
            try:
                os.unlink(path)
            except OSError:
                continue


def replace_file(path: str, text: str, mode: int) -> None:
    """Put a file with this text and mode at `path`: a reader sees the former or this, whole.

    Raises:
        OSError: no space, no permission, or the directory is gone.
    """
    staging = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(staging)
    # Never into what is there: it may be a link to another file, or a FIFO.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(staging, flags, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        os.fchmod(fd, mode)
        file.write(text)
    os.rename(staging, path)


def read_host(shm: ShmSettings) -> HostReport | None:
    """The account of the host that runs on this namespace now, or None if none does.

    A launcher that was killed leaves its file behind; whether the host runs is told by its
    lock, and whether the launcher does by its pid; where its pid means nothing, in another
    pid namespace, by how long ago it wrote.
    """
    try:
        report = json.loads(_read(host_file_path(shm)))
    except (OSError, ValueError, RecursionError):
        return None
    if not _is_host_report(report) or not is_held(namespace_lock_path(shm)):
        return None
    return report if _is_running(report) else None


def has_own_pids(report: HostReport) -> bool:
    """Whether its pids are of the numbering that this process sees."""
    own = own_pid_namespace()
    return report.get("pid_namespace", own) == own


def _is_running(report: HostReport) -> bool:
    if has_own_pids(report):
        return os.path.exists(f"/proc/{report['pid']}")
    return monotonic_ns() - report["written_ns"] < _SILENT_NS


def _read(path: str) -> bytes:
    """What stands in the file at `path`; a link is not followed, a FIFO not waited for."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        return file.read(_MAX_BYTES)


def _is_host_report(value: object) -> TypeGuard[HostReport]:
    """Whether it is an account of this version, with every key of its type."""
    return (
        _has_fields(value, HostReport)
        and value["version"] == VERSION
        and _is_pid(value["pid"])
        and all(
            _has_fields(process, ProcessReport)
            and (process["pid"] is None or _is_pid(process["pid"]))
            for process in value["processes"]
        )
    )


def _has_fields(value: object, shape: type) -> TypeGuard[dict[str, Any]]:
    if not isinstance(value, dict):
        return False
    return all(
        isinstance(value.get(name, _ABSENT), _runtime_type(kind))
        for name, kind in get_type_hints(shape).items()
    )


def _runtime_type(kind: Any) -> Any:
    """What `isinstance` takes for a field's type; JSON writes a whole float as an int."""
    if kind is float:
        return int | float
    return list if get_origin(kind) is list else kind


def _is_pid(number: int) -> bool:
    return 0 < number <= _MAX_PID
