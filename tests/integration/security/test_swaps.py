"""A path that changes between check and use: somebody swaps it, over and over, while we work."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tensorpool.client.mapping import EpochRegions, MappedEpoch
from tensorpool.driver.epoch import EpochPlan, provision
from tensorpool.errors import HostError
from tensorpool.gc.collector import run_pass
from tensorpool.gc.eligibility import Limits
from tensorpool.gc.watch import RegistryWatch
from tensorpool.registry import DriverState, RegistryWriter
from tensorpool.settings import PoolLayout, Profile, ShmSettings
from tensorpool.shm import paths
from tensorpool.shm.errors import ShmError
from tests.fuzz.files import settings_in
from tests.integration.security.planting import Victim
from tests.support import wait_until

PROFILE = Profile("test", 2, (PoolLayout(1, 64),))
STREAM = 10000
TRIES = 1500
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_libc = ctypes.CDLL(None, use_errno=True)


class Swapper(threading.Thread):
    """Exchanges two paths in one step, again and again, until told to stop."""

    def __init__(self, one: Path, other: Path) -> None:
        super().__init__(name="swapper", daemon=True)
        self._one, self._other = os.fsencode(one), os.fsencode(other)
        self._ending = threading.Event()
        self.swaps = 0

    def run(self) -> None:
        while not self._ending.is_set():
            status = _libc.renameat2(_AT_FDCWD, self._one, _AT_FDCWD, self._other, _RENAME_EXCHANGE)
            self.swaps += status == 0

    def end(self) -> None:
        self._ending.set()
        self.join()


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[Swapper]:
    swapper = Swapper(one, other)
    swapper.start()
    try:
        wait_until(lambda: swapper.swaps, 10, "the first swap")
        yield swapper
    finally:
        swapper.end()


@pytest.fixture
def shm(tmp_shm: Path) -> ShmSettings:
    return settings_in(tmp_shm).shm


@pytest.fixture
def victim(tmp_shm: Path) -> Victim:
    return Victim(tmp_shm)


def make(shm: ShmSettings, epoch: int) -> EpochRegions:
    made = provision(EpochPlan(STREAM, epoch, PROFILE), shm, prefault=False, mlock=False)
    made.close()
    return EpochRegions(STREAM, epoch, 1, 2, 256, made.header_uri, made.pools)


@pytest.mark.parametrize("level", ["user", "namespace", "stream"])
def test_while_the_driver_provisions(
    tmp_shm: Path, shm: ShmSettings, victim: Victim, level: str
) -> None:
    make(shm, 1)
    namespace = Path(shm.namespace_dir)
    path = {"user": namespace.parent, "namespace": namespace, "stream": namespace / str(STREAM)}
    link = tmp_shm / "link"
    link.symlink_to(victim.directory)
    done = refused = 0
    with swapping(path[level], link):
        for epoch in range(2, 2 + TRIES // 5):
            try:
                make(shm, epoch)
                done += 1
            except HostError:
                refused += 1
    victim.check()
    assert done + refused == TRIES // 5


def test_while_a_client_maps(tmp_shm: Path, shm: ShmSettings) -> None:
    """The file swapped in is a whole region, superblock and all, and carries a mark."""
    regions = make(shm, 7)
    canonical = paths.canonical_bases(shm.allowed_base_dirs)
    ring = Path(shm.namespace_dir, str(STREAM), "7", "header.ring")
    outside = tmp_shm / "outside.ring"
    content = bytearray(ring.read_bytes())
    content[-1] = 0xEE
    outside.write_bytes(content)
    link = ring.parent.parent / "link"
    link.symlink_to(outside)
    mapped = refused = 0
    with swapping(ring, link):
        for _ in range(TRIES):
            try:
                epoch = MappedEpoch(regions, canonical, writable=True)
            except ShmError:
                refused += 1
                continue
            mapped += 1
            assert epoch.ring[-1] == 0, "a file outside of the allowed directories was mapped"
    assert mapped + refused == TRIES
    assert refused > 0


@pytest.mark.parametrize("level", ["stream", "epoch"])
def test_while_the_gc_deletes(tmp_shm: Path, shm: ShmSettings, victim: Victim, level: str) -> None:
    """The victim even has the names that the GC looks for."""
    for name in ("header.ring", "1.pool"):
        (victim.directory / name).write_bytes(b"precious too")
    (victim.directory / "3").mkdir()
    (victim.directory / "3" / "header.ring").write_bytes(b"precious as well")
    before = sorted(str(path) for path in victim.directory.rglob("*"))
    writer = RegistryWriter(shm.registry_path, max_streams=2, max_leases=2, mode=0o600)
    writer.set_state(DriverState.STOPPED)  # everything may go
    writer.publish()
    watch = RegistryWatch(shm.registry_path)
    namespace = Path(shm.namespace_dir)
    link = tmp_shm / "link"
    link.symlink_to(victim.directory)
    deleted = 0
    try:
        for epoch in range(3, 3 + TRIES // 30):
            with suppress(HostError):
                make(shm, epoch)
            target = namespace / str(STREAM) / (str(epoch) if level == "epoch" else "")
            with swapping(target, link):
                for _ in range(5):
                    with suppress(HostError):
                        report = run_pass(shm, Limits(enabled=True, keep=0, min_age_ns=0), watch)
                        deleted += report.deleted.total()
            if not link.is_symlink():  # it ended in the other's place
                with suppress(FileNotFoundError):  # the last swap may have come before the deletion
                    os.rename(target, tmp_shm / "swap")
                    os.rename(link, target)
                    os.rename(tmp_shm / "swap", link)
    finally:
        watch.close()
        writer.close()
    assert sorted(str(path) for path in victim.directory.rglob("*")) == before
    assert (victim.directory / "header.ring").read_bytes() == b"precious too"
    assert deleted > 0
