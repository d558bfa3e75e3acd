"""What fuzzing found, each in the smallest form that shows it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tensorpool.cli.status_report import StatusReader
from tensorpool.driver.recovery import inherit
from tensorpool.host_lock import HostLock
from tensorpool.launcher.host_file import read_host
from tensorpool.launcher.locks import host_file_path, namespace_lock_path
from tensorpool.registry import (
    LeaseRecord,
    LeaseState,
    RegistryError,
    RegistryReader,
    RegistryWriter,
    StreamRecord,
)
from tensorpool.settings import HostSettings
from tests.fuzz.files import report_seeds, settings_in

U64_MAX = (1 << 64) - 1


@pytest.fixture
def settings(tmp_shm: Path) -> HostSettings:
    return settings_in(tmp_shm)


def registry_in(settings: HostSettings) -> RegistryWriter:
    writer = RegistryWriter(
        settings.shm.registry_path, max_streams=1, max_leases=1, mode=settings.shm.report_mode
    )
    writer.publish()
    return writer


def test_a_driver_state_of_no_release_is_an_error_of_ours(settings: HostSettings) -> None:
    writer = registry_in(settings)
    writer.set_state(77)  # type: ignore[arg-type]
    with (
        RegistryReader(settings.shm.registry_path) as registry,
        pytest.raises(RegistryError, match="driver state 77 is unknown"),
    ):
        assert registry.state
    status = StatusReader(settings).look()
    assert "driver state 77" in (status["driver"]["registry_error"] or "")
    writer.close()


def test_ids_beyond_belief_leave_room_for_the_next(settings: HostSettings) -> None:
    writer = registry_in(settings)
    writer.write_stream(
        0, StreamRecord(10000, 8, U64_MAX, U64_MAX, 0, 0, 1, 0, 0, 0, 0, 0, "s", "p")
    )
    writer.write_lease(
        0, LeaseRecord(U64_MAX, 10000, 5, 1, LeaseState.ACTIVE, 0, 0, 0, 0, 7, 0, 0, 0)
    )
    writer.close()
    stream = Path(settings.shm.namespace_dir, "10000")
    (stream / str(U64_MAX)).mkdir(parents=True)
    heritage = inherit(settings.shm, 0)
    assert heritage.last_epoch < U64_MAX >> 1
    assert heritage.first_lease_id < U64_MAX >> 1


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": "1"},
        {"pid": -1},
        {"pid": 1 << 40},
        {"processes": None},
        {"processes": [{}]},
        {"processes": [7]},
        {"started_at": "now"},
        {"version": 2},
        {"config": 5},
    ],
    ids=str,
)
def test_a_host_file_of_another_shape_says_nothing(
    settings: HostSettings, changes: dict[str, object]
) -> None:
    lock = HostLock(namespace_lock_path(settings.shm), "the namespace")
    whole = json.loads(report_seeds()[1])
    path = Path(host_file_path(settings.shm))
    path.write_text(json.dumps(whole))
    assert read_host(settings.shm) is not None
    path.write_text(json.dumps(whole | changes))
    assert read_host(settings.shm) is None
    assert StatusReader(settings).look()["pid"] is None
    lock.release()


@pytest.mark.parametrize("content", ["", "[]", "7", "{", "[" * 100_000, '{"version": 1}'])
def test_a_host_file_that_is_none(settings: HostSettings, content: str) -> None:
    lock = HostLock(namespace_lock_path(settings.shm), "the namespace")
    Path(host_file_path(settings.shm)).write_text(content)
    assert read_host(settings.shm) is None
    lock.release()


def test_a_stream_directory_that_cannot_be_read(settings: HostSettings) -> None:
    """The epoch GC may remove one between its being listed and its being read."""
    gone = Path(settings.shm.namespace_dir, "10000")
    gone.mkdir(mode=0o000)
    if os.geteuid() == 0:
        gone.rmdir()
    assert inherit(settings.shm, 0).last_epoch == 0
