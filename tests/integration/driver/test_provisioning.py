"""Making an epoch's files for real: exact modes, whole or not at all, space reserved first."""

from __future__ import annotations

import ctypes
import mmap
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tensorpool.config import load, to_settings
from tensorpool.driver.epoch import Abandoned, EpochPlan, NoSpace, provision
from tensorpool.driver.provisioning import Provisioner
from tensorpool.errors import HostError
from tensorpool.namespace import prepare_namespace
from tensorpool.settings import PoolLayout, Profile, ShmSettings
from tensorpool.shm.superblock import ACTIVITY_WORD, decode_superblock
from tests.support import wait_until

PROFILE = Profile("test", 16, (PoolLayout(1, 4096), PoolLayout(7, 65536)))
STREAM = 10000


def shm_settings(base: Path | str, **changes: object) -> ShmSettings:
    shm = to_settings(load(None, {}).config).shm
    shm = replace(shm, base_dir=str(base), allowed_base_dirs=(str(base),))
    return replace(shm, **changes)  # type: ignore[arg-type]


@pytest.fixture
def shm(tmp_shm: Path) -> ShmSettings:
    settings = shm_settings(tmp_shm)
    os.close(prepare_namespace(settings))
    return settings


def plan(epoch: int = 5, profile: Profile = PROFILE) -> EpochPlan:
    return EpochPlan(STREAM, epoch, profile)


@pytest.mark.clause("Wire §15.10-1", "Wire §15.21a.6-1")
@pytest.mark.config_key("shm.permissions_mode")
@pytest.mark.parametrize("umask", [0, 0o077])
@pytest.mark.parametrize("mode", [0o660, 0o640, 0o600])
def test_modes_are_exact_whatever_the_umask(tmp_shm: Path, mode: int, umask: int) -> None:
    former = os.umask(umask)
    try:
        settings = shm_settings(tmp_shm, permissions_mode=mode)
        os.close(prepare_namespace(settings))
        epoch = provision(plan(), settings, prefault=False, mlock=False)
    finally:
        os.umask(former)
    epoch.close()
    expected_dir = 0o2750 if mode & 0o070 else 0o700
    assert stat.S_IMODE(os.stat(epoch.directory).st_mode) == expected_dir
    files = {entry.name: entry.stat() for entry in os.scandir(epoch.directory)}
    assert set(files) == {"header.ring", "1.pool", "7.pool"}
    assert {stat.S_IMODE(info.st_mode) for info in files.values()} == {mode}
    assert files["header.ring"].st_size == 64 + 16 * 256
    assert files["7.pool"].st_size == 64 + 16 * 65536
    assert epoch.total_bytes == sum(info.st_size for info in files.values())


def test_space_is_reserved_before_it_is_promised(shm: ShmSettings) -> None:
    epoch = provision(plan(), shm, prefault=False, mlock=False)
    epoch.close()
    for entry in os.scandir(epoch.directory):
        info = entry.stat()
        assert info.st_blocks * 512 >= info.st_size, "sparse: a later write could be a SIGBUS"


@pytest.mark.config_key("policies.prefault_shm")
@pytest.mark.parametrize("prefault", [False, True])
def test_prefault_makes_every_page_present(shm: ShmSettings, *, prefault: bool) -> None:
    epoch = provision(plan(), shm, prefault=prefault, mlock=False)
    epoch.close()
    fd = os.open(f"{epoch.directory}/7.pool", os.O_RDWR)
    size = os.fstat(fd).st_size
    mapping = mmap.mmap(fd, size)
    os.close(fd)
    pages = -(-size // mmap.PAGESIZE)
    present = (ctypes.c_ubyte * pages)()
    anchor = ctypes.c_char.from_buffer(mapping)
    status = ctypes.CDLL(None).mincore(ctypes.byref(anchor), ctypes.c_size_t(size), present)
    del anchor
    mapping.close()
    assert status == 0
    # The first page carries the superblock, which is written either way.
    assert all(flag & 1 for flag in present[1:]) == prefault


@pytest.mark.clause("Driver §3-5")
def test_superblocks_and_activity(shm: ShmSettings) -> None:
    epoch = provision(plan(), shm, prefault=False, mlock=False)
    ring = Path(epoch.directory, "header.ring")
    before = decode_superblock(ring.read_bytes()[:64])
    assert (before.epoch, before.stream_id, before.pid) == (5, STREAM, os.getpid())
    epoch.refresh_activity(before.activity_timestamp_ns + 1)
    after = decode_superblock(ring.read_bytes()[:64])
    assert after == before._replace(activity_timestamp_ns=before.activity_timestamp_ns + 1)
    assert ACTIVITY_WORD == 7
    epoch.close()


@pytest.fixture
def tiny_fs(tmp_shm: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.fail("mounting a small tmpfs needs root: run the tests as root or in a container")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_shm)], check=True)
    yield tmp_shm
    subprocess.run(["umount", str(tmp_shm)], check=True)


def test_full_file_system_names_wanted_and_free_and_leaves_nothing(tiny_fs: Path) -> None:
    settings = shm_settings(tiny_fs)
    os.close(prepare_namespace(settings))
    with pytest.raises(NoSpace, match=r"wants \d+ bytes, \d+ bytes and \d+ inodes are free"):
        provision(plan(), settings, prefault=True, mlock=False)
    assert os.listdir(f"{settings.namespace_dir}/{STREAM}") == []
    small = Profile("small", 16, (PoolLayout(1, 4096),))
    provision(plan(6, small), settings, prefault=True, mlock=False).close()


def test_an_epoch_is_never_made_twice(shm: ShmSettings) -> None:
    provision(plan(), shm, prefault=False, mlock=False).close()
    with pytest.raises(HostError):
        provision(plan(), shm, prefault=False, mlock=False)
    assert os.listdir(f"{shm.namespace_dir}/{STREAM}") == ["5"]


@pytest.mark.clause("Driver §9-1")
@pytest.mark.parametrize("where", ["stream", "namespace"])
def test_a_planted_symlink_is_refused(tmp_shm: Path, where: str) -> None:
    settings = shm_settings(tmp_shm)
    os.close(prepare_namespace(settings))
    elsewhere = tmp_shm / "elsewhere"
    elsewhere.mkdir()
    target = Path(settings.namespace_dir)
    if where == "stream":
        (target / str(STREAM)).symlink_to(elsewhere)
    else:
        target.rmdir()
        target.symlink_to(elsewhere)
    with pytest.raises(HostError):
        provision(plan(), settings, prefault=False, mlock=False)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.clause("Driver §9-1")
def test_a_directory_that_others_may_write_is_refused(shm: ShmSettings) -> None:
    stream = Path(shm.namespace_dir, str(STREAM))
    stream.mkdir()
    stream.chmod(0o777)
    with pytest.raises(HostError, match="others than we may write"):
        provision(plan(), shm, prefault=False, mlock=False)


def test_a_foreign_owner_is_refused(shm: ShmSettings) -> None:
    stream = Path(shm.namespace_dir, str(STREAM))
    stream.mkdir(mode=0o700)
    os.chown(stream, 65534, 65534)
    with pytest.raises(HostError, match="belongs to uid 65534"):
        provision(plan(), shm, prefault=False, mlock=False)


def test_a_world_writable_base_without_sticky_bit_is_refused(tmp_shm: Path) -> None:
    base = tmp_shm / "base"
    base.mkdir()
    base.chmod(0o777)
    with pytest.raises(HostError, match="sticky"):
        prepare_namespace(shm_settings(base))


def test_a_missing_parent_is_named(tmp_shm: Path) -> None:
    with pytest.raises(HostError, match=r"shm\.base_dir"):
        prepare_namespace(shm_settings(tmp_shm / "no" / "such"))


_MLOCK = """
import resource, sys
from tests.integration.driver.test_provisioning import plan, shm_settings
from tensorpool.driver.epoch import LockRefused, provision
from tensorpool.namespace import prepare_namespace
resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))
shm = shm_settings(sys.argv[1])
prepare_namespace(shm)
try:
    provision(plan(), shm, prefault=False, mlock=True)
except LockRefused as error:
    print(error)
    sys.exit(17)
"""


@pytest.mark.clause("Driver §17-6")
@pytest.mark.config_key("policies.mlock_shm")
def test_mlock_refused_names_limit_and_remedy(tmp_shm: Path) -> None:
    run = subprocess.run(
        ["setpriv", "--bounding-set=-ipc_lock", sys.executable, "-c", _MLOCK, str(tmp_shm)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert run.returncode == 17, run.stderr
    assert "limit is 4096 bytes" in run.stdout
    assert "LimitMEMLOCK" in run.stdout


@pytest.mark.config_key("policies.mlock_shm")
def test_mlock_locks(shm: ShmSettings) -> None:
    epoch = provision(plan(), shm, prefault=True, mlock=True)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    locked = next(line for line in status.splitlines() if line.startswith("VmLck"))
    assert int(locked.split()[1]) * 1024 >= epoch.total_bytes - mmap.PAGESIZE
    epoch.close()


def test_the_provisioner_reports_results_of_all_workers(shm: ShmSettings) -> None:
    provisioner = Provisioner(shm, prefault=True, mlock=False)
    for epoch in range(5, 15):
        provisioner.submit(plan(epoch))
    made = set()
    for _ in range(10):
        result = wait_until(provisioner.take, 20, "a provisioned epoch")
        assert result is not None
        assert result.epoch is not None, result.error
        made.add(result.plan.epoch)
        result.epoch.close()
    assert made == set(range(5, 15))
    provisioner.close()


@pytest.fixture
def provisioner(shm: ShmSettings) -> Iterator[Provisioner]:
    made = Provisioner(shm, prefault=True, mlock=False)
    yield made
    made.close()


def test_waiting_ends_with_a_result_which_is_taken_once(provisioner: Provisioner) -> None:
    provisioner.submit(plan())
    for _ in range(2):  # the second returns at once, the first one's result is there
        provisioner.wait(20)
    result = provisioner.take()
    assert result is not None
    assert result.epoch is not None
    result.epoch.close()
    assert (provisioner.take(), provisioner.in_flight) == (None, 0)
    provisioner.wait(0.001)
    assert provisioner.take() is None


def test_a_large_epoch_stands_back_and_is_zeroed_whole(provisioner: Provisioner) -> None:
    stride = (33 << 20) + 12288  # no multiple of what is written at once
    large = Profile("large", 2, (PoolLayout(1, stride),))
    provisioner.submit(plan(5, large))
    provisioner.submit(plan(6))
    results = [wait_until(provisioner.take, 60, "an epoch") for _ in range(2)]
    for result in results:
        assert result is not None
        assert result.epoch is not None, result.error
        size = sum(file.stat().st_blocks * 512 for file in Path(result.epoch.directory).iterdir())
        assert size >= result.plan.total_bytes
        result.epoch.close()
    niceness = {
        thread.name: os.getpriority(os.PRIO_PROCESS, thread.native_id or 0)
        for thread in threading.enumerate()
        if thread.name.startswith("provision")
    }
    small, large_one = niceness["provision_0"], niceness["provision-large_0"]
    assert large_one == min(small + 10, 19)


@pytest.mark.parametrize("asked", [0, 1, 2, 3, 4, 40, 130])
def test_an_epoch_that_nobody_wants_any_more_is_not_finished(shm: ShmSettings, asked: int) -> None:
    times = 0

    def is_abandoned() -> bool:
        nonlocal times
        times += 1
        return times > asked

    large = Profile("large", 2, (PoolLayout(1, 65 << 20),))
    with pytest.raises(Abandoned):
        provision(plan(5, large), shm, prefault=True, mlock=False, is_abandoned=is_abandoned)
    assert times == asked + 1
    assert os.listdir(Path(shm.namespace_dir) / str(STREAM)) == []


def test_closing_waits_for_no_large_epoch(shm: ShmSettings) -> None:
    provisioner = Provisioner(shm, prefault=True, mlock=False)
    provisioner.submit(plan(5, Profile("large", 2, (PoolLayout(1, 1 << 30),))))
    folder = Path(shm.namespace_dir) / str(STREAM)
    wait_until(lambda: folder.exists() and os.listdir(folder), 20, "the making of it")
    provisioner.close()
    assert os.listdir(folder) == [], "it was finished first"
