"""The registry: a writer killed at any store leaves the old record or the new, never a mix."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tensorpool.registry as registry_module
from tensorpool.registry import (
    DriverState,
    LeaseRecord,
    LeaseState,
    RegistryError,
    RegistryReader,
    RegistryWriter,
    StreamRecord,
    registry_bytes,
)

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
LEASES = st.builds(
    LeaseRecord,
    lease_id=U64,
    stream_id=U32,
    client_id=U32,
    role=st.integers(1, 2),
    state=st.sampled_from([LeaseState.ACTIVE, LeaseState.ORPHANED, LeaseState.RELEASED]),
    pad=st.just(0),
    node_id=U32,
    session_id=st.integers(-(2**31), 2**31 - 1),
    pad2=st.just(0),
    epoch=U64,
    attached_ns=U64,
    keepalive_ns=U64,
    expiry_ns=U64,
    correlation_id=st.integers(-(2**63), 2**63 - 1),
)
STREAMS = st.builds(
    StreamRecord,
    stream_id=st.integers(1, 2**32 - 1),
    header_nslots=U32,
    epoch=U64,
    last_epoch=U64,
    producer_client_id=U32,
    consumers=U32,
    layout_version=U32,
    reason=U32,
    producer_lease_id=U64,
    epoch_bytes=U64,
    epoch_created_ns=U64,
    epoch_bumps=U64,
    name=st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=32),
    profile=st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=32),
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "registry")


@pytest.fixture
def writer(path: str) -> Iterator[RegistryWriter]:
    made = RegistryWriter(path, max_streams=2, max_leases=4, mode=0o640)
    made.publish()
    yield made
    made.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(stream=STREAMS, lease=LEASES)
def test_what_is_written_is_read(
    writer: RegistryWriter, path: str, stream: StreamRecord, lease: LeaseRecord
) -> None:
    writer.write_stream(1, stream)
    writer.write_lease(3, lease)
    with RegistryReader(path) as reader:
        assert list(reader.streams()) == [stream]
        assert list(reader.leases()) == [lease]


class _Killed(BaseException):
    """The writer dies here."""


class _DyingStruct:
    """Packs only the first `survives` bytes of a record, then the writer is dead."""

    def __init__(self, real: struct.Struct, survives: int) -> None:
        self.size = real.size
        self._real, self._survives = real, survives

    def pack_into(self, buffer: memoryview, offset: int, *values: object) -> None:
        whole = self._real.pack(*values)
        buffer[offset : offset + self._survives] = whole[: self._survives]
        raise _Killed


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(old=LEASES, new=LEASES, survives=st.integers(0, 64))
def test_killed_in_the_middle_of_a_record(
    writer: RegistryWriter, path: str, old: LeaseRecord, new: LeaseRecord, survives: int
) -> None:
    writer.write_lease(0, old)
    real = registry_module._LEASE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry_module, "_LEASE", _DyingStruct(real, survives))
        with pytest.raises(_Killed):
            writer.write_lease(0, new)
    with RegistryReader(path) as reader:
        assert list(reader.leases()) == [old]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(old=LEASES, new=LEASES)
def test_killed_before_the_version_moves(
    writer: RegistryWriter, path: str, old: LeaseRecord, new: LeaseRecord
) -> None:
    def die(*_: object) -> None:
        raise _Killed

    writer.write_lease(0, old)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry_module, "store_release", die)
        with pytest.raises(_Killed):
            writer.write_lease(0, new)
    with RegistryReader(path) as reader:
        assert list(reader.leases()) == [old]


def test_a_killed_writer_process_leaves_whole_records(tmp_path: Path) -> None:
    """A real process, killed by SIGKILL while it writes without pause, many times over."""
    for _ in range(10):
        path = str(tmp_path / "registry")
        ready_read, ready_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            _write_for_ever(path, ready_write)
        try:
            os.read(ready_read, 1)
            with RegistryReader(path) as reader:
                for _ in range(200):
                    for lease in reader.leases():
                        assert lease == _uniform_lease(lease.lease_id)
            os.kill(pid, 9)
        finally:
            os.waitpid(pid, 0)
            os.close(ready_read)
            os.close(ready_write)
        with RegistryReader(path) as reader:
            assert not reader.is_writer_alive()
            for lease in reader.leases():
                assert lease == _uniform_lease(lease.lease_id)


def _write_for_ever(path: str, ready_fd: int) -> NoReturn:  # a child's whole life
    writer = RegistryWriter(path, max_streams=1, max_leases=1, mode=0o640)
    writer.publish()
    os.write(ready_fd, b"!")
    numbers = itertools.count(1)
    while True:
        writer.write_lease(0, _uniform_lease(next(numbers)))


def _uniform_lease(n: int) -> LeaseRecord:
    m = n % 2**31
    return LeaseRecord(n, m, m, 1, LeaseState.ACTIVE, 0, m, m, 0, n, n, n, n, n)


def test_live_and_dead_writer(path: str) -> None:
    writer = RegistryWriter(path, max_streams=1, max_leases=1, mode=0o640)
    writer.publish()
    with RegistryReader(path) as reader:
        assert reader.is_writer_alive()
        assert reader.is_of_this_boot()
        assert reader.writer.pid == os.getpid()
        writer.close()
        assert not reader.is_writer_alive()


def test_a_silent_writer_is_not_alive(
    writer: RegistryWriter, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RegistryReader(path) as reader:
        late = reader.heartbeat_ns + registry_module.HEARTBEAT_STALE_NS
        monkeypatch.setattr(registry_module, "monotonic_ns", lambda: late)
        assert not reader.is_writer_alive()


def test_a_new_driver_replaces_the_file(writer: RegistryWriter, path: str) -> None:
    with RegistryReader(path) as reader:
        seen = [reader.is_replaced]
        successor = RegistryWriter(path, max_streams=2, max_leases=4, mode=0o640)
        seen.append(reader.is_replaced)
        successor.publish()
        seen.append(reader.is_replaced)
        successor.close()
    assert seen == [False, False, True]


def test_words(writer: RegistryWriter, path: str) -> None:
    with RegistryReader(path) as reader:
        writer.set_state(DriverState.DRAINING)
        assert reader.state is DriverState.DRAINING
        assert reader.epoch_changes == 0
        writer.count_epoch_change()
        assert reader.epoch_changes == 1
        first = writer.request_gc()
        assert reader.gc_requests == first > 0
        assert writer.request_gc() > first
        writer.set_active_leases(5)
        assert reader.active_leases == 5
        assert reader.last_epoch == 0
        writer.set_last_epoch(2**60)
        assert reader.last_epoch == 2**60


@pytest.mark.parametrize("umask", [0, 0o077])
def test_mode_is_exact_whatever_the_umask(path: str, umask: int) -> None:
    former = os.umask(umask)
    try:
        RegistryWriter(path, max_streams=1, max_leases=1, mode=0o640).close()
    finally:
        os.umask(former)
    assert os.stat(path + ".new").st_mode & 0o7777 == 0o640


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "damaged"),
        (b"x" * 4096, "magic"),
        (registry_module.MAGIC.to_bytes(8, "little") + b"\x09\0\0\0" + bytes(4096), "version 9"),
        (registry_module.MAGIC.to_bytes(8, "little") + b"\x02\0\0\0" + bytes(4096), "capacities"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, fragment: str) -> None:
    path = tmp_path / "registry"
    path.write_bytes(content)
    with pytest.raises(RegistryError, match=fragment):
        RegistryReader(str(path))


def test_truncated_file_is_refused(writer: RegistryWriter, path: str) -> None:
    os.truncate(path, registry_bytes(2, 4) - 1)
    with pytest.raises(RegistryError, match="capacities"):
        RegistryReader(path)


def test_missing_file_says_what_to_do(path: str) -> None:
    with pytest.raises(RegistryError, match="tensorpool up"):
        RegistryReader(path)


def test_symlink_is_not_followed(writer: RegistryWriter, path: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(RegistryError):
        RegistryReader(str(link))
