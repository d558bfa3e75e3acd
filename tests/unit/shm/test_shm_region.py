"""Mapping a region: every reason to refuse one, on real files (Wire §15.1, §15.22)."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tensorpool.shm import paths
from tensorpool.shm.backing import backing_of
from tensorpool.shm.errors import ContainmentError, RegionError, UriError
from tensorpool.shm.region import map_region, region_bytes
from tensorpool.shm.superblock import (
    RegionLayout,
    encode_superblock,
    header_ring_layout,
    payload_pool_layout,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

RING = header_ring_layout(10000, 5, 64, 256)
POOL = payload_pool_layout(10000, 5, 64, 2, 128)


def create(shm_dir: Path, layout: RegionLayout, size: int | None = None) -> str:
    path = shm_dir / "region"
    path.write_bytes(encode_superblock(layout, pid=os.getpid(), now_ns=1))
    os.truncate(path, region_bytes(layout) if size is None else size)
    return f"shm:file?path={path}"


def refused(uri: str, shm_dir: Path, layout: RegionLayout, because: str) -> None:
    with pytest.raises(RegionError, match=because) as caught:
        map_region(uri, paths.canonical_bases([str(shm_dir)]), layout, writable=True)
    assert caught.tb is not None, "whoever keeps the error keeps no mapping with it"
    assert str(shm_dir) not in Path("/proc/self/maps").read_text(encoding="utf-8")


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture(autouse=True)
def _no_leaked_descriptor() -> Iterator[None]:
    gc.collect()  # what other tests left to the collector is not counted as closed here
    before = open_descriptors()
    yield
    assert open_descriptors() == before


def test_sizes() -> None:
    assert region_bytes(RING) == 64 + 64 * 256
    assert region_bytes(POOL) == 64 + 64 * 128


@pytest.mark.parametrize("layout", [RING, POOL], ids=["ring", "pool"])
def test_writable_mapping_is_shared_and_whole(shm_dir: Path, layout: RegionLayout) -> None:
    uri = create(shm_dir, layout)
    bases = paths.canonical_bases([str(shm_dir)])
    with (
        map_region(uri, bases, layout, writable=True) as writer,
        map_region(uri, bases, layout, writable=False) as reader,
    ):
        assert len(writer) == len(reader) == region_bytes(layout)
        writer[-1] = 0xA5
        assert reader[-1] == 0xA5
        with pytest.raises(TypeError):
            reader[-1] = 0


def test_a_longer_file_is_mapped_as_far_as_announced(shm_dir: Path) -> None:
    uri = create(shm_dir, POOL, region_bytes(POOL) + 4096)
    with map_region(uri, paths.canonical_bases([str(shm_dir)]), POOL, writable=False) as mapping:
        assert len(mapping) == region_bytes(POOL)


@pytest.mark.clause("Wire §15.22-5")
@pytest.mark.parametrize("layout", [RING, POOL], ids=["ring", "pool"])
@pytest.mark.parametrize("missing", [1, 4096])
def test_short_file(shm_dir: Path, layout: RegionLayout, missing: int) -> None:
    size = region_bytes(layout) - missing
    refused(create(shm_dir, layout, size), shm_dir, layout, f"{size} bytes, the announced layout")


@pytest.mark.parametrize("size", [0, 63, 64])
def test_hardly_a_file(shm_dir: Path, size: int) -> None:
    refused(create(shm_dir, RING, size), shm_dir, RING, f"{size} bytes, the announced layout")


def test_announced_sizes_beyond_any_memory(shm_dir: Path) -> None:
    huge = POOL._replace(nslots=2**31, stride_bytes=2**32 - 64)
    refused(create(shm_dir, POOL), shm_dir, huge, "the announced layout has 9223371899415822400")


@pytest.mark.clause("Wire §15.22-3")
@pytest.mark.parametrize("stride", [0, 1, 63, 65, 100, 127])
def test_stride_that_is_no_multiple_of_64(shm_dir: Path, stride: int) -> None:
    layout = POOL._replace(stride_bytes=stride)
    refused(create(shm_dir, layout), shm_dir, layout, f"stride {stride} ")


@pytest.mark.parametrize("layout", [RING, POOL], ids=["ring", "pool"])
@pytest.mark.parametrize("nslots", [0, 3, 63, 65])
def test_slots_that_a_sequence_cannot_index(
    shm_dir: Path, layout: RegionLayout, nslots: int
) -> None:
    layout = layout._replace(nslots=nslots)
    refused(create(shm_dir, layout), shm_dir, layout, f"{nslots} slots are no power of two")


@pytest.mark.parametrize("slot_bytes", [0, 128, 255, 512])
def test_header_slots_of_another_size(shm_dir: Path, slot_bytes: int) -> None:
    layout = RING._replace(slot_bytes=slot_bytes)
    refused(create(shm_dir, layout), shm_dir, layout, f"header slots of {slot_bytes} bytes")


@pytest.mark.clause("Wire §15.1-1", "Wire §7.1-1")
@pytest.mark.parametrize(
    "field", ["layout_version", "epoch", "stream_id", "pool_id", "stride_bytes"]
)
def test_superblock_of_another_region(shm_dir: Path, field: str) -> None:
    other = POOL._replace(**{field: getattr(POOL, field) + 64})
    refused(create(shm_dir, other, 100_000), shm_dir, POOL, f"region: superblock {field} is")


def test_no_superblock(shm_dir: Path) -> None:
    uri = create(shm_dir, POOL)
    (shm_dir / "region").write_bytes(bytes(region_bytes(POOL)))
    refused(uri, shm_dir, POOL, "region magic 0x0000000000000000")


@pytest.mark.clause("Wire §15.22-2")
def test_hugepages_demanded_where_there_are_none(shm_dir: Path) -> None:
    uri = create(shm_dir, POOL)
    refused(f"{uri}|require_hugepages=true", shm_dir, POOL, "not on hugetlbfs")
    bases = paths.canonical_bases([str(shm_dir)])
    map_region(f"{uri}|require_hugepages=false", bases, POOL, writable=False).close()


@pytest.mark.clause("Wire §15.21a.5-7", "Wire §15.22-5")
def test_containment_and_uri_errors_come_through(shm_dir: Path, tmp_path: Path) -> None:
    uri = create(shm_dir, POOL)
    with pytest.raises(ContainmentError):
        map_region(uri, paths.canonical_bases([str(tmp_path)]), POOL, writable=False)
    with pytest.raises(UriError):
        map_region(uri + "|x=y", paths.canonical_bases([str(shm_dir)]), POOL, writable=False)


def test_backing_of_a_file_a_directory_and_a_descriptor(shm_dir: Path) -> None:
    create(shm_dir, POOL)
    with (shm_dir / "region").open("rb") as file:
        for subject in (str(shm_dir), str(shm_dir / "region"), file.fileno()):
            backing = backing_of(subject)
            assert not backing.is_hugetlbfs
            assert backing.page_size_bytes == os.sysconf("SC_PAGE_SIZE")


def test_backing_of_nothing(shm_dir: Path) -> None:
    with pytest.raises(FileNotFoundError):
        backing_of(str(shm_dir / "missing"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        backing_of(-1)
