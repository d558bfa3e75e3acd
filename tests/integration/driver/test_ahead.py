"""The next epochs of a small stream are made ahead of need: who needs one waits for no file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import tensorpool
from tensorpool.settings import EPOCHS_AHEAD
from tensorpool.shm.paths import STAGING_PREFIX
from tests.integration.host import DEADLINE_S, RunningHost, Tables, running_host
from tests.leftovers import unique_shm_directory
from tests.support import wait_until

SMALL, LARGE, FIRST_DYNAMIC = 10000, 10001, 20000
MIB = 1 << 20
STRIDE = MIB // 8
TABLES: Tables = {
    "supervisor": None,
    "metrics": {"enabled": True},
    "profiles": {
        "default": {"header_nslots": 8, "payload_pools": [{"pool_id": 1, "stride_bytes": STRIDE}]},
        "large": {"header_nslots": 16, "payload_pools": [{"pool_id": 1, "stride_bytes": STRIDE}]},
    },
    "streams": {
        "cam1": {"stream_id": SMALL, "profile": "default"},
        "large": {"stream_id": LARGE, "profile": "large"},
    },
    "policies": {
        "default_profile": "default",
        "allow_dynamic_streams": True,
        "prepare_ahead_max_bytes": MIB + 4096,
        "epoch_gc_keep": 1,
        "epoch_gc_min_age_ns": 100_000_000,
    },
}


@pytest.fixture
def host(tmp_shm: Path) -> Iterator[RunningHost]:
    with running_host(tmp_shm, TABLES) as made:
        yield made


def ahead_of(host: RunningHost, stream_id: int) -> list[int]:
    """Epochs of the stream that are there and not in place, oldest first."""
    try:
        names = os.listdir(host.namespace_dir / str(stream_id))
    except FileNotFoundError:
        return []
    staged = [name for name in names if name.startswith(STAGING_PREFIX)]
    return sorted(int(name.removeprefix(STAGING_PREFIX).split("-")[0]) for name in staged)


def prepared_bytes(host: RunningHost) -> float:
    """What the driver says that it holds ready."""
    processes = json.loads(host.command("status", "--json").output)["processes"]
    [url] = [process["metrics"] for process in processes if process["name"] == "driver"]
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310
        lines = response.read().decode().splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith("tensorpool_driver_prepared")]
    return float(value)


def wait_ready_ahead(host: RunningHost, stream_id: int, above: int = 0) -> list[int]:
    """Until as many epochs of the stream as can be are held ready; their numbers, oldest first."""

    def ready() -> list[int]:
        held = prepared_bytes(host) // MIB  # of all streams; others are not yet counted
        streams = [int(name) for name in os.listdir(host.namespace_dir) if name.isdecimal()]
        staged = ahead_of(host, stream_id)
        is_ready = sum(len(ahead_of(host, other)) for other in streams) == held
        return staged if is_ready and len(staged) == EPOCHS_AHEAD and staged[0] > above else []

    return wait_until(ready, DEADLINE_S, lambda: f"{ahead_of(host, stream_id)}, above {above}")


def test_a_producer_gets_the_epoch_that_was_made_ahead(host: RunningHost) -> None:
    first, second = wait_ready_ahead(host, SMALL)
    assert ahead_of(host, LARGE) == []
    assert EPOCHS_AHEAD * MIB < prepared_bytes(host) <= EPOCHS_AHEAD * (MIB + 4096)
    with tensorpool.connect(host.config) as pool:
        with pool.consumer(SMALL) as view, pool.producer(SMALL) as camera:
            assert camera.epoch == first
            assert wait_ready_ahead(host, SMALL, first)[0] == second
            camera.publish(bytes(range(100)))
            frame = view.next(DEADLINE_S)
            assert frame is not None
            assert bytes(frame.copy()) == bytes(range(100))
        # The end of the producer begins an epoch as well: that was the second.
        third, _ = wait_ready_ahead(host, SMALL, second)
        with pool.producer(SMALL) as camera:
            assert camera.epoch == third
        assert pool.producer(LARGE).epoch
        assert ahead_of(host, LARGE) == []


def test_those_that_were_removed_are_made_anew(host: RunningHost) -> None:
    _, ready = wait_ready_ahead(host, SMALL)
    for staged in (host.namespace_dir / str(SMALL)).glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(staged)
    with tensorpool.connect(host.config) as pool, pool.producer(SMALL) as camera:
        assert camera.epoch > ready
        assert "epoch made ahead is lost" in host.logged()
        wait_ready_ahead(host, SMALL, ready)


def test_after_one_that_was_cut_comes_the_next(host: RunningHost) -> None:
    cut, whole = wait_ready_ahead(host, SMALL)
    [staged] = (host.namespace_dir / str(SMALL)).glob(f"{STAGING_PREFIX}{cut}-*")
    os.truncate(staged / "1.pool", 4096)
    with tensorpool.connect(host.config) as pool, pool.producer(SMALL) as camera:
        assert camera.epoch == whole


def test_a_killed_driver_leaves_none(host: RunningHost) -> None:
    _, ready = wait_ready_ahead(host, SMALL)
    former = host.pid_of("driver")
    os.kill(former, signal.SIGKILL)
    host.wait_restarted("driver", former)
    successors = wait_ready_ahead(host, SMALL, ready)
    with tensorpool.connect(host.config) as pool, pool.producer(SMALL) as camera:
        assert camera.epoch == successors[0]


def test_a_dynamic_stream_that_makes_room_takes_its_own_along(tmp_shm: Path) -> None:
    policies = {**(TABLES["policies"] or {}), "max_streams": 3}
    with (
        running_host(tmp_shm, {**TABLES, "policies": policies}) as host,
        tensorpool.connect(host.config) as pool,
    ):
        pool.producer(FIRST_DYNAMIC).close()
        wait_ready_ahead(host, FIRST_DYNAMIC)
        pool.producer(FIRST_DYNAMIC + 1).close()
        wait_until(lambda: not ahead_of(host, FIRST_DYNAMIC), DEADLINE_S, "its removal")
        wait_ready_ahead(host, FIRST_DYNAMIC + 1)


def test_a_fault_that_is_no_shortage_leaves_it_alone(host: RunningHost) -> None:
    ready, _ = wait_ready_ahead(host, SMALL)
    (host.namespace_dir / str(FIRST_DYNAMIC)).touch()
    with tensorpool.connect(host.config) as pool:
        with pytest.raises(tensorpool.AttachRejected, match=str(FIRST_DYNAMIC)):
            pool.producer(FIRST_DYNAMIC)
        with pool.producer(SMALL) as camera:
            assert camera.epoch == ready
    (host.namespace_dir / str(FIRST_DYNAMIC)).unlink()


@pytest.fixture
def file_system() -> Iterator[Path]:
    """For four epochs of MIB and what else a host needs, but not for five."""
    mounted = unique_shm_directory()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tp-ahead", mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)
        mounted.rmdir()


@pytest.mark.parametrize("is_collected", [True, False])
def test_where_space_is_short_it_goes_first(
    tmp_shm: Path, file_system: Path, *, is_collected: bool
) -> None:
    tables = {
        **TABLES,
        "shm": {"base_dir": str(file_system / "base")},
        "streams": {"cam1": {"stream_id": SMALL, "profile": "default"}},
        "policies": {**(TABLES["policies"] or {}), "epoch_gc_enabled": is_collected},
    }
    with running_host(tmp_shm, tables) as host, tensorpool.connect(host.config) as pool:
        wait_ready_ahead(host, SMALL)
        first = pool.producer(FIRST_DYNAMIC)
        # Of the small stream: one in place, two ahead; of the dynamic one: one in place. A fifth
        # finds no space, and those ahead make room.
        second = pool.producer(FIRST_DYNAMIC + 1)
        assert first.epoch < second.epoch
        assert ahead_of(host, SMALL) == []
        assert prepared_bytes(host) == 0
