"""Files that one process writes and others read: registry, host file, GC report."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tensorpool.cli.status_report import StatusReader
from tensorpool.clock import monotonic_ns
from tensorpool.config import load, to_settings
from tensorpool.driver.recovery import inherit
from tensorpool.gc.eligibility import Limits, judge
from tensorpool.gc.scanner import scan
from tensorpool.gc.watch import RegistryWatch
from tensorpool.gc_report import GcReport, GcReportWriter, read_report, report_path
from tensorpool.host_lock import HostLock
from tensorpool.launcher.host_file import read_host
from tensorpool.launcher.locks import host_file_path, namespace_lock_path
from tensorpool.namespace import prepare_namespace
from tensorpool.pid_namespace import own_pid_namespace
from tensorpool.registry import (
    BumpReason,
    DriverState,
    LeaseRecord,
    LeaseState,
    RegistryError,
    RegistryReader,
    RegistryWriter,
    StreamRecord,
)
from tensorpool.settings import HostSettings
from tensorpool.supervisor.leases import LeaseWatch

_SIZE = {"max_streams": 2, "max_leases": 3}
_U64 = 1 << 64
_SEPARATOR = b"\0\0\0\0SPLIT\0\0\0"


def settings_in(directory: Path) -> HostSettings:
    """Settings of a namespace below `directory`, which is made."""
    settings = to_settings(load(None, {}).config)
    base = str(directory / "base")
    shm = dataclasses.replace(
        settings.shm, base_dir=base, namespace="fuzz", allowed_base_dirs=(base,)
    )
    os.close(prepare_namespace(shm))
    return dataclasses.replace(settings, shm=shm)


@contextmanager
def open_registry(directory: Path) -> Iterator[Callable[[bytes], None]]:
    """Every reader of the registry: none may fail but by RegistryError, none may be misled far."""
    settings = settings_in(directory)
    shm = settings.shm
    path, staging = shm.registry_path, f"{shm.registry_path}.fuzz"
    epoch = Path(shm.namespace_dir, "10000", "7")
    epoch.mkdir(parents=True, mode=0o700)
    epoch.parent.chmod(0o700)
    status = StatusReader(settings)

    def check(data: bytes) -> None:
        Path(staging).write_bytes(data)
        os.rename(staging, path)  # as a new driver does
        try:
            with RegistryReader(path) as registry:
                _read_all(registry)
        except RegistryError as error:
            assert path in str(error), error
        lease_watch = LeaseWatch(path)
        lease_watch.read()
        lease_watch.close()
        _judge(settings, path)
        json.dumps(status.look())
        heritage = inherit(shm, settings.policies.node_id_reuse_cooldown_ns)
        # A successor must be able to go on from it: epochs and lease ids have room to grow.
        assert heritage.last_epoch <= _U64 >> 1, heritage
        assert heritage.first_lease_id <= _U64 >> 1, heritage
        assert heritage.last_epoch >= 7

    yield check


def _read_all(registry: RegistryReader) -> None:
    streams, leases = list(registry.streams()), list(registry.leases())
    assert len(streams) <= registry.max_streams
    assert len(leases) <= registry.max_leases
    assert registry.state in DriverState
    for value in (registry.heartbeat_ns, registry.epoch_changes, registry.gc_requests):
        assert 0 <= value < _U64
    registry.is_writer_alive()
    registry.is_of_this_boot()
    assert not registry.is_replaced


def _judge(settings: HostSettings, path: str) -> None:
    watch = RegistryWatch(path)
    fd = os.open(settings.shm.namespace_dir, os.O_RDONLY)
    try:
        found = scan(fd, lambda: None)
        view = watch.view()
        for entries in found.values():
            judge(entries, view, Limits.of(settings.policies), monotonic_ns())
        watch.serves(10000)
    finally:
        os.close(fd)
        watch.close()


def registry_seeds() -> list[bytes]:
    """A registry in use, one of a dead driver, an empty one."""
    with TemporaryDirectory() as directory:
        path = os.path.join(directory, "registry")
        found = []
        for state in DriverState:
            writer = RegistryWriter(path, **_SIZE, mode=0o600)
            writer.set_state(state)
            if state is not DriverState.STARTING:
                _fill(writer)
            writer.publish()
            writer.close()
            found.append(Path(path).read_bytes())
    return found


def _fill(writer: RegistryWriter) -> None:
    stream = StreamRecord(
        10000, 8, 7, 7, 5, 1, 1, BumpReason.PRODUCER_ATTACHED, 3, 4096, 1, 1, "cam1", "default"
    )
    writer.write_stream(0, stream)
    for index, state in enumerate((LeaseState.ACTIVE, LeaseState.ORPHANED, LeaseState.RELEASED)):
        now = monotonic_ns()
        lease = LeaseRecord(
            3 + index, 10000, 5 + index, 1 + index % 2, state, 0, index, -7, 0, 7, now, now, now + 1
        )
        writer.write_lease(index, lease)
    writer.set_active_leases(2)
    writer.count_epoch_change()
    writer.heartbeat()


@contextmanager
def open_reports(directory: Path) -> Iterator[Callable[[bytes], None]]:
    """Host file and GC report, both in one input: whatever they hold, a status comes out."""
    settings = settings_in(directory)
    shm = settings.shm
    lock = HostLock(namespace_lock_path(shm), "the fuzzed namespace")
    status = StatusReader(settings)

    def check(data: bytes) -> None:
        host, _, report = data.partition(_SEPARATOR)
        Path(host_file_path(shm)).write_bytes(host)
        Path(report_path(shm.namespace_dir)).write_bytes(report)
        read_host(shm)
        read_report(shm.namespace_dir)
        json.dumps(status.look())

    try:
        yield check
    finally:
        lock.release()


def report_seeds() -> list[bytes]:
    """A whole host file with a whole report, and each alone."""
    process = {
        "name": "driver",
        "pid": os.getpid(),
        "state": "ready",
        "needed": True,
        "restarts": 0,
        "since": 1.5,
        "detail": "",
        "last_exit": None,
        "lag_ms": 0.1,
        "metrics": None,
    }
    host = {
        "version": 1,
        "pid": os.getpid(),
        "pid_namespace": own_pid_namespace(),
        "written_ns": monotonic_ns(),
        "state": "ready",
        "ready": True,
        "started_at": 1.5,
        "config": None,
        "instance_id": "x",
        "aeron_dir": "/dev/shm/aeron",
        "namespace_dir": "/dev/shm/x",
        "metrics": None,
        "processes": [process, {**process, "name": "gc", "pid": None, "state": "ended"}],
    }
    with TemporaryDirectory() as directory:
        writer = GcReportWriter(directory, 0o600)
        writer.write(GcReport(1, 2, 3, 4, 5, 6, 7))
        report = Path(report_path(directory)).read_bytes()
        writer.close()
    text = json.dumps(host).encode()
    return [text + _SEPARATOR + report, text, _SEPARATOR + report, b'{"version": 1}']
