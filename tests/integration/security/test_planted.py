"""Planted links, FIFOs, devices and directories at every path that we make or open.

Each case ends in a clear error or in success; never in a hang, a traceback of another kind,
or a touched victim.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from tensorpool.aeron.cnc import read_owner
from tensorpool.aeron_directory import require_own_directory
from tensorpool.client.mapping import EpochRegions, MappedEpoch
from tensorpool.clock import monotonic_ns
from tensorpool.driver.epoch import EpochPlan, provision
from tensorpool.driver.recovery import inherit
from tensorpool.errors import HostError
from tensorpool.gc.collector import run_pass
from tensorpool.gc.eligibility import Limits
from tensorpool.gc.watch import RegistryWatch
from tensorpool.gc_report import GcReport, GcReportWriter, read_report, report_path
from tensorpool.host_lock import HostLock, is_held
from tensorpool.launcher.host_file import HostFile, HostReport, read_host
from tensorpool.launcher.locks import host_file_path, namespace_lock_path
from tensorpool.namespace import prepare_namespace
from tensorpool.pid_namespace import own_pid_namespace
from tensorpool.registry import RegistryError, RegistryReader, RegistryWriter, own_identity
from tensorpool.settings import PoolLayout, Profile, ShmSettings
from tensorpool.shm import paths
from tensorpool.shm.errors import ShmError
from tests.fuzz.files import settings_in
from tests.integration.security.planting import (
    DIRECTORY_PLANTS,
    FILE_PLANTS,
    NOBODY,
    Plant,
    Victim,
    as_user,
    clear,
    name_of,
)

PROFILE = Profile("test", 2, (PoolLayout(1, 64),))
STREAM, EPOCH = 10000, 5
AT_ONCE = Limits(enabled=True, keep=1, min_age_ns=0)

files = pytest.mark.parametrize("plant", FILE_PLANTS, ids=name_of)
directories = pytest.mark.parametrize("plant", DIRECTORY_PLANTS, ids=name_of)


@pytest.fixture
def shm(tmp_shm: Path) -> ShmSettings:
    return settings_in(tmp_shm).shm


@pytest.fixture
def victim(tmp_shm: Path) -> Victim:
    return Victim(tmp_shm)


def make_epoch(shm: ShmSettings, epoch: int = EPOCH) -> EpochRegions:
    made = provision(EpochPlan(STREAM, epoch, PROFILE), shm, prefault=False, mlock=False)
    made.close()
    return EpochRegions(STREAM, epoch, 1, 2, 256, made.header_uri, made.pools)


def bases(shm: ShmSettings) -> tuple[str, ...]:
    return paths.canonical_bases(shm.allowed_base_dirs)


def registry_with(shm: ShmSettings, **capacities: int) -> RegistryWriter:
    sizes = {"max_streams": 2, "max_leases": 2} | capacities
    return RegistryWriter(shm.registry_path, **sizes, mode=shm.report_mode)


# -- directories ------------------------------------------------------------------------------


@directories
@pytest.mark.parametrize("level", ["base", "user", "namespace"])
def test_directories_of_the_namespace(
    shm: ShmSettings, victim: Victim, plant: Plant, level: str
) -> None:
    namespace = Path(shm.namespace_dir)
    path = {"base": namespace.parent.parent, "user": namespace.parent, "namespace": namespace}
    clear(path[level])
    plant(path[level], victim)
    with pytest.raises(HostError, match=str(path[level])):
        os.close(prepare_namespace(shm))
    with pytest.raises(HostError):
        make_epoch(shm)
    with suppress(HostError):
        run_pass(shm, AT_ONCE, RegistryWatch(shm.registry_path))
    victim.check()


@directories
def test_the_stream_directory(shm: ShmSettings, victim: Victim, plant: Plant) -> None:
    plant(Path(shm.namespace_dir, str(STREAM)), victim)
    with pytest.raises(HostError, match=str(STREAM)):
        make_epoch(shm)
    assert inherit(shm, 0).last_epoch == 0
    run_pass(shm, AT_ONCE, RegistryWatch(shm.registry_path))
    victim.check()


@directories
def test_the_epoch_directory(shm: ShmSettings, victim: Victim, plant: Plant) -> None:
    make_epoch(shm, EPOCH - 1)
    plant(Path(shm.namespace_dir, str(STREAM), str(EPOCH)), victim)
    # The rename cannot replace it: no epoch, and nothing half made stays.
    with pytest.raises(HostError):
        make_epoch(shm)
    assert not list(Path(shm.namespace_dir, str(STREAM)).glob(".staging-*"))
    run_pass(shm, AT_ONCE, RegistryWatch(shm.registry_path))
    victim.check()


@directories
def test_the_staging_directory(shm: ShmSettings, victim: Victim, plant: Plant) -> None:
    make_epoch(shm, EPOCH - 1)
    me = own_identity()
    staging = Path(shm.namespace_dir, str(STREAM), f".staging-{EPOCH}-{me.pid}-{me.start_ticks}")
    plant(staging, victim)
    with pytest.raises(HostError):
        make_epoch(shm)
    victim.check()


@files
def test_region_files_in_a_staging_directory(
    shm: ShmSettings, victim: Victim, plant: Plant
) -> None:
    """Left there by whoever can write as us: a region is always a new file."""
    make_epoch(shm, EPOCH - 1)
    me = own_identity()
    staging = Path(shm.namespace_dir, str(STREAM), f".staging-{EPOCH}-{me.pid}-{me.start_ticks}")
    staging.mkdir(mode=0o700)
    plant(staging / "header.ring", victim)
    with pytest.raises(HostError):
        make_epoch(shm)
    victim.check()


# -- what clients map -------------------------------------------------------------------------


@files
@pytest.mark.parametrize("writable", [False, True], ids=["consumer", "producer"])
@pytest.mark.parametrize("name", ["header.ring", "1.pool"])
def test_region_files_that_a_client_maps(
    shm: ShmSettings, victim: Victim, plant: Plant, name: str, writable: bool
) -> None:
    regions = make_epoch(shm)
    path = Path(shm.namespace_dir, str(STREAM), str(EPOCH), name)
    path.unlink()
    plant(path, victim)
    with pytest.raises(ShmError):
        MappedEpoch(regions, bases(shm), writable=writable)
    victim.check()


@pytest.mark.parametrize("level", ["base", "user", "namespace", "stream", "epoch"])
def test_a_directory_of_a_uri_that_leads_outside(
    tmp_shm: Path, shm: ShmSettings, level: str
) -> None:
    """A whole copy of the epoch outside, superblocks and all: only the path is wrong."""
    regions = make_epoch(shm)
    epoch = Path(shm.namespace_dir, str(STREAM), str(EPOCH))
    namespace = epoch.parent.parent
    chain = {
        "base": namespace.parent.parent,
        "user": namespace.parent,
        "namespace": namespace,
        "stream": epoch.parent,
        "epoch": epoch,
    }
    canonical = bases(shm)
    outside = tmp_shm / "outside"
    chain[level].rename(outside)
    chain[level].symlink_to(outside)
    with pytest.raises(ShmError, match="outside the allowed base"):
        MappedEpoch(regions, canonical, writable=False)


@pytest.mark.parametrize(
    "escape",
    ["{base}/../outside/header.ring", "/proc/self/mem", "/dev/mem", "{base}/../../../etc/passwd"],
)
def test_a_uri_that_escapes(tmp_shm: Path, shm: ShmSettings, escape: str) -> None:
    regions = make_epoch(shm)
    (tmp_shm / "outside").mkdir()
    (tmp_shm / "outside" / "header.ring").write_bytes(bytes(4096))
    path = escape.format(base=shm.base_dir)
    broken = EpochRegions(STREAM, EPOCH, 1, 2, 256, f"shm:file?path={path}", regions.payload_pools)
    with pytest.raises(ShmError, match=r"outside the allowed base|No such file"):
        MappedEpoch(broken, bases(shm), writable=True)


# -- files of the driver, the GC and the launcher ---------------------------------------------


@files
@pytest.mark.parametrize("suffix", ["", ".new"])
def test_the_registry(shm: ShmSettings, victim: Victim, plant: Plant, suffix: str) -> None:
    path = Path(shm.registry_path + suffix)
    plant(path, victim)
    if not suffix:
        with pytest.raises(RegistryError):
            RegistryReader(shm.registry_path)
        assert inherit(shm, 0).debts == []
    with suppress(OSError):  # a directory stays in the way, and `process` says so
        writer = registry_with(shm)
        try:
            writer.publish()
            RegistryReader(shm.registry_path).close()
        finally:
            writer.close()
    victim.check()


@files
@pytest.mark.parametrize("suffix", ["", ".new"])
def test_the_gc_report(shm: ShmSettings, victim: Victim, plant: Plant, suffix: str) -> None:
    path = Path(report_path(shm.namespace_dir) + suffix)
    plant(path, victim)
    assert read_report(shm.namespace_dir) is None
    with suppress(OSError):  # a directory stays in the way; the GC says so and goes on
        writer = GcReportWriter(shm.namespace_dir, shm.report_mode)
        writer.write(GcReport(1, 2, 3, 4, 5, 6, 7))
        writer.close()
        assert read_report(shm.namespace_dir) == GcReport(1, 2, 3, 4, 5, 6, 7)
    victim.check()


@files
@pytest.mark.parametrize("suffix", ["", ".new"])
def test_the_host_file(shm: ShmSettings, victim: Victim, plant: Plant, suffix: str) -> None:
    plant(Path(host_file_path(shm) + suffix), victim)
    lock = HostLock(namespace_lock_path(shm), "the namespace")
    assert read_host(shm) is None
    report: HostReport = {
        "version": 1,
        "pid": os.getpid(),
        "pid_namespace": own_pid_namespace(),
        "written_ns": monotonic_ns(),
        "state": "ready",
        "ready": True,
        "started_at": 0.0,
        "config": None,
        "instance_id": "",
        "aeron_dir": "",
        "namespace_dir": "",
        "metrics": None,
        "processes": [],
    }
    file = HostFile(shm)
    with suppress(OSError):  # a directory stays in the way; the launcher says so and goes on
        file.write(report)
        assert read_host(shm) == report
    file.remove()
    lock.release()
    victim.check()


@files
def test_a_lock_file(shm: ShmSettings, victim: Victim, plant: Plant) -> None:
    path = namespace_lock_path(shm)
    plant(Path(path), victim)
    assert not is_held(path)
    with pytest.raises(HostError, match=path):
        HostLock(path, "the namespace")
    victim.check()


def test_a_lock_file_of_another_user(tmp_shm: Path) -> None:
    tmp_shm.chmod(0o1777)
    path = tmp_shm / "aeron.lock"
    with as_user(NOBODY):
        path.touch()
    # Refused by us, or already by the kernel (fs.protected_regular).
    with pytest.raises(HostError, match=f"belongs to uid {NOBODY}|Permission denied"):
        HostLock(str(path), "the Aeron directory")


@directories
def test_the_aeron_directory(tmp_shm: Path, victim: Victim, plant: Plant) -> None:
    path = tmp_shm / "aeron"
    require_own_directory(str(path))
    plant(path, victim)
    with pytest.raises(HostError, match="symlink or no directory"):
        require_own_directory(str(path))
    victim.check()


def test_the_aeron_directory_of_another_user(tmp_shm: Path) -> None:
    tmp_shm.chmod(0o1777)
    path = tmp_shm / "aeron"
    with as_user(NOBODY):
        path.mkdir()
    with pytest.raises(HostError, match=f"belongs to uid {NOBODY}"):
        require_own_directory(str(path))


@files
def test_the_cnc_file(tmp_shm: Path, victim: Victim, plant: Plant) -> None:
    plant(tmp_shm / "cnc.dat", victim)
    owner = read_owner(str(tmp_shm))
    assert owner is None or name_of(plant) == "device"  # /dev/zero reads as an owner 0
    victim.check()


# -- owners and modes -------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["user", "namespace", "stream"])
def test_another_users_directory(shm: ShmSettings, level: str) -> None:
    namespace = Path(shm.namespace_dir)
    make_epoch(shm)
    path = {"user": namespace.parent, "namespace": namespace, "stream": namespace / str(STREAM)}
    if os.geteuid() != 0:
        pytest.fail("giving a directory away needs root: run the tests as root or in a container")
    os.chown(path[level], NOBODY, NOBODY)
    with pytest.raises(HostError, match=f"belongs to uid {NOBODY}"):
        make_epoch(shm, EPOCH + 1)
    with suppress(HostError):
        run_pass(shm, AT_ONCE, RegistryWatch(shm.registry_path))
    assert (namespace / str(STREAM) / str(EPOCH) / "header.ring").exists()


def test_a_base_of_another_user(shm: ShmSettings) -> None:
    if os.geteuid() != 0:
        pytest.fail("giving a directory away needs root: run the tests as root or in a container")
    os.chown(shm.base_dir, NOBODY, NOBODY)
    with pytest.raises(HostError, match=f"belongs to uid {NOBODY}, who may rename"):
        os.close(prepare_namespace(shm))


@pytest.mark.parametrize(
    ("mode", "remedy"), [(0o777, "sticky"), (0o775, "g-w"), (0o1777, None), (0o1775, None)]
)
def test_a_base_that_others_may_write(shm: ShmSettings, mode: int, remedy: str | None) -> None:
    os.chmod(shm.base_dir, mode)
    if remedy is None:
        os.close(prepare_namespace(shm))
        return
    with pytest.raises(HostError, match=remedy):
        os.close(prepare_namespace(shm))


def test_a_parent_of_the_base_that_everybody_may_write(tmp_shm: Path, shm: ShmSettings) -> None:
    tmp_shm.chmod(0o777)
    with pytest.raises(HostError, match=rf"lies below {tmp_shm}.*chmod \+t"):
        os.close(prepare_namespace(shm))
    tmp_shm.chmod(0o1777)
    os.close(prepare_namespace(shm))


@pytest.mark.parametrize("level", ["user", "namespace", "stream"])
def test_a_directory_that_its_group_may_write(shm: ShmSettings, level: str) -> None:
    namespace = Path(shm.namespace_dir)
    make_epoch(shm)
    path = {"user": namespace.parent, "namespace": namespace, "stream": namespace / str(STREAM)}
    path[level].chmod(0o770)
    with pytest.raises(HostError, match="others than we may write it"):
        make_epoch(shm, EPOCH + 1)


def test_clients_of_the_group_may_write_regions_and_nothing_else(shm: ShmSettings) -> None:
    assert shm.permissions_mode == 0o660
    make_epoch(shm)
    writer = registry_with(shm)
    writer.publish()
    writer.close()
    GcReportWriter(shm.namespace_dir, shm.report_mode).close()
    namespace = Path(shm.namespace_dir)
    writable = {
        path.name
        for path in [namespace.parent, *namespace.parent.rglob("*")]
        if stat.S_IMODE(path.lstat().st_mode) & 0o022
    }
    assert writable == {"header.ring", "1.pool"}
