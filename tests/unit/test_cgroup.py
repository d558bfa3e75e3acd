"""Memory limits of both versions of cgroups, as a process and as a container sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tensorpool.cgroup import MemoryLimit, memory_limits
from tests.cgroups import memory_cgroup

GIB = 1 << 30


def version_2(directory: Path, limit: str, *, used: int = 0, cache: int = 0) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.current").write_text(f"{used}\n")
    (directory / "memory.stat").write_text(f"anon 5\nactive_file {cache}\ninactive_file {cache}\n")


def version_1(directory: Path, limit: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (directory / "memory.usage_in_bytes").write_text("100\n")
    (directory / "memory.stat").write_text("cache 7\ntotal_active_file 1\ntotal_inactive_file 2\n")


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    path = tmp_path / "mount"
    path.mkdir()
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "own"


def limits(mount: Path, own: Path) -> list[MemoryLimit]:
    return memory_limits(str(mount), str(own))


def test_a_unit_is_bound_by_its_slice_too(mount: Path, own: Path) -> None:
    own.write_text("0::/system.slice/tensorpool.service\n")
    version_2(mount / "system.slice" / "tensorpool.service", "max")
    version_2(mount / "system.slice", str(GIB), used=1000, cache=100)
    (found,) = limits(mount, own)
    assert found == MemoryLimit(f"{mount}/system.slice/memory.max", GIB, 800)
    assert found.headroom_bytes == GIB - 800


def test_a_container_sees_its_own_cgroup_as_the_root(mount: Path, own: Path) -> None:
    own.write_text("0::/\n")
    version_2(mount, str(GIB))
    assert [limit.limit_bytes for limit in limits(mount, own)] == [GIB]


def test_a_container_without_a_cgroup_namespace(mount: Path, own: Path) -> None:
    own.write_text("0::/kubepods.slice/pod7/abc\n")
    version_2(mount, str(GIB))
    assert [limit.limit_bytes for limit in limits(mount, own)] == [GIB]


def test_a_path_above_the_mount_stays_within_it(mount: Path, own: Path) -> None:
    own.write_text("0::/../sibling\n")
    version_2(mount.parent / "sibling", "1")
    version_2(mount, str(GIB))
    assert GIB in [limit.limit_bytes for limit in limits(mount, own)]


def test_version_1_beside_an_empty_version_2(mount: Path, own: Path) -> None:
    own.write_text("9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n")
    version_1(mount / "memory" / "a" / "b", GIB)
    version_1(mount / "memory" / "a", 2 * GIB)
    version_1(mount / "memory", (1 << 63) - 4096)
    assert limits(mount, own) == [
        MemoryLimit(f"{mount}/memory/a/b/memory.limit_in_bytes", GIB, 97),
        MemoryLimit(f"{mount}/memory/a/memory.limit_in_bytes", 2 * GIB, 97),
    ]


@pytest.mark.parametrize("text", ["", "garbage\n", "0::/gone\n", "4:memory:/gone\n"])
def test_nothing_to_be_seen_is_no_limit(mount: Path, own: Path, text: str) -> None:
    own.write_text(text)
    assert limits(mount, own) == []


def test_no_proc_is_no_limit(mount: Path, own: Path) -> None:
    assert limits(mount, own) == []


def test_a_real_one(own: Path) -> None:
    with memory_cgroup(GIB) as group:
        relative = str(group.directory).removeprefix("/sys/fs/cgroup")
        first = relative.startswith("/memory/")
        own.write_text(
            f"4:memory:{relative.removeprefix('/memory')}" if first else f"0::{relative}"
        )
        found = memory_limits(own=str(own))[0]
        assert (found.path, found.limit_bytes) == (str(group.limit_file), GIB)
        assert 0 <= found.used_bytes < GIB
