"""Huge pages on a real hugetlbfs: detected, used, and told apart (Driver §4.3, Wire §15.22).

The kernel is asked for a few huge pages and gets them back at the end.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tensorpool.config import load, to_settings
from tensorpool.driver.attach import AttachRules, Rejection
from tensorpool.driver.epoch import EpochPlan, provision
from tensorpool.driver.leases import LeaseTable
from tensorpool.driver.node_ids import NodeIds
from tensorpool.driver.streams import StreamTable
from tensorpool.namespace import prepare_namespace
from tensorpool.settings import HostSettings, PoolLayout, Profile
from tensorpool.shm.backing import backing_of
from tensorpool.shm.errors import RegionError
from tensorpool.shm.paths import canonical_bases
from tensorpool.shm.region import map_region
from tensorpool.shm.uri import parse_region_uri
from tensorpool.wire.control import ResponseCode
from tensorpool.wire.driver import HugepagesPolicy, PublishMode, Role, ShmAttachRequest

STREAM = 10000
NEEDED_PAGES = 4
SYSCTL = Path("/proc/sys/vm/nr_hugepages")
PROFILE = Profile("huge", 16, (PoolLayout(1, 4096),))


def huge_page_bytes() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("Hugepagesize")).split()[1]) * 1024


@pytest.fixture
def hugetlbfs(tmp_shm: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.fail("mounting hugetlbfs needs root: run the tests as root or in a container")
    subprocess.run(["mount", "-t", "hugetlbfs", "none", str(tmp_shm)], check=True)
    former = SYSCTL.read_text(encoding="ascii")
    SYSCTL.write_text(str(int(former) + NEEDED_PAGES))
    yield tmp_shm
    subprocess.run(["umount", str(tmp_shm)], check=True)
    SYSCTL.write_text(former)


def settings_on(base: Path, *, page_size_bytes: int, require: bool) -> HostSettings:
    host = to_settings(load(None, {}).config)
    return replace(
        host,
        shm=replace(
            host.shm,
            base_dir=str(base),
            allowed_base_dirs=(str(base),),
            page_size_bytes=page_size_bytes,
            require_hugepages=require,
        ),
    )


def judge(settings: HostSettings, policy: int) -> ResponseCode:
    """The driver's answer on what really lies behind its base directory."""
    streams, leases = StreamTable(4), LeaseTable(4, 1, NodeIds(0))
    stream = streams.add(STREAM, "cam1", PROFILE, is_static=True)
    stream.is_provisioning = True
    rules = AttachRules(settings, backing_of(settings.shm.base_dir), streams, leases)
    request = ShmAttachRequest(1, STREAM, 5, Role.CONSUMER, 0, PublishMode.REQUIRE_EXISTING, policy)
    try:
        rules.judge(request, 1, 1)
    except Rejection as rejection:
        return rejection.code
    return ResponseCode.OK


OK, REJECTED = ResponseCode.OK, ResponseCode.REJECTED


@pytest.mark.clause("Driver §4.3-4", "Driver §4.3-5", "Driver §4.3-6")
@pytest.mark.config_key("shm.require_hugepages", "shm.page_size_bytes")
def test_what_is_asked_for_is_judged_by_what_is_mounted(hugetlbfs: Path) -> None:
    size = huge_page_bytes()
    assert backing_of(str(hugetlbfs)).is_hugetlbfs
    assert backing_of(str(hugetlbfs)).page_size_bytes == size
    standard, huge = HugepagesPolicy.STANDARD, HugepagesPolicy.HUGEPAGES
    plain = HugepagesPolicy.UNSPECIFIED
    fitting = settings_on(hugetlbfs, page_size_bytes=size, require=True)
    assert [judge(fitting, p) for p in (plain, standard, huge)] == [OK, REJECTED, OK]
    other = settings_on(hugetlbfs, page_size_bytes=size // 2, require=True)
    assert [judge(other, p) for p in (plain, standard, huge)] == [REJECTED, REJECTED, REJECTED]
    tmpfs = settings_on(Path("/dev/shm"), page_size_bytes=size, require=False)
    assert [judge(tmpfs, p) for p in (plain, standard, huge)] == [OK, OK, REJECTED]


@pytest.mark.clause("Wire §15.22-2", "Wire §15.22-3", "Driver §3-4")
def test_regions_on_huge_pages_are_made_and_verified(hugetlbfs: Path) -> None:
    size = huge_page_bytes()
    shm = settings_on(hugetlbfs, page_size_bytes=size, require=True).shm
    os.close(prepare_namespace(shm))
    plan = EpochPlan(STREAM, 5, PROFILE)
    epoch = provision(plan, shm, prefault=True, mlock=False)
    bases = canonical_bases(shm.allowed_base_dirs)
    uris = [epoch.header_uri, *(pool.region_uri for pool in epoch.pools)]
    for uri, (_, layout) in zip(uris, plan.region_layouts(), strict=True):
        assert parse_region_uri(uri).require_hugepages
        assert os.stat(parse_region_uri(uri).path).st_size == size, "whole pages"
        with map_region(uri, bases, layout, writable=True) as mapping:
            assert len(mapping) == size
        tmpfs = Path("/dev/shm", f"{hugetlbfs.name}-copy")
        tmpfs.write_bytes(bytes(size))
        try:
            lie = f"shm:file?path={tmpfs}|require_hugepages=true"
            with pytest.raises(RegionError, match="not on hugetlbfs"):
                map_region(lie, ("/dev/shm",), layout, writable=False)
        finally:
            tmpfs.unlink()
    epoch.close()
